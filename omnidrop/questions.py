"""What may be asked of a clip: a question is a text and the type its answer must have.

Promises: plain frozen values, checked when made, hashable, serialisable with `to_dict` / `question_from_dict`.
The types are in
`omnidrop.answer_types`. Knows nothing about files, templates or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnidrop.answer_types import AnswerType, Boolean, Choice, Json, Number, Scored, Text, Written, type_named
from omnidrop.errors import QuestionError

__all__ = [
    "AnswerType",
    "Boolean",
    "Choice",
    "Json",
    "Number",
    "Question",
    "Scored",
    "Text",
    "Written",
    "question_from_dict",
]


@dataclass(frozen=True)
class Question:
    """One question of a set: a stable `id`, the `text` as the model reads it, and the type of its answer."""

    id: str
    text: str
    answer: AnswerType
    retained_ratio: float | None = None
    """Where pruning is on and the set's ratio costs this question too much: a ratio of its own. Questions of one ratio
    share a pass apart from the set's. None asks it with the set."""
    group: str = ""
    """Where a set is asked in several passes: the name of this question's. It changes what else guides the pruning, and
    nothing of the question, so it is no part of `to_dict`."""

    def __post_init__(self) -> None:
        if not (isinstance(self.id, str) and isinstance(self.text, str) and isinstance(self.answer, AnswerType)):
            raise QuestionError(
                f"a question is an id, a text and the type of its answer such as Boolean(), got {self.id!r}, "
                f"{self.text!r}, {self.answer!r}"
            )
        if not self.id or not self.text.strip():
            raise QuestionError(f"a question needs an id and a text, got id {self.id!r}, text {self.text!r}")
        if self.retained_ratio is not None and not 0.0 < self.retained_ratio <= 1.0:
            raise QuestionError(f"retained_ratio must be above 0 and at most 1, got {self.retained_ratio!r}")

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, stable enough to be hashed into a recipe."""
        # Left out where there is none: what was asked before there were such ratios keeps its hash.
        own = {} if self.retained_ratio is None else {"retained_ratio": self.retained_ratio}
        return {"id": self.id, "text": self.text, "answer": self.answer.to_dict(), **own}


def question_from_dict(given: Mapping[str, Any]) -> Question:
    """The inverse of `Question.to_dict`. Raises QuestionError for an unknown answer type."""
    fields = dict(given["answer"])
    answer = type_named(fields.pop("type")).from_dict(fields)
    return Question(str(given["id"]), str(given["text"]), answer, given.get("retained_ratio"))
