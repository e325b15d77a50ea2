"""Moments as chapters, in ffmpeg's metadata format: `ffmpeg -i VIDEO -i FILE -map 0 -map_chapters 1 -c copy OUT`.

Players show one chapter at a time, so where moments overlap their titles share a chapter, from border to border.
Answers about the whole video are the file's `comment`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pipeline.export.base import Format
from pipeline.export.moments import Moment, Video, line


def _write(videos: Sequence[Video]) -> bytes:
    (video,) = videos
    lines = [";FFMETADATA1"]
    if video.whole:
        lines.append(f"comment={_escaped(line(' · '.join(one.title for one in video.whole), 10_000))}")
    for start_ms, end_ms, title in chapters(video.moments):
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start_ms}", f"END={end_ms}", f"title={_escaped(title)}"]
    return ("\n".join(lines) + "\n").encode()


def chapters(moments: Sequence[Moment]) -> Iterator[tuple[int, int, str]]:
    """Chapters that do not overlap: start and end in milliseconds, and the titles of what holds meanwhile."""
    spans = [(round(1000 * one.start_s), round(1000 * one.end_s), one.title) for one in moments]
    borders = sorted({border for start, end, _ in spans for border in (start, end)})
    for start, end in pairwise(borders):
        titles = dict.fromkeys(title for first, last, title in spans if first <= start and end <= last)
        if titles:
            yield start, end, line(" · ".join(titles))


def _escaped(text: str) -> str:
    return re.sub(r"([=;#\\])", r"\\\1", text)


CHAPTERS = Format(
    "chapters in ffmpeg's metadata format, to be put into the video without encoding it",
    ".ffmeta",
    _write,
    holds_whole=True,
)
