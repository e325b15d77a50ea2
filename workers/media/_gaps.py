"""Finds where chunks that an AVI's index names are not there.

AVI has no times: ffmpeg counts pictures and samples on from before such a hole, so that what lies behind it would be of
an earlier second than it is. Promises: spans of time that are there or not, which adjoin; the file is read once, in
order. Runs in the probing process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from av.container import InputContainer

from workers.media._bytes import Bytes, Window, read_up_to
from workers.media._structure import avi_breaks_off

BLOCK_BYTES = 1 << 20
"""The file is read in blocks of this size: a request costs 50 us, of a store much more."""

HEADER_BYTES = 1 << 16

FAR_S = 2.0
"""Where an index ends so much earlier than the file, there is none: libav has noted only what it read."""


@dataclass(frozen=True)
class Span:
    """From when to when in seconds, and the bytes where it is not there."""

    begin_s: float
    end_s: float
    hole: tuple[int, int] | None = None


@dataclass(frozen=True, order=True)
class Chunk:
    """Where an index says that pictures or sound of a stream lie, and of which second they are."""

    at: int
    size: int
    index: int
    time_s: float
    is_key: bool


def spans(file: Bytes, chunks: list[Chunk], duration_s: float) -> list[Span]:
    """Of a whole file with these chunks; a single one if nothing is missing, or if the index is of no use."""
    there = list(_present(file, chunks))
    found, reached_s = [], 0.0
    # Where the chunks follow each other without a break, it is the index that is wrong.
    if not all(is_there for _, is_there in there) and avi_breaks_off(Window(file), file.size) is not None:
        for is_there, group in groupby(there, key=lambda one: one[1]):
            if is_there:
                continue
            missing = [chunk for chunk, _ in group]
            first, last = missing[0].at, missing[-1].at + missing[-1].size
            begin_s = max(reached_s, min(chunk.time_s for chunk in missing))
            reached_s = max(begin_s, _readable_from_s(chunks, missing[-1].at, duration_s))
            found += [(begin_s, reached_s, (first, min(last, file.size)))]
    parts, at_s = [], 0.0
    for begin_s, end_s, hole in found:
        parts += [Span(at_s, begin_s), Span(begin_s, end_s, hole)]
        at_s = end_s
    return [span for span in (*parts, Span(at_s, duration_s)) if span.end_s > span.begin_s]


def said(file: Bytes, chunks: list[Chunk], duration_s: float) -> list[str]:
    """What to say of a hole in a file without an index, behind which nobody knows the time."""
    known_s = max((chunk.time_s for chunk in chunks), default=0.0)
    at = avi_breaks_off(Window(file), file.size) if known_s < duration_s - FAR_S else None
    if at is None:
        return []
    return [f"the AVI has no index and is damaged at byte {at}: what lies behind may be of an earlier second than said"]


def uncounted(spans: list[Span]) -> list[str]:
    """What to say of holes in a file that is always read from its beginning, so that nothing counts them."""
    behind = "what lies behind is of a later second than said"
    holes = [span for span in spans if span.hole is not None]
    return [f"the AVI is damaged from {hole.begin_s:.1f} to {hole.end_s:.1f} s: {behind}" for hole in holes]


def indexed(file: Bytes, container: InputContainer) -> list[Chunk]:
    """All chunks that the index names, in the order of their places."""
    sample_bytes = _sample_bytes(file)
    return sorted(chunk for stream in container.streams for chunk in _chunks(stream, sample_bytes))


def _chunks(stream: Any, sample_bytes: list[int]) -> Iterator[Chunk]:
    if stream.type not in ("video", "audio") or stream.index >= len(sample_bytes):
        return
    # Of sound in samples of one size, libav's index counts bytes.
    unit_s = float(stream.time_base or 0) / max(1, sample_bytes[stream.index])
    for entry in stream.index_entries:
        yield Chunk(entry.pos, entry.size, stream.index, entry.timestamp * unit_s, entry.is_keyframe)


def _sample_bytes(file: Bytes) -> list[int]:
    """How many bytes a sample of each stream has, 0 where that varies."""
    file.seek(0)
    found = []
    for stream in read_up_to(file, HEADER_BYTES).split(b"strh")[1:]:
        is_sound, form = stream[4:8] == b"auds", stream.partition(b"strf")[2]
        size, block = int.from_bytes(stream[48:52], "little"), int.from_bytes(form[16:18], "little")
        found.append((block or size) if is_sound and size else 0)
    return found


def _present(file: Bytes, chunks: list[Chunk]) -> Iterator[tuple[Chunk, bool]]:
    """Each chunk, and whether it begins where the index says."""
    window = Window(file, BLOCK_BYTES)
    for chunk in chunks:
        yield chunk, window(chunk.at, 2) == b"%02d" % chunk.index


def _readable_from_s(chunks: list[Chunk], hole: int, duration_s: float) -> float:
    """When the first key picture comes behind a byte, with the sound at that time behind it, too."""
    streams = {chunk.index for chunk in chunks}
    latest: dict[int, int] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.time_s):
        latest[chunk.index] = chunk.at
        if chunk.is_key and len(latest) == len(streams) and all(at > hole for at in latest.values()):
            return chunk.time_s
    return duration_s
