"""A proxy in front of an S3 server that spoils some of what passes through it, in a thread of its own.

Promises: which request is spoiled, and how, follows from the seed, the request and how often it was made, never from
the order in which requests arrive; what it did is counted in `faults`. Of S3 it knows the shape of an error only.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp import web
from yarl import URL

ERRORS = {"internal_error": (500, "InternalError"), "slow_down": (503, "SlowDown")}
REFUSALS = {
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "unknown_key": (403, "InvalidAccessKeyId"),
}
"""What a server says to credentials that it does not take. Not among `KINDS`: no retry helps."""
BEFORE = (*ERRORS, "hang", "reset_before")
"""The server never hears of the request."""
AFTER = ("lost_reply", "reset_in_body", "truncated", "slow")
"""The server has done what was asked: a write is stored. `lost_reply` resets the connection instead of replying,
`reset_in_body` in the middle of the reply; `truncated` closes it there as if all were well."""
KINDS = (*BEFORE, *AFTER)
HANG_S = 6.0
"""Longer than the client's patience with one request, as tests set it."""

Spoils = Callable[[web.Request], bool]


class FaultProxy:
    """`with FaultProxy(address, seed=1, rate=0.1) as proxy:` and use `proxy.address` instead."""

    def __init__(
        self,
        upstream: str,
        *,
        seed: int = 0,
        rate: float = 0.0,
        kinds: Sequence[str] = KINDS,
        spoils: Spoils = lambda request: True,
    ) -> None:
        """`spoils` names the requests that may fail; all that belongs to a run may be changed while it runs."""
        self.upstream, self.seed, self.rate, self.kinds, self.spoils = upstream, seed, rate, tuple(kinds), spoils
        self.is_down = False
        """Whether every connection is reset at once."""
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self.address = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    async def _start(self) -> str:
        self._client = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        try:
            return await self._spoiled(request)
        except ConnectionError:
            return self._reset(request)  # the client has given up meanwhile

    async def _spoiled(self, request: web.Request) -> web.StreamResponse:
        if self.is_down:
            return self._reset(request)
        fault = self._fault(request)
        if fault is not None:
            self.faults[fault] += 1
        if fault in ERRORS or fault in REFUSALS:
            status, code = (ERRORS | REFUSALS)[fault]
            return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>injected</Message></Error>")
        if fault in ("hang", "reset_before"):
            await asyncio.sleep(HANG_S if fault == "hang" else 0)
            return self._reset(request)
        address = URL(self.upstream + request.raw_path, encoded=True)
        # The host stays as the client named it: it is part of what the client signed.
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in ("expect", "connection")
        }
        body = await request.read()
        async with self._client.request(
            request.method, address, headers=headers, data=body or None, allow_redirects=False
        ) as reply:
            content = await reply.read()
        if fault == "lost_reply":
            return self._reset(request)
        return await self._pass_on(request, reply, content, fault)

    async def _pass_on(
        self, request: web.Request, reply: aiohttp.ClientResponse, content: bytes, fault: str | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in ("transfer-encoding", "connection"):
                response.headers.add(name, value)
        if request.method != "HEAD":
            response.headers["Content-Length"] = str(len(content))
        await response.prepare(request)
        if fault in ("reset_in_body", "truncated"):
            await response.write(content[: len(content) // 2])
            if fault == "reset_in_body" or not content:
                return self._reset(request)
            request.transport.close()
            return response
        pieces = 10 if fault == "slow" else 1
        step = max(1, -(-len(content) // pieces))
        for start in range(0, len(content), step):
            await response.write(content[start : start + step])
            if pieces > 1:
                await asyncio.sleep(0.03)
        await response.write_eof()
        return response

    def _fault(self, request: web.Request) -> str | None:
        if not self.spoils(request):
            return None
        what = f"{request.method} {request.raw_path} {request.headers.get('Range')}"
        chance = random.Random(f"{self.seed} {what} {self._seen[what]}")
        self._seen[what] += 1
        return chance.choice(self.kinds) if chance.random() < self.rate else None

    @staticmethod
    def _reset(request: web.Request) -> web.Response:
        """End the connection with RST, as a machine that goes away does."""
        transport = request.transport
        if transport is not None:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return web.Response()
