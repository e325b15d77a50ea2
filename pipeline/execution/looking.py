"""Files and objects looked at on the machines that will decode them: fetched there, hashed and probed.

Promises: a look takes no core of a machine's; one that is lost with its machine, or fails for a reason that is not the
file's, is made again, in the end here. Knows nothing about what is done with the findings.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.archive.decoded_early import DecodedEarly
from pipeline.archive.probing import source
from pipeline.config.job import JobConfig
from pipeline.failure_rules import Fault, rule_of
from workers.media.remote import also_fetched
from workers.records import ClipFailure, Media, RawCue

if TYPE_CHECKING:
    from workers.media.decode import Looked
    from workers.ray_workers import LookStarter

TRIES = 2


class AtHome:
    """One run's looks: on a cluster, which is connected to when there is something to look at; else none. Threads may
    share it."""

    def __init__(self, job: JobConfig, early: DecodedEarly) -> None:
        """`early` takes first clips that are decoded while a file is fetched."""
        self._job, self._early = job, early
        self._there: tuple[float, tuple[str, ...]] = (float("-inf"), ())

    def machines(self) -> int:
        """How many machines decode. Raises RayUnavailable."""
        return max(1, len(self._homes()))

    def __call__(self, media: Media) -> Looked | None:
        """What is in it; None where it is to be looked at here. Raises RayUnavailable."""
        from ray.exceptions import RayError

        from pipeline.execution.homes import home_of

        for _ in range(TRIES):
            homes = self._homes()
            if len(homes) < 2:
                break
            wish = self._early.wish(media)
            try:
                looked = self._starter.look(home_of(media, homes), media, wish)
            except RayError:
                self._early.drop(media.media_id)
                self._there = (float("-inf"), ())
                continue
            self._early.came(media, looked.early)
            also_fetched(looked.bytes_fetched)
            if _is_not_the_files(looked.found):
                break  # that machine may be without ffmpeg, or without the archive's folder: this one's word counts
            return looked
        return None

    def subtitles(self, media: Media, index: int) -> tuple[RawCue, ...] | ClipFailure | None:
        """What a stream of text subtitles says, read where the object is kept; None where it is to be read here.
        Raises RayUnavailable."""
        from ray.exceptions import RayError

        from pipeline.execution.homes import home_of

        for _ in range(TRIES):
            homes = self._homes()
            if len(homes) < 2:
                break
            try:
                cues, fetched = self._starter.subtitles(home_of(media, homes), media, index)
            except RayError:
                self._there = (float("-inf"), ())
                continue
            also_fetched(fetched)
            return None if _is_not_the_files(cues) else cues
        return None

    @cached_property
    def _starter(self) -> LookStarter:
        from workers.ray_workers import LookStarter

        return LookStarter(source(self._job), self._job.execution.probe_timeout_s)

    def _homes(self) -> tuple[str, ...]:
        if not self._job.execution.is_on_a_cluster:
            return ()
        from pipeline.execution.backends import decoding_machines
        from pipeline.execution.homes import LOOK_S

        looked, homes = self._there
        if time.monotonic() - looked > LOOK_S:
            homes = decoding_machines(self._job)
            self._there = time.monotonic(), homes
        return homes


def _is_not_the_files(found: object) -> bool:
    return isinstance(found, ClipFailure) and rule_of(found.error_class).fault is not Fault.FILE
