"""Which videos are to be asked as wholes, and what the model is to read about each.

Promises: a video is asked when all its clips are settled, and again only when one of their answers, or the questions,
have changed; the text is made of what the journal has of its clips, in order of time, clips without an answer named.
Memory is that of the videos under way. Knows nothing about how a text is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omnidrop.errors import QuestionError
from pipeline.batches import batches
from pipeline.config.sections import Scalar
from pipeline.failure_rules import rule_of
from pipeline.index.savings_index import BATCH, KnownVideo, SavingsIndex
from pipeline.journal.whole_questions import WholeQuestions
from pipeline.planning.media_plan import ANSWER_FORMAT, MediaPlan, head_of
from pipeline.questions.question_set import QuestionSet
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import Asked, Label, UnitKey, UnitObject
from pipeline.records.video import VideoMeta
from workers.records import Clip, Media, MediaInfo, WorkUnit
from workers.whole_text import UNANSWERED, Line, one_told


@dataclass(frozen=True)
class Candidate:
    """A planned item that may be asked as a whole, now or when its units are done."""

    head: Head
    media: Media
    info: MediaInfo


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
        again: Callable[[KnownVideo], bool] = lambda known: _is_left_over(known),
    ) -> None:
        """`again` says of a record that has something in quarantine whether it is asked again."""
        self._questions = WholeQuestions.of(question_set, variables)
        self._question_set, self._variables = question_set, variables
        self._index, self._read_unit, self._asked, self._run_id = index, read_unit, asked, run_id
        self._again = again
        self._waiting: list[Candidate] = []
        self._retried: list[Candidate] = []
        """Whose units are done again: until that is committed, their earlier attempts look finished."""
        self._begun: set[tuple[str, str]] = set()

    def add(self, plan: MediaPlan) -> None:
        """An item was planned, and what is left of it is on its way."""
        if self._questions is None or plan.failure is not None or plan.info is None:
            return
        head = head_of(plan, self._asked.job, self._asked.recipe_hash)
        is_retried = any(unit.attempt and unit.unit_id not in plan.finished for unit in plan.units)
        (self._retried if is_retried else self._waiting).append(Candidate(head, plan.media, plan.info))

    @property
    def many(self) -> bool:
        """Whether so many wait that it is time to look at them."""
        return len(self._waiting) >= BATCH

    def due(self, *, is_last: bool = False) -> Iterator[Due]:
        """Those that can be asked now; the others wait on. `is_last` where nothing is on its way any more."""
        waiting, self._waiting = self._waiting, []
        if is_last:
            waiting += self._retried
            self._retried = []
        for batch in batches(waiting, BATCH):
            yield from self._of(batch, is_last=is_last)

    def _of(self, batch: Sequence[Candidate], *, is_last: bool) -> Iterator[Due]:
        assert self._questions is not None
        versions = sorted({one.head.version_id for one in batch})
        units, answered = self._index.unit_keys(versions), self._index.model_seconds(versions)
        known = self._index.videos_of(versions)
        for one in batch:
            keys = units.get(one.head.version_id, [])
            if len(keys) < one.head.units:
                self._waiting += [] if is_last else [one]
                continue
            if one.head.version_id not in answered:
                continue  # no clip has an answer to read
            key = self._questions.key(one.head, keys)
            name = key.version_id, key.inputs
            there = known.get(name)
            if name in self._begun or (there is not None and not (there.error_classes and self._again(there))):
                continue
            self._begun.add(name)
            made = self._made(one, keys, key.inputs, 0 if there is None else there.key.attempt + 1)
            if made is not None:
                yield made

    def _made(self, one: Candidate, keys: Sequence[UnitKey], inputs: str, attempt: int) -> Due | None:
        assert self._questions is not None
        head = one.head
        objects = [self._read_unit(key) for key in keys]
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
            units=tuple(sorted(key.name for key in keys)),
            clips=len(rows) - missing,
            clips_missing=missing,
            attempt=attempt,
            answer_format=ANSWER_FORMAT,
        )
        end_s = max(row["end_s"] for row in rows)
        video = Clip(inputs, 0, 0.0, end_s)
        unit = WorkUnit(inputs, head.version_id, one.media, one.info, (video,), (), "", attempt=attempt)
        try:
            questions = self._question_set.resolve_whole(one.media, one.info, self._variables)
        except QuestionError as error:
            return Due(replace(meta, error_class=error.error_class, message=str(error)), unit)
        return Due(meta, replace(unit, questions=questions, lines=tuple(map(line_of, rows))))


def read_rows(units: Iterable[UnitObject]) -> list[dict[str, Any]]:
    """The rows of a video's clips in order of time, each clip once."""
    rows: dict[str, dict[str, Any]] = {}
    columns = ["clip_id", "start_s", "end_s", "status", "answers"]
    for unit in units:
        for row in unit.rows.select(columns).to_pylist():
            if row["clip_id"] is not None:
                rows.setdefault(row["clip_id"], row)
    return sorted(rows.values(), key=lambda row: (row["start_s"], row["end_s"]))


def line_of(row: Mapping[str, Any]) -> Line:
    """What the model reads about one clip."""
    if row["status"] == "quarantined":
        return Line(row["start_s"], row["end_s"], UNANSWERED)
    parts = (
        one_told(a["question"], a["text"], a["unit"], a["probability"], is_read=a["error_class"] is None)
        for a in row["answers"]
    )
    return Line(row["start_s"], row["end_s"], "; ".join(parts))


def _is_left_over(known: KnownVideo) -> bool:
    """What every run tries again of itself."""
    return any(rule_of(one).is_due(known.key.attempt + 1) for one in known.error_classes)


def chosen(classes: Collection[str]) -> Callable[[KnownVideo], bool]:
    """What a retry of these error classes tries again."""
    return lambda known: not set(classes).isdisjoint(known.error_classes)
