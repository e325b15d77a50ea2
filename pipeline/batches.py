"""Iterables in pieces, and iterables read ahead in a thread of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")

LEAVE_S = 10.0
"""Seconds to wait for a busy reader once its items are no longer needed."""


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items, the last one shorter; nothing is read ahead of the list being yielded."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def batches_within(items: Iterable[_T], size: int, most: int, weigh: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Lists of up to `size` items that together weigh up to `most`, or of one that weighs more."""
    batch: list[_T] = []
    weight = 0
    for item in items:
        own = weigh(item)
        if batch and (len(batch) == size or weight + own > most):
            yield batch
            batch, weight = [], 0
        batch.append(item)
        weight += own
    if batch:
        yield batch


def ahead(items: Iterable[_T], most: int, wait_s: float = 0.05) -> Generator[_T | None]:
    """The same items, read in a thread that is at most `most` items ahead; what it raises is raised here.

    Yields None if there was no item for `wait_s`, so that the caller can do something else meanwhile.
    """
    ready: queue.Queue[tuple[_T] | BaseException | None] = queue.Queue(most)
    unwanted = threading.Event()

    def put(item: tuple[_T] | BaseException | None) -> None:
        while not unwanted.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for item in items:
                put((item,))
                if unwanted.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            put(error)

    reader = threading.Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while True:
            try:
                got = ready.get(timeout=wait_s)
            except queue.Empty:
                yield None
                continue
            if got is None:
                return
            if isinstance(got, BaseException):
                raise got
            yield got[0]
    finally:
        unwanted.set()
        reader.join(LEAVE_S)
