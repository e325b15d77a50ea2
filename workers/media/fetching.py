"""A bucket's files on this node's disk: fetched once, shared by every process of the node, bounded in bytes.

Promises: a path that is yielded holds the whole object of the etag asked for, and stays while it is used; the cache
never holds more than its bound; the least recently used goes first, and never one in use; a crash at any point leaves
nothing that counts as whole. Knows nothing about media.

Every entry has a lock file: exclusive while it is fetched or removed, shared while it is read. What is being fetched
has its full size from the start (a sparse file), so that concurrent fetches cannot overrun the bound together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidrop.errors import OmniDropError
from workers.errors import CacheFull, CacheTooSmall, CacheUnsafe, MediaChanged, StorageFailed
from workers.media.remote import RemoteFile
from workers.records import Media

READ_BYTES = 8 << 20
"""One request to the store."""


def _default_folder() -> str:
    return str(Path(tempfile.gettempdir()) / f"omnidrop-media-{os.getuid()}")


@dataclass(frozen=True)
class CacheSettings:
    """Where a node keeps fetched files, and how many bytes of them."""

    folder: str | None = None
    """None: a folder of this user's below the system's temporary folder."""
    max_bytes: int = 20 << 30
    timeout_s: float = 3600.0
    """For one object: a store that trickles must not hold a decode task for ever."""

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder or _default_folder())


@contextlib.contextmanager
def fetched(media: Media, storage_options: dict[str, Any], cache: CacheSettings) -> Iterator[str]:
    """The local copy of an object, for as long as the block lasts.

    Raises MediaMissing, MediaRefused, MediaChanged (the store has another etag by now), StorageFailed (worth a retry),
    CacheFull (the object does not fit beside what is in use), CacheUnsafe (others can reach into the folder).
    """
    if media.size_bytes > cache.max_bytes:
        raise CacheTooSmall(
            f"{media.key}: {media.size_bytes} bytes; the cache may hold {cache.max_bytes}; raise that bound"
        )
    own_folder(cache.path)
    entry = cache.path / hashlib.blake2b(f"{media.uri}\0{media.etag}".encode(), digest_size=16).hexdigest()
    while True:
        with _locked(entry, exclusive=False):
            if _is_file(entry):
                os.utime(entry)  # the least recently used goes first
                yield str(entry)
                return
        with _locked(entry, exclusive=True):
            if not _is_file(entry):
                _fetch(media, storage_options, entry, cache)


def own_folder(folder: Path) -> Path:
    """Make a folder for this user alone. Raises CacheUnsafe where it is somebody else's, or open to others: who may
    write into it could have us decode another file than the archive's, or overwrite one of ours.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found, above = os.lstat(folder), os.stat(folder.parent)
    problem = None
    if not stat.S_ISDIR(found.st_mode):
        problem = "is a link or a file"
    elif found.st_uid != os.geteuid():
        problem = f"belongs to another user ({found.st_uid})"
    elif found.st_mode & 0o077:
        problem = f"is open to other users (mode {found.st_mode & 0o777:03o})"
    elif above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        problem = f"lies in {folder.parent}, where anybody may replace it"
    if problem is not None:
        raise CacheUnsafe(
            f"the folder {folder} {problem}; remove it, or set TMPDIR to a folder of your own on the machines that "
            "decode"
        )
    return folder


def _is_file(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def _fetch(media: Media, storage_options: dict[str, Any], entry: Path, cache: CacheSettings) -> None:
    """Under the entry's exclusive lock: bring the object and rename it into place when it is whole."""
    part = entry.with_suffix(".part")
    try:
        _reserve(part, media.size_bytes, cache)
        remote = RemoteFile(media.uri, storage_options, time.monotonic() + cache.timeout_s)
        _check_etag(media, remote)
        with open(os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "wb") as file:
            for offset in range(0, media.size_bytes, READ_BYTES):
                file.write(remote.read(offset, min(READ_BYTES, media.size_bytes - offset)))
        os.rename(part, entry)
    except OmniDropError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheFull(
                f"{media.key}: no space left for files of the archive in {cache.path}; free some there, or set TMPDIR "
                "to a larger disk on the machines that decode"
            ) from error
        raise StorageFailed(f"{media.key}: {type(error).__name__}: {error}"[:1000]) from error
    finally:
        part.unlink(missing_ok=True)


def _check_etag(media: Media, remote: RemoteFile) -> None:
    if remote.etag != media.etag:
        raise MediaChanged(f"{media.key}: planned with etag {media.etag}, now {remote.etag}; run again to plan it anew")
    if remote.size != media.size_bytes:
        raise StorageFailed(f"{media.key}: the store now says {remote.size} bytes instead of {media.size_bytes}")


def _reserve(part: Path, size: int, cache: CacheSettings) -> None:
    """Make room and take it, under the cache's own lock. Raises CacheFull."""
    with _locked(cache.path / "room", exclusive=True):
        found = {p: p.lstat() for p in cache.path.iterdir() if p.suffix in ("", ".part") and p != part}
        held = sum(status.st_size for status in found.values())
        for path in sorted(found, key=lambda p: found[p].st_mtime_ns):
            if held + size <= cache.max_bytes:
                break
            if _remove(path):
                held -= found[path].st_size
        if held + size > cache.max_bytes:
            raise CacheFull(f"{held} bytes of the cache are in use, {size} more do not fit into {cache.max_bytes}")
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(fd, size)
        finally:
            os.close(fd)


def _remove(path: Path) -> bool:
    """Remove an entry (or what a crash left of one) unless somebody uses it."""
    try:
        with _locked(path.with_suffix(""), exclusive=True, wait=False) as lock:
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            return True
    except BlockingIOError:
        return False


@contextlib.contextmanager
def _locked(entry: Path, *, exclusive: bool, wait: bool = True) -> Iterator[Path]:
    """Hold the entry's lock file. Raises BlockingIOError with `wait=False`. The kernel frees it if we die."""
    path = entry.with_suffix(".lock")
    kind = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind)
            if _is_at(fd, path):
                yield path
                return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """Whoever removed the entry removed its lock file too: then ours is the lock of nothing."""
    try:
        return os.fstat(fd).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False
