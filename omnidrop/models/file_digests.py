"""SHA-256 of files, each read once and remembered in the user's cache folder.

Promises: a digest is remembered by (path, device, inode, size, modification and change time): a modification time can
be set, the others cannot. A lost or unwritable memory only costs time, one that others may write is not used. Knows
nothing about checkpoints.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from omnidrop.json_text import parse_json
from omnidrop.user_cache import user_cache


class DigestMemory:
    """What earlier processes of this user found out; `save` keeps what this one added."""

    def __init__(self) -> None:
        folder = user_cache()
        self._path = None if folder is None else folder / "file_hashes.json"
        self._known: dict[str, str] = {}
        self._changed = False
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError):
            status = self._path.stat()
            if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                loaded = parse_json(self._path.read_text())
                if isinstance(loaded, dict):
                    self._known = {key: value for key, value in loaded.items() if isinstance(value, str)}

    def digest(self, path: Path) -> str:
        """SHA-256 (hex) of a file's bytes."""
        status = path.stat()
        times = f"{status.st_mtime_ns}|{status.st_ctime_ns}"
        key = f"{path.resolve()}|{status.st_dev}|{status.st_ino}|{status.st_size}|{times}"
        return self.recall(key, lambda: _digest(path))

    def recall(self, key: str, find: Callable[[], str]) -> str:
        """What was found under `key`, by `find` the first time: for what never changes, as a commit's files."""
        if key not in self._known:
            self._known[key] = find()
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        """Keep what was added."""
        if self._path is None or not self._changed:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Several workers of one machine may write at once: each writes whole, the last one stays.
            handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".json")
            with os.fdopen(handle, "w") as stream:
                json.dump(self._known, stream)
            os.replace(name, self._path)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
