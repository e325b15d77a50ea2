"""Damage: one function per kind, from an intact file and a random generator to the bytes of a hostile one.

Promises: the same generator state gives the same bytes; every kind can be applied to every seed, where it makes no
sense as noise. Knows nothing about files, limits or what becomes of them.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from tests.robustness.fuzz_media.seeds import Seed
from tests.robustness.fuzz_media.structure import Part, borders, parts

Mutation = Callable[[Seed, random.Random, Sequence[Seed]], bytes]

HUGE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 1_000_000_000, 0x40000000, 0x10000, 0)
HEAD_BYTES = 1024
MP4_COUNTS = (
    b"stts",
    b"ctts",
    b"stsc",
    b"stsz",
    b"stco",
    b"stss",
    b"elst",
    b"sdtp",
    b"sbgp",
    b"trun",
    b"dref",
    b"stsd",
)
MP4_TIMES = (b"mvhd", b"mdhd", b"tkhd", b"elst", b"mehd", b"tfdt", b"sidx")


def flipped_bits(seed: Seed, random_: random.Random, _: Sequence[Seed]) -> bytes:
    """1 to 256 bits anywhere."""
    content = bytearray(seed.content)
    for _n in range(random_.choice((1, 4, 16, 64, 256))):
        content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
    return bytes(content)


def flipped_header_bits(seed: Seed, random_: random.Random, _: Sequence[Seed]) -> bytes:
    """1 to 32 bits of the first kilobyte, or of an index at the end."""
    content = bytearray(seed.content)
    index = next((part for part in parts(seed) if part.name == b"moov"), None)
    first, last = (index.start, index.end) if index else (0, min(HEAD_BYTES, len(content)))
    for _n in range(random_.choice((1, 2, 4, 8, 32))):
        content[random_.randrange(first, last)] ^= 1 << random_.randrange(8)
    return bytes(content)


def noise(seed: Seed, random_: random.Random, _: Sequence[Seed]) -> bytes:
    """A run of random bytes, up to a third of the file."""
    content = bytearray(seed.content)
    length = random_.randint(1, len(content) // 3)
    first = random_.randrange(len(content) - length)
    content[first : first + length] = random_.randbytes(length)
    return bytes(content)


def zeroed(seed: Seed, random_: random.Random, _: Sequence[Seed]) -> bytes:
    """A run of zeros or ones: what a disk leaves of lost sectors."""
    content = bytearray(seed.content)
    length = random_.randint(1, len(content) // 2)
    first = random_.randrange(len(content) - length)
    content[first : first + length] = random_.choice((b"\0", b"\xff")) * length
    return bytes(content)


def swapped_header(seed: Seed, random_: random.Random, others: Sequence[Seed]) -> bytes:
    """The head of another container on this one's body, sometimes where its own head was."""
    other = random_.choice([o for o in others if o.kind != seed.kind])
    length = random_.choice((4, 12, 64, 512, 4096))
    rest = seed.content[length:] if random_.random() < 0.5 else seed.content
    return other.content[:length] + rest


def glued(seed: Seed, random_: random.Random, others: Sequence[Seed]) -> bytes:
    """Two files in one, one after the other or one in the middle of the other."""
    other = random_.choice(others)
    at = random_.choice((len(seed.content), random_.choice(borders(seed))))
    return seed.content[:at] + other.content + seed.content[at:]


def shuffled_parts(seed: Seed, random_: random.Random, others: Sequence[Seed]) -> bytes:
    """A box, element or chunk moved, left out, doubled, or put into itself."""
    found = parts(seed)
    if not found:
        return _shuffled_blocks(seed, random_)
    part = random_.choice(found)
    body = seed.content[part.start : part.end]
    without = seed.content[: part.start] + seed.content[part.end :]
    how = random_.randrange(4)
    if how == 0:
        return without
    if how == 1:
        at = random_.choice([0, *(border for border in borders(seed) if border <= len(without))])
        return without[:at] + body + without[at:]
    if how == 2:
        return seed.content[: part.end] + body * random_.choice((1, 2, 50)) + seed.content[part.end :]
    return seed.content[: part.payload] + body + seed.content[part.payload :]


def huge_sizes(seed: Seed, random_: random.Random, others: Sequence[Seed]) -> bytes:
    """One to three parts declare sizes that the file does not back."""
    found = parts(seed)
    content = bytearray(seed.content)
    if not found:
        return _huge_number(content, random_)
    for part in random_.sample(found, min(len(found), random_.randint(1, 3))):
        _write_size(content, part, seed.kind, random_)
    return bytes(content)


def huge_counts(seed: Seed, random_: random.Random, others: Sequence[Seed]) -> bytes:
    """Tables that declare a billion entries; elsewhere a huge number somewhere in the header."""
    content = bytearray(seed.content)
    found = [part for part in parts(seed) if part.name in MP4_COUNTS]
    if not found:
        return _huge_number(content, random_)
    for part in random_.sample(found, random_.randint(1, 2)):
        at = part.payload + (8 if part.name == b"stsz" else 4)
        struct.pack_into(">I", content, at, random_.choice(HUGE))
        if part.name == b"stsz" and random_.random() < 0.5:
            struct.pack_into(">I", content, part.payload + 4, random_.choice((1, 100, 0x7FFFFFFF)))
        if part.name == b"stts":
            struct.pack_into(">II", content, part.payload + 8, random_.choice(HUGE), random_.choice((0, 1, 0x7FFFFFFF)))
    return bytes(content)


def wrong_times(seed: Seed, random_: random.Random, others: Sequence[Seed]) -> bytes:
    """Durations, time scales, edit lists and decode times that are huge, negative, zero or not numbers."""
    content = bytearray(seed.content)
    if seed.kind == "mp4":
        found = [part for part in parts(seed) if part.name in MP4_TIMES]
        for part in random_.sample(found, random_.randint(1, min(3, len(found)))):
            offset = random_.randrange(part.payload + 4, max(part.payload + 5, min(part.end - 4, part.payload + 36)), 4)
            struct.pack_into(">I", content, offset, random_.choice((*HUGE, 1, 0xFFFF0000)))
        return bytes(content)
    if seed.kind == "ebml":
        return _wrong_ebml_times(content, parts(seed), random_)
    return _huge_number(content, random_)


def deep_nesting(seed: Seed, random_: random.Random, others: Sequence[Seed]) -> bytes:
    """Thousands of parts, each inside the one before."""
    depth = random_.choice((100, 2_000, 20_000))
    if seed.kind == "ebml":
        # Tags in tags: an element may say that its size is unknown.
        nested = bytes.fromhex("1254C36701FFFFFFFFFFFFFF" if random_.random() < 0.5 else "737301FFFFFFFFFFFFFF") * depth
        at = random_.choice([part.end for part in parts(seed)])
        return seed.content[:at] + nested + seed.content[at:]
    name = {"mp4": random_.choice((b"moov", b"trak", b"udta", b"meta", b"moof")), "riff": b"LIST"}.get(seed.kind)
    if name is None:
        return seed.content[:HEAD_BYTES] * min(depth, 200) + seed.content
    nested = b"".join(
        struct.pack(">I", 8 * (depth - n)) + name
        if seed.kind == "mp4"
        else name + struct.pack("<I", 12 * (depth - n)) + b"hdrl"
        for n in range(depth)
    )
    at = random_.choice([part.start for part in parts(seed)])
    return seed.content[:at] + nested + seed.content[at:]


KINDS: Mapping[str, Mutation] = {
    function.__name__: function
    for function in (
        *(flipped_bits, flipped_header_bits, noise, zeroed, swapped_header, glued),
        *(shuffled_parts, huge_sizes, huge_counts, wrong_times, deep_nesting),
    )
}


def _shuffled_blocks(seed: Seed, random_: random.Random) -> bytes:
    edges = sorted({0, len(seed.content), *random_.sample(borders(seed), min(8, len(borders(seed))))})
    blocks = [seed.content[a:b] for a, b in pairwise(edges)]
    random_.shuffle(blocks)
    return b"".join(blocks)


def _huge_number(content: bytearray, random_: random.Random) -> bytes:
    """A 16, 32 or 64 bit number of the header becomes extreme."""
    for _ in range(random_.randint(1, 3)):
        form = random_.choice(("<I", ">I", "<Q", ">Q", "<H", ">H"))
        width = struct.calcsize(form)
        at = random_.randrange(4, min(len(content) - width, HEAD_BYTES))
        struct.pack_into(
            form, content, at, random_.choice((0, (1 << 8 * width) - 1, 1 << (8 * width - 1), 1 << (4 * width)))
        )
    return bytes(content)


def _write_size(content: bytearray, part: Part, kind: str, random_: random.Random) -> None:
    if kind == "mp4":
        struct.pack_into(">I", content, part.size_at, random_.choice((*HUGE, 1, 7, 8)))
    elif kind == "riff":
        struct.pack_into("<I", content, part.size_at, random_.choice(HUGE))
    else:
        marker = 1 << (7 * part.size_bytes)
        size = random_.choice((marker - 1, marker - 2, marker >> 1, 0))
        content[part.size_at : part.size_at + part.size_bytes] = (marker | size).to_bytes(part.size_bytes, "big")


def _wrong_ebml_times(content: bytearray, found: Sequence[Part], random_: random.Random) -> bytes:
    """TimestampScale, Duration, DefaultDuration, a cluster's and a block's time, CodecDelay, SeekPreRoll."""
    names = [bytes.fromhex(name) for name in ("2AD7B1", "4489", "23E383", "E7", "A3", "A1", "9B", "56AA", "56BB", "B5")]
    timed = [part for part in found if part.name in names and part.end > part.payload]
    for part in random_.sample(timed, min(len(timed), random_.randint(1, 3))):
        length = part.end - part.payload
        if part.name in (b"\xa3", b"\xa1"):
            struct.pack_into(
                ">h", content, part.payload + 1, random_.choice((-32768, 32767, -1, random_.randrange(-999, 999)))
            )
        elif part.name in (b"\x44\x89", b"\xb5") and length in (4, 8):
            number = random_.choice(
                (float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e300 if length == 8 else 1e38)
            )
            struct.pack_into(">d" if length == 8 else ">f", content, part.payload, number)
        else:
            content[part.payload : part.end] = random_.choice((b"\0", b"\xff", b"\x7f")) * length
    return bytes(content)
