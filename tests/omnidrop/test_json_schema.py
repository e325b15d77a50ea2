"""Schemas of a stranger's question set: refused, or checked against in bounded time."""

from __future__ import annotations

import contextlib
import json
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop.answer_types.base import Unreadable
from omnidrop.errors import QuestionError
from omnidrop.json_schema import check_schema, is_valid
from omnidrop.questions import Json

DOUBLED = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {"type": "string"}}
ENDLESS = {"anyOf": [{"properties": {"x": {"$ref": "#"}}, "required": ["y"]}] * 2}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"pattern": "^(a+)+$|!$"}, "a" * 60 + "?"),
        ({"patternProperties": {"^(a+)+$": {"type": "integer"}}}, json.dumps({"a" * 60 + "!": 1})),
        ({"patternProperties": {"^(a+)+$": True}, "additionalProperties": False}, json.dumps({"a" * 60 + "!": 1})),
        ({"$defs": DOUBLED, "$ref": "#/$defs/a0"}, "1"),
        (ENDLESS, '{"x":' * 50 + "1" + "}" * 50),
        ({"not": {"$ref": "#"}}, "1"),
        ({"$ref": "#"}, "1"),
    ],
)
def test_no_schema_holds_the_model_that_answers(schema, text):
    question = Json.from_file({"schema": schema, "max_tokens": 256})
    started = time.process_time()
    with contextlib.suppress(Unreadable):
        question.read(text if text[0] in '{1"' else json.dumps(text))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#/nowhere"}, "refers to '#/nowhere', which is not in it"),
        ({"$dynamicRef": "#nowhere"}, "refers to '#nowhere', which is not in it"),
        ({"properties": {"x": {"$ref": "http://127.0.0.1:9/"}}}, "only references inside it"),
        ({"pattern": "(?=a)b"}, "a pattern that is not read here"),
        ({"patternProperties": {r"(a)\1": {}}}, "a pattern that is not read here"),
        ({"properties": {"x": {"$schema": "https://json-schema.org/draft/2020-12/schema"}}}, "has \\$schema inside"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "use additionalProperties"),
    ],
)
def test_schemas_that_cannot_be_checked_against_are_refused(schema, said):
    with pytest.raises(QuestionError, match=said):
        Json.from_file({"schema": schema, "max_tokens": 256})


KEYS = st.sampled_from(["a", "ab", "b", "ba"])
VALUES = st.one_of(st.integers(-2, 2), KEYS, st.dictionaries(KEYS, st.integers(-2, 2), max_size=3))
SCHEMAS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "string", "integer"]),
        "pattern": st.sampled_from(["^a", "b$", "a|b"]),
        "properties": st.dictionaries(KEYS, st.just({"type": "integer"}), max_size=2),
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), st.just({"minimum": 0}), max_size=2),
        "additionalProperties": st.sampled_from([True, False, {"maximum": 1}]),
    },
)


@settings(max_examples=40)
@given(SCHEMAS, VALUES)
def test_values_are_valid_as_for_jsonschema_itself(schema, value):
    check_schema(schema)
    assert is_valid(value, schema) == jsonschema.Draft202012Validator(schema).is_valid(value)
