"""Which file holds the moments of which video.

Promises: a file name made from a media key stays below the folder that was given, whatever the key is; no two videos
share a file, and its name does not change with others that are exported, but for those of its own name. A video whose
frames cannot be counted is named, and left out. Knows nothing about what formats look like.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.export.base import Format
from pipeline.export.moments import Video, line
from pipeline.export.timing import TimingError, clock_of

NAME_BYTES = 200
"""Of a part of a path: file systems take 255, and a suffix follows."""


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
    taken = Counter(place for video in videos for place in {one.casefold() for one in _names(video.key, form.suffix)})
    for video in videos:
        # Its stem; where that is another's too (a.mp4, a.mkv), the whole name; then what only its key gives.
        *plain, last = _names(video.key, form.suffix)
        yield next((name for name in plain if taken[name.casefold()] == 1), last), form.write([video])


def _names(key: str, suffix: str) -> tuple[str, str, str]:
    """What a video's file may be called, the best first; none depends on other videos."""
    mark = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return _name(key, suffix), _name(f"{key}.x", suffix), _name(f"{key}.{mark}.x", suffix)


def _name(key: str, suffix: str) -> str:
    parts = [_part(part) for part in PurePosixPath(key).parts if part not in ("/", ".")]
    stem = parts[-1].rpartition(".")[0] or parts[-1] if parts else "_"
    return str(Path(*parts[:-1], f"{stem}{suffix}"))


def _part(text: str) -> str:
    safe = "".join(c if c.isprintable() and c not in '\\:*?"<>|' else "_" for c in text)
    while len(os.fsencode(safe)) > NAME_BYTES:
        safe = safe[1:]
    return "_" if not safe.strip(".") else safe
