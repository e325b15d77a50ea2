"""Runs work units on Ray: decoding ahead of the model, within a bound of bytes, losing nothing.

Promises: every clip of every unit that is taken ends as a result or a named failure, whatever dies in between; bytes
decoded and not yet answered never exceed the bound by more than one clip; one bad clip costs that clip; a stop lets
what is in flight finish. Knows nothing about archives, the journal or SQL: units go in, finished units come out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

import ray
from ray.exceptions import (
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from omnidrop.errors import first_line
from pipeline.execution.actor_metering import Load, Statistics, Watch, unwatched
from pipeline.execution.actor_pool import ActorPool, Call, ExecutionError, Slot
from pipeline.execution.backend import Backend, Limits
from pipeline.execution.clip_state import ClipState, UnitResult, UnitState
from pipeline.execution.cluster_room import ClusterRoom
from pipeline.execution.homes import Waiting
from pipeline.execution.in_flight import InFlight
from pipeline.execution.machine_checks import MachineChecks
from pipeline.execution.worker_failures import is_preemption, node_answers
from pipeline.failure_rules import Again, pause_s, rule_of
from pipeline.storage.errors import Unavailable
from pipeline.storage.outage import Patience, StopFlag
from workers.records import (
    ClipFailure,
    ClipOutcome,
    ClipResult,
    DecodeReport,
    Stage,
    WorkUnit,
)

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How long one wait may take before the stop flag is looked at again."""
FEW = 32
"""Up to so many tasks and calls, one that is done is waited for at a time: a look at all of them is a second wait."""
DECODE_AHEAD_PER_ACTOR = 4
"""Clips decoded and waiting per actor. Two hide decoding's jitter; more only raises what a kill throws away."""

STORE_FULL = (
    "Ray's object store and the disk that it spills to are full; free disk space on the cluster's machines (the "
    "folder is below /tmp/ray unless `ray start --temp-dir` says otherwise), or lower execution.bytes_in_flight"
)


def _done(waiting: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
    """What is done of what is waited for: nothing, if that takes longer than `POLL_S`."""
    done: list[ray.ObjectRef]
    if len(waiting) > FEW:
        # Every wait looks at all of them: whatever is done comes along. Without waiting, because a driver of that many
        # has always something to do.
        done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        if done:
            return done
    done, _ = ray.wait(waiting, num_returns=1, timeout=POLL_S, fetch_local=False)
    return done


class _End:
    """No unit will come any more."""


_END = _End()


class RayExecution:
    """One run of the loop. All state lives in the driver; tasks and actors hold none that matters."""

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        stop: StopFlag,
        patience: Patience | None = None,
        watch: Watch = unwatched,
    ) -> None:
        """`watch` is told at every look, many times a second and at least every `POLL_S` while nothing else happens."""
        self._backend, self._limits, self._stop, self._watch = backend, limits, stop, watch
        self._patience = patience or Patience(0.0)
        self.statistics = Statistics()
        self._in_flight = InFlight(backend.held_bytes, self.statistics)
        self._checks = MachineChecks(backend, self._in_flight, self.statistics, lambda: self._next.look_again())
        self._next = Waiting(self._slots, limits.decode_tasks)
        self._room = ClusterRoom(lambda: backend.room(self._actors.places()), backend.no_actor_room)
        self._decoding: dict[ray.ObjectRef, ClipState] = {}
        self._answering: dict[ray.ObjectRef, Slot] = {}
        self._answered_clips = 0
        self._clips_per_pass = limits.clips_per_pass
        self._is_exhausted = False
        self._actors = ActorPool(
            backend.start_actor,
            self.statistics,
            most=limits.actors,
            max_failures=limits.max_deaths_per_worker,
            idle_s=limits.actor_idle_s,
        )

    def run(self, units: Iterable[WorkUnit | None]) -> Iterator[UnitResult]:
        """Yield units as they finish, in any order. None among the given ones says that there is none yet.

        Raises ExecutionError when no actor can be kept alive, Unavailable when there is no room for long.
        """
        source = iter(units)
        deadline: float | None = None
        try:
            while True:
                if self._stop.is_set() and deadline is None:
                    deadline = time.monotonic() + self._limits.stop_grace_s
                    answering = sum(len(call.clips) for slot in self._actors.slots for call in slot.calls)
                    log.warning("stopping; %d clips in flight will finish first", len(self._decoding) + answering)
                if deadline is None:
                    self._admit(source)
                elif time.monotonic() > deadline:
                    return
                self._dispatch(is_stopping=deadline is not None)
                self._actors.give_back_idle()
                waits_for = self._waits_for()
                can_answer = bool(self._in_flight.ready and self._actors.slots)
                is_idle = not (self._decoding or self._answering or can_answer)
                if is_idle and (deadline is not None or (self._is_exhausted and not self._in_flight.again)):
                    if deadline is not None or not self._checks.is_holding:
                        return
                    yield from self._checks.resolve()
                # Actors first: of several that are done, a single wait gives the one that comes first.
                waiting = [*self._answering, *self._actors.loading, *self._checks.running, *self._decoding]
                if not waiting:
                    # Clips are left, but it is not yet time for them.
                    time.sleep(POLL_S)
                    self._look(waits_for)
                    continue
                done = _done(waiting)
                if not done:
                    is_decoding = bool(self._decoding or self._checks.running or self._actors.is_checking)
                    is_loading = bool(self._actors.loading)
                    full = self._room.look(self._checks.out, is_decoding=is_decoding, is_loading=is_loading)
                    self._checks.leave_unchecked(full)
                self._look(waits_for)
                for ref in done:
                    yield from self._handle(ref)
        finally:
            self._shut_down()

    # -- starting work ------------------------------------------------------------------------------------------------

    def _admit(self, source: Iterator[WorkUnit | None]) -> None:
        while len(self._decoding) < self._limits.decode_tasks and not self._patience.is_waiting():
            ahead = len(self._decoding) + len(self._in_flight.ready) + self._waiting
            per_actor = max(DECODE_AHEAD_PER_ACTOR, 2 * self._limits.clips_per_pass)
            if ahead >= self._limits.decode_tasks + per_actor * self._limits.actors:
                return
            state = self._peek(source)
            if state is None:
                return
            is_alone = not (self._decoding or self._in_flight.ready or self._answering)
            if not is_alone and self._in_flight.held + state.nbytes > self._limits.bytes_in_flight:
                return
            if state in self._in_flight.again:
                self._in_flight.again.remove(state)
            self._in_flight.reserve(state.nbytes)
            if state.is_text:
                self._in_flight.ready.append(state)
                continue
            self._next.started(state)
            report, state.payload = self._start(state)
            self._decoding[report] = state

    def _start(self, state: ClipState) -> tuple[ray.ObjectRef, ray.ObjectRef]:
        state.begun_s = time.monotonic()
        start_at = self._backend.start_decode_at
        if start_at is None or not (state.machine or state.is_helped):
            return self._backend.start_decode(state.owner.unit, state.clip)
        return start_at(state.machine, state.is_helped, state.owner.unit, state.clip)

    def _slots(self) -> dict[str, int]:
        """Of the machines on which a home's clips find room."""
        if self._backend.start_decode_at is None:
            return {}
        slots = self._backend.slots(self._actors.places())
        return {machine: room for machine, room in slots.items() if room and machine not in self._checks.out}

    def _peek(self, source: Iterator[WorkUnit | None]) -> ClipState | None:
        """The clip to decode next: one that must be tried again, if it is time, or the next of the units, if known."""
        now = time.monotonic()
        is_due = (s for s in self._in_flight.again if s.due <= now and (s.is_text or self._next.may_begin(s)))
        if (again := next(is_due, None)) is not None:
            return again
        while True:
            no_more = self._is_exhausted or self._next.is_full
            if (found := self._next.next(may_help=no_more)) is not None or no_more:
                return found
            asked = time.monotonic()
            unit = _END if self._is_exhausted else next(source, _END)
            self.statistics.actor_time.book_planning(time.monotonic() - asked)
            if isinstance(unit, _End):
                self._is_exhausted = True
                return None
            if unit is None:
                return None
            owner = UnitState(unit)
            if unit.lines:
                # As one that is tried again: where there is no room for it now, it is not lost.
                self._in_flight.again.append(ClipState(owner, unit.clips[0], len(owner.asked)))
                return self._in_flight.again[-1]
            self._next.add(ClipState(owner, c, self._backend.estimate_bytes(unit, c)) for c in unit.clips)

    def _dispatch(self, *, is_stopping: bool) -> None:
        if not is_stopping:
            self._actors.grow(len(self._in_flight.ready) + self._waiting, is_decoding=bool(self._decoding))
        for slot in self._actors.slots:
            if slot.is_free and slot.is_under_check:
                self._check_health(slot)
            elif slot.is_free and self._in_flight.ready:
                self._answer(slot, *self._together())
        for slot in self._actors.slots if self._limits.clips_per_pass == 1 else ():
            if self._in_flight.ready and self._in_flight.ready[0].is_trusted and slot.takes_another:
                self._answer_next(slot, self._in_flight.ready.popleft())

    @property
    def _waiting(self) -> int:
        """Clips in actors that answer others."""
        return sum(slot.waiting for slot in self._actors.slots)

    def _together(self) -> list[ClipState]:
        """The next clip that is ready, and those that may be answered with it; idle actors get equal shares."""
        idle = sum(slot.is_free for slot in self._actors.slots)
        most = min(self._clips_per_pass, -(-len(self._in_flight.ready) // max(1, idle)))
        first = self._in_flight.ready.popleft()
        joining = [state for state in self._in_flight.ready if first.joins(state)][: most - 1]
        for state in joining:
            self._in_flight.ready.remove(state)
        return [first, *joining]

    def _answer(self, slot: Slot, *states: ClipState, ready: ray.ObjectRef | None = None) -> None:
        state = states[0]
        if len(states) > 1:
            payloads = [one.payload for one in states]
            ref = slot.handle.answer_batch.remote(state.asked, *payloads)
        elif state.is_text:
            ref = slot.handle.answer_whole.remote(state.clip, state.asked)
        else:
            # An audit that is too much for the worker must not cost the clip its answers.
            calmly = {"may_audit": False} if state.worker_failures or state.owner.unit.attempt else {}
            ref = slot.handle.answer.remote(state.payload, state.asked, **calmly)
        slot.calls.append(Call(states, ref, ready))
        self._answering[ref] = slot

    def _answer_next(self, slot: Slot, state: ClipState) -> None:
        """Give an actor a clip while it answers another: what needs no device is done meanwhile, and no time passes
        between the two."""
        self._answer(slot, state, ready=slot.handle.make_ready.remote(state.payload, state.asked))

    def _check_health(self, slot: Slot) -> None:
        assert self._actors.canary is not None
        canary = self._actors.canary.fresh()
        self._in_flight.reserve(canary.nbytes)
        _, canary.payload = self._backend.start_decode(canary.owner.unit, canary.clip)
        self._answer(slot, canary)

    # -- looking on ---------------------------------------------------------------------------------------------------

    def _waits_for(self) -> str:
        """What an actor without a clip waits for at this moment."""
        if self._patience.is_waiting():
            return "storage"
        if self._is_exhausted and not self._next and not self._in_flight.again:
            return "decode" if self._decoding else "end"
        if len(self._decoding) >= self._limits.decode_tasks or (self._next and not self._next.next(may_help=False)):
            return "decode"
        return "bytes_in_flight" if self._next else "planning"

    def _look(self, waits_for: str) -> None:
        """Note what is held, and what the actors without a clip waited for since the last look."""
        loading, busy = len(self._actors.loading), sum(bool(slot.calls) for slot in self._actors.slots)
        idle = len(self._actors.slots) - loading - busy
        self.statistics.actor_time.book_idle(idle, waits_for)
        waiting = len(self._next) + len(self._in_flight.again)
        counts = (waiting, len(self._decoding), len(self._in_flight.ready) + self._waiting, loading, busy, idle)
        self.statistics.load = Load(self._in_flight.nbytes, *counts)
        self._watch(self.statistics)

    def _make_room(self, machine: str | None) -> None:
        """An actor has taken its cores: clips that were to be decoded on its machine, and find none there any more, go
        elsewhere."""
        self._next.look_again()
        here = [ref for ref, state in self._decoding.items() if machine and state.machine == machine]
        if not here or machine in self._slots():
            return
        for ref in here:
            state = self._decoding.pop(ref)
            self._next.ended(state)
            ray.cancel(ref, force=True)
            self._in_flight.retry(state)

    # -- finishing work -----------------------------------------------------------------------------------------------

    def _handle(self, ref: ray.ObjectRef) -> Iterator[UnitResult]:
        if (state := self._decoding.pop(ref, None)) is not None:
            self._next.ended(state)
            yield from self._decoded(ref, state)
        elif (check := self._checks.running.pop(ref, None)) is not None:
            yield from self._checks.checked(ref, check[0])
        elif (slot := self._answering.pop(ref, None)) is not None:
            yield from self._answered(ref, slot)
        elif (slot := self._actors.loading.pop(ref, None)) is not None:
            self._actors.loaded(ref, slot)
            self._make_room(slot.node_id)

    def _decoded(self, ref: ray.ObjectRef, state: ClipState) -> Iterator[UnitResult]:
        try:
            report: DecodeReport = ray.get(ref)
            self.statistics.bytes_fetched += report.bytes_fetched
            if report.tool:
                self.statistics.tools.add(report.tool)
        except RayTaskError as error:
            if isinstance(error.cause, ObjectLostError):  # what was decoded early
                yield from self._died(state, "decode", error.cause)
            else:
                yield from self._failed(state, "decode", "internal", str(error.cause or error))
        except RayError as error:
            yield from self._died(state, "decode", error)
        else:
            if report.confinement:
                self.statistics.confinements.add(report.confinement)
            if report.failure is not None:
                yield from self._finish(state, report.failure, report.machine)
            else:
                yield from self._checks.decoded(report.machine, state)
                if self._backend.health is not None:
                    self._backend.health.was_read(state.owner.unit.media)
                self._in_flight.reserve(report.nbytes - state.nbytes)
                state.nbytes = report.nbytes
                self._in_flight.ready.append(state)

    def _answered(self, ref: ray.ObjectRef, slot: Slot) -> Iterator[UnitResult]:
        """A call ended, and with it those before it in the same actor, which answers in their order."""
        while slot.calls:
            call = slot.calls.popleft()
            self._answering.pop(call.answer, None)
            yield from self._ended(call.answer, slot, call.clips)
            if call.answer == ref:
                return

    def _ended(self, ref: ray.ObjectRef, slot: Slot, states: tuple[ClipState, ...]) -> Iterator[UnitResult]:
        if len(states) > 1:
            yield from self._answered_together(ref, slot, states)
            return
        (state,) = states
        if slot.is_under_check:
            self._end_health_check(ref, slot, state)
            return
        try:
            outcome: ClipOutcome = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, OutOfDiskError | ObjectStoreFullError):
                yield from self._failed(state, "answer", "object_store_full", STORE_FULL)
            elif isinstance(error.cause, ObjectLostError):
                yield from self._died(state, "answer", error.cause)
            else:
                yield from self._failed(state, "answer", "internal", str(error.cause or error))
        except RayActorError as error:
            is_lost = is_preemption(error) or not node_answers(slot.node_id)
            is_either = self._lost_with(slot)
            if is_either and not is_lost:
                # It died while it made the one clip ready and answered the other: alone each shows which it was.
                self.statistics.worker_failures["actor"] += 1
                state.is_alone = True
            self._actors.replace(slot, error, is_lost=is_lost or is_either)
            yield from self._died(state, "answer", error, is_lost=is_lost or is_either)
        except RayError as error:
            yield from self._died(state, "answer", error)
        else:
            yield from self._take(slot, state, outcome)

    def _lost_with(self, slot: Slot) -> bool:
        """Take back what waits in an actor that died; whether it may have died of that."""
        is_doubtful = False
        while slot.calls:
            call = slot.calls.popleft()
            self._answering.pop(call.answer, None)
            is_alone = not call.was_made_ready()
            is_doubtful |= is_alone
            for state in call.clips:
                state.is_alone = is_alone
                self._in_flight.retry(state)
        return is_doubtful

    def _answered_together(self, ref: ray.ObjectRef, slot: Slot, states: tuple[ClipState, ...]) -> Iterator[UnitResult]:
        """Several clips' outcomes. Where the call failed it cannot be attributed to one of them: each is tried alone,
        neither they nor the actor's place are charged with it, and calls become smaller if it killed the actor."""
        try:
            outcomes: list[ClipOutcome] = ray.get(ref)
        except RayError as error:
            if isinstance(error, RayActorError):
                if not is_preemption(error) and node_answers(slot.node_id):
                    self.statistics.worker_failures["actor"] += 1
                    # So many may be what was too much: a machine short of memory kills without a word.
                    self._clips_per_pass = max(1, len(states) // 2)
                self._actors.replace(slot, error, is_lost=True)
            log.warning("decoding %d clips again to answer them one by one: %s", len(states), first_line(error))
            for state in states:
                state.is_alone = True
                self._in_flight.retry(state)
        else:
            for state, outcome in zip(states, outcomes, strict=True):
                yield from self._take(slot, state, outcome)

    def _take(self, slot: Slot, state: ClipState, outcome: ClipOutcome) -> Iterator[UnitResult]:
        slot.failures_in_a_row = 0
        if isinstance(outcome, ClipResult):
            self.statistics.actor_time.book_answer(outcome)
            if not state.is_text:
                self._actors.canary = state.fresh()
        self._answered_clips += 1
        self._patience.succeeded()
        yield from self._finish(state, outcome)

    def _end_health_check(self, ref: ray.ObjectRef, slot: Slot, canary: ClipState) -> None:
        """End a health check. Raises ExecutionError where the actor died of a clip that was answered before, too."""
        self._in_flight.reserve(-canary.nbytes)
        try:
            ray.get(ref)
        except RayActorError as error:
            self._actors.replace(slot, error, is_lost=is_preemption(error) or not node_answers(slot.node_id))
            return
        except RayError as error:
            # The clip could not be decoded or was lost on its way: no verdict, another check.
            assert self._actors.canary is not None
            self._actors.canary.retries += 1
            if self._actors.canary.retries > self._limits.max_retries:
                raise ExecutionError(
                    f"the model actor died {slot.failures_in_a_row} times in a row, and a clip that was answered "
                    f"before cannot be decoded again to try it: {first_line(error)}. Run again: finished units are kept"
                ) from error
        else:
            log.warning(
                "the model actor works; its failures are attributed to the clips it was given, and the run continues"
            )
            slot.is_under_check, slot.failures_in_a_row = False, 0

    def _died(self, state: ClipState, stage: Stage, error: RayError, *, is_lost: bool = False) -> Iterator[UnitResult]:
        """A worker died over this clip, or its decoded data was lost: decode again, unless it keeps happening."""
        is_lost = is_lost or is_preemption(error)
        if isinstance(error, WorkerCrashedError | OutOfMemoryError | RayActorError) and not is_lost:
            state.worker_failures += 1
            self.statistics.worker_failures[stage] += 1
        if state.worker_failures >= self._limits.max_deaths_per_clip:
            kind = "out_of_memory" if isinstance(error, OutOfMemoryError) else "worker_died"
            said = f"killed its worker {state.worker_failures} times: {first_line(error)}"
            yield from self._failed(state, stage, kind, said)
        else:
            log.warning("decoding clip %s again: %s", state.clip.clip_id, first_line(error))
            self._in_flight.retry(state)

    def _failed(self, state: ClipState, stage: Stage, error_class: str, message: str) -> Iterator[UnitResult]:
        yield from self._finish(state, ClipFailure(state.clip, stage, error_class, message))

    def _finish(self, state: ClipState, outcome: ClipOutcome, machine: str = "") -> Iterator[UnitResult]:
        again = rule_of(outcome.error_class).again if isinstance(outcome, ClipFailure) else Again.NEVER
        if isinstance(outcome, ClipFailure) and again is Again.ROOM:
            yield from self._refused(state, outcome)
            return
        if again is Again.NOW:
            state.retries += 1
            if state.retries <= self._limits.max_retries:
                state.due = time.monotonic() + pause_s(state.retries)
                self._in_flight.retry(state)
                return
        if isinstance(outcome, ClipFailure) and self._is_perhaps_the_archives(state, outcome):
            self._in_flight.retry(state)
            return
        if isinstance(outcome, ClipFailure) and self._checks.failed(machine, state, outcome):
            return
        yield from self._in_flight.close(state, outcome)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _is_perhaps_the_archives(self, state: ClipState, failure: ClipFailure) -> bool:
        """Whether nothing of the archive can be read, or could a moment ago: then the clip is not at fault. Raises
        Unavailable where it has lasted too long."""
        if self._backend.health is None or state.is_its_own:
            return False
        try:
            state.is_its_own = self._backend.health.is_its_own(state.owner.unit.media, failure)
        except Unavailable as error:
            self._patience.refused(error)
            return True
        return state.is_its_own

    def _refused(self, state: ClipState, failure: ClipFailure) -> Iterator[UnitResult]:
        """There was no room for a clip: tried again when room is made, unless it is always others that fit."""
        if state.refused_at not in (None, self._answered_clips):
            state.retries += 1
        state.refused_at = self._answered_clips
        if state.retries > self._limits.max_retries:
            yield from self._in_flight.close(state, failure)
        else:
            self._in_flight.retry(state)
            self._patience.refused(Unavailable(failure.message))

    def _shut_down(self) -> None:
        for ref in (*self._decoding, *self._checks.running):
            ray.cancel(ref, force=True)
        self._actors.close()
        self.statistics.load = Load()
