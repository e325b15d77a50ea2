"""How the S3 client talks to its server: it follows no redirects, and no reply is longer than a valid one.

Promises: requests go to the configured server alone; what signs them is kept out of messages. Knows nothing about
objects or deadlines. Imported only where a bucket is read.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession

from workers.media.store_failures import REDIRECTED, REDIRECTS
from workers.redaction import keep_secret

REPLY_BYTES = 64 << 20
"""Maximum size of a reply other than object content. A page of 1,000 keys of 1,024 bytes, escaped, takes 10 MB."""


class ReplyTooLong(OSError):
    """The server sent a reply longer than any valid one."""


class _NoRedirects:
    """An aiohttp session that follows no redirects (they would get the session token) and limits reply sizes."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, *given: Any, **options: Any) -> Any:
        reply = await self._session.request(*given, **options, allow_redirects=False)
        if reply.status in REDIRECTS and "x-amz-bucket-region" not in reply.headers:
            # botocore would ask the same server for the bucket's region, be redirected, and ask again. With a
            # region it asks for that region at the same server, once.
            reply.status = REDIRECTED

        async def read() -> bytes:
            content = bytearray()
            async for block in reply.content.iter_chunked(1 << 18):
                content += block
                if len(content) > REPLY_BYTES:
                    reply.close()
                    raise ReplyTooLong(f"the server's reply is longer than {REPLY_BYTES} bytes")
            reply._body = bytes(content)
            return bytes(content)

        reply.read = read
        return reply


class OneServer(AIOHTTPSession):  # type: ignore[misc]
    async def _get_session(self, proxy_url: str) -> Any:
        return _NoRedirects(await super()._get_session(proxy_url))


@lru_cache(maxsize=8)
def session(environment: tuple[tuple[str, str], ...]) -> AioSession:
    """A session per set of AWS_* variables, because a session caches credentials."""
    session = AioSession()

    def note(request_signer: Any, **_: Any) -> None:
        # Credentials of a profile or role are in no environment variable; here, at the latest, they are known.
        found = getattr(request_signer, "_credentials", None)
        for name in ("access_key", "secret_key", "token"):
            keep_secret(getattr(found, name, None))

    session.register("before-sign.s3", note)
    return session
