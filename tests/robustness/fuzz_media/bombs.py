"""Files put together byte by byte: small ones that declare, repeat or unpack to far more than they are.

Promises: the same bytes every time; each stays below a few MB on disk (the sparse one by holes). Knows nothing about
limits or what becomes of them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.robustness.fuzz_media.seeds import Seed, make
from tests.robustness.fuzz_media.structure import Part, parts

Seeds = Mapping[str, Seed]
FileBuilder = Callable[..., None]
"""Takes a path and `seeds`."""
MANY = 5_000
BILLION = 1_000_000_000


def box(name: bytes, *content: bytes) -> bytes:
    """An MP4 box."""
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def element(name: str, *content: bytes) -> bytes:
    """An EBML element, its size in eight bytes."""
    body = b"".join(content)
    return bytes.fromhex(name) + (1 << 56 | len(body)).to_bytes(8, "big") + body


def _part(seed: Seed, name: bytes) -> Part:
    return next(part for part in parts(seed) if part.name == name)


def _patched(seed: Seed, name: bytes, offset: int, form: str, *values: float) -> bytes:
    content = bytearray(seed.content)
    struct.pack_into(form, content, _part(seed, name).payload + offset, *values)
    return bytes(content)


def _many_tracks(seed: Seed, name: bytes, count: int, outer: bytes) -> bytes:
    """The track of an MP4 (its index last) or Matroska file `count` times over."""
    track, holder = _part(seed, name), _part(seed, outer)
    body = seed.content[holder.payload : holder.end] + seed.content[track.start : track.end] * count
    rebuilt = box(outer, body) if seed.kind == "mp4" else element(outer.hex(), body)
    return seed.content[: holder.start] + rebuilt + seed.content[holder.end :]


def _billion_samples(seed: Seed, count: int) -> bytes:
    """Every table of the first track says `count` samples of one byte in one chunk: consistent, and impossible."""
    content = bytearray(seed.content)
    for name, offset, values in (
        (b"stsz", 4, (1, count)),
        (b"stts", 4, (1, count, 1)),
        (b"stsc", 4, (1, 1, count, 1)),
    ):
        struct.pack_into(f">{len(values)}I", content, _part(seed, name).payload + offset, *values)
    return bytes(content)


def _unpacking_index(seconds_of_zeros: int) -> bytes:
    """A compressed index (`cmov`) that unpacks to far more than the file."""
    packed = zlib.compress(bytes(seconds_of_zeros), 9)
    declared = struct.pack(">I", seconds_of_zeros)
    return box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(
        b"moov", box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", declared, packed))
    )


def _matroska(tracks: bytes, clusters: bytes) -> bytes:
    head = element("1A45DFA3", element("4282", b"matroska"), element("4287", b"\4"), element("4285", b"\2"))
    info = element(
        "1549A966", element("2AD7B1", (1_000_000).to_bytes(3, "big")), element("4489", struct.pack(">d", 2e3))
    )
    return head + element("18538067", info, tracks, clusters)


def _unpacking_block(size: int) -> bytes:
    """A zlib-compressed Matroska block of sound that unpacks to `size` bytes, ten times."""
    packing = element("6D80", element("6240", element("5034", element("4254", b"\0"))))
    audio = element("E1", element("B5", struct.pack(">d", 16e3)), element("9F", b"\1"), element("6264", b"\x10"))
    track = element(
        "AE",
        element("D7", b"\1"),
        element("73C5", b"\1"),
        element("83", b"\2"),
        element("86", b"A_PCM/INT/LIT"),
        audio,
        packing,
    )
    block = zlib.compress(bytes(size), 9)
    blocks = b"".join(element("A3", b"\x81", struct.pack(">h", n * 100), b"\x80", block) for n in range(10))
    return _matroska(element("1654AE6B", track), element("1F43B675", element("E7", b"\0"), blocks))


def _png_of(width: int, height: int) -> bytes:
    """A picture whose rows are not all there: what the header declares is what a decoder allocates."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _pictures(codec: bytes, packet: bytes, width: int, height: int, count: int) -> bytes:
    """`count` times the same packet as Matroska video that declares another size than it has."""
    size = element("E0", element("B0", width.to_bytes(4, "big")), element("BA", height.to_bytes(4, "big")))
    track = element(
        "AE", element("D7", b"\1"), element("73C5", b"\1"), element("83", b"\1"), element("86", codec), size
    )
    blocks = b"".join(element("A3", b"\x81", struct.pack(">h", n * 10), b"\x80", packet) for n in range(count))
    return _matroska(element("1654AE6B", track), element("1F43B675", element("E7", b"\0"), blocks))


def _edit_list(seed: Seed, entries: int, form: tuple[int, int, int]) -> bytes:
    """The first track's edit list with `entries` entries (duration, media time, rate)."""
    edit = _part(seed, b"edts")
    entry = struct.pack(">III", *(number & 0xFFFFFFFF for number in form))
    rebuilt = box(b"edts", box(b"elst", struct.pack(">II", 0, entries), entry * entries))
    grown = len(rebuilt) - (edit.end - edit.start)
    content = bytearray(seed.content)
    for outer in (b"moov", b"trak"):
        part = _part(seed, outer)
        struct.pack_into(">I", content, part.size_at, part.end - part.start + grown)
    return bytes(content[: edit.start]) + rebuilt + bytes(content[edit.end :])


def _big_picture_loop(path: Path, seeds: Seeds) -> None:
    """As many pixels as are allowed, 400 pictures of them, in 300 kB a picture... of which there is one."""
    make(
        *(
            "-f",
            "lavfi",
            "-i",
            "color=gray:s=5888x6000:r=10:d=0.1",
            "-pix_fmt",
            "gray",
            "-c:v",
            "png",
            f"{path}.one.mkv",
        )
    )
    make("-stream_loop", "400", "-i", f"{path}.one.mkv", "-c", "copy", str(path))
    Path(f"{path}.one.mkv").unlink()


def _sparse(content: Callable[[Seeds], bytes], size: int) -> FileBuilder:
    def write(path: Path, seeds: Seeds) -> None:
        path.write_bytes(content(seeds))
        with path.open("r+b") as file:
            file.truncate(size)

    return write


def _wav(channels: int, rate: int, bits: int, tag: int = 1, *, declared: int = 32_000) -> Callable[[Seeds], bytes]:
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    head = b"RIFF" + struct.pack("<I", declared + 36 & 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + form
    return lambda _: head + b"data" + struct.pack("<I", declared) + bytes(range(256)) * 125


BYTES: Mapping[str, Callable[[Seeds], bytes]] = {
    "billion-samples.mp4": lambda s: _billion_samples(s["plain.mp4"], BILLION),
    "ten-million-samples.mp4": lambda s: _billion_samples(s["plain.mp4"], 10_000_000),
    "million-samples.mp4": lambda s: _billion_samples(s["plain.mp4"], 1_000_000),
    "billion-samples-in-a-mb.mp4": lambda s: box(b"free", bytes(1 << 20)) + _billion_samples(s["plain.mp4"], BILLION),
    "five-thousand-tracks.mp4": lambda s: _many_tracks(s["plain.mp4"], b"trak", MANY, b"moov"),
    "250-tracks.mp4": lambda s: _many_tracks(s["plain.mp4"], b"trak", 250, b"moov"),
    "five-thousand-tracks.webm": lambda s: _many_tracks(s["live.webm"], b"\xae", MANY, bytes.fromhex("1654AE6B")),
    "250-tracks.webm": lambda s: _many_tracks(s["live.webm"], b"\xae", 250, bytes.fromhex("1654AE6B")),
    "unpacking-index.mov": lambda _: _unpacking_index(1 << 28),
    "unpacking-index-2.mov": lambda _: _unpacking_index(1 << 20),
    "unpacking-blocks.mkv": lambda _: _unpacking_block(1 << 28),
    "unpacking-blocks-2.mkv": lambda _: _unpacking_block(1 << 24),
    "png-16384x16384.mkv": lambda _: _pictures(b"MPNG", _png_of(16_384, 16_384), 64, 48, 20),
    "png-5999x6000.mkv": lambda _: _pictures(b"MPNG", _png_of(5_999, 6_000), 64, 48, 20),
    "png-65535x500.mkv": lambda _: _pictures(b"MPNG", _png_of(65_535, 500), 16_384, 16_384, 20),
    "png-declared-1x1.mkv": lambda _: _pictures(b"MPNG", _png_of(640, 480), 1, 1, 20),
    "raw-65535x65535.mkv": lambda _: _pictures(b"DIB ", bytes(4096), 65_535, 65_535, 20),
    "nothing-but-empty-packets.mkv": lambda _: _pictures(b"H264", b"", 64, 48, 500),
    "million-edits.mp4": lambda s: _edit_list(s["plain.mp4"], 200_000, (1, 0, 0x10000)),
    "edit-before-zero.mp4": lambda s: _edit_list(s["plain.mp4"], 1, (2_000, -5_000, 0x10000)),
    "edit-empty-for-ever.mp4": lambda s: _edit_list(s["plain.mp4"], 2, (0x7FFFFFFF, -1, 0x10000)),
    "edit-after-end.mp4": lambda s: _edit_list(s["plain.mp4"], 1, (2_000, 0x7FFFFFF0, 0x10000)),
    "edit-standing-still.mp4": lambda s: _edit_list(s["plain.mp4"], 3, (2_000, 0, 0)),
    "sheared.mp4": lambda s: _patched(s["fast.mp4"], b"tkhd", 40, ">9i", *(7, -65536, 3, 65536, 9, 1, 0, -1, 1 << 30)),
    "no-area.mp4": lambda s: _patched(s["fast.mp4"], b"tkhd", 40, ">9i", *(0,) * 9),
    "time-scale-0.mp4": lambda s: _patched(s["fast.mp4"], b"mdhd", 12, ">I", 0),
    "time-scale-1.mp4": lambda s: _patched(s["fast.mp4"], b"mdhd", 12, ">I", 1),
    "time-scale-huge.mp4": lambda s: _patched(s["fast.mp4"], b"mdhd", 12, ">I", 0xFFFFFFFF),
    "declared-65535x65535.mp4": lambda s: _patched(s["fast.mp4"], b"avc1", 24, ">HH", 65_535, 65_535),
    "declared-1x1.mp4": lambda s: _patched(s["fast.mp4"], b"avc1", 24, ">HH", 1, 1),
    "declared-0x0.mp4": lambda s: _patched(s["fast.mp4"], b"avc1", 24, ">HH", 0, 0),
    "declared-16384.mkv": lambda s: _patched(s["plain.mkv"], b"\xb0", 0, ">B", 255),
    "avi-huge.avi": lambda s: _patched(s["plain.avi"], b"strf", 4, "<ii", 2**31 - 1, -(2**31)),
    "avi-for-ever.avi": lambda s: _patched(s["plain.avi"], b"strh", 20, "<IIII", 0xFFFFFFFF, 1, 0, 0xFFFFFFFF),
    "4-gb-declared.wav": _wav(1, 16_000, 16, declared=0xFFFFFFFF),
    "no-channels.wav": _wav(0, 16_000, 16),
    "65535-channels.wav": _wav(65_535, 16_000, 16),
    "255-channels.wav": _wav(255, 16_000, 8),
    "no-rate.wav": _wav(1, 0, 16),
    "huge-rate.wav": _wav(1, 0x7FFFFFFF, 16),
    "huge-rate-2.wav": _wav(1, 0xFFFFFFFF, 16),
    "no-bits.wav": _wav(1, 16_000, 0),
    "65535-bits.wav": _wav(1, 16_000, 65_535),
    "64-bit-floats.wav": _wav(1, 16_000, 64, 3),
    "xing-for-ever.mp3": lambda s: s["plain.mp3"].content.replace(b"Info\0\0\0\x0f", b"Info\0\0\0\x0f\xff\xff\xff\xfe"),
    "for-ever.flac": lambda s: s["plain.flac"].content[:21] + b"\x0f\xff\xff\xff\xff" + s["plain.flac"].content[26:],
    "zip.mp4": lambda s: b"PK\3\4" + s["plain.mp4"].content,
    "page.mp4": lambda s: b"<html><script src='http://127.0.0.1/x.js'></script>" + s["plain.ts"].content,
    "zeros.ts": lambda _: bytes(1 << 21),
    "syncs.ts": lambda _: (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 20_000,
    "syncs.mp3": lambda _: b"\xff\xfb\x90\x64" * 300_000,
    "thousand-programmes.ts": lambda s: b"".join(_packet_of(s["plain.ts"].content, n) for n in range(3_000)),
}  # fmt: skip
"""By name: the bytes."""

FILES: Mapping[str, FileBuilder] = {
    "most-pixels-400-times.mkv": _big_picture_loop,
    "sparse-8-gb.mp4": _sparse(lambda s: s["plain.mp4"].content, 8 << 30),
    "sparse-8-gb.mp3": _sparse(lambda s: s["plain.mp3"].content, 8 << 30),
    "sparse-8-gb.ts": _sparse(lambda s: s["plain.ts"].content, 8 << 30),
    "sparse-1-gb.avi": _sparse(lambda s: s["plain.avi"].content, 1 << 30),
    "sparse-nothing.mkv": _sparse(lambda _: b"", 8 << 30),
}
"""By name: what writes the file."""


def _packet_of(content: bytes, number: int) -> bytes:
    """A transport stream's packet with another stream id: thousands of streams nobody announced."""
    packet = bytearray(content[188 * (number % (len(content) // 188)) :][:188])
    packet[1:3] = struct.pack(">H", 0x4000 | (number * 7) % 0x1FFF)
    return bytes(packet)
