"""Waiting for what is full or gone for a while: a store that does not answer, a disk without room.

Promises: a caller that meets such a failure retries with growing pauses, up to a limit; while any caller waits,
`is_waiting` says so, and the run takes nothing new; when one reaches the limit, all end at once, with what was wrong
and what to do. Knows nothing about stores, disks or Ray: a failure that may pass is an `Unavailable`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.storage.errors import Unavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Pauses double up to this: a store that comes back is noticed soon, one that is down is not hammered."""
LOOK_S = 0.5
"""How soon a stop, or another's giving up, ends a pause."""

Given = TypeVar("Given")


class StopFlag(Protocol):
    """What a SIGTERM handler sets; `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether the run should take no further units."""
        ...


@dataclass(frozen=True)
class EitherFlag:
    """Set when one of two flags is."""

    one: StopFlag
    other: StopFlag

    def is_set(self) -> bool:
        """Whether to stop."""
        return self.one.is_set() or self.other.is_set()


class Patience:
    """One run's waiting, shared by its threads."""

    def __init__(self, limit_s: float, stop: StopFlag | None = None, stop_grace_s: float = 0.0) -> None:
        """Whoever fails waits up to `limit_s`; after a stop, up to `stop_grace_s`."""
        self.limit_s, self._stop, self._grace_s = limit_s, stop, stop_grace_s
        self._lock = threading.Lock()
        self._waiting = 0
        self._over = threading.Event()
        self._given_up: Unavailable | None = None
        self._since: float | None = None
        self._due, self._pause_s = 0.0, FIRST_PAUSE_S

    def is_waiting(self) -> bool:
        """Whether any caller is waiting. Raises the failure if the limit was reached."""
        if self._given_up is not None:
            raise self._given_up
        return self._waiting > 0 or time.monotonic() < self._due

    def refused(self, error: Unavailable) -> None:
        """Note a failure without waiting here, for a loop that has other things to do: `is_waiting` until the next try
        is due. Raises the failure, amended, when it has lasted too long.
        """
        now = time.monotonic()
        if self._since is None:
            log.warning("waiting up to %g s, nothing new is begun meanwhile: %s", self.limit_s, error)
            self._since, self._pause_s = now, FIRST_PAUSE_S
        if now < self._due:
            return
        if now - self._since > self.limit_s:
            raise self._give_up(error)
        self._due = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def succeeded(self) -> None:
        """What was `refused` goes again."""
        self._since, self._due = None, 0.0

    def call(self, attempt: Callable[[], Given]) -> Given:
        """What `attempt` gives, tried again while it raises Unavailable; raises that in the end, amended.

        Once any caller has reached the limit, nothing is retried: the run ends.
        """
        self.is_waiting()
        try:
            return attempt()
        except Unavailable as error:
            last = error
        with self._noted(last):
            for _ in self._pauses():
                try:
                    return attempt()
                except Unavailable as error:
                    last = error
            raise self._give_up(last)

    def listing(
        self, make: Callable[[], Iterable[Given]], key: Callable[[Given], str], has_answered: bool = False
    ) -> Iterator[Given]:
        """A listing in ascending order of keys, which after a failure goes on where it stopped.

        Of a place that has not answered before, one that fails before anything came is not waited for: that is a wrong
        address more often than an outage.
        """
        self.is_waiting()
        remaining = iter(make())
        last: str | None = None

        def rest() -> tuple[Iterator[Given], Given | None]:
            again = (item for item in make() if last is None or key(item) > last)
            return again, next(again, None)

        while True:
            try:
                item = next(remaining, None)
            except Unavailable as error:
                if last is None and not has_answered:
                    raise
                log.warning("a listing failed after %s and is resumed: %s", last or "no key", error)
                remaining, item = self.call(rest)
            if item is None:
                return
            last = key(item)
            yield item

    @contextmanager
    def _noted(self, error: Unavailable) -> Iterator[None]:
        log.warning("waiting up to %g s, nothing new is begun meanwhile: %s", self.limit_s, error)
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _pauses(self) -> Iterator[None]:
        started, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            wake = time.monotonic() + pause_s * random.uniform(0.75, 1.25)
            while (now := time.monotonic()) < wake:
                is_stopping = self._stop is not None and self._stop.is_set()
                limit_s = min(self.limit_s, self._grace_s) if is_stopping else self.limit_s
                if self._over.is_set() or now - started > limit_s:
                    return
                self._over.wait(min(LOOK_S, wake - now))
            yield
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _give_up(self, error: Unavailable) -> Unavailable:
        with self._lock:
            if self._given_up is None:
                self._given_up = type(error)(
                    f"{error} (waited {self.limit_s:g} s for it: storage.patience_s). What is finished is kept; run "
                    "again to go on from there"
                )
                self._given_up.__cause__ = error
            self._over.set()
            return self._given_up
