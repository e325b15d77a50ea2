"""One run of a job, from the listing to the published tables: the only module that knows all the parts.

Promises: what is finished is never done again, what is not is resumed; a run that finds nothing to do changes nothing;
the record of every run that did something is kept. Knows nothing about the command line.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from pipeline.archive.decoded_early import DecodedEarly
from pipeline.archive.health import ArchiveHealth, patient_prober
from pipeline.archive.not_taken import NotTaken
from pipeline.archive.probing import prober
from pipeline.config.job import JobConfig
from pipeline.config.worker_settings import decode_settings
from pipeline.cost import calibration
from pipeline.cost.budget import Spending
from pipeline.execution.actor_metering import Statistics
from pipeline.execution.executors import Executor, executor
from pipeline.execution.looking import AtHome
from pipeline.execution.run_context import RunContext
from pipeline.index.totals import Totals
from pipeline.planning.asking_again import AsksAgain, refuse_asking_again
from pipeline.planning.context import context_reader
from pipeline.planning.open_job import Opened, open_job
from pipeline.planning.retry import Retry, Selection
from pipeline.planning.whole_videos import WholeVideos, chosen, is_left_over, quarantine_classes
from pipeline.records.run_record import RunCounts, RunRecord, RunResources, RunTime
from pipeline.records.unit import utc_now
from pipeline.runs.code_version import code_version
from pipeline.runs.committer import Committer, Tally
from pipeline.runs.feed import AS_EVER, Choices, Feed
from pipeline.runs.logs import log_unit, run_named
from pipeline.runs.metrics import RunMetrics
from pipeline.runs.notes import run_notes
from pipeline.runs.recorder import Recorder
from pipeline.storage.outage import EitherFlag, Patience
from pipeline.tables import manifest, publish
from workers.media import confinement, nvdec
from workers.model.memory import peak_rss_bytes
from workers.records import WorkUnit

if TYPE_CHECKING:
    from pipeline.execution.clip_state import UnitResult
    from pipeline.storage.outage import StopFlag

log = logging.getLogger(__name__)


class Observer(Protocol):
    """What a progress display is told. All calls come from the run's own thread."""

    def stage(self, name: str) -> None:
        """A new stage began: listing, running, publishing."""
        ...

    def planned(self, clips: int, finished: int) -> None:
        """A media item was planned: how many of its clips are to be done, and how many were done before."""
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
    generation_before: int
    """What readers saw when the run began, 0 for nothing."""
    notes: tuple[str, ...]
    not_taken: NotTaken
    """Files of the archive that are not asked about, as far as it was listed."""

    @property
    def did_nothing(self) -> bool:
        """Whether everything was finished before."""
        counts = self.run.counts
        return counts.units_finished == 0 and not counts.videos_asked and self.run.status == "complete"

    @property
    def has_published(self) -> bool:
        """Whether the tables that readers see were published since the run began."""
        return self.published.generation != self.generation_before

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
    due_times: int = 0,
    *,
    choices: Choices = AS_EVER,
    may_ask_again: Callable[[AsksAgain], bool] = lambda refusal: False,
) -> RunSummary:
    """Do what is left of a job, or what failed and is selected to be done again, and publish.

    Where a setting has changed so that more than `execution.max_asked_again` answered clips would be asked again,
    `may_ask_again` is asked first, and without its word AsksAgain is raised. With `lost` set, a lease that another run
    has taken over, nothing new is begun and nothing more is committed. `due_times` is how many of a schedule it makes
    up for. Raises UserError before anything is spent, Unavailable where what it needs stays away, ExecutionError when
    stuck.
    """
    started = time.monotonic()
    observer.stage("listing")
    if lost is not None:
        stop = EitherFlag(stop, lost)
    confinement.require(job.execution.confinement)
    if not job.execution.is_on_a_cluster:
        nvdec.require(decode_settings(job.clips, job.execution))
    patience = Patience(job.storage.patience_s, stop, job.execution.stop_grace_s)
    opened = open_job(job, patience, ask_together=choices.ask_together)
    if again is None:
        _mind_asking_again(opened, may_ask_again)
    is_pinned, job = job.model.revision is not None, opened.job
    generation_before = publish.generation_now(opened.store)
    run = _new_record(opened, run_id)
    metrics = RunMetrics(job.name, job.cost, due_times)
    retry = None if again is None else Retry(opened.store, opened.index, job.name, again)
    with ExitStack() as stack:
        stack.callback(opened.index.close)
        stack.enter_context(run_named(run.run_id))
        log.info("run begins: job %s", job.name)
        recorder = Recorder(opened, run)
        recorder.renew()
        committer = stack.enter_context(Committer(opened.journal, opened.index, opened.asked, run.run_id))
        weights_hash = opened.asked.weights_hash
        known = calibration.find(opened.store, weights_hash, job.model)
        health, early = ArchiveHealth(job), DecodedEarly(job)
        context = RunContext(calibration.resolved(job, known), weights_hash, stop, patience, health, early)
        at_home = AtHome(job, early)
        probe = patient_prober(stack.enter_context(prober(job, elsewhere=at_home, early=early)), health, patience)
        of_job = (opened.question_set, job.variables, opened.index, opened.journal.read_if_kept, opened.asked)
        is_again = is_left_over if again is None else chosen(again.error_classes)
        # Of its own: what planning read is counted.
        shown = context_reader(job, opened.recipe.context_fields, patience, opened.index, at_home)
        whole = WholeVideos(*of_job, run.run_id, is_again, shown)
        told = observer.planned
        feed = Feed(context, opened, committer, recorder, probe, metrics, told, retry, choices, at_home, whole)
        execution = _Execution(context, metrics)
        spending = Spending(job.cost, known, lambda: execution.statistics.actor_time)
        status = "failed"
        try:
            observer.stage("running")
            for result in execution.run(spending.admit(feed.units())):
                if lost is not None and lost.is_set():
                    break
                feed.finished(result.unit, result.outcomes)
                spending.add(result.unit, result.outcomes)
                metrics.finished(result.unit, result.outcomes)
                observer.unit_done(result)
                log_unit(result)
            status = "stopped" if stop.is_set() else "budget" if spending.is_capped else "complete"
        finally:
            # Whatever ended the run: what is finished is kept, and the record says how it ended.
            committer.close()
            early.close()
            metrics.publish(execution.statistics)
            run = replace(
                run,
                finished_at=utc_now(),
                status=status,
                counts=_counts(feed, committer.tally),
                time=_time(time.monotonic() - started, committer.tally, execution.statistics),
                resources=_resources(execution.statistics, metrics.bytes_fetched(execution.statistics)),
                spending=spending.spent(),
            )
            recorder.end(run)
            observer.stage("publishing")
            published = patience.call(lambda: publish.publish(opened.store, opened.journal, opened.index))
        log.info("run ends: %s after %.1f s", run.status, run.time.wall_s)
        classes = tuple(quarantine_classes(opened.store, opened.index, job.name))
        totals = replace(opened.index.totals(job.name), quarantined=sum(count for _, count in classes))
    notes = (
        *run_notes(job, run, opened.caveats, given_id=run_id, is_pinned=is_pinned),
        *calibration.unresolved(job, known),
        *(retry.notes() if retry is not None else ()),
        *feed.notes(),
    )
    return RunSummary(run, totals, classes, published, generation_before, notes, feed.not_taken)


def _mind_asking_again(opened: Opened, may_ask_again: Callable[[AsksAgain], bool]) -> None:
    try:
        refuse_asking_again(opened, opened.job.execution.max_asked_again)
    except AsksAgain as refusal:
        if not may_ask_again(refusal):
            opened.index.close()
            raise


def _new_record(opened: Opened, run_id: str | None) -> RunRecord:
    return RunRecord(
        run_id=_own_id(opened, run_id) if run_id else f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
        job=opened.job.name,
        recipe_hash=opened.recipe.hash,
        recipe=opened.recipe.fields,
        started_at=utc_now(),
        model_revision=opened.job.model.revision,
        code_version=code_version(),
    )


def _own_id(opened: Opened, given: str) -> str:
    """The id that was given, numbered where it is an earlier run's: answers name the run that gave them."""
    name, number = given, 1
    while opened.journal.read_run(name) is not None:
        number += 1
        name = f"{given}-{number}"
    return name


def _counts(feed: Feed, tally: Tally) -> RunCounts:
    return RunCounts(
        media_listed=feed.media_listed,
        media_planned=feed.media_planned,
        units_done_before=feed.units_done_before,
        units_finished=tally.units,
        clips_answered=tally.clips_answered,
        clips_partial=tally.clips_partial,
        answers=tally.answers,
        quarantined=tally.quarantined,
        media_unlisted=feed.media_unlisted,
        files_not_media=feed.not_taken.looked_into,
        videos_asked=tally.videos,
    )


def _time(wall_s: float, tally: Tally, measured: Statistics) -> RunTime:
    actors = measured.actor_time
    return RunTime(wall_s, tally.decode_s, tally.answer_s, tally.model_s, actors.busy_share, actors.bottleneck)


def _resources(measured: Statistics, bytes_fetched: int) -> RunResources:
    out = tuple(f"{name}: {why}" for name, why in sorted(measured.machines_out.items()))
    granted = ", ".join(sorted(measured.confinements | {str(confinement.level())}))
    return RunResources(
        *(measured.peak_bytes_in_flight, peak_rss_bytes(), tuple(measured.actors), granted),
        *(tuple(sorted(measured.tools)), out, bytes_fetched),
    )


class _Execution:
    """Starts what runs the units when the first one comes: Ray and torch take seconds and 300 MB, and most scheduled
    runs find nothing to do."""

    def __init__(self, context: RunContext, metrics: RunMetrics) -> None:
        self._context, self._metrics = context, metrics
        self._executor: Executor | None = None

    def run(self, units: Iterator[WorkUnit | None]) -> Iterator[UnitResult]:
        """Yield units as they finish; None among the given ones is none yet."""
        first = next((unit for unit in units if unit is not None), None)
        if first is None:
            return
        from pipeline.planning.feasibility import check_reachable

        if not first.lines:
            check_reachable(self._context.job, first.media.key, first.info)
        self._executor = executor(self._context, self._watch)
        yield from self._executor.run(chain([first], units))

    def _watch(self, statistics: Statistics) -> None:
        self._metrics.watch(statistics)
        self._context.early.tell(statistics.load.queued)

    @property
    def statistics(self) -> Statistics:
        """What was measured; all zero where nothing was started."""
        return self._executor.statistics if self._executor else Statistics()
