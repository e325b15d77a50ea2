"""What `verify` finds wrong, counted and named, with the commands that fix it.

Promises: every problem is counted, the first `SHOWN` of a kind are named. Knows nothing about what is checked.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.journal.journal import Journal

if TYPE_CHECKING:
    from pipeline.storage.store import Store

Part = Literal["journal", "index", "tables"]

SHOWN = 20
"""Problems of one kind that are named; the rest is counted."""


@dataclass(frozen=True)
class Problem:
    """One fault."""

    part: Part
    kind: str
    """damaged, misplaced, foreign, missing, surplus, differs, stale, undeclared, forgotten, doubled, format or
    unsigned."""
    where: str
    """An object's key, or a table and a row's key."""
    what: str
    mend: str
    """The commands that fix it."""


@dataclass(frozen=True)
class Report:
    """What was found."""

    problems: tuple[Problem, ...]
    """At most `SHOWN` of each part and kind."""
    counts: tuple[tuple[Part, str, int], ...]
    """All of them, counted."""
    checked: dict[str, int]
    """How much was looked at: objects, units, rows, files."""
    notes: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts


class Findings:
    """What was found so far."""

    def __init__(self, store: Store, job: str, advance: Callable[[str, int], None]) -> None:
        """`job` is how the job is named in the commands that mend; `advance` is told what is being read, and how much
        of it."""
        self.job, self.advance = job, advance
        self.rebuild, self.index = f"omnidrop rebuild {job}", f"omnidrop index {job}"
        self.forget = f"omnidrop forget {job} --media"
        self.counts: Counter[tuple[Part, str]] = Counter()
        self.checked: Counter[str] = Counter()
        self.notes: list[str] = []
        self._problems: list[Problem] = []
        self._uri = store.uri

    def add(self, problem: Problem) -> None:
        """One problem more."""
        self.counts[problem.part, problem.kind] += 1
        if self.counts[problem.part, problem.kind] <= SHOWN:
            self._problems.append(problem)

    def without(self, path: str, *then: str) -> str:
        """Commands that delete an object, and what is to follow."""
        is_s3 = self._uri.startswith("s3://")
        delete = ("aws s3 rm" if is_s3 else "rm") + f" {shlex.quote(f'{self._uri}/{path}')}"
        return " && ".join((delete, *then))

    def report(self) -> Report:
        """All of it."""
        parts = {part for part, _ in self.counts}
        notes = list(self.notes)
        if "journal" in parts and len(parts) > 1:
            notes.append("problems of the index and the tables may be caused by the journal; fix the journal first")
        counts = tuple((part, kind, count) for (part, kind), count in self.counts.items())
        return Report(tuple(self._problems), counts, dict(self.checked), tuple(notes))


class Check:
    """Base of what looks at one part of an output."""

    part: ClassVar[Part]

    def __init__(self, store: Store, say: Findings) -> None:
        self.store, self.journal, self.say = store, Journal(store), say

    def _found(self, kind: str, where: str, what: str, mend: str) -> None:
        self.say.add(Problem(self.part, kind, where, what, mend))


def reason_of(error: Exception, path: str = "") -> str:
    """What our own errors say before a semicolon; what they advise after it, `mend` does here."""
    return str(error).split("; ")[0].removeprefix(f"{path} ")
