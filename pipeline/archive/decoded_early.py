"""Clips of a bucket's files that were decoded while the files were fetched, until they are asked for, or are not.

Promises: what is held, and what may come of files that are being fetched, takes no more than a share of the bytes that
may be in flight; a clip is given out once, and only for the version of the file, the span and the streams that it is
of; what is not given out is counted. Knows nothing about how anything is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.config.job import JobConfig
from pipeline.config.locations import is_s3
from pipeline.config.worker_settings import decode_settings
from workers.media.clip_reader import most_decoded_bytes
from workers.media.early import EarlyClip, Wish
from workers.records import Clip, Media, MediaInfo

CLIPS = 2
"""Of one file: they hide the start; more would take memory from those that are asked now."""
LEAST_BYTES = 64 << 20
"""A smaller file is whole before its first clip is decoded."""
SHARE = 4
"""One part in so many of the bytes in flight."""


@dataclass
class _Held:
    """Of one file."""

    media: Media
    reserved: int
    """Bytes that may yet come."""
    clips: list[EarlyClip] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return self.reserved + sum(clip.nbytes for clip in self.clips)


class DecodedEarly:
    """One run's account. Threads may share it."""

    def __init__(self, job: JobConfig) -> None:
        clips = job.clips
        self._settings = decode_settings(clips, job.execution)
        step_s = clips.length_s - clips.overlap_s
        of_job = (clips.length_s, step_s, clips.min_length_s, clips.audio_track, clips.video_track, self._settings)
        self._wish = Wish(*of_job, clips=CLIPS)
        self._most = job.execution.bytes_in_flight // SHARE
        # Scenes are known when all of a file was seen.
        self._is_possible = is_s3(job.archive.uri) and clips.cut == "fixed"
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        """By media id."""
        self._has_work = False
        self.decoded = 0
        self.unused = 0

    def tell(self, queued: int) -> None:
        """How many clips wait to be decoded: where some do, cores are better used on them."""
        self._has_work = queued > 0

    def wish(self, media: Media) -> Wish | None:
        """What may be decoded of a file that is about to be fetched, for which room is kept; None for nothing."""
        if not self._is_possible or self._has_work or media.size_bytes < LEAST_BYTES:
            return None
        reserved = CLIPS * most_decoded_bytes(self._wish.length_s + self._wish.shortest_s, self._settings)
        with self._lock:
            if media.media_id in self._held or self._nbytes() + reserved > self._most:
                return None
            self._held[media.media_id] = _Held(media, reserved)
        return self._wish

    def came(self, media: Media, clips: Iterable[EarlyClip] = ()) -> None:
        """What was decoded of a file that was wished for, when it is here."""
        with self._lock:
            held = self._held.get(media.media_id)
            if held is not None:
                held.clips, held.reserved = list(clips), 0
                self.decoded += len(held.clips)

    def take(self, media: Media, info: MediaInfo, clip: Clip) -> EarlyClip | None:
        """A clip that was decoded early, if it was; it is held no more."""
        with self._lock:
            held = self._held.get(media.media_id)
            if held is None or _version(held.media) != _version(media):
                return None
            found = next((one for one in held.clips if one.is_of(info, clip)), None)
            if found is not None:
                held.clips.remove(found)
            return found

    def drop(self, media_id: str) -> None:
        """Nothing more is asked of a file."""
        with self._lock:
            held = self._held.pop(media_id, None)
            self.unused += len(held.clips) if held is not None else 0

    def close(self) -> None:
        """Drop all."""
        for media_id in list(self._held):
            self.drop(media_id)

    @property
    def nbytes(self) -> int:
        """Held and reserved."""
        with self._lock:
            return self._nbytes()

    def _nbytes(self) -> int:
        return sum(held.nbytes for held in self._held.values())

    def notes(self) -> Iterable[str]:
        """What a person should know after the run."""
        if self.unused:
            yield (
                f"{self.unused} of {self.decoded} clips decoded while their file was fetched were not used: exact "
                "copies, answered before, or cut otherwise"
            )


def _version(media: Media) -> tuple[str, str, int]:
    return media.uri, media.etag, media.size_bytes
