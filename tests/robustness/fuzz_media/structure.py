"""Where containers have their borders: MP4 boxes, EBML elements, RIFF chunks, and fixed or marked packets.

Promises: offsets that are really there, nested ones included, for intact files; a damaged file gives fewer, never an
error. Knows nothing about what is done with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.robustness.fuzz_media.seeds import Seed

_NESTED_BOXES = frozenset(
    b"moov trak mdia minf stbl edts dinf mvex moof traf mfra udta ilst".split()  # those that hold only boxes
)
_NESTED_ELEMENTS = frozenset(
    bytes.fromhex(name)
    for name in (
        *("18538067", "1549A966", "114D9B74", "4DBB"),  # Segment, Info, SeekHead, Seek
        *("1654AE6B", "AE", "E0", "E1"),  # Tracks, TrackEntry, Video, Audio
        *("1F43B675", "A0"),  # Cluster, BlockGroup
        *("1C53BB6B", "BB", "B7"),  # Cues, CuePoint, CueTrackPositions
        *("1254C367", "7373", "67C8"),  # Tags, Tag, SimpleTag
    )
)
_NESTED_CHUNKS = (b"RIFF", b"LIST")
_MARKS = {
    ".ts": re.compile(rb"\x47(?=.{187}\x47)", re.DOTALL),
    ".mpg": re.compile(rb"\x00\x00\x01[\xb3\xb8-\xef]"),
    ".ogg": re.compile(rb"OggS"),
    ".nut": re.compile(rb"N[KSMX]"),
    ".mxf": re.compile(rb"\x06\x0e\x2b\x34"),
    ".wmv": re.compile(rb"\x30\x26\xb2\x75|\xa9\xcf\x11\x8e|\x82\x00\x00"),
    ".rm": re.compile(rb"\.RMF|PROP|MDPR|CONT|DATA|INDX"),
    ".aiff": re.compile(rb"FORM|COMM|SSND"),
    ".caf": re.compile(rb"caff|desc|data|info|pakt"),
    ".flac": re.compile(rb"fLaC|\xff[\xf8\xf9]"),
    ".aac": re.compile(rb"\xff\xf1"),
    ".mp3": re.compile(rb"\xff[\xf2\xf3\xfa\xfb]|ID3"),
    ".ac3": re.compile(rb"\x0b\x77"),
}


@dataclass(frozen=True)
class Part:
    """One box, element or chunk: [start, end), its payload from `payload` on, its name, and where its size stands."""

    start: int
    payload: int
    end: int
    name: bytes
    size_at: int
    size_bytes: int
    depth: int


def parts(seed: Seed) -> tuple[Part, ...]:
    """All parts of a container whose structure is known, outer ones first; empty for the others."""
    readers = {"mp4": _boxes, "ebml": _elements, "riff": _chunks}
    reader = readers.get(seed.kind)
    return tuple(reader(seed.content, 0, len(seed.content), 0)) if reader else ()


def borders(seed: Seed) -> tuple[int, ...]:
    """Every offset at which a part, its payload or a packet begins, ascending; the file's ends are none."""
    found = {offset for part in parts(seed) for offset in (part.start, part.payload, part.end)}
    if seed.suffix in _MARKS:
        found |= {match.start() for match in _MARKS[seed.suffix].finditer(seed.content)}
    if not found:
        found |= {1, 4, 8, 16, 32, 44, 64, 128, 256, len(seed.content) // 2, len(seed.content) - 1}
    return tuple(sorted(offset for offset in found if 0 < offset < len(seed.content)))


def _boxes(content: bytes, start: int, end: int, depth: int) -> Iterator[Part]:
    while start + 8 <= end:
        size, name, header = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8], 8
        if size == 1:
            size, header = int.from_bytes(content[start + 8 : start + 16], "big"), 16
        if size < header or start + size > end:
            return
        yield Part(start, start + header, start + size, name, start, 4, depth)
        if name in _NESTED_BOXES:
            yield from _boxes(content, start + header, start + size, depth + 1)
        elif name in (b"meta", b"stsd", b"dref"):
            yield from _boxes(content, start + header + (4 if name == b"meta" else 8), start + size, depth + 1)
        start += size


def _elements(content: bytes, start: int, end: int, depth: int) -> Iterator[Part]:
    while start < end:
        id_bytes = _vint_bytes(content[start])
        size_at = start + id_bytes
        if not id_bytes or size_at >= end:
            return
        size_bytes = _vint_bytes(content[size_at])
        payload = size_at + size_bytes
        if not size_bytes or payload > end:
            return
        bits = 7 * size_bytes
        size = int.from_bytes(content[size_at:payload], "big") & ((1 << bits) - 1)
        if size == (1 << bits) - 1:  # unknown: to the end
            size = end - payload
        if payload + size > end:
            return
        name = content[start:size_at]
        yield Part(start, payload, payload + size, name, size_at, size_bytes, depth)
        if name in _NESTED_ELEMENTS:
            yield from _elements(content, payload, payload + size, depth + 1)
        start = payload + size


def _vint_bytes(first: int) -> int:
    return 9 - first.bit_length() if first else 0


def _chunks(content: bytes, start: int, end: int, depth: int) -> Iterator[Part]:
    while start + 8 <= end:
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        stop = min(start + 8 + size, end)
        yield Part(start, start + 8, stop, name, start + 4, 4, depth)
        if name in _NESTED_CHUNKS:
            yield from _chunks(content, start + 12, stop, depth + 1)
        start = stop + size % 2
