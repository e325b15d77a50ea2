"""Which file holds the moments of which video.

Promises: a file name made from a media key stays below the folder that was given, whatever the key is; no two videos
share a file. A video whose frames cannot be counted is named, and left out. Knows nothing about what formats look like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.export.base import Format
from pipeline.export.moments import Video, line
from pipeline.export.timing import TimingError, clock_of

NAME_CHARS = 120


def with_clocks(
    form: Format, videos: Sequence[Video], rate: float | None = None, start: str | None = None
) -> tuple[list[Video], list[str]]:
    """The videos that a format can be about, with their clocks where it counts frames, and why others are left out."""
    if not form.counts_frames:
        return list(videos), []
    counted, problems = [], []
    for video in videos:
        try:
            clock = clock_of(rate if rate is not None else video.frame_rate, start or video.start_timecode)
            if form.is_for_editors and not clock.is_editable:
                raise TimingError(
                    f"it has {float(clock.rate):g} frames per second, a rate that editors do not support; give "
                    "the frame rate of your project, for example --rate 25"
                )
            counted.append(replace(video, clock=clock))
        except TimingError as error:
            problems.append(f"{line(video.key)}: {error}")
    return counted, problems


def documents(form: Format, videos: Sequence[Video]) -> Iterator[tuple[str, bytes]]:
    """Relative file name and content, one for each video, or one named "" for all."""
    if form.holds_many:
        yield "", form.write(videos)
        return
    names = Counter(_name(video.key, form.suffix).casefold() for video in videos)
    for number, video in enumerate(videos, start=1):
        name = _name(video.key, form.suffix)
        if names[name.casefold()] > 1:
            # a.mp4 beside a.mkv; the number tells apart what even whole names do not.
            name = _name(f"{video.key}.{number}.x", form.suffix)
        yield name, form.write([video])


def _name(key: str, suffix: str) -> str:
    parts = [_part(part) for part in PurePosixPath(key.replace("\\", "/")).parts if part not in ("/", ".")]
    stem = parts[-1].rpartition(".")[0] or parts[-1] if parts else "_"
    return str(Path(*parts[:-1], f"{stem}{suffix}"))


def _part(text: str) -> str:
    safe = "".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in text)[-NAME_CHARS:]
    return "_" if not safe.strip(".") else safe
