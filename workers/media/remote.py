"""Reads a bucket's objects in ranges: the one way in which probing and decoding access a store.

Promises: every call ends by its deadline and holds no more bytes than it requested, whatever the server sends, however
slowly; all ranges of a file come from one version of it (by etag); requests go only to the configured server, and
redirects are not followed; errors contain no credentials. Knows nothing about caches or media.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from functools import cache
from typing import Any

import fsspec
from fsspec.asyn import sync

from omnidrop.errors import OmniDropError
from workers.errors import MediaChanged, MediaRefused, StorageFailed
from workers.media.store_failures import forget_credentials, redirect_refused, store_failure
from workers.redaction import without_secrets

TRIES = 3
"""Attempts if a body is cut off, which botocore does not notice."""
PAUSE_S = 0.2
CONNECTIONS = 64
"""Maximum concurrent requests to one store, as many as `execution.fetch_streams` allows."""
SPARE_PIECES = 2
"""Pieces of a sequential read held beyond those in flight: requests continue while pieces are hashed and written."""
BLOCK_BYTES = 1 << 18
"""Bytes taken from a connection at once."""


class _Meter:
    """Counts bytes of media read by this process."""

    def __init__(self) -> None:
        self._lock, self._bytes = threading.Lock(), 0

    def add(self, nbytes: int) -> None:
        with self._lock:
            self._bytes += nbytes

    def read(self) -> int:
        with self._lock:
            return self._bytes


_meter = _Meter()


def bytes_fetched() -> int:
    """Bytes of objects that this process has read from stores since it started, truncated bodies included."""
    return _meter.read()


def also_fetched(nbytes: int) -> None:
    """Add bytes that another process read for this one."""
    _meter.add(nbytes)


def filesystem(protocol: str, options: dict[str, Any]) -> Any:
    """An fsspec file system; for S3, one that follows no redirects and bounds replies.

    s3fs's five attempts on top of botocore's would hold a clip for minutes if a server hangs: two are left, for bodies
    that are cut off, which botocore does not notice.
    """
    if protocol == "s3":
        # Only here: some 150 modules, which a process that reads local files does without.
        from workers.media.one_server import OneServer, session

        variables = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
        given = {"max_pool_connections": CONNECTIONS, **options.get("config_kwargs", {})}
        config = {**given, "http_session_cls": OneServer}
        options = {**options, "config_kwargs": config, "session": session(variables)}
    found = fsspec.filesystem(protocol, **options)
    found.retries = 2
    return found


def within(store: Any, timeout_s: float, method: str, **arguments: Any) -> Any:
    """One S3 call within `timeout_s`, retries and reply included. Raises what the client raises, FSTimeoutError."""
    return sync(store.loop, store._call_s3, method, timeout=timeout_s, **arguments)


class RemoteFile:
    """One version of an object. Calls may raise MediaMissing, MediaChanged or StorageFailed, also after `deadline`."""

    def __init__(self, uri: str, storage_options: dict[str, Any], deadline: float) -> None:
        """`deadline` in time.monotonic() seconds, for all calls together."""
        self.uri, self._deadline = uri, deadline
        with self._explained():
            self._store = filesystem(uri.partition("://")[0], storage_options)
            self._bucket, _, self._key = uri.partition("://")[2].partition("/")
            found = within(self._store, self._left_s(), "head_object", Bucket=self._bucket, Key=self._key)
            self.size, self.etag = int(found["ContentLength"]), str(found["ETag"]).strip('"')

    @property
    def deadline(self) -> float:
        """By time.monotonic()."""
        return self._deadline

    def extend(self, seconds: float) -> None:
        """Extend the deadline by `seconds`."""
        self._deadline += seconds

    def renew(self, seconds: float) -> None:
        """Set the deadline to `seconds` from now."""
        self._deadline = time.monotonic() + seconds

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        content = bytearray(length)
        with self._explained():
            sync(self._store.loop, self._fill, offset, memoryview(content), timeout=self._left_s())
        return bytes(content)

    def until(self, deadline: float) -> RemoteFile:
        """The same version of it, with another deadline."""
        other = copy.copy(self)
        other._deadline = deadline
        return other

    def read_on(self, offset: int, end: int, *, streams: int, step: int) -> Generator[memoryview]:
        """Yield the bytes from `offset` to `end` in order, as `read_each` of pieces of `step`."""
        ranges = ((first, min(first + step, end)) for first in range(offset, end, step))
        with contextlib.closing(self.read_each(ranges, streams=streams, longest=min(step, end - offset))) as pieces:
            for _, piece in pieces:
                yield piece

    def read_each(
        self,
        ranges: Iterator[tuple[int, int]],
        *,
        streams: int,
        longest: int,
        most: Callable[[], int] = lambda: sys.maxsize,
    ) -> Generator[tuple[int, memoryview]]:
        """Yield (first byte, content) of ranges (first byte, end), none longer than `longest`, in their order, with
        `streams` requests in flight and a few more pieces in memory. A piece is valid until the next one is requested:
        its memory is then reused, since fresh pages cost as much as filling them. No range is asked for while `most`
        (at least 1) or more were and have not been yielded. Close the generator if you stop early: that cancels
        requests."""
        turn, fresh = asyncio.Semaphore(streams), streams + SPARE_PIECES
        unused: list[memoryview] = []
        coming: deque[tuple[int, memoryview, memoryview, Future[None]]] = deque()
        try:
            while True:
                while (unused or fresh) and len(coming) < most() and (asked := next(ranges, None)) is not None:
                    first, end = asked
                    fresh -= not unused
                    memory = unused.pop() if unused else memoryview(bytearray(longest))
                    piece = memory[: end - first]
                    coming.append((first, piece, memory, self._begun(self._in_turn(turn, first, piece))))
                if not coming:
                    return
                first, piece, memory, future = coming[0]
                with self._explained():
                    future.result(self._left_s())
                coming.popleft()
                yield first, piece
                unused.append(memory)
        finally:
            for *_, future in coming:
                future.cancel()

    def _begun(self, asked: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(asked, self._store.loop)

    async def _in_turn(self, turn: asyncio.Semaphore, offset: int, into: memoryview) -> None:
        async with turn:
            await self._fill(offset, into)

    async def _fill(self, offset: int, into: memoryview) -> None:
        for attempt in range(TRIES):
            came = await self._get(offset, into)
            if came == len(into):
                return
            await asyncio.sleep(PAUSE_S * 2**attempt)
        raise OSError(f"{came} of {len(into)} bytes arrived, on every try")

    async def _get(self, offset: int, into: memoryview) -> int:
        """Read the range that fills `into`; returns the bytes received: fewer if the body is cut off."""
        asked = {"Range": f"bytes={offset}-{offset + len(into) - 1}", "IfMatch": f'"{self.etag}"'}
        reply = await self._store._call_s3("get_object", Bucket=self._bucket, Key=self._key, **asked)
        body, came = reply["Body"], 0
        try:
            if str(reply.get("ETag", self.etag)).strip('"') != self.etag:
                raise MediaChanged(f"{self.uri}: the object was replaced while being read; run again")
            given = reply.get("ContentRange")
            if not str(given or "bytes 0-").startswith(f"bytes {offset}-"):
                raise OSError(f"asked for bytes from {offset} on, the server gives {given or 'the whole object'}"[:200])
            with contextlib.suppress(*_broken_bodies()):
                while came < len(into) and (block := await body.read(min(BLOCK_BYTES, len(into) - came))):
                    into[came : came + len(block)] = block
                    came += len(block)
        finally:
            body.close()
            _meter.add(came)
        return came

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise StorageFailed(f"{self.uri}: the store is too slow: timed out")
        return left_s

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OmniDropError:
            raise
        except Exception as error:  # the clients' errors (botocore, aiohttp, ...) have no common base class
            if _code(error) in ("PreconditionFailed", "412"):
                raise MediaChanged(f"{self.uri}: the object was replaced while being read; run again") from error
            if time.monotonic() >= self._deadline:
                raise StorageFailed(f"{self.uri}: the store is too slow: timed out") from error
            if (said := redirect_refused(error)) is not None:
                raise StorageFailed(without_secrets(f"{self.uri}: {said}")[:1000]) from error
            failure = store_failure(self.uri, error)
            if isinstance(failure, MediaRefused):
                forget_credentials(self._store)
            raise failure from error


@cache
def _broken_bodies() -> tuple[type[Exception], ...]:
    import aiohttp
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    return aiohttp.ClientError, HTTPClientError, IncompleteReadError, ConnectionError


def _code(error: BaseException) -> str | None:
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
    return None
