"""What makes two recipes differ, in words.

Promises: every setting that differs is named with its value before and now. Knows nothing about media.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN_CHARS = 40
_ABSENT = object()
_NAMED = {"pruning.settings.read_left_out": "pruning.read_left_out"}
"""Fields of a recipe that a job has under another name."""
_OFF = {"pruning.read_left_out": False}
"""Fields that a recipe has only where they are on."""


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes two recipes differ, one sentence a setting, as `pruning.retained_ratio 0.3 -> 0.2`."""
    if then.get("kind") != now.get("kind"):
        return ["it was asked by a version of omnidrop that kept its settings otherwise"]
    before, after = _OFF | dict(_flat(then)), _OFF | dict(_flat(now))
    said = []
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if one != other and not name.startswith(("questions.", "passes")):
            said.append(f"{name} {_shown(one)} -> {_shown(other)}")
    return said or _changed_questions(then["questions"], now["questions"])


def _changed_questions(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    said = {
        "added": [name for name in now if name not in then],
        "worded or typed otherwise": [name for name in now if name in then and then[name] != now[name]],
        "removed": [name for name in then if name not in now],
    }
    found = [f"questions {how}: {', '.join(names)}" for how, names in said.items() if names]
    return found or ["the questions share other passes"]


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield _NAMED.get(f"{prefix}{name}", f"{prefix}{name}"), value


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not given"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}..."
