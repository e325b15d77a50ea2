"""Takes finished units from the executor to the journal and the index, in the background and in batches.

Promises: a unit counts as finished only when its journal object is there; versions are declared at most every
`FLUSH_S` seconds, in one object; everything taken is committed when `close` returns. Knows nothing about Ray or media.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Self, cast

from omnidrop.answers import Answer
from omnidrop.questions import Question
from pipeline.failpoints import reached
from pipeline.index import sync
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.planning.media_plan import ANSWER_FORMAT, MediaPlan, head_of
from pipeline.records.composed import Held
from pipeline.records.heads_and_runs import Head
from pipeline.records.rows import quarantine_rows
from pipeline.records.unit import NONE, Asked, UnitMeta, UnitObject
from pipeline.records.video import VideoMeta, VideoObject
from workers.records import ClipOutcome, ClipResult, WorkUnit

WRITERS = 8
"""Journal objects written at once: an S3 put takes tens of milliseconds."""
PENDING = 64
"""Units waiting to be written before the executor is made to wait."""
FLUSH_S = 10.0
"""How stale the index and the declared versions may be: also how many tiny objects a long run leaves (360 an hour)."""
FLUSH_UNITS = 200
"""The index takes 100,000 rows a second in batches of about this size."""


@dataclass
class Tally:
    """What a run has committed so far."""

    units: int = 0
    clips_answered: int = 0
    clips_partial: int = 0
    answers: int = 0
    quarantined: int = 0
    """Media, clips and answers."""
    decode_s: float = 0.0
    answer_s: float = 0.0
    model_s: float = 0.0
    videos: int = 0
    """Asked as wholes, whether answered or not."""


class Committer:
    """One run's way from finished units to rows. Use as a context manager; not shared between threads."""

    def __init__(self, journal: Journal, index: SavingsIndex, asked: Asked, run_id: str) -> None:
        self._journal, self._index, self._asked, self._run_id = journal, index, asked, run_id
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="commit")
        self._writing: set[Future[UnitObject | VideoObject | None]] = set()
        self._written: list[UnitObject] = []
        self._videos: list[VideoObject] = []
        self._heads: list[Head] = []
        self._held: dict[str, Held] = {}
        self._flushed_at = time.monotonic()
        self.tally = Tally()
        self.flushes = 0
        """How often the index was brought up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def declare(self, plan: MediaPlan) -> None:
        """Make a plan's version the one that counts, if it is not."""
        if not plan.is_current:
            self._heads.append(head_of(plan, self._asked.job, self._asked.recipe_hash))

    def unlist(self, heads: Iterable[Head]) -> None:
        """Have items stop counting, after all that was declared before."""
        self._flush()
        self._heads = list(heads)
        self._flush()

    def fail(self, plan: MediaPlan) -> None:
        """Commit a media item that nothing can be asked of."""
        assert plan.failure is not None
        ids = (plan.version_id, plan.failed_unit_id, self._run_id, plan.failed_attempt)
        meta = UnitMeta(self._asked, plan.media, plan.info, *ids, version=plan.version, answer_format=ANSWER_FORMAT)
        self._submit(meta, (plan.failure,), ())

    def hold(self, unit_id: str, held: Held) -> None:
        """Keep what a unit has already until it is added with what is asked of it now."""
        self._held[unit_id] = held

    def add(self, unit: WorkUnit, outcomes: Sequence[ClipOutcome]) -> None:
        """Commit a finished unit. Blocks while too many wait."""
        ids = (unit.version_id, unit.unit_id, self._run_id, unit.attempt)
        meta = UnitMeta(self._asked, unit.media, unit.info, *ids, version=unit.version, answer_format=ANSWER_FORMAT)
        held = self._held.pop(unit.unit_id, None)
        if held is not None:
            meta = replace(meta, answer_format=held.answer_format)
        self._submit(meta, outcomes, unit.questions, held, {name: one.questions for name, one in unit.own.items()})
        for outcome in outcomes:
            if isinstance(outcome, ClipResult):
                self.tally.answers += sum(answer.value is not None for answer in outcome.answers.answers)
                self.tally.decode_s += outcome.decode_s
                self.tally.answer_s += outcome.answer_s
                self.tally.model_s += outcome.answers.cost.seconds

    def add_video(self, meta: VideoMeta, answers: Sequence[Answer], questions: Sequence[Question]) -> None:
        """Commit what a whole video was answered, or why it was not. Blocks as `add`."""
        self._wait_for(self._pool.submit(self._journal.commit_video, meta, answers, questions))
        self.tally.videos += 1
        self.tally.model_s += meta.model_s

    def settle(self) -> None:
        """Wait until all that was added is written, then bring the index up to it."""
        while self._writing:
            self._collect()
        self._flush()

    def flush(self) -> None:
        """Declare what is to be declared, and bring the index up to what is written."""
        self._flush()

    def close(self) -> None:
        """Settle, for the last time. Where that fails, what waits is written all the same before this returns."""
        with self._pool:
            self.settle()

    def _submit(
        self,
        meta: UnitMeta,
        outcomes: Sequence[ClipOutcome],
        questions: Sequence[Question],
        held: Held | None = None,
        own: Mapping[str, Sequence[Question]] = NONE,
    ) -> None:
        self._wait_for(self._pool.submit(self._journal.commit, meta, outcomes, questions, held, own))

    def _wait_for(self, writing: Future[UnitObject | None] | Future[VideoObject | None]) -> None:
        self._writing.add(cast("Future[UnitObject | VideoObject | None]", writing))
        while len(self._writing) >= PENDING:
            self._collect()
        if time.monotonic() - self._flushed_at > FLUSH_S or len(self._written) >= FLUSH_UNITS:
            self._flush()

    def _collect(self) -> None:
        done, self._writing = wait(self._writing, return_when=FIRST_COMPLETED)
        for future in done:
            stored = future.result()
            if isinstance(stored, VideoObject):
                self.tally.quarantined += len(stored.error_classes)
                self._videos.append(stored)
            elif stored is not None:
                self._count(stored)
                self._written.append(stored)

    def _count(self, unit: UnitObject) -> None:
        # Rows that a later attempt keeps are an earlier run's.
        mine = unit.meta.run_id
        rows = zip(unit.rows["status"].to_pylist(), unit.rows["run_id"].to_pylist(), strict=True)
        statuses = Counter(status for status, run_id in rows if run_id == mine)
        failed = [row for row in quarantine_rows(unit) if row["run_id"] == mine]
        self.tally.units += 1
        self.tally.clips_answered += statuses["answered"]
        self.tally.clips_partial += statuses["partial"]
        self.tally.quarantined += len(failed)

    def _flush(self) -> None:
        """Declare versions first: rows of a version that does not count yet would be left out of the index."""
        sync.declare(self._journal, self._index, self._journal.write_heads(self._heads, self._run_id))
        self._index.apply_units(self._written)
        reached("units_applied")
        self._index.apply_videos(self._videos)
        self._heads, self._written, self._videos = [], [], []
        self.flushes += 1
        self._flushed_at = time.monotonic()
