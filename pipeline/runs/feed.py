"""What one run is to do, from the archive's listing to the units that are left: `listed -> planned -> taken`.

Promises: a unit is handed out only when the run's record is kept and its version is on its way to be declared; what is
finished is counted and left out; media that nothing can be asked of are committed as failures here, since no executor
sees them. Knows nothing about how units are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.archive.health import ArchiveHealth
from pipeline.archive.listing import list_media
from pipeline.archive.not_taken import NotTaken
from pipeline.archive.probing import Prober
from pipeline.batches import ahead
from pipeline.planning.open_job import Opened
from pipeline.planning.plan import MediaPlan, plan_archive
from pipeline.planning.retry import LeftOver, Retry
from pipeline.runs.committer import Committer
from pipeline.runs.metrics import RunMetrics
from pipeline.runs.recorder import Recorder
from pipeline.storage.outage import Patience
from workers.records import Media, WorkUnit

PLANS_AHEAD = 256
"""Planned media waiting for the executor."""


@dataclass
class Feed:
    """One run's units. The counts are filled while they are taken."""

    opened: Opened
    committer: Committer
    recorder: Recorder
    probe: Prober
    patience: Patience
    health: ArchiveHealth
    metrics: RunMetrics
    told: Callable[[int, int], None]
    """See `Observer.planned`."""
    retry: Retry | None
    not_taken: NotTaken = field(default_factory=NotTaken)
    media_listed: int = 0
    media_planned: int = 0
    units_done_before: int = 0

    def units(self) -> Iterator[WorkUnit | None]:
        """What is left to do; None where nothing is planned yet."""
        # In a thread of its own: the loop that feeds the model must not wait for a slow probe.
        for plan in ahead(self._plans(), PLANS_AHEAD):
            if plan is None:
                yield None
            else:
                yield from self._taken(plan)

    def _listed(self) -> Iterable[Media]:
        job = self.opened.job
        listed: Iterable[Media] = self.patience.listing(
            lambda: list_media(job.archive, leave_out=job.output, not_taken=self.not_taken),
            key=lambda media: media.key,
        )
        listed = self.health.listed(listed)
        return listed if self.retry is None else self.retry.media(listed)

    def _plans(self) -> Iterable[MediaPlan]:
        opened = self.opened
        plans = plan_archive(
            self._listed(),
            *(opened.job, opened.question_set, opened.recipe, opened.index, self.probe),
            forgotten=opened.journal.tombstones(),
            not_taken=self.not_taken,
        )
        if self.retry is not None:
            return self.retry.plans(plans)
        return LeftOver(opened.index, opened.job.name).plans(plans)

    def _taken(self, plan: MediaPlan) -> list[WorkUnit]:
        """The units of a plan that are left to do, after everything that must be known of them is on its way."""
        todo = [unit for unit in plan.units if unit.unit_id not in plan.finished]
        has_failed = plan.failure is not None and plan.failed_unit_id not in plan.finished
        clips = sum(len(unit.clips) for unit in todo)
        self.media_listed += 1
        self.media_planned += bool(todo)
        self.units_done_before += len(plan.finished)
        self.told(clips, plan.clips - clips)
        if todo or has_failed or not plan.is_current:
            self.recorder.begin_work()
        self.committer.declare(plan)
        if plan.failure is not None and has_failed:
            self.committer.fail(plan)
            self.metrics.failed(plan.failure)
        return todo
