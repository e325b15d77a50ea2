"""Turns pydantic's validation errors into sentences for people: where, which field, what is wrong, what is allowed.

Promises: one sentence per problem with file, line and column where there is a file; misspelt fields get the nearest
name; values of fields that are named like credentials are never repeated. Knows nothing about what the fields mean.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.config.locations import NO_CREDENTIALS, SECRET_NAME, SecretFreeError
from pipeline.config.yaml_source import FieldPath, YamlDocument, dotted


def explain(
    error: ValidationError,
    model: type[BaseModel],
    given: Any,
    *,
    document: YamlDocument | None = None,
    overridden: Iterable[FieldPath] = (),
) -> list[str]:
    """One sentence per problem. `overridden` are the fields that came from command-line options, not from the file."""
    options = tuple(overridden)
    sentences = []
    problems = error.errors(include_url=False)
    for problem in problems:
        if problem["type"] == "too_short" and _has_problems_inside(problem["loc"], problems):
            continue  # pydantic counts only the members that are right
        field = _written_path(problem["loc"], given, keep_last=problem["type"] in ("missing", "extra_forbidden"))
        if any(field[: len(option)] == option for option in options):
            where = f"option {option_name(field)}: "
        else:
            where = f"{document.where(field)}: " if document else ""
        name = dotted(field)
        sentences.append(where + (f"{name}: " if name else "") + _sentence(problem, field, model))
    return list(dict.fromkeys(sentences))


def joined(sentences: Sequence[str]) -> str:
    """One message of all sentences."""
    if len(sentences) == 1:
        return sentences[0]
    return f"{len(sentences)} problems:\n" + "\n".join(f"  {sentence}" for sentence in sentences)


def option_name(field: FieldPath) -> str:
    """The command-line option of a field: `clips.length_s` -> `--clips-length-s`."""
    return "--" + "-".join(str(part).replace("_", "-") for part in field)


def _has_problems_inside(location: tuple[int | str, ...], problems: Sequence[Any]) -> bool:
    return any(len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in problems)


def _sentence(problem: Any, field: FieldPath, model: type[BaseModel]) -> str:
    kind = problem["type"]
    section, info = _declaration(model, problem["loc"])
    if kind == "extra_forbidden":
        last = str(field[-1])
        if SECRET_NAME.search(last):
            return NO_CREDENTIALS
        allowed = list(section.model_fields)
        close = difflib.get_close_matches(last, allowed, n=1)
        return f"there is no such field; {f'did you mean {close[0]}? ' if close else ''}allowed: {', '.join(allowed)}"
    about = f" ({info.description})" if info is not None and info.description else ""
    if kind == "missing":
        return f"is missing{about}"
    context = problem.get("ctx") or {}
    if kind == "union_tag_invalid":
        tag, tags = context["tag"], [text.strip("' ") for text in context["expected_tags"].split(",")]
        close = difflib.get_close_matches(tag, tags, n=1)
        return f"there is no type {tag!r}; {f'did you mean {close[0]}? ' if close else ''}allowed: {', '.join(tags)}"
    cause = context.get("error")
    message = str(cause) if isinstance(cause, ValueError) else str(problem["msg"])
    message = _in_yaml(kind, problem["input"], context) or message[:1].lower() + message[1:]
    if isinstance(cause, SecretFreeError):
        return f"{message}{about}"
    if kind == "less_than_equal" and context["le"] == 1 and (share := _percent(problem["input"])) is not None:
        message += f" ({problem['input']} % is written {share:g})"
    if kind == "literal_error":
        allowed = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        close = difflib.get_close_matches(str(problem["input"]), allowed, n=1)
        message += f"; did you mean {close[0]}?" if close else ""
    given = f"; given: {shown(problem['input'])}" if field else ""
    return f"{message}{given}{about}"


def _in_yaml(kind: str, given: object, context: Mapping[str, Any]) -> str | None:
    """What is wrong in the words of a file; None where pydantic's words will do, which are those of Python."""
    if given is None and kind.endswith("_type"):
        return "there is no value; give one, or remove the line"
    if kind == "string_type":
        return "must be text; put it in quotes" if isinstance(given, int | float) else "must be text"
    if kind in ("tuple_type", "list_type"):
        return (
            "must be a list, as in [one, two]" if isinstance(given, Mapping) else f"must be a list, as in [{given!r}]"
        )
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "must have fields of its own, as in {name: value}"
    if kind == "union_tag_not_found":
        name = str(context["discriminator"]).strip("'")
        return f"does not say its {name}, as in {{{name}: ...}}"
    if kind in ("too_short", "too_long"):
        few = kind == "too_short"
        return f"needs {'at least' if few else 'at most'} {context['min_length' if few else 'max_length']} of them"
    return "is not written as it must be" if kind == "string_pattern_mismatch" else None


def _percent(given: object) -> float | None:
    """What a person means who writes 30 for a share."""
    try:
        share = float(str(given)) / 100
    except ValueError:
        return None
    return share if 0.01 < share <= 1 else None


def shown(value: object) -> str:
    """A value as it can stand in a message: short, and of mappings only the names."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(str(key) for key in value) + "}"
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _written_path(location: tuple[int | str, ...], given: Any, *, keep_last: bool) -> FieldPath:
    """The location without the names of union members, which pydantic adds and the user has not written."""
    path: list[int | str] = []
    value = given
    for depth, part in enumerate(location):
        inside_list = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if inside_list or (isinstance(value, Mapping) and part in value):
            value = value[part]
        elif not (keep_last and depth == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _declaration(model: type[BaseModel], location: Sequence[int | str]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The innermost model on the way to `location`, and the declaration of its field that lies on that way."""
    section, info = model, None
    kinds: tuple[Any, ...] = (model,)
    for part in location:
        if isinstance(part, int):
            continue
        section = next((kind for kind in kinds if _is_model(kind)), section)
        if (found := section.model_fields.get(part)) is not None and any(_is_model(kind) for kind in kinds):
            info, kinds = found, _members(found.annotation)
        elif tagged := [kind for kind in kinds if _tag(kind) == part]:
            kinds = tuple(tagged)
            section = tagged[0]
        elif _is_model(section) and section in kinds:
            return section, None
    return section, info


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tag(kind: Any) -> str | None:
    if not _is_model(kind) or (field := kind.model_fields.get("type")) is None:
        return None
    values = typing.get_args(field.annotation)
    return str(values[0]) if values else None


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types inside unions, tuples and annotations; scalars and models come out as they are."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, tuple, list, typing.Annotated):
        arguments = typing.get_args(annotation)
        inner = arguments[:1] if origin is typing.Annotated else arguments
        return tuple(member for argument in inner if argument is not ... for member in _members(argument))
    return (annotation,)
