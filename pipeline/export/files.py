"""Which file holds the moments of which video.

Promises: a file name made from a media key stays below the folder that was given, whatever the key is; no two videos
share a file. A video whose frames cannot be counted is refused by name. Knows nothing about what formats look like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.export.base import Format
from pipeline.export.moments import ExportError, Video, line
from pipeline.export.timing import Clock, TimingError, clock_of

NAME_CHARS = 120


def documents(
    form: Format, videos: Sequence[Video], rate: float | None = None, start: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """Relative file name and content, one for each video, or one named "" for all. Raises ExportError."""
    if form.counts_frames:
        videos = [replace(video, clock=_clock(video, form, rate, start)) for video in videos]
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


def _clock(video: Video, form: Format, rate: float | None, start: str | None) -> Clock:
    try:
        clock = clock_of(rate if rate is not None else video.frame_rate, start or video.start_timecode)
    except TimingError as error:
        raise ExportError(f"{line(video.key)}: {error}") from error
    if form.is_for_editors and not clock.is_editable:
        raise ExportError(
            f"{line(video.key)}: it has {float(clock.rate):g} frames per second, and editors have no timeline of that "
            "rate; give the rate of the project it goes into, as in --rate 25"
        )
    return clock


def _name(key: str, suffix: str) -> str:
    parts = [_part(part) for part in PurePosixPath(key.replace("\\", "/")).parts if part not in ("/", ".")]
    stem = parts[-1].rpartition(".")[0] or parts[-1] if parts else "_"
    return str(Path(*parts[:-1], f"{stem}{suffix}"))


def _part(text: str) -> str:
    safe = "".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in text)[-NAME_CHARS:]
    return "_" if not safe.strip(".") else safe
