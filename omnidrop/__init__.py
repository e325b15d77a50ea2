"""OmniDrop: answer a whole question set about a video clip in one token-pruned pass of an omni-modal model.

Usable alone: it takes frames, audio and questions, and gives answers, their cost and a trace of what was kept. Knows no
archive, no Ray, no SQL and no ffmpeg.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from omnidrop.answers import ClipAnswers
    from omnidrop.model import OmniModel, Request
    from omnidrop.pruning import Pruning
    from omnidrop.questions import Question

__all__ = ["OmniModel", "Pruning", "Request", "answer", "answer_text"]


def answer(
    frames: npt.NDArray[np.uint8] | None,
    audio: npt.NDArray[np.float32] | None,
    questions: Sequence[str | Question],
    *,
    fps: float,
    model: str | os.PathLike[str] | OmniModel = "tiny",
    pruning: Pruning | None = None,
    system_prompt: str | None = None,
    instruction: str = "",
) -> ClipAnswers:
    """Answer every question about one clip given as arrays; see `OmniModel.answer`.

    A question may be a line of text, as in `"Is a circle shown? [yes/no]"` (`omnidrop.question_text`). A `model` given
    by name or folder is loaded for this call: load it once (`OmniModel.load`) to ask about several clips.
    """
    from omnidrop.model import Request
    from omnidrop.pruning import Pruning
    from omnidrop.question_text import as_questions

    request = Request(
        as_questions(questions), fps, Pruning() if pruning is None else pruning, system_prompt, instruction
    )
    _check_lengths(frames, audio, fps)
    return _loaded(model).answer(frames, audio, request)


def answer_text(
    text: str,
    questions: Sequence[str | Question],
    *,
    model: str | os.PathLike[str] | OmniModel = "tiny",
    system_prompt: str | None = None,
    instruction: str = "",
) -> ClipAnswers:
    """Answer every question about a text, with no picture and no sound; see `OmniModel.answer_text`.

    Questions and `model` as for `answer`.
    """
    from omnidrop.question_text import as_questions

    asked = as_questions(questions)
    return _loaded(model).answer_text(text, asked, system_prompt=system_prompt, instruction=instruction)


def _loaded(model: str | os.PathLike[str] | OmniModel) -> OmniModel:
    from omnidrop.errors import UserError
    from omnidrop.model import OmniModel

    if isinstance(model, str | os.PathLike):
        return OmniModel.load(os.fspath(model))
    if not isinstance(model, OmniModel):
        raise UserError(f"model is a checkpoint's name, its folder or an OmniModel, got {model!r}")
    return model


def _check_lengths(frames: Any, audio: Any, fps: float) -> None:
    """Warn of sound that is not as long as the frames: most often it has another rate than 16 kHz."""
    import numpy as np

    if not (isinstance(frames, np.ndarray) and isinstance(audio, np.ndarray)) or (frames.ndim, audio.ndim) != (4, 1):
        return
    if not fps > 0:
        return
    seen_s, heard_s = len(frames) / fps, len(audio) / 16_000
    if abs(seen_s - heard_s) > 1 / fps + 0.1 * seen_s:
        warnings.warn(
            f"{len(frames)} frames at {fps:g} a second are {seen_s:.1f} s, {len(audio)} samples at 16 kHz are "
            f"{heard_s:.1f} s; resample the sound to 16 kHz, and give the rate at which the frames were sampled",
            stacklevel=3,
        )


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing the package alone must not cost the seconds that torch and transformers take.
    if name == "Pruning":
        from omnidrop.pruning import Pruning

        return Pruning
    if name in ("OmniModel", "Request"):
        from omnidrop import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
