"""An S3 server that means harm: by the bucket asked for, it trickles, floods, redirects, repeats itself or lies.

Promises: every request is kept, with its headers, in `requests`; whatever it does ends with the `with` block. Knows as
much of S3 as a client needs to be taken in.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ETAG = '"0123456789abcdef"'


class HostileStore(ThreadingHTTPServer):
    """`lists` names pages of listings by bucket; other buckets are named in `_Handler`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.lists: dict[str, Callable[[str], str]] = {}
        """By bucket: from the continuation token to the XML inside <ListBucketResult>."""
        self.elsewhere = ""
        """Where `redirect` sends everybody."""
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that have had enough hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HostileStore

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        store = self.server
        store.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        bucket, _, rest = self.path.lstrip("/").partition("?")[0].partition("/")
        if bucket in store.lists and not rest:
            token = dict(p.partition("=")[::2] for p in self.path.partition("?")[2].split("&"))
            self._listing(store.lists[bucket](token.get("continuation-token", "")))
        elif bucket == "redirect":
            self.send_response(307)
            self.send_header("Location", f"{store.elsewhere}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif bucket == "endless-listing-body":
            self._endless(b"<x>" * 20_000)
        elif bucket == "echo" and with_body:
            self._error(403, "Forbidden", " ".join(f"{k}: {v}" for k, v in self.headers.items()))
        elif not with_body:
            self._head(1 << 30 if bucket != "short" else 1000)
        elif bucket == "trickle":
            self._start(206, 1 << 20, range_of=self.headers.get("Range", ""))
            while not store.over.wait(0.2):
                self.wfile.write(b"x")
                self.wfile.flush()
        elif bucket == "endless-body":
            self._endless(bytes(1 << 20))
        elif bucket == "ignores-ranges":
            self._start(200, 1 << 20)
            self.wfile.write(bytes(1 << 20))

    def _head(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", ETAG)
        self.send_header("Last-Modified", "Wed, 12 Oct 2022 17:50:00 GMT")
        self.end_headers()

    def _start(self, status: int, length: int, range_of: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", ETAG)
        if range_of:
            self.send_header("Content-Range", f"bytes {range_of.partition('=')[2]}/{1 << 30}")
        self.end_headers()

    def _endless(self, block: bytes) -> None:
        self.send_response(206)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("ETag", ETAG)
        self.send_header("Content-Range", f"bytes {self.headers.get('Range', '=0-1').partition('=')[2]}/{1 << 30}")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server.over.is_set():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))

    def _listing(self, inside: str) -> None:
        body = f'<?xml version="1.0"?><ListBucketResult>{inside}</ListBucketResult>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str, message: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def entry(key: str = "a.mp4", etag: str | None = ETAG, size: object = 10) -> str:
    """One object of a listing."""
    tag = "" if etag is None else f"<ETag>{etag}</ETag>"
    return f"<Contents><Key>{key}</Key>{tag}<Size>{size}</Size></Contents>"


@contextlib.contextmanager
def hostile_store() -> Iterator[HostileStore]:
    """One in a thread of its own."""
    store = HostileStore()
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.over.set()
        store.shutdown()
        store.server_close()
        thread.join(5)
        time.sleep(0)
