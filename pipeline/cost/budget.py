"""What a run spends on model actors, in GPU hours: held below a cap, compared with an estimate.

Promises: at the cap nothing new is taken, what was taken is finished. Knows nothing about what is answered, or how the
time of actors is measured (`pipeline/execution/actor_metering.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
        self._taken = self._done = 0
        self._answer_s = self._estimated_s = 0.0
        self.is_capped = False
        """Whether the budget kept anything out."""

    def admit(self, units: Iterable[WorkUnit | None]) -> Iterator[WorkUnit | None]:
        """The units that fit in the budget: the first that does not ends them. None is handed on.

        A unit fits where what is spent, and what the clips taken and its own will take by the mean of those answered,
        stays within the cap. Until a clip is answered nothing is known of them, and units are taken below the cap.
        """
        cap = self._cost.gpu_hours_cap
        for unit in units:
            if unit is None:
                yield None
                continue
            if cap is not None and self._expected_with(unit) >= cap:
                self.is_capped = True
                return
            self._taken += len(unit.clips)
            yield unit

    def add(self, outcomes: Sequence[ClipOutcome]) -> None:
        """A unit came back."""
        self._done += len(outcomes)
        for outcome in outcomes:
            if isinstance(outcome, ClipResult):
                self._answer_s += outcome.answer_s
                if self._calibration is not None:
                    self._estimated_s += self._calibration.throughput.seconds(outcome.answers.cost.as_run)

    def spent(self) -> RunSpending:
        """So far, as the run's record says it; estimated is the time of answering the clips that were answered."""
        held = self._held()
        gpu_hours, gpus = held.gpu_hours, held.gpus
        estimated = None if self._calibration is None else self._calibration.gpu_hours(self._estimated_s, gpus)
        return RunSpending(
            gpu_hours=gpu_hours,
            answering_gpu_hours=self._answer_s * gpus / HOUR_S,
            usd=self._cost.usd(gpu_hours),
            gpu_hours_cap=self._cost.gpu_hours_cap,
            estimated_gpu_hours=estimated.expected if estimated else None,
            estimated_gpu_hours_low=estimated.low if estimated else None,
            estimated_gpu_hours_high=estimated.high if estimated else None,
        )

    def _expected_with(self, unit: WorkUnit) -> float:
        now = self.spent()
        if not self._done:
            return now.gpu_hours
        waiting = self._taken - self._done + len(unit.clips)
        return now.gpu_hours + waiting * now.answering_gpu_hours / self._done
