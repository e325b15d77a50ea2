"""The types of answers by name.

Promises: adding a type is one file beside this one and its entry in `_TYPES`, or `registered` from elsewhere. Knows
nothing about what a type means.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from omnidrop.answer_types.base import AnswerType
from omnidrop.answer_types.boolean import Boolean
from omnidrop.answer_types.choice import Choice
from omnidrop.answer_types.json_object import Json
from omnidrop.answer_types.number import Number
from omnidrop.answer_types.text import Text
from omnidrop.errors import QuestionError
from omnidrop.registries import registered_in

_TYPES: dict[str, type[AnswerType]] = {one.kind: one for one in (Choice, Boolean, Number, Text, Json)}
"""In the order in which messages list them."""


def registered(answer_type: type[AnswerType]) -> AbstractContextManager[None]:
    """Make a type available while the block runs: for experiments."""
    return registered_in(_TYPES, answer_type.kind, answer_type)


def all_types() -> tuple[type[AnswerType], ...]:
    """Every type."""
    return tuple(_TYPES.values())


def type_named(kind: str) -> type[AnswerType]:
    """The type of a name. Raises QuestionError naming what is allowed."""
    if (found := _TYPES.get(kind)) is None:
        raise QuestionError(f"unknown answer type {kind!r}; allowed: {', '.join(_TYPES)}")
    return found


def column_of(kind: str) -> str | None:
    """The typed column of a stored answer, None where it has none or its type is not known here."""
    found = _TYPES.get(kind)
    return None if found is None else found.column


def kinds(wanted: Callable[[type[AnswerType]], bool]) -> list[str]:
    """Names of the types for which `wanted` holds, as queries take them."""
    return [kind for kind, answer_type in _TYPES.items() if wanted(answer_type)]
