"""A lease on one job's runs, kept in the output's store: only its holder may run, all others wait.

Promises: of any number of processes on any machines at most one believes that it holds a job's lease, as long as their
clocks differ by less than a third of `LEASE_S`; a holder that dies loses it after `LEASE_S`; each lease has a larger
token than all before it. A holder that can no longer be sure (`is_set`) must begin nothing new. It saves money, not
rows: of two runs at once the journal keeps each unit once (`pipeline/journal/`), but both would have paid for it.
Knows nothing about runs or schedules.

    schedules/<job>/leases/<token>.json    holder, expiry; the largest token counts

A token is taken by creating its object, which only one can do (`Store.write_once`); only its taker writes it again.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from omnidrop.json_text import parse_json
from pipeline.storage.errors import StorageError
from pipeline.storage.store import Store

log = logging.getLogger(__name__)

AHEAD = 3
"""A lease that ends later than so many of its lengths from now was written by a clock that was wrong. A holder that
lives sees that it was taken over, and begins nothing more."""
LEASE_S = 90.0
"""How long a lease lasts that is not renewed: a killed holder keeps the others waiting for so long."""


@dataclass(frozen=True)
class LeaseRecord:
    """What a lease's object says. Times are seconds of Unix time."""

    token: int
    holder: str
    """Machine, process and a random word: no two takers write the same."""
    expires_at_s: float


def take_lease(store: Store, job: str, lease_s: float = LEASE_S) -> Lease | None:
    """The lease on a job's runs, or None while another process holds it. Raises StorageError."""
    newest, now = newest_lease(store, job), time.time()
    if newest is not None and now < newest.expires_at_s < now + AHEAD * max(lease_s, LEASE_S):
        return None
    if newest is not None and newest.expires_at_s > now:
        log.warning(
            "lease %d of job %s ends in %.0f s, longer than any lease lasts, so a clock was wrong; taking it over",
            *(newest.token, job, newest.expires_at_s - now),
        )
    token = 1 if newest is None else newest.token + 1
    lease = Lease(store, job, token, lease_s)
    if not lease._create():
        return None
    # Smaller tokens have done their work: what counts is that the next one is larger.
    store.delete([key for key in list(_keys(store, job)) if key < _key(job, token)])
    return lease


def newest_lease(store: Store, job: str) -> LeaseRecord | None:
    """The lease with the largest token, held or not; None before the first."""
    for key in reversed(list(_keys(store, job))):
        try:
            return LeaseRecord(**parse_json(store.read_bytes(key)))
        except FileNotFoundError:
            continue  # its successor's taker has just deleted it
        except (TypeError, ValueError) as error:
            raise StorageError(
                f"{store.uri}/{key} is not a lease ({error}); delete it when no run of the job goes on"
            ) from error
    return None


class Lease:
    """A lease that is held, renewed by a thread while the `with` block runs and given back at its end.

    It is a `StopFlag`: set once the lease is lost or could not be renewed in time.
    """

    def __init__(self, store: Store, job: str, token: int, lease_s: float) -> None:
        self._store, self._job, self._lease_s = store, job, lease_s
        self.token = token
        self.missed = 0
        """Due times that a run under this lease makes up for."""
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        self._over = threading.Event()
        self._is_taken_over = False
        self._expires_at_s = 0.0
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def is_set(self) -> bool:
        """Whether the lease is lost: another took it, or it may have run out.

        A holder gives up a third of the lease before others may take it: that is how far clocks may differ.
        """
        # The wall clock, which the others go by, and which goes on while a machine sleeps.
        return self._is_taken_over or time.time() > self._expires_at_s - self._lease_s / 3

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self.is_set():
            return
        try:
            self._write(0.0)
        except StorageError as failure:
            log.warning("the lease could not be released and will expire on its own: %s", failure)

    def _create(self) -> bool:
        self._expires_at_s = time.time() + self._lease_s
        data = self._data(self._expires_at_s)
        key = _key(self._job, self.token)
        # Read again: a server that ignores If-None-Match lets several believe that they were first.
        return self._store.write_once(key, data) and self._store.read_bytes(key) == data

    def _keep(self) -> None:
        pause_s = self._lease_s / 5
        while not self._over.wait(pause_s):
            if self.is_set():
                return
            try:
                self._renew()
            except StorageError as error:
                log.warning("the lease could not be renewed, retrying in %.0f s: %s", pause_s, error)

    def _renew(self) -> None:
        expires_at_s = time.time() + self._lease_s
        # First written, then looked for a successor: one that came before this write is seen, a later one sees it.
        self._write(expires_at_s)
        if any(key > _key(self._job, self.token) for key in _keys(self._store, self._job)):
            self._is_taken_over = True
            log.warning(
                "the lease with token %d was taken over by another process; this run starts no new work", self.token
            )
        elif not self.is_set():
            self._expires_at_s = expires_at_s

    def _write(self, expires_at_s: float) -> None:
        self._store.write(_key(self._job, self.token), self._data(expires_at_s))

    def _data(self, expires_at_s: float) -> bytes:
        return json.dumps(asdict(LeaseRecord(self.token, self._holder, expires_at_s))).encode()


def _key(job: str, token: int) -> str:
    return f"schedules/{job}/leases/{token:012d}.json"


def _keys(store: Store, job: str) -> list[str]:
    return [key for key, _ in store.list(f"schedules/{job}/leases/") if key.endswith(".json")]
