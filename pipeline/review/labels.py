"""`labels.csv`: a person's labels of answers, one row per clip and question.

Promises: the file is complete after every label; one process writes it at a time; a table that OmniDrop did not write
is never overwritten. `omnidrop evaluate` reads it as any table of right answers. Knows nothing about probabilities.
"""

from __future__ import annotations

import csv
import fcntl
import io
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from omnidrop.errors import UserError
from pipeline.spreadsheet import plain, safe

log = logging.getLogger(__name__)

RIGHT, WRONG = "right", "wrong"
Key = tuple[str, int, int, str]
"""File, start and end in milliseconds, question: the same also when a clip was asked again and has another id."""


class LabelsError(UserError):
    """Labels that cannot be read or written."""

    error_class = "labels"


@dataclass(frozen=True)
class Label:
    """What is right for one clip and question."""

    file: str
    start: float
    end: float
    question_id: str
    answer: str
    """The right answer, in the question's own words; empty where it is only known that `said` is wrong."""
    verdict: str = RIGHT
    """Of `said`: right or wrong."""
    said: str = ""
    clip_id: str = ""
    question: str = ""
    """As it was asked; empty in files of before this was kept, and where a person says that any wording will do."""

    def fits(self, question: str) -> bool:
        """Whether it is about this question: what is right for one wording may not be for another."""
        return self.question in ("", question)

    @property
    def key(self) -> Key:
        """One label for each: the newest."""
        return key_of(self.file, self.start, self.end, self.question_id)


def key_of(file: str, start_s: float, end_s: float, question_id: str) -> Key:
    """What a label is about."""
    return file, round(1000 * start_s), round(1000 * end_s), question_id


COLUMNS = tuple(field.name for field in fields(Label))


def read_labels(path: Path) -> list[Label]:
    """The labels of a file that `LabelsFile` wrote; none where there is no file. Raises LabelsError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin it with a mark
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LabelsError(f"--labels {path}: cannot be read: {reason}") from error
    rows = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(rows, ())) not in (COLUMNS, COLUMNS[:-1]):
        raise LabelsError(
            f"--labels {path}: its columns are not {', '.join(COLUMNS)}, so it was not written by `omnidrop review`; "
            "choose another file with --labels"
        )
    labels = []
    for row in rows:
        try:
            labels += [_label(row)] if any(row) else []
        except (ValueError, TypeError) as error:
            raise LabelsError(f"--labels {path}, line {rows.line_num}: not a label ({error})") from error
    return labels


def _label(row: list[str]) -> Label:
    file, start, end, *rest = map(plain, row)
    label = Label(file, float(start), float(end), *rest)
    if not (math.isfinite(label.start) and math.isfinite(label.end)):
        raise ValueError(f"{start} to {end} is no time range")
    if label.verdict not in (RIGHT, WRONG):
        raise ValueError(f"verdict {label.verdict!r} is neither {RIGHT} nor {WRONG}")
    return label


def _row(label: Label) -> list[str | float]:
    cells = astuple(replace(label, start=round(label.start, 6), end=round(label.end, 6)))
    return [safe(cell) if isinstance(cell, str) else cell for cell in cells]


class LabelsFile:
    """The labels of one file, held by one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._labels = {label.key: label for label in read_labels(path)}

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(list(self._labels.values()))

    def put(self, *labels: Label) -> None:
        """Add labels, or say something else about what was labelled. Raises LabelsError."""
        self._write(self._labels | {label.key: label for label in labels})

    def remove(self, *labels: Label) -> None:
        """Take labels back. Raises LabelsError."""
        gone = {label.key for label in labels}
        self._write({key: one for key, one in self._labels.items() if key not in gone})

    def _write(self, labels: dict[Key, Label]) -> None:
        out = io.StringIO(newline="")
        table = csv.writer(out)
        table.writerow(COLUMNS)
        table.writerows(map(_row, labels.values()))
        target = Path(os.path.realpath(self.path))  # a link to the labels stays one
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(out.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise LabelsError(f"--labels {self.path}: cannot be written: {error.strerror}") from error
        self._labels = labels


def forget_labels(path: Path, is_forgotten: Callable[[str], bool]) -> int:
    """Remove the labels of forgotten files and return how many. Leaves a table alone that OmniDrop did not write, and
    says so: what was forgotten may be named there."""
    try:
        if not any(is_forgotten(label.file) for label in read_labels(path)):
            return 0
    except LabelsError as error:
        log.warning("%s; it was left as it is, and may name what was forgotten", error)
        return 0
    with labels_file(path) as labels:
        gone = [label for label in labels if is_forgotten(label.file)]
        labels.remove(*gone)
        return len(gone)


@contextmanager
def labels_file(path: Path) -> Iterator[LabelsFile]:
    """The labels, to be written by this process alone. Raises LabelsError."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = lock.open("w")
    except OSError as error:
        raise LabelsError(f"--labels {path}: cannot be written: {error.strerror}; choose another file") from error
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LabelsError(
                f"--labels {path}: another `omnidrop review` writes it; end that, or choose another file"
            ) from error
        yield LabelsFile(path)
