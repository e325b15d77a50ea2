"""The page of `omnidrop review`, served to this machine alone.

Promises: it listens on the loopback address, answers only requests that carry the token and name that address as host,
and sends no file but the media of the results, by their number. It writes the labels file and nothing else. Results are
opened anew for each list of answers, so a job may run and publish beside it. Knows nothing about which answers matter.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import mimetypes
import os
import re
import secrets
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import IO, Any

from omnidrop.answer_types import column_of
from omnidrop.errors import OmniDropError
from omnidrop.json_text import parse_json
from pipeline.config.locations import is_s3
from pipeline.config.sections import StorageConfig
from pipeline.review.labels import RIGHT, WRONG, Label, LabelsError, LabelsFile
from pipeline.review.queue import Item
from pipeline.storage.arrow import arrow_filesystem
from workers.media.opening import local_path

HOST = "127.0.0.1"
PART_BYTES = 1 << 18
MOST_BODY_BYTES = 1 << 16
SOCKET_S = 30.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
TYPES = {".mkv": "video/webm", ".mov": "video/mp4", ".m4v": "video/mp4", ".mxf": "application/mxf"}
"""Browsers play what is in a file, not what it is called, but only if the type is one that they know."""

Next = Callable[[Sequence[Label]], tuple[list[Item], dict[str, str]]]
"""From what is labelled to the next items and the addresses of their media, by media id."""


class ReviewServer(ThreadingHTTPServer):
    """Serves until it is shut down; `url` has the token."""

    daemon_threads = True

    def __init__(
        self, port: int, labels: LabelsFile, following: Next, storage: StorageConfig, *, anonymous: bool = False
    ) -> None:
        """`storage` and `anonymous` are how media in a bucket are reached."""
        super().__init__((HOST, port), _Handler)
        self.token = secrets.token_urlsafe(24)
        self.labels, self.storage, self.anonymous = labels, storage, anonymous
        self._following = following
        self._items: dict[tuple[str, str], Item] = {}
        self._uris: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """What to open."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def following(self) -> dict[str, Any]:
        """The next answers to look at. Raises OmniDropError."""
        with self._lock:
            items, uris = self._following(list(self.labels))
            self._items |= {(item.clip_id, item.question_id): item for item in items}
            self._uris |= uris
            return {"items": [asdict(item) for item in items], "labelled": len(self.labels)}

    def label(self, given: Any) -> int:
        """Write what a person said, or take it back (verdict null); how many labels there are. Raises LabelsError."""
        try:
            item = self._items[given["clip_id"], given["question_id"]]
            verdict, answer = given["verdict"], str(given.get("answer") or "").strip()
        except (KeyError, TypeError, AttributeError) as error:
            raise LabelsError("this answer is not on the list") from error
        if verdict not in (RIGHT, WRONG, None):
            raise LabelsError(f"a verdict is {RIGHT} or {WRONG}, got {verdict!r}")
        if verdict == RIGHT:
            answer = item.answer
        elif not answer and column_of(item.answer_type) == "answer_boolean":
            answer = "no" if item.answer == "yes" else "yes"
        elif answer and column_of(item.answer_type) == "answer_number" and not _is_number(answer):
            raise LabelsError(f"the right one must be a number, got {answer!r}")
        elif answer and item.options and answer not in item.options:
            raise LabelsError(f"the right one must be one of {', '.join(item.options)}, got {answer!r}")
        with self._lock:
            if verdict is None:
                self.labels.remove(item.label(RIGHT, ""))
            else:
                self.labels.put(item.label(verdict, answer))
            return len(self.labels)

    def media(self, media_id: str) -> str | None:
        """Address of a media item on the list."""
        return self._uris.get(media_id)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that turns to another moment hangs up: that is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "omnidrop", ""
    timeout = SOCKET_S

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            self._refuse(404)
        elif path == "":
            self._send(200, "text/html; charset=utf-8", *_page())
        elif path == "next":
            self._answer(self.server.following)
        elif path.startswith("media/"):
            self._media(path.removeprefix("media/"))
        else:
            self._refuse(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        origin = self.headers.get("Origin")
        length = self.headers.get("Content-Length", "")
        if self._path() != "label" or (origin and origin != f"http://{HOST}:{self.server.server_port}"):
            self._refuse(404)
        elif self.headers.get("Content-Type") != "application/json":
            self._refuse(415)
        elif not length.isdigit() or int(length) > MOST_BODY_BYTES:
            self._refuse(413)
        else:
            body = self.rfile.read(int(length))
            self._answer(lambda: {"labelled": self.server.label(_parsed(body))})

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the token is in every path."""

    def _path(self) -> str | None:
        """What is asked for below the token; None where the token or the host is not ours."""
        # Another site's page may have its own name resolve to the loopback address, but not change the Host header.
        if self.headers.get("Host") != f"{HOST}:{self.server.server_port}":
            return None
        token, _, rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        return rest if secrets.compare_digest(token.encode(), self.server.token.encode()) else None

    def _answer(self, make: Callable[[], dict[str, Any]]) -> None:
        try:
            status, result = 200, make()
        except OmniDropError as error:
            status, result = 409, {"error": str(error)}
        self._send(status, "application/json", json.dumps(result).encode())

    def _refuse(self, status: int) -> None:
        self.close_connection = True
        self._send(status, "text/plain", b"")

    def _send(self, status: int, kind: str, body: bytes, policy: str = "default-src 'none'") -> None:
        self._head(status, kind, len(body), {"Content-Security-Policy": policy})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int, more: dict[str, str]) -> None:
        self.send_response(status)
        common = {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
        for name, value in (common | more).items():
            self.send_header(name, value)
        self.end_headers()

    def _media(self, media_id: str) -> None:
        uri = self.server.media(media_id)
        opened = None if uri is None else _opened(uri, self.server.storage, anonymous=self.server.anonymous)
        if uri is None or opened is None:
            self._refuse(404)
            return
        file, size = opened
        with file:
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            first, after = _span(asked, size)
            if asked is not None and first >= after:
                self._head(416, "text/plain", 0, {"Content-Range": f"bytes */{size}"})
                return
            more = {"Accept-Ranges": "bytes"}
            if asked is not None:
                more["Content-Range"] = f"bytes {first}-{after - 1}/{size}"
            suffix = os.path.splitext(uri)[1].lower()
            kind = TYPES.get(suffix) or mimetypes.types_map.get(suffix, "")
            if not kind.startswith(("video/", "audio/", "application/mxf")):
                kind = "application/octet-stream"  # a page of a stranger's must not run beside ours
            self._head(200 if asked is None else 206, kind, after - first, more)
            if self.command == "HEAD":
                return
            file.seek(first)
            while first < after and (part := file.read(min(PART_BYTES, after - first))):
                self.wfile.write(part)
                first += len(part)
            # A file that became shorter meanwhile: the promised length cannot be kept.
            self.close_connection = self.close_connection or first < after


def _opened(uri: str, storage: StorageConfig, *, anonymous: bool) -> tuple[IO[bytes], int] | None:
    """A media file and its size; None where it is gone or is no file."""
    try:
        if is_s3(uri):
            filesystem, path = arrow_filesystem(uri, storage, anonymous=anonymous)
            file = filesystem.open_input_file(path)
            return file, file.size()
        # A pipe or a device in the place of the file must not hold this thread.
        local = os.fdopen(os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        found = os.fstat(local.fileno())
        if stat.S_ISREG(found.st_mode):
            return local, found.st_size
        local.close()
    except OSError:
        pass
    return None


def _span(asked: re.Match[str] | None, size: int) -> tuple[int, int]:
    """First byte and the one after the last, of a `Range` header (RFC 9110, one range); empty where there are none."""
    if asked is None:
        return 0, size
    first, last = asked.groups()
    if first:
        return int(first), min(size, int(last) + 1) if last else size
    return (max(0, size - int(last)), size) if last else (0, 0)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _parsed(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError as error:
        raise LabelsError("not JSON") from error


def _page() -> tuple[bytes, str]:
    """The page and its content security policy: only its own script and style run."""
    folder = resources.files("pipeline.review") / "page"
    html, css, js = ((folder / f"review.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    policy = (
        f"default-src 'none'; script-src '{_hash(js)}'; style-src '{_hash(css)}'; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.replace("/*STYLE*/", css).replace("/*SCRIPT*/", js).encode(), policy


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
