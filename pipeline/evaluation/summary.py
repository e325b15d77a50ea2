"""Scores to figures: accuracy per task and class with intervals, agreement with the unpruned run, what it cost.

Promises: every figure carries its count; a failed question is in the denominator; ways are compared on the questions
that both were asked. Knows nothing about how answers were obtained or how figures are shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.dataset import Arm, ArmClip, Scored
from pipeline.evaluation.intervals import Mean, difference, proportion
from pipeline.evaluation.runner import Run


@dataclass(frozen=True)
class Score:
    """Accuracy over some questions."""

    accuracy: float
    count: int
    standard_error: float | None
    """Clustered by clip."""
    interval: tuple[float, float]
    """95 %."""
    guess: float
    """Accuracy of guessing without looking."""


@dataclass(frozen=True)
class Against:
    """One way against the unpruned one, on the same questions."""

    agreement: float | None
    """Share of the questions that the unpruned run answered which have the same answer, right or wrong; None where it
    answered none."""
    agreement_interval: tuple[float, float] | None
    difference: float
    """Accuracy minus the unpruned run's."""
    difference_interval: tuple[float, float] | None
    """95 %, paired and clustered by clip; None with a single clip."""
    count: int


@dataclass(frozen=True)
class ArmSummary:
    """The figures of one way of running."""

    name: str
    mode: str
    policy: str
    asked_ratio: float | None
    guidance: str
    accuracy: float
    standard_error: float | None
    interval: tuple[float, float]
    guess: float
    count: int
    clips: int
    answered: int
    """Questions that got an answer; the others failed and count as wrong."""
    unparsable: int
    """Answers that could not be read as what was asked for; they count as wrong."""
    failures: dict[str, int]
    """Questions without an answer, by error class."""
    retained_ratio: float | None
    """Measured, mean over the question sets asked."""
    retained_audio: float | None
    retained_video: float | None
    flops: int
    saved_against_dense_shared: float | None
    """Share of FLOPs saved against prefix reuse."""
    saved_against_dense: float | None
    model_s: float
    tasks: dict[str, Score]
    groups: dict[str, dict[str, Score]]
    against_dense: Against | None


@dataclass(frozen=True)
class Evaluation:
    """Every way's figures."""

    arms: tuple[ArmSummary, ...]
    refused: dict[str, str]


def summarise(run: Run, arms: Sequence[Arm]) -> Evaluation:
    """The figures of a run, in the order of `arms`; the first unpruned one is what others are compared with."""
    dense = next((arm.name for arm in arms if arm.is_dense and arm.name in run.results), None)
    by_question = _by_question(run.results[dense]) if dense is not None else {}
    return Evaluation(
        arms=tuple(
            _summary(arm, run.results[arm.name], by_question if arm.name != dense else {})
            for arm in arms
            if arm.name in run.results
        ),
        refused=run.refused,
    )


def _summary(arm: Arm, results: Sequence[ArmClip], dense: dict[tuple[str, str], Scored]) -> ArmSummary:
    scored = [one for result in results for one in result.scored]
    sets = [one for result in results for one in result.sets]
    total = score_of(scored)
    tasks, groups = defaultdict(list), defaultdict(lambda: defaultdict(list))  # type: ignore[var-annotated]
    for one in scored:
        tasks[one.task].append(one)
        for kind, name in one.groups:
            groups[kind][name].append(one)
    flops = sum(one.flops for one in sets)
    return ArmSummary(
        name=arm.name,
        mode=arm.pruning.mode,
        policy=arm.pruning.policy,
        asked_ratio=arm.pruning.retained_ratio,
        guidance=arm.pruning.guidance,
        accuracy=total.accuracy,
        standard_error=total.standard_error,
        interval=total.interval,
        guess=total.guess,
        count=total.count,
        clips=len({one.clip_id for one in scored}),
        answered=sum(one.answer is not None for one in scored),
        unparsable=sum(one.error_class == "unparsable" for one in scored),
        failures=dict(Counter(one.error_class or "internal" for one in scored if one.answer is None)),
        retained_ratio=_mean([one.retained for one in sets]),
        retained_audio=_mean([one.retained_audio for one in sets]),
        retained_video=_mean([one.retained_video for one in sets]),
        flops=flops,
        saved_against_dense_shared=_saved(flops, sum(one.dense_shared_flops for one in sets)),
        saved_against_dense=_saved(flops, sum(one.dense_flops for one in sets)),
        model_s=sum(one.seconds for one in sets),
        tasks={task: score_of(those) for task, those in sorted(tasks.items())},
        groups={
            kind: {name: score_of(those) for name, those in sorted(of_kind.items())}
            for kind, of_kind in sorted(groups.items())
        },
        against_dense=_against(scored, dense),
    )


def score_of(scored: Sequence[Scored]) -> Score:
    """The accuracy over at least one question."""
    mean = proportion([one.is_right for one in scored], [one.clip_id for one in scored])
    guess = sum(one.guess for one in scored) / len(scored)
    return Score(mean.value, mean.count, mean.standard_error, (mean.low, mean.high), guess)


def _against(scored: Sequence[Scored], dense: dict[tuple[str, str], Scored]) -> Against | None:
    pairs = [(one, dense[key]) for one in scored if (key := (one.clip_id, one.question_id)) in dense]
    if not pairs:
        return None
    clips = [one.clip_id for one, _ in pairs]
    gain: Mean = difference([float(one.is_right) - float(other.is_right) for one, other in pairs], clips)
    interval = None if gain.standard_error is None else (gain.low, gain.high)
    # A file that cannot be read says nothing about pruning.
    answered = [(one, other) for one, other in pairs if other.answer is not None]
    if not answered:
        return Against(None, None, gain.value, interval, gain.count)
    same = proportion([one.answer == other.answer for one, other in answered], [one.clip_id for one, _ in answered])
    return Against(same.value, (same.low, same.high), gain.value, interval, gain.count)


def _by_question(results: Sequence[ArmClip]) -> dict[tuple[str, str], Scored]:
    return {(one.clip_id, one.question_id): one for result in results for one in result.scored}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _saved(flops: int, reference: int) -> float | None:
    return 1 - flops / reference if reference else None
