"""Units run in this process, without Ray: one clip after the other.

Promises: a failed clip has the tries that it has on Ray. Knows nothing about archives or results.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from pipeline.archive.probing import source
from pipeline.config.worker_settings import answerer_settings, decode_settings
from pipeline.execution.actor_metering import Statistics, gpus_counted
from pipeline.execution.actor_pool import ExecutionError
from pipeline.execution.clip_state import UnitResult
from pipeline.execution.machines import is_certain, may_be_machines, nothing_decodes
from pipeline.execution.run_context import RunContext
from pipeline.failpoints import reached
from pipeline.failure_rules import Again, pause_s, rule_of
from pipeline.storage.errors import Unavailable
from pipeline.storage.outage import LOOK_S, StopFlag
from workers.media import nvdec
from workers.media.decode import decode_one, decoder_here
from workers.model.answerer import Answerer
from workers.records import Clip, ClipFailure, ClipOutcome, DecodedClip, WorkUnit


def execute_in_process(
    units: Iterable[WorkUnit],
    *,
    decode: Callable[[WorkUnit], Iterator[DecodedClip | ClipFailure]],
    answer: Callable[[DecodedClip, WorkUnit], ClipOutcome],
    read: Callable[[WorkUnit], ClipOutcome],
    stop: StopFlag,
) -> Iterator[UnitResult]:
    """The same units one after the other, without Ray: for tests, notebooks and debugging. `read` answers those that
    are about a whole video."""
    for unit in units:
        if stop.is_set():
            return
        if unit.lines:
            yield UnitResult(unit, (read(unit),))
            continue
        decoded = decode(unit)
        yield UnitResult(unit, tuple(d if isinstance(d, ClipFailure) else answer(d, unit) for d in decoded))


class InProcess:
    """No Ray: one clip after the other."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self.statistics = Statistics()
        self._settings, self._source = decode_settings(run.job.clips, run.job.execution), source(run.job)
        self._worked: tuple[WorkUnit, Clip] | None = None
        self._doubted: set[str] = set()

    def run(self, units: Iterable[WorkUnit | None]) -> Iterator[UnitResult]:
        job = self._run.job
        settings = answerer_settings(
            job.model, job.pruning, audit_share=job.audit.share, weights_hash=self._run.weights_hash
        )
        answerer = Answerer(settings)
        self.statistics.tools.add(decoder_here(self._settings))
        held = self.statistics.actor_time
        held.gpus = gpus_counted(job.model.gpus_per_actor)

        def answer(decoded: DecodedClip, unit: WorkUnit) -> ClipOutcome:
            held.start(answerer)  # with the first clip the model is loaded
            asking = unit.asked_of(decoded.clip)
            return answerer.answer(decoded, asking.questions, asking.instruction)

        def read(unit: WorkUnit) -> ClipOutcome:
            held.start(answerer)
            between = partial(reached, "video_half_read")
            return answerer.answer_whole(unit.clips[0], unit.lines, unit.questions, between=between)

        self.statistics.confinements.add(str(nvdec.level_here(self._settings)))
        answered = 0
        try:
            for result in execute_in_process(
                self._when_possible(units), decode=self._decoded, answer=answer, read=read, stop=self._run.stop
            ):
                answered += 1
                yield result
        finally:
            held.stop(answerer)
            self.statistics.tools.add(decoder_here(self._settings))
        if answered:
            self.statistics.actors.append(str(answerer.describe()))

    def _when_possible(self, units: Iterable[WorkUnit | None]) -> Iterator[WorkUnit]:
        for unit in units:
            if unit is None:
                continue
            while self._run.patience.is_waiting() and not self._run.stop.is_set():
                time.sleep(LOOK_S)
            yield unit

    def _decoded(self, unit: WorkUnit) -> Iterator[DecodedClip | ClipFailure]:
        for clip in unit.clips:
            yield self._run.patience.call(partial(self._decode, unit, clip))

    def _decode(self, unit: WorkUnit, clip: Clip) -> DecodedClip | ClipFailure:
        """One clip, with the tries that it may have. Raises Unavailable where there is no room for it, or where nothing
        of the archive can be read."""
        retries, is_its_own = 0, False
        if (early := self._run.early.take(unit.media, unit.info, clip)) is not None:
            return early.of(clip)
        while True:
            outcome = decode_one(unit.media, unit.info, clip, self._settings, self._source)
            if isinstance(outcome, DecodedClip):
                self._run.health.was_read(unit.media)
                self._worked = unit, clip
                return outcome
            again = rule_of(outcome.error_class).again
            if again is Again.ROOM:
                raise Unavailable(outcome.message)
            if again is not Again.NOW or retries == self._run.job.execution.max_retries:
                if is_its_own or not self._run.health.is_its_own(unit.media, outcome):
                    self._check_machine(unit, outcome)
                    return outcome
                is_its_own = True
                continue
            retries += 1
            time.sleep(pause_s(retries))

    def _check_machine(self, unit: WorkUnit, failure: ClipFailure) -> None:
        """Is it this file, or does this machine decode nothing any more? A clip that worked before tells. Raises
        ExecutionError."""
        if not may_be_machines(failure) or unit.media.media_id in self._doubted:
            return
        self._doubted.add(unit.media.media_id)
        found: DecodedClip | ClipFailure = failure
        if not is_certain(failure):
            if self._worked is None:
                return
            worked, clip = self._worked
            found = decode_one(worked.media, worked.info, clip, self._settings, self._source)
            if not self._run.health.can_read(worked.media):
                return  # it is gone from the archive, which says nothing about the machine
        if isinstance(found, ClipFailure):
            raise ExecutionError(nothing_decodes(f"{socket.gethostname()}: {found.message}"))
