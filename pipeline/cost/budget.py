"""What a run spends on model actors, in GPU hours: held below a cap, compared with an estimate.

Promises: at the cap nothing new is taken, what was taken is finished. Knows nothing about what is answered, or how the
time of actors is measured (`pipeline/execution/actor_metering.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.execution.actor_metering import HOUR_S
from pipeline.records.run_record import RunSpending
from workers.records import ClipOutcome, ClipResult, WorkUnit

if TYPE_CHECKING:
    from pipeline.config.sections import CostConfig
    from pipeline.cost.calibration import Calibration
    from pipeline.execution.actor_metering import ActorTime


class Spending:
    """One run's account."""

    def __init__(self, cost: CostConfig, calibration: Calibration | None, held: Callable[[], ActorTime]) -> None:
        """`held` gives the meter of the run's actors."""
        self._cost, self._calibration, self._held = cost, calibration, held
        self._clips, self._texts = _Pace(), _Pace()
        self._estimated_s = 0.0
        self.is_capped = False
        """Whether the budget kept anything out."""

    def admit(self, units: Iterable[WorkUnit | None]) -> Iterator[WorkUnit | None]:
        """The units that fit in the budget: the first that does not ends them. None is handed on.

        A unit fits where what is spent, and what is taken and its own will take by what was answered, stays within the
        cap: clips by their mean, texts about whole videos by their length. Until one is answered nothing is known of
        its kind, and units are taken below the cap.
        """
        cap = self._cost.gpu_hours_cap
        for unit in units:
            if unit is None:
                yield None
                continue
            if cap is not None and self._expected_with(unit) >= cap:
                self.is_capped = True
                return
            self._pace(unit).taken += _size(unit)
            yield unit

    def add(self, unit: WorkUnit, outcomes: Sequence[ClipOutcome]) -> None:
        """A unit came back."""
        pace = self._pace(unit)
        pace.done += _size(unit)
        for outcome in outcomes:
            if isinstance(outcome, ClipResult):
                pace.answer_s += outcome.answer_s
                if self._calibration is not None:
                    self._estimated_s += self._calibration.throughput.seconds(outcome.answers.cost.as_run)

    def spent(self) -> RunSpending:
        """So far, as the run's record says it; estimated is the time of answering the clips that were answered."""
        held = self._held()
        gpu_hours, gpus = held.gpu_hours, held.gpus
        estimated = None if self._calibration is None else self._calibration.gpu_hours(self._estimated_s, gpus)
        return RunSpending(
            gpu_hours=gpu_hours,
            answering_gpu_hours=(self._clips.answer_s + self._texts.answer_s) * gpus / HOUR_S,
            usd=self._cost.usd(gpu_hours),
            gpu_hours_cap=self._cost.gpu_hours_cap,
            estimated_gpu_hours=estimated.expected if estimated else None,
            estimated_gpu_hours_low=estimated.low if estimated else None,
            estimated_gpu_hours_high=estimated.high if estimated else None,
        )

    def _expected_with(self, unit: WorkUnit) -> float:
        waiting_s = sum(
            pace.expected_s(_size(unit) if pace is self._pace(unit) else 0) for pace in (self._clips, self._texts)
        )
        held = self._held()
        return held.gpu_hours + waiting_s * held.gpus / HOUR_S

    def _pace(self, unit: WorkUnit) -> _Pace:
        return self._texts if unit.lines else self._clips


@dataclass
class _Pace:
    """How far one kind of work has come, and what that took."""

    taken: int = 0
    done: int = 0
    answer_s: float = 0.0

    def expected_s(self, more: int) -> float:
        """Of what is taken and not done, and of so much more; 0 where nothing was done yet."""
        return (self.taken - self.done + more) * self.answer_s / self.done if self.done else 0.0


def _size(unit: WorkUnit) -> int:
    """Of clips their number, of a text its characters."""
    return sum(len(line.text) for line in unit.lines) or len(unit.clips)
