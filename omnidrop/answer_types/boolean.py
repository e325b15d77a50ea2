"""Yes or no."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from omnidrop.answer_types.base import Scored
from omnidrop.errors import QuestionError

_WRITTEN = {
    "yes": "yes",
    "no": "no",
    "true": "yes",
    "false": "no",
    "1": "yes",
    "0": "no",
    "y": "yes",
    "n": "no",
    "1.0": "yes",
    "0.0": "no",
}
"""How people write yes and no in tables."""


@dataclass(frozen=True)
class Boolean(Scored):
    """Yes or no."""

    kind: ClassVar[str] = "boolean"
    form = "[yes/no]"
    video_rules = ("any", "all", "majority", "first", "last", "longest", "count", "total_s", "mean")
    column = "answer_boolean"
    is_categorical = True

    def rendered(self) -> tuple[str, ...]:
        return ("yes", "no")

    def value(self, index: int) -> bool:
        return index == 0

    @classmethod
    def in_brackets(cls, given: str) -> Self | None:
        return cls() if {word.strip().lower() for word in re.split(r"[|/]", given)} == {"yes", "no"} else None

    def right_answers(self, cell: str) -> tuple[str, ...]:
        if (found := _WRITTEN.get(cell.casefold())) is None:
            raise QuestionError(f"the right answer must be yes or no (or true, false, 1, 0), got {cell!r}")
        return (found,)
