"""The error tree of the whole project, and the stable error classes that quarantine rows carry.

Promises: every failure a user can cause or meet is an `OmniDropError` whose message says what was given, what is
allowed and what to do. Knows nothing about where errors are printed or stored.
"""

from __future__ import annotations

from typing import ClassVar


class OmniDropError(Exception):
    """Base of all errors of this project; `error_class` is the stable name used in quarantine rows and metrics."""

    error_class: ClassVar[str] = "internal"


class UserError(OmniDropError):
    """Something the user gave (file, option, template, checkpoint) cannot be used as given."""

    error_class: ClassVar[str] = "user"


class ModelError(OmniDropError):
    """The model could not answer one clip; other clips are not affected."""

    error_class: ClassVar[str] = "model_error"


class NoNumbers(ModelError):
    """The model computed NaN or infinity, of which any answer could be read."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the model's {what} are no numbers (NaN or infinity): its weights or its configuration are damaged, or "
            "its numbers overflow; take dtype bfloat16 or float32, and `omnidrop selfcheck` to compare with the stock "
            "model"
        )


class SoundTooShort(ModelError):
    """No picture, and less sound than this model makes a token of."""

    error_class: ClassVar[str] = "too_short"


class ClipTooLong(ModelError):
    """A clip whose positions go beyond those that the model was made to read."""

    error_class: ClassVar[str] = "clip_too_long"


class ModelOutOfMemory(ModelError):
    """The clip does not fit into the device's memory, even at the smallest token budget."""

    error_class: ClassVar[str] = "model_out_of_memory"


class CheckpointError(UserError):
    """A checkpoint directory or hub id cannot be loaded as a supported omni-modal model."""

    error_class: ClassVar[str] = "checkpoint"


class QuestionError(UserError):
    """A question or question set is not well formed."""

    error_class: ClassVar[str] = "question"


class PolicyError(UserError):
    """A pruning mode, policy or retained ratio cannot be used as asked."""

    error_class: ClassVar[str] = "policy"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, its class where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
