"""One run of a job, from the listing to the published tables: the only module that knows all the parts.

Promises: what is finished is never done again, what is not is resumed; a run that finds nothing to do changes nothing;
the record of every run that did something is kept. Knows nothing about the command line.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from omnidrop.models.checkpoints import EMBEDDED, TOY_NOTE
from pipeline.archive.listing import list_media
from pipeline.archive.probing import prober
from pipeline.batches import ahead
from pipeline.config.job import JobConfig
from pipeline.cost import calibration
from pipeline.cost.budget import Spending, Spent
from pipeline.evaluation.audit import Audit, audit_of
from pipeline.execution.actor_metering import Statistics
from pipeline.failpoints import reached
from pipeline.index.totals import Totals
from pipeline.journal import recipes
from pipeline.planning.open_job import open_job
from pipeline.planning.plan import plan_archive
from pipeline.planning.retry import Retry, Selection
from pipeline.records.heads_and_runs import RunRecord
from pipeline.records.unit import utc_now
from pipeline.runs.committer import Committer
from pipeline.runs.logs import log_unit, run_named
from pipeline.runs.metrics import RunMetrics
from pipeline.storage.outage import EitherFlag, Patience
from pipeline.tables import manifest, publish
from workers.model.memory import peak_rss_bytes
from workers.records import Media, WorkUnit

if TYPE_CHECKING:
    from pipeline.execution.backends import Executor
    from pipeline.execution.clip_state import UnitResult
    from pipeline.storage.outage import StopFlag

log = logging.getLogger(__name__)

PLANS_AHEAD = 256
"""Planned media waiting for the executor."""


class Observer(Protocol):
    """What a progress display is told. All calls come from the run's own thread."""

    def stage(self, name: str) -> None:
        """A new stage began: listing, running, publishing."""
        ...

    def planned(self, clips: int, finished: int) -> None:
        """A media item was planned: so many clips are to be done, so many were done before."""
        ...

    def unit_done(self, result: UnitResult) -> None:
        """A unit finished."""
        ...


@dataclass(frozen=True)
class RunSummary:
    """What a run did, and how the whole job stands after it."""

    run: RunRecord
    totals: Totals
    error_classes: tuple[tuple[str, int], ...]
    """What is in quarantine, over the whole job."""
    published: manifest.Published
    notes: tuple[str, ...]
    audit: Audit | None = None
    """Of the whole job; None where no clip was audited."""

    @property
    def did_nothing(self) -> bool:
        """Whether everything was finished before."""
        return self.run.units_finished == 0 and self.run.status == "complete"

    @property
    def answered_nothing(self) -> bool:
        """Whether no clip of the whole job has an answer: a failure, whatever the reason."""
        return self.totals.clips == 0


def run_job(
    job: JobConfig,
    observer: Observer,
    stop: StopFlag,
    run_id: str | None = None,
    again: Selection | None = None,
    lost: StopFlag | None = None,
) -> RunSummary:
    """Do what is left of a job, or what failed and is selected to be done again, and publish.

    With `lost` set, a lease that another run has taken over, nothing new is begun and nothing more is committed.
    Raises UserError before anything is spent, ExecutionError when stuck.
    """
    started = time.monotonic()
    observer.stage("listing")
    if lost is not None:
        stop = EitherFlag(stop, lost)
    patience = Patience(job.storage.patience_s, stop, job.execution.stop_grace_s)
    parts = open_job(job, patience)
    run = RunRecord(
        run_id=run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
        job=job.name,
        recipe_hash=parts.recipe.hash,
        recipe=parts.recipe.fields,
        started_at=utc_now(),
    )
    counts = {"listed": 0, "planned": 0, "before": 0}
    metrics = RunMetrics(job.name, job.cost)
    retry = None if again is None else Retry(parts.index, job.name, again)

    with ExitStack() as stack:
        stack.callback(parts.index.close)
        stack.enter_context(run_named(run.run_id))
        log.info("run begins: job %s", job.name)
        # Rows name their run: a run that is killed must have left its record before its first unit.
        parts.journal.write_run(run)
        recipes.keep(parts.store, parts.recipe.hash, recipes.Kept.of(job, parts.question_set))
        reached("run_recorded")
        parts.index.write_run(run)
        committer = stack.enter_context(Committer(parts.journal, parts.index, parts.asked, run.run_id))
        probe = stack.enter_context(prober(job))

        def units() -> Iterator[WorkUnit | None]:
            forgotten = parts.journal.tombstones()
            listed: Iterable[Media] = patience.listing(
                lambda: list_media(job.archive, leave_out=job.output), key=lambda media: media.key
            )
            if retry is not None:
                listed = retry.media(listed)
            plans = plan_archive(listed, job, parts.question_set, parts.recipe, parts.index, probe, forgotten=forgotten)
            if retry is not None:
                plans = retry.plans(plans)
            # In a thread of its own: the loop that feeds the model must not wait for a slow probe.
            for plan in ahead(plans, PLANS_AHEAD):
                if plan is None:
                    yield None
                    continue
                counts["listed"] += 1
                counts["before"] += len(plan.finished)
                todo = [u for u in plan.units if u.unit_id not in plan.finished]
                clips = sum(len(u.clips) for u in todo)
                observer.planned(clips, plan.clips - clips)
                committer.declare(plan)
                if plan.failure is not None and plan.failed_unit_id not in plan.finished:
                    committer.fail(plan)
                    metrics.failed(plan.failure)
                counts["planned"] += bool(todo)
                yield from todo

        known = calibration.find(parts.store, parts.asked.weights_hash, job.model)
        execution = _Execution(calibration.settled(job, known), stop, patience, metrics)
        spending = Spending(job.cost, known, lambda: execution.statistics.actor_time)
        status = "failed"
        try:
            observer.stage("running")
            for result in execution.run(spending.admit(units())):
                if lost is not None and lost.is_set():
                    break
                committer.add(result.unit, result.outcomes)
                spending.add(result.outcomes)
                metrics.finished(result.outcomes)
                observer.unit_done(result)
                log_unit(result)
            status = "stopped" if stop.is_set() else "budget" if spending.is_capped else "complete"
        finally:
            # Whatever ended the run: what is finished is kept, and the record says how it ended.
            committer.close()
            tally, measured = committer.tally, execution.statistics
            metrics.publish(measured)
            run = replace(
                run,
                finished_at=utc_now(),
                status=status,
                media_listed=counts["listed"],
                media_planned=counts["planned"],
                units_done_before=counts["before"],
                units_finished=tally.units,
                clips_answered=tally.clips_answered,
                clips_partial=tally.clips_partial,
                answers=tally.answers,
                quarantined=tally.quarantined,
                wall_s=time.monotonic() - started,
                decode_s=tally.decode_s,
                answer_s=tally.answer_s,
                model_s=tally.model_s,
                peak_bytes_in_flight=measured.peak_bytes_in_flight,
                driver_peak_rss_bytes=peak_rss_bytes(),
                actors=tuple(measured.actors),
                actor_busy_share=measured.actor_time.busy_share,
                bottleneck=measured.actor_time.bottleneck,
            )
            run = _with_spending(run, spending.spent())
            parts.journal.write_run(run)
            reached("run_closed")
            parts.index.write_run(run)
            observer.stage("publishing")
            published = publish.publish(parts.store, parts.journal, parts.index)
        log.info("run ends: %s after %.1f s", run.status, run.wall_s)
        totals = parts.index.totals(job.name)
        classes = tuple(parts.index.quarantine_classes(job.name))
    toy = (TOY_NOTE,) if job.model.path in EMBEDDED else ()
    notes = (*toy, *parts.caveats, *calibration.unsettled(job, known), *(retry.notes() if retry is not None else ()))
    return RunSummary(
        run, totals, classes, published, notes, audit_of(parts.store, published, job.name, job.audit.min_agreement)
    )


class _Execution:
    """Starts what runs the units when the first one comes: Ray and torch take seconds and 300 MB, and most scheduled
    runs find nothing to do."""

    def __init__(self, job: JobConfig, stop: StopFlag, patience: Patience, metrics: RunMetrics) -> None:
        self._job, self._stop, self._patience, self._metrics = job, stop, patience, metrics
        self._executor: Executor | None = None

    def run(self, units: Iterator[WorkUnit | None]) -> Iterator[UnitResult]:
        """Yield units as they finish; None among the given ones is none yet."""
        first = next((unit for unit in units if unit is not None), None)
        if first is None:
            return
        from pipeline.execution import backends
        from pipeline.planning.feasibility import check_reachable

        check_reachable(self._job, first.media.key, first.info)
        self._executor = backends.executor(self._job, self._stop, self._patience, self._metrics.watch)
        yield from self._executor.run(chain([first], units))

    @property
    def statistics(self) -> Statistics:
        """What was measured; all zero where nothing was started."""
        return self._executor.statistics if self._executor else Statistics()


def _with_spending(run: RunRecord, spent: Spent) -> RunRecord:
    estimated = spent.estimated
    return replace(
        run,
        gpu_hours=spent.gpu_hours,
        answering_gpu_hours=spent.answering_gpu_hours,
        usd=spent.usd,
        gpu_hours_cap=spent.gpu_hours_cap,
        estimated_gpu_hours=estimated.expected if estimated else None,
        estimated_gpu_hours_low=estimated.low if estimated else None,
        estimated_gpu_hours_high=estimated.high if estimated else None,
    )
