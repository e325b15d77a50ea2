"""Glob patterns over keys, the same for local folders and S3.

A key is a path with forward slashes, relative to the archive. `*` and `?` match within one name, `**` also across
slashes, `**/` also nothing, `[abc]` and `[!abc]` one of a set, `{mp4,mkv}` one of several. A pattern without a slash is
matched against the file's name in any folder, as in .gitignore; any other against the whole key. Letter case counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

MAX_PATTERN_CHARS = 1_000


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression over whole keys. Raises ValueError where it can match nothing."""
    problem = None
    if not pattern or pattern.startswith("/") or pattern.endswith("/"):
        problem = "keys are relative paths of files, so a pattern neither starts nor ends with a slash"
    elif len(pattern) > MAX_PATTERN_CHARS:
        problem = f"longer than {MAX_PATTERN_CHARS} characters"
    else:
        try:
            return re.compile(_translate(pattern if "/" in pattern else f"**/{pattern}"), re.DOTALL)
        except (re.error, ValueError) as error:
            problem = str(error)
    raise ValueError(f"the pattern {pattern!r} cannot be used: {problem}; examples: *.mp4, talks/2024/**")


def _translate(pattern: str) -> str:
    result, at, in_braces = "", 0, False
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
            inside = pattern[at:end]
            at = end + 1
            negated = inside.startswith("!")
            escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[negated:])
            result += f"(?!/)[{'^' if negated else ''}{escaped}]"
        elif character in "{}":
            if in_braces == (character == "{"):
                raise ValueError("braces must come in pairs and cannot be nested")
            in_braces = not in_braces
            result += "(?:" if in_braces else ")"
        elif character == "," and in_braces:
            result += "|"
        else:
            result += re.escape(character)
    if in_braces:
        raise ValueError("braces must come in pairs and cannot be nested")
    return result


class KeyFilter:
    """Which keys are taken: those that match an `include` pattern and no `exclude` pattern."""

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        excluded = tuple(exclude)
        self._include = [compile_glob(pattern) for pattern in include]
        self._exclude = [compile_glob(pattern) for pattern in excluded]
        # A folder of which everything is excluded need not be listed at all.
        folders = [p.removesuffix("/**") for p in excluded if p.endswith("/**")]
        self._excluded_folders = [re.compile(_translate(folder), re.DOTALL) for folder in folders]

    def takes(self, key: str) -> bool:
        """Whether a file counts."""
        return any(p.fullmatch(key) for p in self._include) and not any(p.fullmatch(key) for p in self._exclude)

    def enters(self, folder: str) -> bool:
        """Whether anything below a folder (without a slash at its end) can count."""
        return not any(p.fullmatch(folder) for p in self._excluded_folders)
