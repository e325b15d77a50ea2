"""A proxy in front of a store that is as far away as stores are: a wait before each reply, and so many bytes a second
on each connection. A process of its own, so that what it takes is not taken from what is measured.

Promises: bytes pass as they are, in order. Knows nothing about HTTP.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

BLOCK_BYTES = 1 << 18
START_S = 30.0


@contextlib.contextmanager
def slow_store(address: str, *, latency_s: float, bytes_per_s: float) -> Iterator[str]:
    """The proxy's address while the block lasts."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, address, latency_s, bytes_per_s), daemon=True)
    process.start()
    try:
        if not ours.poll(START_S):
            raise RuntimeError("the proxy did not start")
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()


def _serve(told: Connection, address: str, latency_s: float, bytes_per_s: float) -> None:
    to = urlsplit(address)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told.send(listening.getsockname()[1])
        while True:
            client, _ = listening.accept()
            server = socket.create_connection((to.hostname, to.port or 80))
            threading.Thread(target=_pump, args=(client, server, latency_s, 0.0), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, 0.0, bytes_per_s), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, wait_s: float, bytes_per_s: float) -> None:
    """Threads and one buffer each: half of what asyncio's streams take of a core that is wanted elsewhere."""
    block, due = memoryview(bytearray(BLOCK_BYTES)), time.monotonic()
    with contextlib.suppress(OSError):
        while came := source.recv_into(block):
            if wait_s:
                time.sleep(wait_s)
            sink.sendall(block[:came])
            if bytes_per_s:
                due = max(due, time.monotonic() - BLOCK_BYTES / bytes_per_s) + came / bytes_per_s
                time.sleep(max(0.0, due - time.monotonic()))
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
