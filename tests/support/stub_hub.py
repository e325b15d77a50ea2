"""A hub for tests: an HTTP server in a thread that speaks what `huggingface_hub` asks, over a folder of repositories.

Promises: `FOLDER/OWNER/NAME/…` are repositories of one commit each (whatever branch or tag is asked for); weights and
the tokenizer are large files as the real hub keeps them, with a SHA-256 in listings and behind a redirect; every path
that was fetched is remembered. The client's own code runs unchanged.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from huggingface_hub import constants

LARGE = (".safetensors", "tokenizer.json")


class StubHub:
    """What is served and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.in_git: set[str] = set()
        """Names that are small files, although they end like large ones."""
        self.fetched: list[str] = []
        """Names of files whose bytes were given."""
        self.requests: list[str] = []

    def commit(self, repository: str) -> str:
        """Another one whenever a file of the repository changes."""
        files = sorted(p for p in (self.folder / repository).iterdir() if p.is_file())
        return hashlib.sha1(repr([(p.name, p.stat().st_mtime_ns) for p in files]).encode()).hexdigest()

    @property
    def weights_fetched(self) -> list[str]:
        """Of `fetched`."""
        return [name for name in self.fetched if name.endswith(".safetensors")]

    def entry(self, path: Path) -> dict[str, Any]:
        """One file as a listing has it."""
        data = path.read_bytes()
        found = {"type": "file", "path": path.name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if self.is_large(path.name):
            found["lfs"] = {"oid": self.sha256(path), "size": len(data), "pointerSize": 134}
        return found

    def sha256(self, path: Path) -> str:
        """Of a file's bytes."""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def is_large(self, name: str) -> bool:
        """Whether the hub keeps it beside git."""
        return name.endswith(LARGE) and name not in self.in_git


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(path)
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if is_api else parts[1:3] if parts[0] == "large" else parts[:2])
        folder = self.hub.folder / repository
        if not folder.is_dir():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif is_api and parts[4] == "tree":
            self._json([self.hub.entry(p) for p in sorted(folder.iterdir()) if p.is_file()])
        elif is_api:
            names = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
            self._json({"id": repository, "sha": self.hub.commit(repository), "siblings": names, "tags": []})
        else:
            self._file(folder / parts[-1], is_redirected=parts[0] == "large")

    def _file(self, path: Path, *, is_redirected: bool) -> None:
        data, name = path.read_bytes(), path.name
        headers = {"X-Repo-Commit": self.hub.commit(f"{path.parent.parent.name}/{path.parent.name}")}
        if self.hub.is_large(name) and not is_redirected:
            tag = f'"{self.hub.sha256(path)}"'
            where = f"http://{self.headers['Host']}/large/{path.parent.parent.name}/{path.parent.name}/{name}"
            self._send(302, b"", headers | {"X-Linked-Etag": tag, "X-Linked-Size": str(len(data)), "Location": where})
            return
        if self.command == "GET":
            self.hub.fetched.append(name)
        self._send(200, data, headers | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # a client in eight threads, whose connections would else be tried again after a second


@contextmanager
def stub_hub(folder: Path, cache: Path, monkeypatch: Any) -> Iterator[StubHub]:
    """Serve `folder` and point this process's client at it, with `cache` as its cache; afterwards nobody answers there,
    but the client goes on asking there until the test ends."""
    hub = StubHub(folder)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    # Read from HF_ENDPOINT and HF_HOME when the client is first imported, which is long ago.
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
