"""Glob patterns over keys, the same for local folders and S3.

A key is a path with forward slashes, relative to the archive. `*` and `?` match within one name, `**` also across
slashes, `**/` also nothing, `[abc]` and `[!abc]` one of a set, `{mp4,mkv}` one of several. A pattern without a slash is
matched against the file's name in any folder, as in .gitignore; any other against the whole key. Letter case counts but
in a name's extension: `*.mp4` takes `A.MP4`, unless case is to be matched there, too. An accent may be one character or
two, in the pattern as in the key.

Matching takes time linear in the key, whatever the pattern: both come from strangers (RE2, which does not backtrack).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import re2

from pipeline.normal_forms import composed

MAX_PATTERN_CHARS = 1_000


@lru_cache(maxsize=1024)
def compile_glob(pattern: str, match_case: bool = False) -> Any:
    """The pattern as a regular expression over whole keys, for `fullmatch`; without `match_case` extensions are
    compared without case. Raises ValueError where it can match nothing."""
    problem = None
    if not pattern or pattern.startswith("/") or pattern.endswith("/"):
        problem = "keys are relative paths of files, so a pattern neither starts nor ends with a slash"
    elif len(pattern) > MAX_PATTERN_CHARS:
        problem = f"longer than {MAX_PATTERN_CHARS} characters"
    else:
        try:
            return _compiled(composed(pattern if "/" in pattern else f"**/{pattern}"), match_case)
        except (re2.error, ValueError) as error:
            problem = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
    raise ValueError(f"the pattern {pattern!r} cannot be used: {problem}; examples: *.mp4, talks/2024/**")


def _compiled(pattern: str, match_case: bool) -> Any:
    options = re2.Options()
    options.log_errors, options.dot_nl = False, True
    return re2.compile(_translate(pattern, match_case), options)


def _translate(pattern: str, match_case: bool) -> str:
    result, at, in_braces = "", 0, False
    dots: list[int | None] = [None, None]
    """Where an extension begins in the result: outside of braces, and in one of several."""

    def without_case(which: int) -> None:
        nonlocal result
        if (dot := dots[which]) is not None and not match_case:
            result = f"{result[:dot]}(?i:{result[dot:]})"
        dots[which] = None

    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            stars = len(pattern[at - 1 :]) - len(pattern[at - 1 :].lstrip("*"))
            at += stars - 1
            whole = at - stars == 0 or pattern[at - stars - 1] == "/"
            if stars == 1:
                result += "[^/]*"
            elif whole and pattern[at : at + 1] == "/":
                at += 1
                result += "(?:.*/)?"
            else:
                result += ".*"
        elif character == "?":
            result += "[^/]"
        elif character == "[" and (end := pattern.find("]", at + 1 + (pattern[at : at + 1] == "!"))) >= 0:
            result += _one_of(pattern[at:end])
            at = end + 1
        elif character in "{}":
            if in_braces == (character == "{"):
                raise ValueError("braces must come in pairs and cannot be nested")
            without_case(1)
            in_braces = not in_braces
            result += "(?:" if in_braces else ")"
        elif character == "," and in_braces:
            without_case(1)
            result += "|"
        else:
            if character in "./":
                dots[in_braces] = len(result) if character == "." else None
            result += re.escape(character)
    if in_braces:
        raise ValueError("braces must come in pairs and cannot be nested")
    without_case(0)
    return result


def _one_of(inside: str) -> str:
    """A set as a class of characters without the slash."""
    negated = inside.startswith("!")
    ranges, at = [], int(negated)
    while at < len(inside):
        is_range = inside[at + 1 : at + 2] == "-" and at + 2 < len(inside)
        first, last = inside[at], inside[at + 2] if is_range else inside[at]
        if first > last:
            raise ValueError(f"bad character range {first}-{last}")
        ranges.append((ord(first), ord(last)))
        at += 3 if is_range else 1
    slash = ord("/")
    if negated:
        ranges.append((slash, slash))
    else:
        halves = [((first, min(last, slash - 1)), (max(first, slash + 1), last)) for first, last in ranges]
        ranges = [(first, last) for pair in halves for first, last in dict.fromkeys(pair) if first <= last]
    if not ranges:
        raise ValueError("a character range cannot contain a slash")
    listed = "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)
    return f"[{'^' if negated else ''}{listed}]"


class KeyFilter:
    """Which keys are taken: those that match an `include` pattern and no `exclude` pattern."""

    def __init__(self, include: Iterable[str], exclude: Iterable[str], *, match_case: bool = False) -> None:
        excluded = tuple(exclude)
        self._include = [compile_glob(pattern, match_case) for pattern in include]
        self._exclude = [compile_glob(pattern, match_case) for pattern in excluded]
        # A folder of which everything is excluded need not be listed at all.
        folders = [composed(p.removesuffix("/**")) for p in excluded if p.endswith("/**")]
        self._excluded_folders = [_compiled(folder, True) for folder in folders]

    def takes(self, key: str) -> bool:
        """Whether a file counts."""
        key = composed(key)
        return any(p.fullmatch(key) for p in self._include) and not any(p.fullmatch(key) for p in self._exclude)

    def enters(self, folder: str) -> bool:
        """Whether anything below a folder (without a slash at its end) can count."""
        return not any(p.fullmatch(composed(folder)) for p in self._excluded_folders)
