"""Iterables in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items, the last one shorter; nothing is read ahead of the list being yielded."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
