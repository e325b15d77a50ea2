"""Machines on which decoding fails: given a clip that worked before, and left out where that fails, too.

Promises: a failure that may be its machine's is held back until that is known; where no machine is left, the run ends
and says why. What is known of each machine is told by `pipeline.execution.machines`. Knows nothing about model actors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import ray
from ray.exceptions import RayError

from omnidrop.errors import first_line
from pipeline.execution.actor_metering import Statistics
from pipeline.execution.actor_pool import ExecutionError
from pipeline.execution.backend import Backend
from pipeline.execution.clip_state import ClipState, UnitResult
from pipeline.execution.in_flight import InFlight
from pipeline.execution.machines import Machines, nothing_decodes
from pipeline.execution.worker_failures import node_name
from workers.records import ClipFailure, DecodeReport

log = logging.getLogger(__name__)


class MachineChecks:
    """Of one run. `look_again` is called when a machine is left out."""

    def __init__(
        self, backend: Backend, in_flight: InFlight, statistics: Statistics, look_again: Callable[[], None]
    ) -> None:
        self._backend, self._in_flight, self._statistics = backend, in_flight, statistics
        self._look_again = look_again
        self._machines = Machines()
        self.running: dict[ray.ObjectRef, tuple[str, ray.ObjectRef]] = {}
        """Machines that are decoding a clip that worked before, with where it comes."""

    @property
    def out(self) -> dict[str, str]:
        """Why each machine that is left out is."""
        return self._machines.out

    @property
    def is_holding(self) -> bool:
        """Whether any failure waits for a verdict."""
        return self._machines.is_holding

    def decoded(self, machine: str, state: ClipState) -> Iterator[UnitResult]:
        """A clip came from this machine: what failed there before is not its fault."""
        yield from self._stand(self._machines.decoded(machine, state))

    def failed(self, machine: str, state: ClipState, failure: ClipFailure) -> bool:
        """Hold a failure back, if it may be the machine's; returns whether it is held. Raises as `_doubt`."""
        if self._backend.start_decode_on is None or not self._machines.failed(machine, state, failure):
            return False
        self._in_flight.reserve(-state.nbytes)
        self._doubt()
        return True

    def _doubt(self, *, is_all: bool = False) -> None:
        """Try the machines that fail too often, and leave out those that are out. Raises ExecutionError where none is
        left, or where nothing can be read on any."""
        start = self._backend.start_decode_on
        assert start is not None
        for machine in self._machines.to_check(is_all=is_all):
            worked = self._machines.worked
            assert worked is not None
            log.warning("%s fails on every file; checking it with a clip that was decoded before", node_name(machine))
            report, payload = start(machine, worked.owner.unit, worked.clip)
            self.running[report] = machine, payload
        states = self._machines.to_retry()
        for machine, why in self._machines.out.items():
            if (name := node_name(machine)) not in self._statistics.machines_out:
                self._statistics.machines_out[name] = why
                log.warning("%s can no longer decode and gets no more clips: %s", name, why)
                self._backend.leave_out(list(self._machines.out))
                self._look_again()
        self._retry_held(states)
        if self._machines.out and self._backend.machines() <= self._machines.out.keys():
            reasons = "; ".join(f"{name}: {why}" for name, why in self._statistics.machines_out.items())
            raise ExecutionError(nothing_decodes(reasons))
        if (said := self._machines.hopeless(self._backend.machines())) is not None:
            raise ExecutionError(nothing_decodes(said))

    def checked(self, ref: ray.ObjectRef, machine: str) -> Iterator[UnitResult]:
        """A machine was given a clip that worked before."""
        try:
            report: DecodeReport = ray.get(ref)
            problem = None if report.failure is None else report.failure.message
        except RayError as error:
            problem = first_line(error)
        worked, health = self._machines.worked, self._backend.health
        if worked is not None and health is not None and not health.can_read(worked.owner.unit.media):
            problem = None  # the file is gone from the archive, which says nothing about the machine
        yield from self._stand(self._machines.checked(machine, problem))
        self._doubt()

    def leave_unchecked(self, full: Iterable[str]) -> None:
        """Model actors have taken these machines' cores: a clip that one of them was to be checked with would wait for
        ever."""
        for machine in full:
            for ref in [ref for ref, (checked, _) in self.running.items() if checked == machine]:
                del self.running[ref]
                ray.cancel(ref, force=True)
                self._retry_held(self._machines.unchecked(machine))

    def _retry_held(self, states: Iterable[ClipState]) -> None:
        for state in states:
            self._in_flight.reserve(state.nbytes)
            self._in_flight.retry(state)

    def resolve(self) -> Iterator[UnitResult]:
        """All else is done: try the machines on which anything failed last, and let stand what cannot be tried."""
        if not self.running:
            self._doubt(is_all=True)
        if not self.running and not self._in_flight.again:
            yield from self._stand(self._machines.unresolved())

    def _stand(self, held: Iterable[tuple[ClipState, ClipFailure]]) -> Iterator[UnitResult]:
        """Failures that were held back are not the machine's."""
        for state, failure in held:
            self._in_flight.reserve(state.nbytes)
            yield from self._in_flight.close(state, failure)
