"""How far a question's probabilities can be trusted, from labels: a calibration curve, and thresholds for a precision.

Promises: a threshold for a precision is the lowest at which the answers that are published, not those that happened to
be labelled, are expected to be right so often; where there are too few labels there is none. Knows nothing about where
labels come from.

Labels are not drawn evenly: unsure answers come first. So the share of right answers is first fitted as a function of
the probability (isotonic regression by pool-adjacent-violators: more probable answers are right at least as often),
which does not depend on how probabilities were drawn, and then averaged over the probabilities of all published
answers.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from omnidrop.answer_types import column_of, normalised
from pipeline.counted import counted
from pipeline.evaluation.intervals import wilson
from pipeline.review.labels import WRONG, Label, LabelsError, key_of

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)

LEAST_LABELS = 20
"""Of a curve: with fewer, a threshold is a guess."""
LEAST_ABOVE = 10
"""Labels at or above a threshold: with fewer, one lucky answer could promise anything."""
BINS = 5
REWORDED = (
    "the question was worded otherwise then; label it again with `omnidrop review`, or clear the column `question` if "
    "the labels hold for both"
)


@dataclass(frozen=True)
class Bin:
    """Labelled answers of similar probability, as many in each bin."""

    probability: float
    right: float
    low: float
    high: float
    """95 % interval of `right` (Wilson)."""
    labels: int


@dataclass(frozen=True)
class Curve:
    """One question; for yes/no one curve of each answer, because being right about yes says nothing about no."""

    question_id: str
    answer: str | None
    """None: all answers of the question."""
    labels: int
    right: int
    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error over the bins: how far probabilities are off, on average."""
    steps: tuple[tuple[float, float], ...]
    """From this probability on, so many are right: the fitted function."""
    labelled: tuple[float, ...]
    """Probabilities of the labelled answers."""
    published: tuple[float, ...]
    """Probabilities of all published answers, rising."""

    @property
    def name(self) -> str:
        """The question, and the answer where there is one."""
        return self.question_id if self.answer is None else f"{self.question_id} = {self.answer}"

    def threshold(self, precision: float) -> float | None:
        """The least probability at which published answers are right so often; None where none is or labels are few."""
        if self.labels < LEAST_LABELS:
            return None
        total, count, found = 0.0, 0, None
        for probability, equal in groupby(reversed(self.published)):
            # All of them are published from here on, not only as many as precision allows: bfloat16 has few values.
            number = len(list(equal))
            total, count = total + number * self._fitted(probability), count + number
            if total / count >= precision:
                found = probability
        above = 0 if found is None else sum(probability >= found for probability in self.labelled)
        return found if above >= LEAST_ABOVE else None

    def _fitted(self, probability: float) -> float:
        at = bisect_right([start for start, _ in self.steps], probability) - 1
        return self.steps[max(at, 0)][1]


def curves(connection: duckdb.DuckDBPyConnection, job: str, labels: Sequence[Label]) -> list[Curve]:
    """A curve for each question that has labels of published answers with a probability."""
    rows = connection.execute(
        "SELECT media_key, start_s, end_s, question_id, question, answer_type, answer, probability FROM answers "
        "WHERE job = $job AND list_contains($files, media_key) AND probability IS NOT NULL AND answer IS NOT NULL",
        {"job": job, "files": sorted({label.file for label in labels})},
    ).fetchall()
    published = {key_of(*row[:4]): row[4:] for row in rows}
    reworded: Counter[str] = Counter()
    seen: dict[tuple[str, str | None], list[tuple[float, bool]]] = defaultdict(list)
    for label in labels:
        one = published.get(label.key)
        if one is None:
            continue
        question, kind, answer, probability = one
        if not label.fits(question):
            reworded[label.question_id] += 1
            continue
        right = is_right(label, answer)
        if right is not None:
            seen[label.question_id, answer if column_of(kind) == "answer_boolean" else None].append(
                (probability, right)
            )
    for question_id, count in sorted(reworded.items()):
        log.warning("%s of %s left out: %s", counted(count, "label"), question_id, REWORDED)
    return [
        _curve(question, answer, sorted(points), _published(connection, job, question, answer))
        for (question, answer), points in sorted(seen.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    ]


def is_right(label: Label, answer: str) -> bool | None:
    """Whether an answer is what the label says; None where that cannot be known (another one was wrong)."""
    if label.answer:
        try:
            return abs(float(label.answer) - float(answer)) < 1e-9
        except ValueError:
            return any(normalised(answer) == normalised(right) for right in (label.answer, *label.answer.split("|")))
    return False if label.verdict == WRONG and label.said == answer else None


@dataclass(frozen=True)
class Thresholds:
    """From which probability on answers are right so often as was asked for."""

    least: dict[tuple[str, str | None], float]
    """By question, and answer where there is one; what is not in it cannot be promised."""
    problems: tuple[str, ...]
    """Why not, where there are labels."""

    def __str__(self) -> str:
        least = [f"{q if a is None else f'{q} = {a}'} from p = {value:.3f} on" for (q, a), value in self.least.items()]
        return "; ".join([*least, *(f"not {problem}" for problem in self.problems), "others are left out"])


def thresholds_for(found: Sequence[Curve], precision: float, questions: Sequence[str] = ()) -> Thresholds:
    """Least probabilities for a precision. Raises LabelsError where there is none."""
    wanted = [curve for curve in found if not questions or curve.question_id in questions]
    missing = sorted(set(questions) - {curve.question_id for curve in wanted})
    if not wanted or missing:
        raise LabelsError(
            f"--precision {precision:g}: there are no labels for {', '.join(missing) or 'published answers'}; add some "
            "with `omnidrop review`"
        )
    result: dict[tuple[str, str | None], float] = {}
    problems = []
    for curve in wanted:
        threshold = curve.threshold(precision)
        if threshold is not None:
            result[curve.question_id, curve.answer] = threshold
        elif curve.labels < LEAST_LABELS:
            problems.append(f"{curve.name}: {curve.labels} labels; at least {LEAST_LABELS} are needed")
        else:
            problems.append(f"{curve.name}: no threshold reaches this precision")
    if not result:
        raise LabelsError(f"--precision {precision:g} cannot be reached:\n  " + "\n  ".join(problems))
    return Thresholds(result, tuple(problems))


def _published(connection: duckdb.DuckDBPyConnection, job: str, question: str, answer: str | None) -> tuple[float, ...]:
    rows = connection.execute(
        "SELECT probability FROM answers WHERE job = $job AND question_id = $question AND probability IS NOT NULL "
        "AND answer IS NOT NULL AND ($answer IS NULL OR answer = $answer) ORDER BY probability",
        {"job": job, "question": question, "answer": answer},
    ).fetchall()
    return tuple(probability for (probability,) in rows)


def _curve(
    question: str, answer: str | None, points: Sequence[tuple[float, bool]], published: tuple[float, ...]
) -> Curve:
    bins = []
    size = max(1, len(points) // BINS)
    for first in range(0, len(points), size):
        # What is left over joins the last bin.
        part = points[first:] if first + 2 * size > len(points) else points[first : first + size]
        share = sum(right for _, right in part) / len(part)
        low, high = wilson(share, len(part))
        bins.append(Bin(sum(p for p, _ in part) / len(part), share, low, high, len(part)))
        if first + 2 * size > len(points):
            break
    error = sum(abs(one.probability - one.right) * one.labels for one in bins) / len(points)
    right = sum(right for _, right in points)
    return Curve(
        question,
        answer,
        len(points),
        right,
        tuple(bins),
        error,
        _isotonic(points),
        tuple(p for p, _ in points),
        published,
    )


def _isotonic(points: Sequence[tuple[float, bool]]) -> tuple[tuple[float, float], ...]:
    """Pool-adjacent-violators (Barlow et al. 1972): the rising step function that is nearest in squares.

    A step of n answers, r of them right, is (r + 1/2) / (n + 1), as with Jeffreys' prior: ten right ones out of ten do
    not promise that all are.
    """
    blocks: list[tuple[float, float, int]] = []
    for probability, right in points:
        start, total, count = probability, float(right), 1
        while blocks and (blocks[-1][1] / blocks[-1][2] >= total / count or blocks[-1][0] == start):
            before = blocks.pop()
            start, total, count = before[0], before[1] + total, before[2] + count
        blocks.append((start, total, count))
    return tuple((start, (total + 0.5) / (count + 1)) for start, total, count in blocks)
