"""Free text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from omnidrop.answer_types.base import Setting, Written

_TEXT = re.compile(r"text(?:\s+(?P<tokens>\d+))?")


@dataclass(frozen=True)
class Text(Written):
    """Free text of at most `max_tokens` tokens, decoded greedily."""

    max_tokens: int = 64
    kind: ClassVar[str] = "text"
    settings = (Setting("max_tokens", int, "Longest answer in tokens.", 64),)
    form = "[text] or [text 200] (tokens)"
    is_searched = True

    @classmethod
    def in_brackets(cls, given: str) -> Self | None:
        if not (found := _TEXT.fullmatch(given)):
            return None
        return cls(int(found["tokens"])) if found["tokens"] else cls()

    def right_answers(self, cell: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in cell.split("|") if part.strip())
