"""Reads how much of its pictures a container says is to be cut off: MP4's clean aperture, Matroska's PixelCrop.

Promises: (columns, lines) by stream index, for what the header says in the usual way; nothing else is understood.
ffmpeg cuts it off when decoding. Runs in the probing process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SEGMENT, _TRACKS, _TRACK_ENTRY, _VIDEO = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"
_LINES, _COLUMNS = (b"\x54\xaa", b"\x54\xbb"), (b"\x54\xcc", b"\x54\xdd")


def cropped(header: bytes, container: str) -> dict[int, tuple[int, int]]:
    """`header`: an MP4's `moov`, or a Matroska file's beginning."""
    found: dict[int, tuple[int, int]] = {}
    if container == "mp4":
        found = _clean_apertures(header)
    elif container == "matroska":
        found = _pixel_crops(header)
    return {index: crop for index, crop in found.items() if any(crop)}


def _clean_apertures(moov: bytes) -> dict[int, tuple[int, int]]:
    """The difference between a sample entry's size and its `clap`."""
    found, at, index = {}, moov.find(b"stsd"), 0
    while at >= 0:
        entry = moov[at + 12 : at + 12 + int.from_bytes(moov[at + 12 : at + 16], "big")]
        clap = entry.find(b"clap", 86) + 4  # behind the fixed fields of a video entry
        if clap >= 4 and len(entry) >= clap + 16:
            width, height = struct.unpack_from(">HH", entry, 32)
            fields = struct.unpack_from(">4I", entry, clap)
            if fields[1] and fields[3]:
                crop = width - round(fields[0] / fields[1]), height - round(fields[2] / fields[3])
                found[index] = crop if 0 <= crop[0] < width and 0 <= crop[1] < height else (0, 0)
        at, index = moov.find(b"stsd", at + 4), index + 1
    return found


def _pixel_crops(head: bytes) -> dict[int, tuple[int, int]]:
    entries = [head]
    for name in (_SEGMENT, _TRACKS, _TRACK_ENTRY):
        entries = [content for outer in entries for kind, content in _elements(outer) if kind == name]
    found = {}
    for index, entry in enumerate(entries):
        video = next((content for kind, content in _elements(entry) if kind == _VIDEO), b"")
        said = {kind: int.from_bytes(content, "big") for kind, content in _elements(video)}
        width, height = said.get(b"\xb0", 0), said.get(b"\xba", 0)
        columns, lines = (sum(said.get(kind, 0) for kind in kinds) for kinds in (_COLUMNS, _LINES))
        found[index] = (columns, lines) if columns < width and lines < height else (0, 0)
    return found


def _elements(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of EBML elements one after the other."""
    at = 0
    while at + 2 <= len(content) and content[at]:
        begin = at + 9 - content[at].bit_length()
        if begin >= len(content) or not content[begin]:
            return
        width = 9 - content[begin].bit_length()
        length = int.from_bytes(content[begin : begin + width], "big") & ((1 << 7 * width) - 1)
        yield content[at:begin], content[begin + width : begin + width + length]
        at = begin + width + length
