"""What one run is to do, from the archive's listing to the units that are left: `listed -> planned -> taken`.

Promises: a unit is handed out only when the run's record is kept and its version is on its way to be declared; what is
finished is counted and left out; media that nothing can be asked of are committed as failures here, since no executor
sees them. Knows nothing about how units are run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipeline.archive.listing import list_media
from pipeline.archive.not_taken import NotTaken
from pipeline.archive.probing import Elsewhere, Prober
from pipeline.batches import ahead
from pipeline.config.locations import is_s3
from pipeline.cost.clip_prices import SeveralPasses
from pipeline.counted import counted
from pipeline.execution.run_context import RunContext
from pipeline.failpoints import reached
from pipeline.identity import item_id
from pipeline.planning.context import context_reader
from pipeline.planning.listing import Listing
from pipeline.planning.media_plan import MediaPlan
from pipeline.planning.notes import planner_notes
from pipeline.planning.open_job import Opened
from pipeline.planning.planner import Planner
from pipeline.planning.retry import LeftOver, Retry, says_nothing_new
from pipeline.planning.whole_videos import Due, WholeVideos
from pipeline.records.composed import EarlierRows, Held
from pipeline.runs.committer import Committer
from pipeline.runs.fetched_ahead import FetchedAhead
from pipeline.runs.metrics import RunMetrics
from pipeline.runs.recorder import Recorder
from workers.records import ClipFailure, ClipOutcome, Media, WorkUnit

PLANS_AHEAD = 256
"""Planned media waiting for the executor."""


@dataclass(frozen=True)
class Choices:
    """What a person chooses for one run, beside the job."""

    allow_shrink: bool = False
    """Take a listing that lacks much of what counted."""
    redo_older: bool = False
    """Ask again what an older version of decoding or method answered."""
    ask_together: bool = False
    """Ask all questions in one pass again, whatever passes were recorded."""


AS_EVER = Choices()
"""The defaults."""


@dataclass
class Feed:
    """One run's units. The counts are filled while they are taken."""

    context: RunContext
    opened: Opened
    committer: Committer
    recorder: Recorder
    probe: Prober
    metrics: RunMetrics
    told: Callable[[int, int], None]
    """See `Observer.planned`."""
    retry: Retry | None
    choices: Choices
    elsewhere: Elsewhere
    """The machines that look at media and decode them."""
    whole: WholeVideos
    not_taken: NotTaken = field(default_factory=NotTaken)
    media_listed: int = 0
    media_planned: int = 0
    units_done_before: int = 0
    media_unlisted: int = 0

    def __post_init__(self) -> None:
        opened = self.opened
        # The other half is for what is being decoded, and for other processes of the machine.
        self._ahead = FetchedAhead(
            lambda: self.elsewhere.machines() * opened.job.execution.cache_bytes // 2, self.context.early.drop
        )
        probe = self._ahead.probing(self.probe) if is_s3(opened.job.archive.uri) else self.probe
        of_job = (opened.job, opened.question_set, opened.recipe, opened.index, probe)
        self._forgotten = opened.journal.tombstones()
        self._several_passes = SeveralPasses(opened.job)
        self.planner = Planner(
            *of_job,
            self._forgotten,
            opened.earlier,
            self.choices.redo_older,
            not_taken=self.not_taken,
            sources=opened.sources,
            recipes=opened.recipes,
            at_once=self.elsewhere.machines,
            context=context_reader(
                opened.job, opened.recipe.context_fields, self.context.patience, opened.index, self.elsewhere
            ),
            read_unit=opened.journal.read_if_kept,
        )
        decides = self.retry is None and opened.job.archive.sample is None
        limit = opened.job.archive.max_missing
        self.listing = Listing(opened.index, opened.job.name, limit, self.choices.allow_shrink) if decides else None
        self._out = 0
        """Units handed out that have not come back."""
        self._asked_whole: dict[str, Due] = {}
        """Of these, those about whole videos, by unit id."""
        self._looked_at = 0

    def units(self) -> Iterator[WorkUnit | None]:
        """What is left to do; None where nothing is planned yet, or what was handed out must come back first."""
        # In a thread of its own: the loop that feeds the model must not wait for a slow probe.
        plans = ahead(self._ahead.planned(self._plans()), PLANS_AHEAD)
        with contextlib.closing(plans), contextlib.closing(self._ahead):
            for plan in plans:
                if self.context.stop.is_set():
                    return  # whoever takes the units may not have seen one yet
                if plan is not None:
                    for unit in self._taken(plan):
                        self._out += 1
                        yield unit
                    self.whole.add(plan)
                if self.whole.is_asked and (self.committer.flushes > self._looked_at or self.whole.many):
                    self._looked_at = self.committer.flushes
                    yield from self._whole(is_last=False)
                if plan is None:
                    yield None
        while self.whole.is_asked and self._out and not self.context.stop.is_set():
            yield None
        if self.context.stop.is_set():
            return
        self._decide()
        if self.whole.is_asked:
            self.committer.settle()
            yield from self._whole(is_last=True)

    def _whole(self, *, is_last: bool) -> Iterator[WorkUnit]:
        """Videos all of whose clips are settled: each is asked as a whole."""
        for due in self.whole.due(is_last=is_last):
            self.recorder.begin_work()
            if not due.unit.lines:
                self.committer.add_video(due.meta, (), ())
                continue
            self._out += 1
            self._asked_whole[due.unit.unit_id] = due
            self.told(1, 0)
            yield due.unit

    def finished(self, unit: WorkUnit, outcomes: Sequence[ClipOutcome]) -> None:
        """A unit came back: it is committed."""
        self._out -= 1
        due = self._asked_whole.pop(unit.unit_id, None)
        if due is not None:
            (outcome,) = outcomes
            if isinstance(outcome, ClipFailure):
                failed = replace(due.meta, error_class=outcome.error_class, message=outcome.message)
                self.committer.add_video(failed, (), ())
            else:
                self.committer.add_video(due.meta.with_costs(outcome.texts), outcome.answers.answers, unit.questions)
            return
        if not says_nothing_new(unit, outcomes):
            self.committer.add(unit, outcomes)
        self._ahead.finished(unit.media.media_id)

    def _decide(self) -> None:
        """All of the archive has been listed and planned: what is no longer listed stops counting."""
        self._take_over_tombstones()
        if self.listing is None:
            return
        self.committer.flush()
        for heads in (self.listing.unlisted, self.listing.continued):
            unlisted = list(heads())
            if unlisted:
                self.recorder.begin_work()
                reached("unlisting")
                self.committer.unlist(unlisted)
        self.media_unlisted = self.listing.gone

    def _take_over_tombstones(self) -> None:
        """What earlier formats forgot by its label is known by its content from here on."""
        for media in self.planner.forgotten_here:
            if media.media_id in self._forgotten.labels and media.content_id is not None:
                self.opened.journal.bury(item_id(media.content_id), [media.media_id])
                self.opened.journal.unbury(labels=[media.media_id])

    def notes(self) -> Iterator[str]:
        """What a person should know after the run."""
        if self.listing is not None:
            yield from self.listing.notes()
        for reason, clips in self.planner.reasons.most_common():
            yield f"{counted(clips, 'clip')} to ask: {reason}"
        yield from planner_notes(self.planner)
        yield from self.context.early.notes()
        if dear := self._several_passes.note():
            yield dear

    def _listed(self) -> Iterable[Media]:
        job = self.opened.job
        listed: Iterable[Media] = self.context.patience.listing(
            lambda: list_media(job.archive, leave_out=job.output, not_taken=self.not_taken),
            key=lambda media: media.key,
        )
        listed = self.context.health.listed(listed)
        if self.retry is not None:
            return self.retry.media(listed)
        return listed if self.listing is None else self.listing.checked(listed, self.planner.identified)

    def _plans(self) -> Iterable[MediaPlan]:
        plans = self.planner.plans(self._listed())
        if self.retry is not None:
            return self.retry.plans(plans)
        return LeftOver(self.opened.index).plans(plans)

    def _taken(self, plan: MediaPlan) -> list[WorkUnit]:
        """The units of a plan that are left to do, after everything that must be known of them is on its way."""
        todo: list[WorkUnit] = []
        composed: list[WorkUnit] = []
        for unit in plan.units:
            if unit.unit_id not in plan.finished:
                asked = self._beside_kept(plan, unit)
                (composed if asked is None else todo).append(asked or unit)
        has_failed = plan.failure is not None and plan.failed_unit_id not in plan.finished
        for unit in todo:
            self._several_passes.add(plan, unit)
        clips = sum(len(unit.clips) for unit in todo)
        self.media_listed += 1
        self.media_planned += bool(todo)
        self.units_done_before += len(plan.finished)
        self._ahead.taken(plan.media.media_id, len(todo))
        self.told(clips, plan.clips - clips)
        if todo or composed or has_failed or not plan.is_current:
            self.recorder.begin_work()
        self.committer.declare(plan)
        for unit in composed:
            self.committer.add(replace(unit, questions=()), ())
        if self.listing is not None:
            self.listing.kept.add(plan.media.media_id)
            if plan.media.content_id is not None:
                self.listing.contents.add(plan.media.content_id)
        if plan.failure is not None and has_failed:
            self.committer.fail(plan)
            self.metrics.failed(plan.failure)
        return todo

    def _beside_kept(self, plan: MediaPlan, unit: WorkUnit) -> WorkUnit | None:
        """What is to be asked of a unit beside the answers that earlier ones have; None where that is nothing."""
        kept = plan.kept.get(unit.unit_id)
        if not kept:
            return unit
        found = []
        for one in kept:
            stored = self.opened.journal.read_if_kept(one.key)
            if stored is None:  # deleted meanwhile
                return replace(unit, questions=plan.asked, kept={})
            found.append(EarlierRows(one.ids, stored.rows, stored.meta.answer_format, one.only))
        held = Held(unit.clips, plan.asked, tuple(found), {name: of.questions for name, of in unit.own.items()})
        clips = [clip for clip in held.asked() if unit.asked_of(clip).questions]
        self.committer.hold(unit.unit_id, held)
        reached("kept_read")
        return replace(unit, clips=tuple(clips)) if clips else None
