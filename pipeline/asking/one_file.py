"""A file on this machine looked at as one of an archive would be: its identity, what it holds, how it is cut.

Promises: the same probing, choice of tracks and cutting as a run. Knows nothing about questions or models.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from omnidrop.errors import UserError
from pipeline.config.sections import ClipsConfig
from pipeline.config.validation_errors import explain, joined
from pipeline.identity import media_id
from pipeline.planning.cutting import cut_spans
from workers.errors import MediaError
from workers.media.decode import local_etag
from workers.media.opening import as_text, local_uri
from workers.media.probing import probe
from workers.media.tracks import chosen
from workers.records import Media, MediaInfo

S = TypeVar("S", bound=BaseModel)

JOB = "ask"
"""Stands where answers of an archive name their job."""


class AskError(UserError):
    """The file cannot be asked about, or the span or a setting cannot be used."""


def checked_clips(*, length_s: float, **given: object) -> ClipsConfig:
    """How the file is cut. Raises AskError."""
    return checked(ClipsConfig, {"length_s": length_s, "min_length_s": min(1.0, length_s), **given})


def looked_at(path: str, clips: ClipsConfig) -> tuple[Media, MediaInfo]:
    """The file as an item of an archive, and what it holds. Raises AskError."""
    media = as_media(path)
    try:
        info = chosen(probe(media.uri), clips.audio_track, clips.video_track)
    except MediaError as error:
        raise AskError(
            f"{path} cannot be used: {error}; give a video or audio file, such as mp4, mkv, webm, mov, wav or mp3"
        ) from error
    return media, info


def as_media(path: str) -> Media:
    """The file as an item of an archive. Raises AskError."""
    if "://" in path:
        raise AskError(f"{path}: ask reads local files only; copy the file here, or index its bucket with a job")
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AskError(
            f"{path}: there is no such file (looked in {os.getcwd()}); give a video or audio file"
        ) from error
    except OSError as error:
        raise AskError(f"{path} cannot be read: {error.strerror}") from error
    if is_folder:
        raise AskError(f"{path} is a folder; ask takes one file. For a folder, use `omnidrop index`")
    whole = os.path.realpath(path)
    uri, name = local_uri(whole), as_text(os.path.basename(path))
    return Media(media_id(JOB, uri), name, uri, local_etag(whole), os.path.getsize(whole))


def spans_of(
    info: MediaInfo, clips: ClipsConfig, span_s: tuple[float, float] | None, path: str
) -> list[tuple[float, float]]:
    """The clips' spans within a span of the file (all of it for None), cut where its recordings end.

    Raises AskError for a span that is none or lies beyond the end.
    """
    start, end = span_s or (0.0, info.duration_s)
    if not 0 <= start < end:
        raise AskError(f"the span {start:g}-{end:g} must begin at 0 or later and end after it begins, in seconds")
    if start >= info.duration_s:
        raise AskError(f"the span begins at {start:g} s, but {path} is {info.duration_s:.1f} s long")
    spans: list[tuple[float, float]] = []
    for part in info.parts:
        first, last = max(start, part.start_s), min(end, part.end_s)
        if first < last:
            spans += [(round(first + a, 6), round(first + b, 6)) for a, b in cut_spans(last - first, clips)]
    return spans


def checked(section: type[S], given: Mapping[str, object]) -> S:
    """A section of a job out of what was given. Raises AskError."""
    try:
        return section.model_validate(given)
    except ValidationError as error:
        raise AskError(joined(explain(error, section, given))) from error
