"""A proxy in front of a store that is as far away as stores are: a wait before each reply, and so many bytes a second
on each connection. A process of its own, so that what it takes is not taken from what is measured.

Promises: bytes pass as they are, in order. Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
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

    async def passed(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            server, on = await asyncio.open_connection(to.hostname, to.port, limit=4 * BLOCK_BYTES)
        except OSError:
            back.close()
            return
        pumps = [_pump(client, on, wait_s=latency_s), _pump(server, back, bytes_per_s=bytes_per_s)]
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (on, back):
            end.close()

    async def run() -> None:
        listening = await asyncio.start_server(passed, "127.0.0.1", 0, limit=4 * BLOCK_BYTES)
        told.send(listening.sockets[0].getsockname()[1])
        await listening.serve_forever()

    asyncio.run(run())


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, wait_s: float = 0.0, bytes_per_s: float = 0.0
) -> None:
    due = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while block := await source.read(BLOCK_BYTES):
            if wait_s:
                await asyncio.sleep(wait_s)
            sink.write(block)
            await sink.drain()
            if bytes_per_s:
                due = max(due, time.monotonic() - BLOCK_BYTES / bytes_per_s) + len(block) / bytes_per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
