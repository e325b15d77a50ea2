"""What may be asked of a clip: a question is a text and the type its answer must have.

Promises: plain frozen values, checked when made, hashable, serialisable with `to_dict` / `question_from_dict`.
Knows nothing about files, templates or models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from omnidrop.errors import QuestionError


@dataclass(frozen=True)
class Choice:
    """One of `options`, compared by the probability the model gives to each."""

    options: tuple[str, ...]
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        if (
            len(self.options) < 2
            or len(set(self.options)) != len(self.options)
            or not all(o.strip() for o in self.options)
        ):
            raise QuestionError(f"a choice needs at least two different, non-empty options, got {list(self.options)!r}")

    def rendered(self) -> tuple[str, ...]:
        """The texts the model may answer with, in order."""
        return self.options

    def value(self, index: int) -> str:
        """The typed value of option `index`."""
        return self.options[index]


@dataclass(frozen=True)
class Boolean:
    """Yes or no."""

    kind: ClassVar[str] = "boolean"

    def rendered(self) -> tuple[str, ...]:
        """The texts the model may answer with: `yes`, then `no`."""
        return ("yes", "no")

    def value(self, index: int) -> bool:
        """True for `yes`."""
        return index == 0


@dataclass(frozen=True)
class Number:
    """A number from `minimum` to `maximum` (both included) in steps of `step`, in `unit`."""

    minimum: float
    maximum: float
    step: float = 1.0
    unit: str | None = None
    kind: ClassVar[str] = "number"
    most_values: ClassVar[int] = 1001
    """Every value is scored, so the range must be one a clip can be asked about."""

    def __post_init__(self) -> None:
        given = f"minimum {self.minimum:g}, maximum {self.maximum:g}, step {self.step:g}"
        if not all(math.isfinite(x) for x in (self.minimum, self.maximum, self.step)):
            raise QuestionError(f"a number's range must be finite, got {given}")
        if self.step <= 0 or self.maximum <= self.minimum:
            raise QuestionError(f"a number needs minimum < maximum and step > 0, got {given}")
        if self.count > self.most_values:
            raise QuestionError(
                f"a number may have at most {self.most_values} values, got {self.count} ({given}); use a larger step"
            )

    @property
    def count(self) -> int:
        """How many values the range holds."""
        return math.floor((self.maximum - self.minimum) / self.step + 1e-9) + 1

    def value(self, index: int) -> float:
        """The value at `index`, in `unit`."""
        return round(self.minimum + index * self.step, 9)

    def rendered(self) -> tuple[str, ...]:
        """The texts the model may answer with, ascending."""
        return tuple(f"{self.value(i):g}" for i in range(self.count))


@dataclass(frozen=True)
class Text:
    """Free text of at most `max_tokens` tokens, decoded greedily."""

    max_tokens: int = 64
    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= 4096:
            raise QuestionError(f"max_tokens must be 1 to 4096, got {self.max_tokens}")


@dataclass(frozen=True)
class Json:
    """A JSON object that satisfies the JSON Schema `schema_json` (a JSON string, so that the value stays hashable)."""

    schema_json: str
    max_tokens: int = 256
    kind: ClassVar[str] = "json"

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= 4096:
            raise QuestionError(f"max_tokens must be 1 to 4096, got {self.max_tokens}")
        try:
            schema = json.loads(self.schema_json)
        except json.JSONDecodeError as error:
            raise QuestionError(f"the JSON schema is not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise QuestionError(f"the JSON schema must be an object, got {type(schema).__name__}")

    @property
    def schema(self) -> dict[str, Any]:
        """The schema as a dictionary (a fresh copy)."""
        loaded: dict[str, Any] = json.loads(self.schema_json)
        return loaded


AnswerType = Choice | Boolean | Number | Text | Json
SCORED = (Choice, Boolean, Number)
"""Answer types that are read off the prefill's logits, without any decode step."""


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
        if not self.id or not self.text.strip():
            raise QuestionError(f"a question needs an id and a text, got id {self.id!r}, text {self.text!r}")
        if self.retained_ratio is not None and not 0.0 < self.retained_ratio <= 1.0:
            raise QuestionError(f"retained_ratio must be above 0 and at most 1, got {self.retained_ratio!r}")

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, stable enough to be hashed into a recipe."""
        fields: dict[str, Any] = {"type": self.answer.kind}
        match self.answer:
            case Choice(options=options):
                fields["options"] = list(options)
            case Number(minimum=low, maximum=high, step=step, unit=unit):
                fields |= {"minimum": low, "maximum": high, "step": step, "unit": unit}
            case Text(max_tokens=most):
                fields["max_tokens"] = most
            case Json(max_tokens=most):
                fields |= {"schema": self.answer.schema, "max_tokens": most}
        # Left out where there is none: what was asked before there were such ratios keeps its hash.
        own = {} if self.retained_ratio is None else {"retained_ratio": self.retained_ratio}
        return {"id": self.id, "text": self.text, "answer": fields, **own}


def question_from_dict(given: Mapping[str, Any]) -> Question:
    """The inverse of `Question.to_dict`. Raises QuestionError for an unknown answer type."""
    fields = dict(given["answer"])
    kind = fields.pop("type")
    answer: AnswerType
    match kind:
        case "choice":
            answer = Choice(tuple(fields["options"]))
        case "boolean":
            answer = Boolean()
        case "number":
            answer = Number(**fields)
        case "text":
            answer = Text(**fields)
        case "json":
            answer = Json(json.dumps(fields["schema"], sort_keys=True), fields["max_tokens"])
        case _:
            raise QuestionError(f"unknown answer type {kind!r}; allowed: choice, boolean, number, text, json")
    return Question(str(given["id"]), str(given["text"]), answer, given.get("retained_ratio"))
