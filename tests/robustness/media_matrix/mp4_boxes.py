"""Edits the boxes of an MP4 that ffmpeg wrote with its index at the end: edit lists and stated lengths."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_OUTER = {b"moov", b"trak", b"mdia", b"edts"}
_LENGTHS = {b"mvhd": 24, b"tkhd": 28, b"mdhd": 24}
"""Where a box of version 0 states a length."""


@dataclass(frozen=True)
class Box:
    at: int
    size: int
    kind: bytes
    within: tuple[int, ...] = ()
    """Where the boxes begin that hold it."""


def boxes(
    content: bytes | bytearray, begin: int = 0, end: int | None = None, within: tuple[int, ...] = ()
) -> Iterator[Box]:
    """All boxes down to those of a track's edit list and header."""
    end = len(content) if end is None else end
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, begin)
        yield Box(begin, size, kind, within)
        if kind in _OUTER:
            yield from boxes(content, begin + 8, begin + size, (*within, begin))
        begin += size


def with_durations(factor: float, *kinds: bytes) -> Callable[[bytearray], bytearray]:
    """The lengths in boxes of these kinds, multiplied."""

    def patch(content: bytearray) -> bytearray:
        for box in list(boxes(content)):
            if box.kind in kinds:
                at = box.at + _LENGTHS[box.kind]
                struct.pack_into(">I", content, at, round(struct.unpack_from(">I", content, at)[0] * factor))
        return content

    return patch


def edited(content: bytes, spans: Sequence[tuple[float | None, float]], rate: int = 1) -> bytes:
    """With an edit list in each track that plays these seconds of it in this order; (None, seconds) is a pause."""
    units = struct.unpack_from(">I", content, _of(content, b"mvhd")[0].at + 20)[0]
    total = sum(last if first is None else last - first for first, last in spans)
    for number in range(len(_of(content, b"trak"))):
        track, head = _of(content, b"trak")[number], _of(content, b"mdhd")[number]
        own = struct.unpack_from(">I", content, head.at + 20)[0]
        old = [box for box in _of(content, b"edts") if box.within[-1] == track.at]
        # Samples that an encoder put before the first second.
        skipped = max(0, struct.unpack_from(">i", content, old[0].at + 28)[0]) if old else 0
        edits = b"".join(
            struct.pack(">QqHH", round(last * units), -1, 1, 0)
            if first is None
            else struct.pack(">QqHH", round((last - first) * units), round(first * own) + skipped, rate, 0)
            for first, last in spans
        )
        listed = struct.pack(">I4sII", 16 + len(edits), b"elst", 1 << 24, len(spans)) + edits
        place = old[0] if old else Box(head.within[-1], 0, b"", head.within[:-1])
        content = _replaced(content, place, struct.pack(">I4s", 8 + len(listed), b"edts") + listed)
    made = bytearray(content)
    for box in (*_of(made, b"mvhd"), *_of(made, b"tkhd")):
        struct.pack_into(">I", made, box.at + _LENGTHS[box.kind], round(total * units))
    return bytes(made)


def _of(content: bytes | bytearray, kind: bytes) -> list[Box]:
    return [box for box in boxes(content) if box.kind == kind]


def _replaced(content: bytes, box: Box, new: bytes) -> bytes:
    made = bytearray(content)
    for at in box.within:
        struct.pack_into(">I", made, at, struct.unpack_from(">I", made, at)[0] + len(new) - box.size)
    return bytes(made[: box.at]) + new + bytes(made[box.at + box.size :])
