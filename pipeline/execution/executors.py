"""Where a run's units are run. Knows nothing about how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from omnidrop.imports import uncollected
from pipeline.config.sections import IN_PROCESS
from pipeline.execution.actor_metering import Statistics, Watch, unwatched
from pipeline.execution.clip_state import UnitResult
from pipeline.execution.run_context import RunContext
from workers.records import WorkUnit


class Executor(Protocol):
    """Runs units; `statistics` is filled while it does."""

    statistics: Statistics

    def run(self, units: Iterable[WorkUnit | None]) -> Iterator[UnitResult]:
        """Yield units as they finish; None among the given ones is none yet."""
        ...


def executor(run: RunContext, watch: Watch = unwatched) -> Executor:
    """The executor that the job's `execution.ray_address` asks for; on Ray `watch` is told what is going on."""
    # Answering in this process imports torch: seconds, and 300 MB.
    if run.job.execution.ray_address == IN_PROCESS:
        with uncollected():
            from pipeline.execution.in_process import InProcess

        return InProcess(run)
    with uncollected():
        from pipeline.execution.backends import OnRay

    return OnRay(run, watch)
