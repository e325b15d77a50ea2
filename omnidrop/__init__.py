"""OmniDrop: answer a whole question set about a video clip in one token-pruned pass of an omni-modal model.

Usable alone: it takes frames, audio and questions, and gives answers, their cost and a trace of what was kept. Knows no
archive, no Ray, no SQL and no ffmpeg.
"""

from __future__ import annotations

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
    model: str | OmniModel = "tiny",
    pruning: Pruning | None = None,
    system_prompt: str | None = None,
    instruction: str = "",
) -> ClipAnswers:
    """Answer every question about one clip given as arrays; see `OmniModel.answer`.

    A question may be a line of text, as in `"Is a circle shown? [yes/no]"` (`omnidrop.question_text`). A `model` given
    by name is loaded for this call: load it once (`OmniModel.load`) to ask about several clips.
    """
    from omnidrop.model import OmniModel, Request
    from omnidrop.pruning import Pruning
    from omnidrop.question_text import as_questions

    request = Request(as_questions(questions), fps, pruning or Pruning(), system_prompt, instruction)
    loaded = OmniModel.load(model) if isinstance(model, str) else model
    return loaded.answer(frames, audio, request)


def answer_text(
    text: str,
    questions: Sequence[str | Question],
    *,
    model: str | OmniModel = "tiny",
    system_prompt: str | None = None,
    instruction: str = "",
) -> ClipAnswers:
    """Answer every question about a text, with no picture and no sound; see `OmniModel.answer_text`.

    Questions and `model` as for `answer`.
    """
    from omnidrop.model import OmniModel
    from omnidrop.question_text import as_questions

    loaded = OmniModel.load(model) if isinstance(model, str) else model
    return loaded.answer_text(text, as_questions(questions), system_prompt=system_prompt, instruction=instruction)


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing the package alone must not cost the seconds that torch and transformers take.
    if name == "Pruning":
        from omnidrop.pruning import Pruning

        return Pruning
    if name in ("OmniModel", "Request"):
        from omnidrop import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
