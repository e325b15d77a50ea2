"""What the registries of policies, model families and answer types share: an entry for a while.

Promises: afterwards the table is as it was, in its order. Knows nothing about what is registered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def registered_in(table: dict[str, _T], name: str, entry: _T) -> Iterator[None]:
    """Have `entry` in the table while the block runs, in place of one of that name."""
    before = dict(table)
    table[name] = entry
    try:
        yield
    finally:
        table.clear()
        table.update(before)
