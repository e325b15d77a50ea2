"""Odd texts of published benchmarks: candidate lists as Python, NumPy, JSON or prose, letters, and prompts.

Promises: a list that a person can read is read, whatever its quotes and commas; what cannot be read is an error that
shows it. Knows nothing about files, videos or models.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence

from omnidrop.answer_types import normalised
from pipeline.evaluation.dataset import EvaluationError
from pipeline.evaluation.scoring import LETTERS

_LABEL = re.compile(r"^\s*\(?([A-Z])\s*[.):、]\s*(.*)$", re.DOTALL)
_INLINE = re.compile(r"(?:(?<=^)|(?<=[\s,;'\"\[(|]))\(?([A-Z])\s*[.)]\s*")
_LIST = re.compile(r"^[^'\"\[]*\[(.*)\][\s,\w=)]*$", re.DOTALL)
"""A list with what Python writes around it, as in array([...], dtype=object)."""
_OPENING = "'\"‘“"
_CLOSING = {"'": "'", '"': '"', "‘": "’", "“": "”"}


def options_of(given: object) -> tuple[str, ...]:
    """The options without their letters, from a list, or a string that holds one in any usual spelling.

    Read are JSON, Python and NumPy lists (NumPy writes no commas), quotes within quotes, lines, and options that only
    their letters tell apart. Raises EvaluationError for fewer than two, and for more than there are letters.
    """
    if isinstance(given, str):
        readings = [
            reading for reading in (_literal(given), _quoted(given), _lettered(given), _lines(given)) if reading
        ]
        # Python joins neighbouring strings, so a NumPy list can come out as one option: lettered readings win.
        best = next((r for r in readings if len(r) > 1 and is_lettered(r)), None)
        parts = best or max(readings, key=len, default=[])
    elif isinstance(given, Iterable):
        parts = [str(part) for part in given if part is not None]
    else:
        parts = []
    parts = [part.strip() for part in parts if part.strip()]
    if is_lettered(parts):
        parts = [match[2].strip() for part in parts if (match := _LABEL.match(part))]
    if not 2 <= len(parts) <= len(LETTERS):
        raise EvaluationError(f"cannot read at least two options from {str(given)[:200]!r}")
    return tuple(parts)


def is_lettered(parts: Sequence[str]) -> bool:
    """Whether every part carries its letter, A first, in order."""
    labels = [match[1] if (match := _LABEL.match(part)) else "" for part in parts]
    return bool(parts) and labels == list(LETTERS[: len(parts)])


def answer_letter(given: object, options: Sequence[str]) -> str:
    """The right option's letter, from a letter in any spelling or the option's own words. Raises EvaluationError."""
    text, allowed = str(given).strip(), LETTERS[: len(options)]
    labelled = re.match(r"^\(?([A-Za-z])\)?(?:[.:)\s]|$)", text)
    same = [letter for letter, option in zip(allowed, options, strict=True) if normalised(option) == normalised(text)]
    if len(same) == 1:
        return same[0]
    if labelled and labelled[1].upper() in allowed:
        return labelled[1].upper()
    raise EvaluationError(f"the answer {text[:100]!r} is none of the options {', '.join(allowed)}")


def prompt(question: str, options: Sequence[str], head: str, before_options: str, tail: str) -> str:
    """A multiple-choice prompt: sentence, question, lettered options, request."""
    listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    request = tail.format(letters=", ".join(LETTERS[: len(options)]))
    return "\n".join(part for part in (head, question.strip(), before_options, *listed, request) if part)


def names_in(given: object) -> tuple[str, ...]:
    """Class names from a field that holds one, or a list of them in any spelling; empty where there is none."""
    if given is None:
        return ()
    if not isinstance(given, str):
        return tuple(str(part).strip() for part in given) if isinstance(given, Iterable) else (str(given),)
    text = given.strip()
    if text.startswith("["):
        return tuple(part.strip() for part in (_literal(text) or _quoted(text)) if part.strip())
    return (text,) if text else ()


def _literal(text: str) -> list[str]:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            return [f"{letter}. {part}" for letter, part in value.items()]
        if isinstance(value, list | tuple):
            return [str(part) for part in value]
    return []


def _quoted(text: str) -> list[str]:
    """Quoted strings, where a quote ends only before a comma, another opening quote or the end of the list."""
    whole = _LIST.match(text)
    inner, parts, at = (whole[1] if whole else text).strip().lstrip("[(").rstrip(")]"), [], 0
    while at < len(inner):
        opening = inner[at]
        if opening not in _OPENING:
            at += 1
            continue
        closing, end = _CLOSING[opening], at + 1
        while end < len(inner):
            if inner[end] == closing and inner[end - 1] != "\\" and re.match(r"\s*(,|$|[\s]['\"‘“])", inner[end + 1 :]):
                break
            end += 1
        parts.append(inner[at + 1 : end].replace("\\'", "'").replace('\\"', '"'))
        at = end + 1
    return parts


def _lettered(text: str) -> list[str]:
    """Split before A, B, C, ... in this order, wherever each comes first after the one before."""
    starts: list[tuple[int, int]] = []
    for match in _INLINE.finditer(text):
        if match[1] == LETTERS[len(starts) % len(LETTERS)]:
            starts.append((match.start(), match.end()))
    ends = [*(start for start, _ in starts), len(text)][1:]
    return [
        f"{LETTERS[number]}. " + text[begin:end].strip(" \t\r\n,;|'\"[]")
        for number, ((_, begin), end) in enumerate(zip(starts, ends, strict=True))
    ]


def _lines(text: str) -> list[str]:
    inner = text.strip().strip("[]()")
    for separator in ("\n", "|", ";", ","):
        parts = [part.strip(" \t\r'\"") for part in inner.split(separator)]
        if len([part for part in parts if part]) > 1:
            return [part for part in parts if part]
    return []
