"""The edge between what the program says and a terminal: other people's words cannot drive it.

Promises: what is said or printed through here holds no control, bidirectional or invisible character that was in a
text; they show as escapes, as in `\\x1b[31m`. Knows nothing about what is said.
"""

from __future__ import annotations

import errno
import io
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import typer
from rich.console import Console
from rich.segment import Segment

from workers.redaction import without_secrets


def printable(text: str) -> str:
    """The text with everything but what a page shows, line breaks and tabs written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if character == " " or (character.isspace() and ord(character) > 0x9F):
        return " "
    return character.encode("unicode_escape").decode()


def say(text: str, *, err: bool = False) -> None:
    """One line, or several."""
    with _may_have_closed(err):
        typer.echo(printable(text), err=err)


@contextmanager
def _may_have_closed(err: bool) -> Iterator[None]:
    """A terminal that closes refuses what is said on it some moments before its signal is heard. Results on standard
    output are another matter."""
    try:
        yield
    except OSError as error:
        if not err or error.errno != errno.EIO:
            raise


class _Printable(io.TextIOBase):
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(printable(text))
        return len(text)


def on_terminal(file: TextIO) -> TextIO:
    """What other programs would read, for a file that may be a terminal: printable where a person looks."""
    return cast(TextIO, _Printable(file)) if file.isatty() else file


class PrintableWarnings(logging.Handler):
    """What is logged where nothing else shows it: Python would write it to standard error as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        sys.stderr.write(printable(without_secrets(record.getMessage())) + "\n")


class PrintableConsole(Console):
    """A console that prints texts of others; its own colours and cursor moves stay."""

    def render(self, *given: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*given, **options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def _check_buffer(self) -> None:
        with _may_have_closed(self.stderr):
            super()._check_buffer()


@contextmanager
def waiting(what: str, console: Console) -> Iterator[Callable[[str], None]]:
    """While the block lasts, a spinner with what is being done and the time it has taken; gives what changes the
    words. Nothing where the console is no terminal."""
    # Here, so that commands that never wait do not load it.
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what)
        yield lambda text: progress.update(task, description=text)
