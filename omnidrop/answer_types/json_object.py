"""A JSON object of a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omnidrop.answer_types.base import Setting, Unreadable, Written
from omnidrop.errors import QuestionError
from omnidrop.json_schema import check_references, check_schema, is_valid
from omnidrop.json_text import parse_json


@dataclass(frozen=True)
class Json(Written):
    """A JSON object that satisfies the JSON Schema `schema_json` (a JSON string, so that the value stays hashable)."""

    schema_json: str
    max_tokens: int = 256
    kind: ClassVar[str] = "json"
    settings = (
        Setting("schema", dict[str, Any], "JSON Schema that the answer must satisfy."),
        Setting("max_tokens", int, "Longest answer in tokens.", 256),
    )
    is_searched = True
    is_compared = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schema_json, str):
            raise QuestionError(f"the JSON schema is given as text (json.dumps), got {type(self.schema_json).__name__}")
        try:
            schema = json.loads(self.schema_json)
            # Also of one that is read back from results.
            check_references(schema)
        except json.JSONDecodeError as error:
            raise QuestionError(f"the JSON schema is not JSON: {error}") from error
        except RecursionError as error:
            raise QuestionError("the JSON schema is nested too deeply") from error
        except ValueError as error:
            raise QuestionError(str(error)) from error
        if not isinstance(schema, dict):
            raise QuestionError(f"the JSON schema must be an object, got {type(schema).__name__}")

    @property
    def schema(self) -> dict[str, Any]:
        """The schema as a dictionary (a fresh copy)."""
        loaded: dict[str, Any] = json.loads(self.schema_json)
        return loaded

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        try:
            return cls(json.dumps(fields["schema"], sort_keys=True), fields["max_tokens"])
        except RecursionError as error:
            raise QuestionError("the JSON schema is nested too deeply") from error

    @classmethod
    def from_file(cls, fields: Mapping[str, Any]) -> Self:
        _check_schema(fields["schema"])
        return cls.from_dict(fields)

    def read(self, text: str) -> object:
        try:
            value = parse_json(text, is_strict=True)
            valid = is_valid(value, self.schema)
        except (ValueError, RecursionError) as error:
            raise Unreadable("json_invalid") from error
        if not valid:
            raise Unreadable("json_invalid")
        return value


def _check_schema(schema: dict[str, Any]) -> None:
    try:
        check_schema(schema)
    except ValueError as error:
        raise QuestionError(str(error)) from error
