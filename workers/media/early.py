"""The first clips of a file, decoded while the file is still being fetched: its bytes are there, its hash is not.

Promises: a clip decoded early is the one that would be decoded later, to the last value, or none; nothing goes wrong
where it cannot be had. It has no id: what it is of is said by the file's etag, what was decided about its streams, its
span and how it was decoded. Knows nothing about what is asked, or whether it ever is.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from workers.media.arriving import Arriving
from workers.media.clip_reader import decode_clip
from workers.media.ffmpeg import drops_packets, with_working_ffmpeg
from workers.media.probing import ProbePool
from workers.media.tracks import chosen
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings, Media, MediaInfo
from workers.spans import fixed_spans

log = logging.getLogger(__name__)

CUED = frozenset({"matroska"})
"""Containers that are read from an index, and whose timeline is known only when all packets were read."""


@dataclass(frozen=True)
class Wish:
    """What may be decoded early of one file, and how it will be cut."""

    length_s: float
    step_s: float
    shortest_s: float
    """See `fixed_spans`."""
    audio_track: str
    video_track: str
    """See `tracks.chosen`."""
    settings: DecodeSettings
    clips: int
    """So many at most."""


@dataclass(frozen=True, eq=False)
class EarlyClip:
    """A clip that was decoded early."""

    info: MediaInfo
    """With the streams that were decoded."""
    start_s: float
    end_s: float
    nbytes: int
    decoded: Any
    """The `DecodedClip`, of a clip without an id; or a reference to it."""

    def of(self, clip: Clip) -> DecodedClip:
        """As the clip that it turned out to be."""
        decoded: DecodedClip = self.decoded
        return replace(decoded, clip=clip)

    def is_of(self, info: MediaInfo, clip: Clip) -> bool:
        """Whether a clip of the same version of the same file would be decoded to the same."""
        return (self.start_s, self.end_s) == (clip.start_s, clip.end_s) and _decides(self.info) == _decides(info)


def _decides(info: MediaInfo) -> MediaInfo:
    """Without what does not matter to a clip that is there to the last picture and sample."""
    tracks = tuple(replace(track, why="", is_silent=False) for track in info.tracks)
    plain = replace(info, tracks=tracks, tags=(), notes=(), chapters=None, subtitles=None)
    return replace(plain, duration_s=0.0, video_end_s=None, audio_end_s=None, lag_s=0.0, is_checked=False)


class Early:
    """Decodes the first clips of one object as it arrives."""

    def __init__(self, media: Media, wish: Wish, pool: ProbePool) -> None:
        self._media, self._wish, self._pool = media, wish, pool
        self.info: MediaInfo | None = None
        """What probing finds, where no more can be found when all is here."""
        self.clips: list[EarlyClip] = []
        pool.start()

    def __call__(self, arriving: Arriving) -> None:
        """Until the object is here, or what may be decoded is. Never raises."""
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="glance") as beside:
                glancing = beside.submit(self._pool.glance, arriving.by, self._media.key)
                drops_packets()  # a run of ffmpeg that the first clip need not wait for
                found = glancing.result()
            if isinstance(found, ClipFailure):
                return
            self.info = found if found.is_checked else None
            if not found.segments and (found.is_checked or found.container in CUED):
                self._decode(arriving, found)
        except Exception as error:  # noqa: BLE001 - what is wrong is found and named when all is here
            log.debug("%s: nothing more is decoded early: %s: %s", self._media.key, type(error).__name__, error)

    def _decode(self, arriving: Arriving, found: MediaInfo) -> None:
        wish = self._wish
        info = chosen(found, wish.audio_track, wish.video_track)
        spans = fixed_spans(info.duration_s, wish.length_s, wish.step_s, wish.shortest_s)
        for number, (start_s, end_s) in enumerate(spans[: wish.clips]):
            if arriving.is_whole:
                return
            clip = Clip("", number, start_s, end_s)
            decoded = with_working_ffmpeg(partial(decode_clip, arriving, info, clip, wish.settings))
            if info.is_checked or not _depends_on_ends(decoded):
                self._keep(EarlyClip(info, start_s, end_s, decoded.nbytes, decoded))
            arriving.go_on()  # with one clip there is something to begin with; all else waits for the hash

    def _keep(self, clip: EarlyClip) -> None:
        self.clips.append(clip)


def _depends_on_ends(decoded: DecodedClip) -> bool:
    """Whether it might come out otherwise when it is known where the file's streams end: what lacks something, or
    begins late."""
    noticed = decoded.noticed
    begins_late = decoded.clip.start_s > 0 and (noticed.held_s or noticed.silent_s)
    return decoded.decoded_share < 1 or bool(noticed.missing_s or begins_late)
