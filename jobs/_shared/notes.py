"""What a command says beside its result: lines on standard error that begin with `note:`.

Promises: standard output stays what other programs read. Knows nothing about results.
"""

from __future__ import annotations

from collections.abc import Iterable

import typer

from omnidrop.models.checkpoints import EMBEDDED, TOY_NOTE


def note(text: str) -> None:
    """One line for the person at the terminal."""
    # Control characters in a file's name must not drive the terminal.
    typer.echo("note: " + "".join(c if c.isprintable() else " " for c in text), err=True)


def note_toy_answers(models: Iterable[str]) -> None:
    """Say what an embedded model's answers are worth, where one of `models` is embedded."""
    if any(model in EMBEDDED for model in models):
        note(TOY_NOTE)
