"""Two tables with the same columns compared, row by row in the order of their keys, in flat memory.

Promises: every row that only one of them has, and every value in which they differ, is named once. Knows nothing about
where the rows come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa


def differences(
    table: sa.Table,
    have: Iterator[tuple[Any, ...]],
    want: Iterator[tuple[Any, ...]],
    advance: Callable[[str, int], None],
) -> Iterator[tuple[str, str, str]]:
    """Two tables in the order of their keys, merged: (kind, the row's key, what is wrong)."""
    names = table.c.keys()
    at = [names.index(column.name) for column in table.primary_key]

    def key_of(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(row[i] for i in at)

    ours, theirs = next(have, None), next(want, None)
    while ours is not None or theirs is not None:
        advance("index rows", 1)
        if theirs is None or (ours is not None and key_of(ours) < key_of(theirs)):
            assert ours is not None
            yield "surplus", "/".join(key_of(ours)), "the journal has no such row"
            ours = next(have, None)
        elif ours is None or key_of(theirs) < key_of(ours):
            yield "missing", "/".join(key_of(theirs)), "the journal has it"
            theirs = next(want, None)
        else:
            wrong = [
                f"{name} is {json.dumps(a)[:100]}, by the journal {json.dumps(b)[:100]}"
                for name, a, b in zip(names, ours, theirs, strict=True)
                if a != b
            ]
            if wrong:
                yield "differs", "/".join(key_of(ours)), "; ".join(wrong)
            ours, theirs = next(have, None), next(want, None)
