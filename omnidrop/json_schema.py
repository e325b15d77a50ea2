"""JSON Schemas that others wrote: refused before anything is asked, or held to within bounds while answers are checked.

Promises: a schema that passes `check_schema` refers to nothing outside itself and has patterns that RE2 reads, in time
linear in the text; checking a value ends within `MOST_STEPS`, whatever the schema says. Knows nothing about questions
or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

MOST_STEPS = 100_000
"""Keywords that are looked at for one value: a second. A schema of 20 lines can ask for 2^40."""
MOST_DEPTH = 60
"""Keywords within keywords. A schema can refer to itself without end, and Python recurses."""

_VALUES = ("const", "default", "enum", "examples")
"""Keywords that hold values, not schemas."""

_REFERENCES = ("$ref", "$dynamicRef")

Keyword = Callable[[Any, Any, Any, Any], Any]
"""Of jsonschema: (validator, the keyword's value, what is checked, the schema around it) -> errors."""


class TooMuch(ValueError):
    """The schema asks for more than is looked at."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises ValueError where `schema` is not a JSON Schema, or not one that answers can be checked against."""
    import jsonschema
    import referencing.exceptions
    from referencing.jsonschema import DRAFT202012

    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
        nodes = list(_nodes(schema))
        check_references(schema)
    except jsonschema.SchemaError as error:
        at = "/".join(str(part) for part in error.absolute_path) or "its top"
        raise ValueError(f"not a valid JSON Schema: at {at}: {error.message}") from error
    except RecursionError as error:
        raise ValueError("not a valid JSON Schema: nested too deeply") from error
    root = referencing.Registry().resolver_with_root(DRAFT202012.create_resource(dict(schema)))
    for node in nodes:
        for name in _REFERENCES:
            if not isinstance(reference := node.get(name), str):
                continue
            try:
                root.lookup(reference)
            except (referencing.exceptions.Unresolvable, ValueError) as error:
                raise ValueError(f"the schema refers to {reference!r}, which is not in it") from error
        inside = [name for name in ("$id", "$schema") if node is not schema and isinstance(node.get(name), str)]
        if inside:
            raise ValueError(f"the schema has {inside[0]} inside; it can stand at the top alone")
        patterns = [node.get("pattern"), *_patterns(node)]
        for pattern in patterns:
            if isinstance(pattern, str):
                _compiled(pattern)
        if len(patterns) > 1 and "unevaluatedProperties" in node:
            raise ValueError("the schema has unevaluatedProperties beside patternProperties; use additionalProperties")


def check_references(schema: object) -> None:
    """Raises ValueError where `schema` refers to anything outside itself: checking an answer would fetch it."""
    if isinstance(schema, dict):
        for name in _REFERENCES:
            if isinstance(reference := schema.get(name), str) and not reference.startswith("#"):
                raise ValueError(f"the schema refers to {reference!r}; only references inside it (#/...) are allowed")
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        check_references(inner)


def is_valid(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value satisfies a schema that `check_schema` let pass. Raises ValueError where that cannot be said."""
    import jsonschema

    chosen = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    bounded = _bounded(jsonschema.validators.extend(chosen, _IN_RE2))
    # Without its name, by which jsonschema would take its own class again.
    return bool(bounded({name: one for name, one in schema.items() if name != "$schema"}).is_valid(value))


def _bounded(chosen: Any) -> Any:
    """A validator's class, for one value, that gives up."""
    import jsonschema

    steps = depth = 0

    def counted(keyword: Keyword) -> Keyword:
        def look(validator: Any, given: Any, value: Any, schema: Any) -> Iterator[Any]:
            nonlocal steps, depth
            steps, depth = steps + 1, depth + 1
            if steps > MOST_STEPS or depth > MOST_DEPTH:
                raise TooMuch("the answer takes too many steps to check against the schema")
            try:
                yield from keyword(validator, given, value, schema) or ()
            finally:
                depth -= 1

        return look

    return jsonschema.validators.extend(chosen, {name: counted(one) for name, one in chosen.VALIDATORS.items()})


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    import jsonschema

    if validator.is_type(value, "string") and not _compiled(pattern).search(value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(value, "object"):
        for pattern, of_those in patterns.items():
            for name, one in value.items():
                if _compiled(pattern).search(name):
                    yield from validator.descend(one, of_those, path=name, schema_path=pattern)


def _additional_properties(validator: Any, of_others: Any, value: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(value, "object"):
        named, patterns = schema.get("properties", {}), [_compiled(one) for one in _patterns(schema)]
        for name, one in value.items():
            if name not in named and not any(pattern.search(name) for pattern in patterns):
                yield from validator.descend(one, of_others, path=name)


_IN_RE2 = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
"""In place of jsonschema's own, which search with Python's `re`: some patterns take it for ever."""


def _patterns(node: Mapping[str, Any]) -> list[str]:
    found = node.get("patternProperties")
    return list(found) if isinstance(found, dict) else []


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    import re2

    quiet = re2.Options()
    quiet.log_errors = False
    try:
        return re2.compile(pattern, quiet)
    except re2.error as error:
        raise ValueError(f"the schema has a pattern that is not read here: {pattern!r}: {error}") from error


def _nodes(node: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = [inner for name, inner in node.items() if name not in _VALUES]
    for inner in node if isinstance(node, list) else ():
        yield from _nodes(inner)
