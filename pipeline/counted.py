"""A number with its noun, as every message says it."""

from __future__ import annotations


def counted(value: int, noun: str) -> str:
    """1, "clip" -> "1 clip"; 1200, "clip" -> "1,200 clips"."""
    return f"{value:,} {noun if value == 1 else noun + 's'}"
