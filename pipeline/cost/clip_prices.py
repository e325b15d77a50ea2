"""What answering one clip takes, by its size and what it is asked, and what several passes over it cost more than one.

Promises: each size and question set is priced once, from the checkpoint's configuration alone. Knows nothing about
archives, runs or money.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from omnidrop.errors import ClipTooLong, PolicyError, SoundTooShort
from omnidrop.questions import Question
from pipeline.config.job import JobConfig
from pipeline.config.worker_settings import decode_settings, pruning_of
from pipeline.planning.media_plan import MediaPlan
from pipeline.planning.recipe import resolved_dtype
from pipeline.questions.question_set import QuestionSet
from pipeline.questions.templates import context_names
from workers.media.clip_reader import decoded_shape
from workers.records import Asking, DecodeSettings, WorkUnit
from workers.whole_text import MOST_TOKENS, stretched

if TYPE_CHECKING:
    from omnidrop.estimate import Estimate, Estimator

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
UNASKABLE = (PolicyError, SoundTooShort, ClipTooLong)
"""Why a clip cannot be asked that is shorter or longer than others: the retained ratio cannot be reached, it holds
nothing, or more than the model can read."""
EXPENSIVE = 1.2
"""Several passes that cost this many times one pass are reported."""
AROUND = 24
"""Maximum tokens of a line's times, of the punctuation and probability around an answer, and of a text's first line."""
MOST_SHAPES = 1000
"""Maximum cache size: an archive has few sizes, but a template may word every clip's questions differently."""


class Asked(NamedTuple):
    """A clip as it is priced: its decoded shape and what it is asked."""

    frames: int
    height: int
    width: int
    samples: int
    questions: tuple[Question, ...]
    instruction: str

    @property
    def is_in_passes(self) -> bool:
        """Whether its questions are asked in more than one pass."""
        return len({question.group for question in self.questions}) > 1


class ClipPrices:
    """Prices by clip size and what is asked: an archive has few of both."""

    def __init__(self, job: JobConfig) -> None:
        # A second and a half of imports, which a run that never prices anything does without.
        from omnidrop.estimate import Estimator

        self.decoding = decode_settings(job.clips, job.execution)
        self._job, self._is_checked = job, False
        self._pruning = pruning_of(job.pruning)
        self._system_prompt = job.model.system_prompt
        self.estimator = Estimator(job.model.checkpoint, value_bytes=VALUE_BYTES[resolved_dtype(job)])
        self._known: dict[Asked, Estimate] = {}

    def check(self, plan: MediaPlan) -> None:
        """Refuse a job as a run does: by the first item that is to be asked. Raises PolicyError."""
        if not self._is_checked:
            from pipeline.planning.feasibility import check_reachable

            assert plan.info is not None
            check_reachable(self._job, plan.media.key, plan.info)
            self._is_checked = True

    def of(self, asked: Asked) -> Estimate:
        """One clip. Raises one of `UNASKABLE` where it cannot be asked."""
        found = self._known.get(asked)
        if found is None:
            found = self.estimator.clip(
                asked.questions,
                self._pruning,
                frames=asked.frames,
                height=asked.height,
                width=asked.width,
                samples=asked.samples,
                fps=self.decoding.fps,
                system_prompt=self._system_prompt,
                instruction=asked.instruction,
            )
            # Clips that are asked in words of their own do not come again.
            if len(self._known) < MOST_SHAPES:
                self._known[asked] = found
        return found


class WholePrices:
    """Prices of questions about whole videos: an upper bound, because the length of answers is not known yet."""

    def __init__(self, job: JobConfig, question_set: QuestionSet, estimator: Estimator) -> None:
        self._estimator = estimator
        self._system_prompt = job.model.system_prompt
        # A line has what is said in the clip, as often as its questions repeat it.
        repeated = sum("clip.transcript" in context_names([one.text]) for one in question_set.questions)
        is_told = "clip.transcript" in question_set.context_names
        self._heard = max(repeated, is_told) * job.context.max_tokens
        kept = lru_cache(maxsize=MOST_SHAPES)
        self._line, self._text, self.of = kept(self._line_of), kept(self._text_of), kept(self._texts_of)

    def _texts_of(
        self, clips: int, asked: tuple[Question, ...], questions: tuple[Question, ...]
    ) -> tuple[Estimate, ...]:
        """The texts about a video of so many clips that were `asked` this, as wholes these `questions`."""
        line = self._line(asked) + self._heard
        parts = [len(part) * (line + 1) for part in stretched([line] * clips)]
        if len(parts) > 1:
            parts.append(len(parts) * (self._line(questions) + 1))
        # A line that is longer than a text is a text of its own.
        return tuple(self._text(max(line, min(MOST_TOKENS, tokens)) + AROUND, questions) for tokens in parts)

    def _line_of(self, questions: tuple[Question, ...]) -> int:
        return AROUND + sum(AROUND + self._estimator.most_tokens(one) for one in questions)

    def _text_of(self, tokens: int, questions: tuple[Question, ...]) -> Estimate:
        return self._estimator.text(tokens, questions, system_prompt=self._system_prompt)


class SeveralPasses:
    """Counts clips that are asked in several passes because questions were added to the set."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job
        self._decoding = decode_settings(job.clips, job.execution)
        self._clips: Counter[Asked] = Counter()

    def add(self, plan: MediaPlan, unit: WorkUnit) -> None:
        """Clips that are about to be asked; those asked in one pass do not matter."""
        for clip in unit.clips:
            asked = asked_of(plan, unit.asked_of(clip), clip.length_s, self._decoding)
            if asked.is_in_passes and (asked in self._clips or len(self._clips) < MOST_SHAPES):
                self._clips[asked] += 1

    def note(self) -> str | None:
        """Both prices, if several passes are expensive."""
        if not self._clips:
            return None
        prices, several, one = ClipPrices(self._job), 0, 0
        for asked, count in self._clips.items():
            with suppress(*UNASKABLE):
                several += count * prices.of(asked).as_run.flops
                one += count * prices.of(in_one_pass(asked)).as_run.flops
        return expensive_passes(several, one)


def asked_of(plan: MediaPlan, asking: Asking, length_s: float, decoding: DecodeSettings) -> Asked:
    """A clip of a planned unit, as it is priced."""
    assert plan.info is not None
    return Asked(*decoded_shape(plan.info, length_s, decoding), asking.questions, asking.instruction)


def in_one_pass(asked: Asked) -> Asked:
    """The same clip with all its questions in one pass."""
    return asked._replace(questions=tuple(replace(question, group="") for question in asked.questions))


def expensive_passes(several: int, one: int) -> str | None:
    """The note on clips whose passes take `several` FLOPs instead of `one`; None if that is not much more."""
    if not several > EXPENSIVE * one > 0:
        return None
    return (
        f"clips in several passes: {several / 1e12:.3g} TFLOP, {one / 1e12:.3g} TFLOP in one pass: "
        "`omnidrop plan --together` prices asking all again, `index --together` does it"
    )
