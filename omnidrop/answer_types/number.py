"""A number of a range."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Self

from omnidrop.answer_types.base import Scored, Setting
from omnidrop.errors import QuestionError

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(
    rf"(?P<low>{_NUMBER})\s*(?:-|–|\.\.|to)\s*(?P<high>{_NUMBER})(?:\s+step\s+(?P<step>{_NUMBER}))?(?:\s+(?P<unit>\D.*))?"
)


def _text(value: float) -> str:
    """All digits of a number: `2000000`, not `2e+06`."""
    return f"{value + 0.0:.9f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Number(Scored):
    """A number from `minimum` to `maximum` (both included) in steps of `step`, in `unit`."""

    minimum: float
    maximum: float
    step: float = 1.0
    unit: str | None = None
    kind: ClassVar[str] = "number"
    settings = (
        Setting("minimum", float, "Smallest allowed value."),
        Setting("maximum", float, "Largest allowed value."),
        Setting("step", float, "Distance between allowed values.", 1.0),
        Setting("unit", str | None, "Unit of the value, as in `people` or `s`.", None, (("max_length", 64),)),
    )
    form = "[0-6], [0-100 step 10 percent]"
    video_rules = ("first", "last", "longest", "mean")
    column = "answer_number"
    most_values: ClassVar[int] = 1001
    """Every value is scored, so the range must be one a clip can be asked about."""

    def __post_init__(self) -> None:
        if not all(isinstance(x, Real) for x in (self.minimum, self.maximum, self.step)):
            raise QuestionError(f"a number's range is made of numbers, got {self.minimum!r}, {self.maximum!r}")
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
        return round(self.minimum + index * self.step, 9)

    def rendered(self) -> tuple[str, ...]:
        return tuple(_text(self.value(i)) for i in range(self.count))

    @property
    def remark(self) -> str | None:
        largest = self.value(self.count - 1)
        if largest == round(self.maximum, 9):
            return None
        said = f"steps of {_text(self.step)} from {_text(self.minimum)} do not reach the maximum {_text(self.maximum)}"
        return f"{said}; the largest answer is {_text(largest)}"

    @classmethod
    def in_brackets(cls, given: str) -> Self | None:
        found = _RANGE.fullmatch(given)
        return found and cls(float(found["low"]), float(found["high"]), float(found["step"] or 1), found["unit"])

    def right_answers(self, cell: str) -> tuple[str, ...]:
        try:
            value = float(cell)
        except ValueError as error:
            raise QuestionError(f"the right answer must be a number, got {cell!r}") from error
        if not self.minimum <= value <= self.maximum:
            raise QuestionError(f"the right answer must be {self.minimum:g} to {self.maximum:g}, got {cell}")
        return (_text(value),)

    def is_right(self, value: object, text: str, right: str, tolerance: float) -> bool:
        return abs(float(str(value)) - float(right)) <= tolerance + 1e-9
