"""One of some options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omnidrop.answer_types.base import Scored, Setting, normalised
from omnidrop.errors import QuestionError


@dataclass(frozen=True)
class Choice(Scored):
    """One of `options`, compared by the probability the model gives to each."""

    options: tuple[str, ...]
    kind: ClassVar[str] = "choice"
    settings = (
        Setting(
            "options",
            tuple[str, ...],
            "Two or more texts, each of which may be a template; quote numbers.",
            limits=(("min_length", 2), ("max_length", 256)),
        ),
    )
    form = "[red|green|blue]"
    video_rules = ("majority", "first", "last", "longest")
    is_searched = True
    is_categorical = True

    def __post_init__(self) -> None:
        if not isinstance(self.options, tuple | list) or not all(isinstance(o, str) for o in self.options):
            raise QuestionError(f"a choice's options are a tuple of texts, got {self.options!r}")
        if (
            len(self.options) < 2
            or len(set(self.options)) != len(self.options)
            or not all(o.strip() for o in self.options)
        ):
            raise QuestionError(f"a choice needs at least two different, non-empty options, got {list(self.options)!r}")

    def rendered(self) -> tuple[str, ...]:
        return self.options

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.kind, "options": list(self.options)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        return cls(tuple(fields["options"]))

    @classmethod
    def in_brackets(cls, given: str) -> Self | None:
        for separator in "|/":
            if separator in given:
                return cls(tuple(option.strip() for option in given.split(separator)))
        return None

    @property
    def remark(self) -> str | None:
        meant: dict[str, str] = {}
        for option in self.options:
            if (other := meant.setdefault(normalised(option), option)) != option:
                return f"options {other!r} and {option!r} are two answers, which differ in case, blanks or marks only"
        return None

    @property
    def templates(self) -> tuple[str, ...]:
        return self.options

    def filled(self, fill: Callable[[str], str]) -> Self:
        return type(self)(tuple(fill(option) for option in self.options))

    def right_answers(self, cell: str) -> tuple[str, ...]:
        same = [option for option in self.options if normalised(option) == normalised(cell)]
        exact = [option for option in same if option == cell]
        if not same:
            raise QuestionError(f"the right answer must be one of {', '.join(self.options)}, got {cell!r}")
        return tuple(exact or same[:1])
