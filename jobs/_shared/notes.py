"""What a command says beside its result: lines on standard error that begin with `note:`.

Promises: standard output stays what other programs read. Knows nothing about results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobs._shared.terminal import say
from omnidrop.models.checkpoints import EMBEDDED, TOY_NOTE


def note(text: str) -> None:
    """One line for the person at the terminal."""
    say(f"note: {text}", err=True)


def note_wordings(questions: Sequence[str]) -> None:
    """Say that answers to some questions are to several wordings of them."""
    if questions:
        note(
            f"{', '.join(questions)}: worded or typed otherwise since, and some videos still have answers to what was "
            "asked before; `omnidrop index` asks them again"
        )


def note_toy_answers(models: Iterable[str]) -> None:
    """Say what an embedded model's answers are worth, where one of `models` is embedded."""
    if any(model in EMBEDDED for model in models):
        note(TOY_NOTE)
