"""Asks every clip in every way, through the real decoding path, and scores the answers.

Promises: a clip is decoded once for all ways, the next ones while the model works; a clip or a set that fails costs
itself and counts as wrong; with a log a run that was stopped goes on where it was. Knows nothing about where questions
come from or what figures are made of the scores.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from omnidrop.answers import ClipAnswers
from omnidrop.errors import ModelOutOfMemory, OmniDropError, PolicyError
from omnidrop.model import OmniModel, Request
from omnidrop.questions import Question
from pipeline.evaluation.dataset import (
    Arm,
    ArmClip,
    EvaluatedClip,
    EvaluationError,
    Scored,
    SetCost,
    failed_clip,
    missed,
)
from pipeline.evaluation.scoring import score
from pipeline.identity import content_id
from workers.media.decode import Source, decode_one
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings

log = logging.getLogger(__name__)

DECODE_AHEAD = 2
"""Clips decoded while the model works on another: ffmpeg has one process each, and pictures wait in memory."""

REFUSALS = 3
"""A way that could prune none of this many first clips is given up."""


@dataclass(frozen=True)
class RunSettings:
    """How clips are sampled and asked."""

    decode: DecodeSettings = field(default_factory=DecodeSettings)
    max_frames: int | None = None
    """Longer clips are sampled at fewer frames a second."""
    questions_per_set: int | None = None
    """None asks everything about a clip in one set."""
    system_prompt: str | None = None

    def decode_settings(self, length_s: float) -> DecodeSettings:
        """For a clip of `length_s` seconds."""
        if self.max_frames is None or length_s * self.decode.fps <= self.max_frames:
            return self.decode
        return replace(self.decode, fps=self.max_frames / length_s)


class Done(Protocol):
    """Finished clips of earlier runs; `pipeline.evaluation.result_log.ResultLog` keeps them in a file."""

    def get(self, key: str) -> ArmClip | None:
        """What is known under the key."""
        ...

    def put(self, key: str, result: ArmClip) -> None:
        """Keep a result."""
        ...


class _Nothing:
    def get(self, key: str) -> ArmClip | None:
        return None

    def put(self, key: str, result: ArmClip) -> None:
        pass


@dataclass(frozen=True)
class Run:
    """What came of all clips in all ways."""

    results: dict[str, tuple[ArmClip, ...]]
    """By the arm's name; arms that were refused are missing."""
    refused: dict[str, str]
    """Arms that this model or these clips do not allow, and why."""


def evaluate(
    model: OmniModel,
    clips: Sequence[EvaluatedClip],
    arms: Sequence[Arm],
    settings: RunSettings,
    *,
    source: Source | None = None,
    done: Done | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Run:
    """Ask every clip's questions in every way. `progress` is called after each clip.

    Raises PolicyError where no way can be run (a ratio that this depth cannot reach, say), and EvaluationError where
    there is nothing to ask.
    """
    if not any(clip.targets for clip in clips):
        raise EvaluationError("there is no question with a known answer: nothing can be evaluated")
    kept = done if done is not None else _Nothing()
    results: dict[str, list[ArmClip]] = {arm.name: [] for arm in arms}
    refused: dict[str, str] = {}
    too_small: dict[str, PolicyError] = {}

    def missing(clip: EvaluatedClip) -> bool:
        return any(kept.get(_key(model, clip, arm, settings)) is None for arm in arms)

    for clip, decoded in _decoded(clips, settings, source or Source(), missing):
        for arm in arms:
            if arm.name in refused:
                continue
            key = _key(model, clip, arm, settings)
            result = kept.get(key)
            if result is None:
                # A job asks one way: what another has encoded would be missing from this one's FLOPs and seconds.
                model.adapter.memory.clear()
                try:
                    result = answered(model, clip, decoded, arm, settings)
                except PolicyError as error:
                    result = failed_clip(arm.name, clip, error.error_class)
                    too_small.setdefault(arm.name, error)
                if not result.failed:
                    kept.put(key, result)
            results[arm.name].append(result)
            if arm.name in too_small and _never_ran(results[arm.name], len(clips)):
                refused[arm.name] = str(too_small[arm.name])
                if all(a.is_dense or a.name in refused for a in arms):
                    raise too_small[arm.name]
        progress()
    return Run({name: tuple(of_arm) for name, of_arm in results.items() if name not in refused}, refused)


def _never_ran(results: Sequence[ArmClip], clips: int) -> bool:
    """Whether enough clips were tried without one that the policy could prune: one short clip is no proof."""
    tried = [one for result in results for one in result.scored if one.error_class == PolicyError.error_class]
    return all(result.failed for result in results) and bool(tried) and len(results) >= min(REFUSALS, clips)


def _decoded(
    clips: Sequence[EvaluatedClip], settings: RunSettings, source: Source, missing: Callable[[EvaluatedClip], bool]
) -> Iterator[tuple[EvaluatedClip, DecodedClip | ClipFailure | None]]:
    """Every clip with its pictures and sound, decoded ahead; None where all answers are there already."""

    def work(clip: EvaluatedClip) -> DecodedClip | ClipFailure | None:
        if clip.failure is not None or not missing(clip):
            return clip.failure
        return decoded_clip(clip, settings, source)

    waiting: deque[tuple[EvaluatedClip, Future[DecodedClip | ClipFailure | None]]] = deque()
    with ThreadPoolExecutor(DECODE_AHEAD, thread_name_prefix="decode") as pool:
        try:
            for clip in clips:
                waiting.append((clip, pool.submit(work, clip)))
                if len(waiting) > DECODE_AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def decoded_clip(clip: EvaluatedClip, settings: RunSettings, source: Source) -> DecodedClip | ClipFailure:
    """A probed clip's pictures and sound, by the product's own path."""
    assert clip.info is not None
    span = Clip(clip.clip_id, 0, clip.start_s, clip.end_s)
    return decode_one(clip.media, clip.info, span, settings.decode_settings(clip.length_s), source)


def answered(
    model: OmniModel,
    clip: EvaluatedClip,
    decoded: DecodedClip | ClipFailure | None,
    arm: Arm,
    settings: RunSettings,
) -> ArmClip:
    """One clip's questions, asked in one way. Raises PolicyError; any other trouble becomes failed questions."""
    assert decoded is not None
    if isinstance(decoded, ClipFailure):
        return failed_clip(arm.name, clip, decoded.error_class)
    targets = {target.question_id: target for target in clip.targets}
    scored: list[Scored] = []
    sets: list[SetCost] = []
    for asked in sets_of(clip.questions, settings.questions_per_set):
        known = [targets[question.id] for question in asked if question.id in targets]
        if not known:
            continue
        try:
            request = Request(asked, decoded.fps, arm.pruning, settings.system_prompt, clip.instruction)
            got = model.answer(decoded.frames, decoded.audio, request)
        except (PolicyError, torch.AcceleratorError):
            raise
        except Exception as error:  # noqa: BLE001
            # One clip's trouble must not end a run of days; it is counted and named.
            error_class = error.error_class if isinstance(error, OmniDropError) else "model_error"
            log.warning("%s: %s: %s", clip.media.key, error_class, error)
            if isinstance(error, ModelOutOfMemory) and torch.cuda.is_available():
                torch.cuda.empty_cache()
            scored += [missed(clip, target, error_class) for target in known]
            continue
        sets.append(_cost(got, len(asked)))
        for question, answer in zip(asked, got.answers, strict=True):
            if (target := targets.get(question.id)) is None:
                continue
            is_right, error_class_ = score(question, answer, target)
            one = missed(clip, target, "")
            scored.append(replace(one, answer=answer.text, is_right=is_right, error_class=error_class_))
    return ArmClip(arm.name, clip.clip_id, tuple(scored), tuple(sets))


def sets_of(questions: Sequence[Question], size: int | None) -> list[tuple[Question, ...]]:
    """The questions in sets of up to `size`, in order."""
    step = size or max(1, len(questions))
    return [tuple(questions[at : at + step]) for at in range(0, len(questions), step)]


def _cost(got: ClipAnswers, questions: int) -> SetCost:
    return SetCost(
        questions=questions,
        retained=got.trace.retained_ratio(),
        retained_audio=got.trace.retained_ratio("audio"),
        retained_video=got.trace.retained_ratio("video"),
        flops=got.cost.as_run.flops,
        dense_flops=got.cost.dense.flops,
        dense_shared_flops=got.cost.dense_shared.flops,
        seconds=got.cost.seconds,
    )


def _key(model: OmniModel, clip: EvaluatedClip, arm: Arm, settings: RunSettings) -> str:
    """Everything that changes a scored clip."""
    return content_id(
        model.weights_hash,
        str(model.adapter.dtype),
        repr(arm.pruning),
        clip.clip_id,
        clip.media.etag,
        [question.to_dict() for question in clip.questions],
        repr(clip.targets),
        clip.instruction,
        repr(settings),
        "encoded for this way alone",  # a log of before lacks that in FLOPs and seconds
    )
