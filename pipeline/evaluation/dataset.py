"""The values of an evaluation, one way: clips to ask about, ways to run them, and what each question came to.

Promises: frozen and plain; a scored question carries its clip, so that figures can be clustered. Knows nothing about
where questions come from, models or files.
"""

from __future__ import annotations

from dataclasses import dataclass

from omnidrop.errors import UserError
from omnidrop.pruning import DENSE_MODES, Guidance, Pruning
from omnidrop.questions import Question
from workers.records import ClipFailure, Media, MediaInfo


class EvaluationError(UserError):
    """What was given to be evaluated cannot be used as given."""

    error_class = "evaluation"


@dataclass(frozen=True)
class Target:
    """What is known about one question's answer."""

    question_id: str
    right: tuple[str, ...]
    """Answers that count as right, as the question spells them; several only for text."""
    task: str
    guess: float
    """Chance of being right without looking."""
    tolerance: float = 0.0
    """How far a number may be off."""
    options: tuple[str, ...] = ()
    """Where the answer is free text that names a lettered option: the options, first one A."""
    groups: tuple[tuple[str, str], ...] = ()
    """Further (kind, name) classes that figures are given for, such as ("audio_class", "music")."""


@dataclass(frozen=True)
class EvaluatedClip:
    """A span of a file, everything that is asked of it, and what is known about some or all of the answers."""

    clip_id: str
    media: Media
    info: MediaInfo | None
    start_s: float
    end_s: float
    questions: tuple[Question, ...]
    targets: tuple[Target, ...]
    instruction: str = ""
    failure: ClipFailure | None = None
    """Why nothing can be asked of it; every target then counts as wrong."""

    @property
    def length_s(self) -> float:
        """Seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Arm:
    """One way of running question sets."""

    name: str
    pruning: Pruning

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned."""
        return self.pruning.mode in DENSE_MODES


DENSE = Arm("dense_shared", Pruning.off("dense_shared"))
"""What others are compared with."""


def arm_of(
    mode: str,
    policy: str,
    ratio: float | None,
    guidance: Guidance = "max",
    settings: tuple[tuple[str, float | int | str | bool], ...] = (),
    seed: int = 0,
    encoder_share: float | None = None,
    still_levels: float | None = None,
) -> Arm:
    """The way of running that the words name. Raises PolicyError for what does not go together."""
    if mode in DENSE_MODES:
        return Arm(mode, Pruning.off(mode))
    share = 1.0 if encoder_share is None else encoder_share
    pruning = Pruning(mode, policy, ratio, guidance, seed, settings, share, still_levels)
    words = [mode, policy, *([] if guidance == "max" else [guidance]), *(f"{name}={value}" for name, value in settings)]
    words += [] if encoder_share is None else [f"encoder {100 * encoder_share:g} %"]
    words += [] if still_levels is None else [f"still {still_levels:g}"]
    return Arm(" ".join(words) + ("" if ratio is None else f" {100 * ratio:g} %"), pruning)


@dataclass(frozen=True)
class Scored:
    """One question, asked in one way."""

    clip_id: str
    question_id: str
    task: str
    guess: float
    groups: tuple[tuple[str, str], ...]
    expected: str
    answer: str | None
    """The answer as text, None if there is none."""
    is_right: bool
    error_class: str | None = None
    """`unparsable`, or the class of the failure that left the question without an answer."""


@dataclass(frozen=True)
class SetCost:
    """What one question set of one clip took."""

    questions: int
    retained: float | None
    retained_audio: float | None
    retained_video: float | None
    flops: int
    dense_flops: int
    dense_shared_flops: int
    seconds: float


@dataclass(frozen=True)
class ArmClip:
    """Everything about one clip asked in one way."""

    arm: str
    clip_id: str
    scored: tuple[Scored, ...]
    sets: tuple[SetCost, ...]

    @property
    def failed(self) -> bool:
        """Whether any question has no answer at all; such a clip is asked again when a run is resumed."""
        return any(one.answer is None for one in self.scored)


def failed_clip(arm: str, clip: EvaluatedClip, error_class: str) -> ArmClip:
    """The clip with every question counted as wrong."""
    return ArmClip(arm, clip.clip_id, tuple(missed(clip, target, error_class) for target in clip.targets), ())


def missed(clip: EvaluatedClip, target: Target, error_class: str) -> Scored:
    """A question without an answer: wrong."""
    right = " | ".join(target.right)
    return Scored(
        clip.clip_id, target.question_id, target.task, target.guess, target.groups, right, None, False, error_class
    )
