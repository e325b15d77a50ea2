"""What a type of answer declares; everything that reads, stores, searches or shows answers follows from it.

Promises: a type is one frozen dataclass in one file; nothing else asks which type it is. Knows nothing about models,
files or tables.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from omnidrop.errors import QuestionError

VideoRule = Literal["any", "all", "majority", "first", "last", "longest", "count", "total_s", "mean"]
"""How answers of clips become one of a video; what each means is in docs/questions.md."""

REQUIRED: Any = ...


@dataclass(frozen=True)
class Setting:
    """A field of the type in a question set's file."""

    name: str
    holds: Any
    """Its type, as an annotation."""
    description: str
    default: Any = REQUIRED
    limits: tuple[tuple[str, int], ...] = ()
    """Such as ("min_length", 2)."""


class Unreadable(Exception):
    """What the model wrote is not an answer of the type; `error_class` says what it is instead."""

    def __init__(self, error_class: str) -> None:
        super().__init__(error_class)
        self.error_class = error_class


class AnswerType:
    """Base of all types; take `Scored` or `Written`."""

    kind: ClassVar[str]
    """Its name, in files and in the column `answer_type`."""
    settings: ClassVar[tuple[Setting, ...]] = ()
    """Fields of a question set's file, each also an attribute."""
    form: ClassVar[str] = ""
    """What may stand in the brackets of `omnidrop ask`, for messages; empty where it has no such form."""
    video_rules: ClassVar[tuple[VideoRule, ...]] = ()
    column: ClassVar[Literal["answer_boolean", "answer_number"] | None] = None
    """The typed column its value is kept in, beside its text."""
    is_searched: ClassVar[bool] = False
    """Whether `find` looks for words in its answers."""
    is_compared: ClassVar[bool] = True
    """Whether `find` and review take its answers as a whole."""
    is_categorical: ClassVar[bool] = False
    """One of a few words: `export` makes moments of its answers, review offers the other words."""

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, stable enough to be hashed into a recipe."""
        return {"type": self.kind, **{setting.name: getattr(self, setting.name) for setting in self.settings}}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, its type left out."""
        make: Callable[..., Self] = cls
        return make(**fields)

    @classmethod
    def from_file(cls, fields: Mapping[str, Any]) -> Self:
        """As people wrote it; may check more than what was stored needs. Raises QuestionError."""
        return cls.from_dict(fields)

    @classmethod
    def in_brackets(cls, given: str) -> Self | None:
        """What stands in the brackets at a question's end, None where it is not of this type."""
        return None

    @property
    def templates(self) -> tuple[str, ...]:
        """Texts of it that may be templates."""
        return ()

    def filled(self, fill: Callable[[str], str]) -> Self:
        """With its templates filled in."""
        return self

    @property
    def allowed(self) -> tuple[str, ...]:
        """The texts it may be answered with, none where they cannot be told."""
        return ()

    @property
    def remark(self) -> str | None:
        """What a person may have meant otherwise, None for most."""
        return None

    @property
    def guess(self) -> float:
        """The chance of guessing right."""
        return 1 / len(self.allowed) if self.allowed else 0.0

    def right_answers(self, cell: str) -> tuple[str, ...]:
        """What a table's cell says is right, spelt as its answers are. Raises QuestionError."""
        raise QuestionError(f"a {self.kind} answer cannot be scored against a table; label other questions of the set")

    def is_right(self, value: object, text: str, right: str, tolerance: float) -> bool:
        """Whether an answer is what `right_answers` gave."""
        return normalised(text) == normalised(right)


class Scored(AnswerType):
    """One of some values, each with a probability, read off the prefill's logits without any decode step."""

    def rendered(self) -> tuple[str, ...]:
        """The texts the model may answer with, in order; at least two."""
        raise NotImplementedError

    def value(self, index: int) -> object:
        """The typed value of `rendered()[index]`."""
        return self.rendered()[index]

    @property
    def allowed(self) -> tuple[str, ...]:
        return self.rendered()


class Written(AnswerType):
    """What the model writes token by token, greedily, up to `max_tokens`."""

    max_tokens: int
    most_tokens: ClassVar[int] = 4096

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= self.most_tokens:
            raise QuestionError(f"max_tokens must be 1 to {self.most_tokens}, got {self.max_tokens}")

    @property
    def schema(self) -> dict[str, Any] | None:
        """A JSON Schema that decoding is held to, None for free text."""
        return None

    def read(self, text: str) -> object:
        """The typed value of what the model wrote. Raises Unreadable."""
        return text


def normalised(text: str) -> str:
    """Compatibility forms, case, outer punctuation and repeated space do not matter."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"^[\W_]+|[\W_]+$", "", re.sub(r"\s+", " ", folded.strip())) or folded.strip()
