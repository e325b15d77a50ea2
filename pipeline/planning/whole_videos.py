"""Which videos are to be asked as wholes, and what the model is to read about each.

Promises: a video is asked when all its clips are settled, and again only when one of their answers, or the questions,
have changed; the text is made of what the journal has of its clips, in order of time, clips without an answer named.
Memory is that of the videos under way. Knows nothing about how a text is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omnidrop.errors import QuestionError
from pipeline.batches import batches
from pipeline.config.sections import Scalar
from pipeline.failure_rules import rule_of
from pipeline.index.database import BATCH
from pipeline.index.savings_index import KnownVideo, SavingsIndex
from pipeline.journal.whole_questions import WholeByRecipe, WholeQuestions
from pipeline.planning.context import ContextReader
from pipeline.planning.media_plan import ANSWER_FORMAT, MediaPlan, head_of
from pipeline.questions.question_set import QuestionSet
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import Asked, Label, UnitKey, UnitObject
from pipeline.records.video import VideoMeta
from workers.records import Clip, Media, MediaInfo, WorkUnit
from workers.whole_text import UNANSWERED, Line, heard, one_told

if TYPE_CHECKING:
    from pipeline.storage.store import Store


@dataclass(frozen=True)
class Candidate:
    """A planned item that may be asked as a whole, now or when its units are done."""

    head: Head
    media: Media
    info: MediaInfo


@dataclass(frozen=True)
class Unasked:
    """A candidate that has not been asked yet, or is asked again."""

    candidate: Candidate
    units: tuple[UnitKey, ...]
    inputs: str
    attempt: int
    is_unfinished: bool = False
    """Whether units are missing: then nothing is known of what it will be asked from."""


@dataclass(frozen=True)
class Due:
    """A video to be asked, and what its record will say."""

    meta: VideoMeta
    unit: WorkUnit
    """Without lines where it cannot be asked: then `meta` says why."""


class WholeVideos:
    """One run's part of it."""

    def __init__(
        self,
        question_set: QuestionSet,
        variables: Mapping[str, Scalar],
        index: SavingsIndex,
        read_unit: Callable[[UnitKey], UnitObject | None],
        asked: Asked,
        run_id: str,
        again: Callable[[KnownVideo], bool],
        context: ContextReader | None = None,
    ) -> None:
        """`again` says of a record that has something in quarantine whether it is asked again; `context` reads what the
        question set reads of sidecars."""
        self._questions = WholeQuestions.of(question_set, variables)
        self._question_set, self._variables = question_set, variables
        self._index, self._read_unit, self._asked, self._run_id = index, read_unit, asked, run_id
        self._again, self._context = again, context
        self._waiting: list[Candidate] = []
        self._retried: list[Candidate] = []
        """Whose units are done again: until that is committed, their earlier attempts look finished."""
        self._begun: set[tuple[str, str]] = set()
        self._added = 0
        """Since they were looked at."""

    def add(self, plan: MediaPlan) -> None:
        """An item was planned, and what is left of it is on its way."""
        if (one := self.candidate(plan)) is not None:
            self._added += 1
            is_retried = any(unit.attempt and unit.unit_id not in plan.finished for unit in plan.units)
            (self._retried if is_retried else self._waiting).append(one)

    def candidate(self, plan: MediaPlan) -> Candidate | None:
        """A planned item as one that may be asked as a whole; None where it cannot be."""
        if self._questions is None or plan.failure is not None or plan.info is None:
            return None
        return Candidate(head_of(plan, self._asked.job, self._asked.recipe_hash), plan.media, plan.info)

    @property
    def is_asked(self) -> bool:
        """Whether anything is asked of whole videos."""
        return self._questions is not None

    @property
    def many(self) -> bool:
        """Whether so many came since the last look that it is time for another."""
        return self._added >= BATCH

    def due(self, *, is_last: bool = False) -> Iterator[Due]:
        """Those that can be asked now; the others wait on. `is_last` where nothing is on its way any more."""
        waiting, self._waiting, self._added = self._waiting, [], 0
        if is_last:
            waiting += self._retried
            self._retried = []
        for batch in batches(waiting, BATCH):
            yield from self._of(batch, is_last=is_last)

    def _of(self, batch: Sequence[Candidate], *, is_last: bool) -> Iterator[Due]:
        for one in self.unasked(batch):
            if one.is_unfinished:
                self._waiting += [] if is_last else [one.candidate]
            elif (name := (one.candidate.head.version_id, one.inputs)) not in self._begun:
                self._begun.add(name)
                made = self._made(one)
                if made is not None:
                    yield made

    def unasked(self, batch: Sequence[Candidate]) -> Iterator[Unasked]:
        """Those that are to be asked, now or when their clips are settled."""
        assert self._questions is not None
        versions = sorted({one.head.version_id for one in batch})
        units, answered = self._index.unit_keys(versions), self._index.model_seconds(versions)
        known = self._index.videos_of(versions)
        for one in batch:
            keys = tuple(units.get(one.head.version_id, ()))
            if len(keys) < one.head.units:
                yield Unasked(one, keys, "", 0, is_unfinished=True)
                continue
            if one.head.version_id not in answered:
                continue  # no clip has an answer to read
            inputs = self._questions.key(one.head, keys).inputs
            there = known.get((one.head.version_id, inputs))
            if there is None or (there.error_classes and self._again(there)):
                yield Unasked(one, keys, inputs, 0 if there is None else there.key.attempt + 1)

    def _made(self, asked: Unasked) -> Due | None:
        assert self._questions is not None
        one, inputs, attempt = asked.candidate, asked.inputs, asked.attempt
        head = one.head
        objects = [self._read_unit(key) for key in asked.units]
        rows = read_rows(unit for unit in objects if unit is not None)
        if any(unit is None for unit in objects):
            return None  # deleted meanwhile
        missing = sum(row["status"] == "quarantined" for row in rows)
        meta = VideoMeta(
            asked=self._asked,
            label=Label(head.job, head.media_id, head.media_key, head.content_id),
            item_id=head.place[1],
            version_id=head.version_id,
            inputs=inputs,
            run_id=self._run_id,
            fingerprint=self._questions.fingerprint,
            labels=self._questions.labels(head.media_key),
            units=tuple(sorted(key.name for key in asked.units)),
            clips=len(rows) - missing,
            clips_missing=missing,
            attempt=attempt,
            answer_format=ANSWER_FORMAT,
        )
        said = self._said(one, rows)
        if said is None:
            return None  # sidecars have changed since the clips were asked: the next run plans them again
        end_s = max(row["end_s"] for row in rows)
        video = Clip(inputs, 0, 0.0, end_s)
        unit = WorkUnit(inputs, head.version_id, one.media, one.info, (video,), (), "", attempt=attempt)
        try:
            questions = self._question_set.resolve_whole(one.media, one.info, self._variables)
        except QuestionError as error:
            return Due(replace(meta, error_class=error.error_class, message=str(error)), unit)
        lines = tuple(line_of(row, words) for row, words in zip(rows, said, strict=True))
        return Due(meta, replace(unit, questions=questions, lines=lines))

    def _said(self, one: Candidate, rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """What is said in each clip, where the question set reads it; None where it is not what clips were told."""
        if self._context is None or "clip.transcript" not in self._context.names:
            return [""] * len(rows)
        item = self._context.read(one.media, one.info)
        said = []
        for row in rows:
            told, known_as = item.of_clip(row["start_s"], row["end_s"])
            if row["told"] is not None and dict(known_as) != {of["name"]: of["hash"] for of in row["told"]}:
                return None
            said.append(told.value("clip.transcript") or "")
        return None if item.failure else said


def read_rows(units: Iterable[UnitObject]) -> list[dict[str, Any]]:
    """The rows of a video's clips in order of time, each clip once."""
    rows: dict[str, dict[str, Any]] = {}
    columns = ["clip_id", "start_s", "end_s", "status", "answers", "told"]
    for unit in units:
        for row in unit.rows.select(columns).to_pylist():
            if row["clip_id"] is not None:
                rows.setdefault(row["clip_id"], row)
    return sorted(rows.values(), key=lambda row: (row["start_s"], row["end_s"]))


def line_of(row: Mapping[str, Any], said: str = "") -> Line:
    """What the model reads about one clip; what is said in it only where no question repeats it."""
    answers = row["answers"] or ()
    parts = [
        one_told(a["question"], a["text"], a["unit"], a["probability"], is_read=a["error_class"] is None)
        for a in answers
    ]
    is_repeated = any(said in a["question"] for a in answers)
    text = UNANSWERED if row["status"] == "quarantined" else "; ".join(parts)
    return Line(row["start_s"], row["end_s"], text if is_repeated else heard(text, said))


def is_left_over(known: KnownVideo) -> bool:
    """What every run tries again of itself."""
    return any(rule_of(one).is_due(known.key.attempt + 1) for one in known.error_classes)


def chosen(classes: Collection[str]) -> Callable[[KnownVideo], bool]:
    """What a retry of these error classes tries again."""
    return lambda known: not set(classes).isdisjoint(known.error_classes)


def failed_videos(store: Store, index: SavingsIndex, job: str) -> list[tuple[Head, KnownVideo]]:
    """What counts for a job and has something in quarantine as a whole, by the items that have it."""
    failed = {(known.key.version_id, known.key.inputs): known for known in index.failed_videos()}
    versions = sorted({version for version, _ in failed})
    units, asked = index.unit_keys(versions), WholeByRecipe(store)
    found = []
    for head in index.heads_of(versions=versions):
        questions = asked.of(head.recipe_hash) if head.job == job and head.is_listed else None
        if questions is not None:
            key = questions.key(head, units.get(head.version_id, ()))
            if (known := failed.get((key.version_id, key.inputs))) is not None:
                found.append((head, known))
    return found


def quarantine_classes(store: Store, index: SavingsIndex, job: str) -> list[tuple[str, int]]:
    """(error class, count) of all that a job has in quarantine, most frequent first."""
    count = Counter(dict(index.quarantine_classes(job)))
    # Copies share a record, and a clip's failure is counted once, too.
    of_videos = {(known.key.version_id, known.key.inputs): known for _, known in failed_videos(store, index, job)}
    count.update(name for known in of_videos.values() for name in known.error_classes)
    return sorted(count.items(), key=lambda item: (-item[1], item[0]))
