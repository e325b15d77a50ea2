"""A bucket's files on this node's disk: fetched once, shared by every process of the node, bounded in bytes.

Promises: a path that is yielded holds the whole object (or block of it) of the etag asked for, and stays while it is
used; the cache never holds more than its bound; the least recently used goes first, and never one in use; a crash at
any point leaves nothing that counts as whole. Knows nothing about media.

Every entry has a lock file: exclusive while it is fetched or removed, shared while it is read. What is being fetched
has its full size from the start (a sparse file), so that concurrent fetches cannot overrun the bound together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidrop.errors import OmniDropError
from workers.errors import CacheFull, CacheTooSmall, CacheUnsafe, MediaChanged, StorageFailed
from workers.media.remote import RemoteFile
from workers.records import Media

READ_BYTES = 8 << 20
"""One request to the store."""
WRITE_BYTES = 1 << 18
"""One write: of larger ones Linux makes larger pages, and a virtual machine waits for its host at each (1.8 s of a core
a GB of new file, with 256 KiB 1.2; small files 1.1 and 0.25)."""


def _default_folder() -> str:
    return str(Path(tempfile.gettempdir()) / f"omnidrop-media-{os.getuid()}")


@dataclass(frozen=True)
class CacheSettings:
    """Where a node keeps fetched files, how many bytes of them, and how they are fetched."""

    folder: str | None = None
    """None: a folder of this user's below the system's temporary folder."""
    max_bytes: int = 20 << 30
    streams: int = 8
    """Requests in flight for one object."""
    timeout_s: float = 3600.0
    """For one object: a store that trickles must not hold a decode task for ever."""

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder or _default_folder())


Bring = Callable[[], Generator[memoryview]]
"""Brings an entry's bytes in order, in pieces that are valid until the next one is asked for."""


@contextlib.contextmanager
def fetched(
    media: Media,
    storage_options: dict[str, Any],
    cache: CacheSettings,
    seen: Callable[[memoryview], None] = lambda _: None,
) -> Iterator[str]:
    """The local copy of an object, for as long as the block lasts. `seen` is given its bytes in order as they come, in
    another thread and for the time of the call, and none where they are here already.

    Raises MediaMissing, MediaRefused, MediaChanged (the store has another etag by now), StorageFailed (worth a retry),
    CacheFull (the object does not fit beside what is in use), CacheUnsafe (others can reach into the folder).
    """

    def whole() -> Generator[memoryview]:
        remote = opened_as_planned(media, storage_options, cache)
        with (
            ThreadPoolExecutor(1, thread_name_prefix="seen") as beside,
            contextlib.closing(remote.read_on(0, media.size_bytes, streams=cache.streams, step=READ_BYTES)) as pieces,
        ):
            for piece in pieces:
                being_seen = beside.submit(seen, piece)  # while it is written
                yield piece
                being_seen.result()

    with kept(_name_of(media), media.key, media.size_bytes, cache, whole) as entry:
        yield str(entry)


@contextlib.contextmanager
def kept(name: str, shown: str, size: int, cache: CacheSettings, bring: Bring) -> Iterator[Path]:
    """The cache's entry of a name while the block lasts, brought where it is not there: `size` bytes in order. Errors
    say what it is with `shown`.

    Raises CacheTooSmall, CacheFull, CacheUnsafe, StorageFailed, and what `bring` raises.
    """
    if size > cache.max_bytes:
        raise CacheTooSmall(
            f"{shown}: {size} bytes; the cache holds up to {cache.max_bytes}; raise execution.cache_bytes"
        )
    own_folder(cache.path)
    entry = _entry(name, cache)
    while True:
        with _locked(entry, exclusive=False):
            if _is_file(entry):
                os.utime(entry)  # the least recently used goes first
                yield entry
                return
        with _locked(entry, exclusive=True):
            if not _is_file(entry):
                _fetch(entry, shown, size, cache, bring)


def is_here(media: Media, cache: CacheSettings) -> bool:
    """Whether the cache has a copy of an object now."""
    return has(_name_of(media), cache)


def has(name: str, cache: CacheSettings) -> bool:
    """Whether it has the entry of a name now."""
    return _is_file(_entry(name, cache))


def _name_of(media: Media) -> str:
    return f"{media.uri}\0{media.etag}"


def _entry(name: str, cache: CacheSettings) -> Path:
    return cache.path / hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def opened_as_planned(media: Media, storage_options: dict[str, Any], cache: CacheSettings) -> RemoteFile:
    """The object in its store, if it is still the one that was planned. Raises MediaChanged and StorageFailed."""
    remote = RemoteFile(media.uri, storage_options, time.monotonic() + cache.timeout_s)
    if remote.etag != media.etag:
        raise MediaChanged(
            f"{media.key}: planned with etag {media.etag}, now {remote.etag}; the object was replaced; run again"
        )
    if remote.size != media.size_bytes:
        raise StorageFailed(f"{media.key}: the store now says {remote.size} bytes instead of {media.size_bytes}")
    return remote


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
            f"the folder {folder} {problem}; remove it, or name a folder of your own with execution.cache_dir (or set "
            "TMPDIR) on the machines that decode"
        )
    return folder


def room_in(cache: CacheSettings) -> int:
    """Bytes that its folder may take: what is free on that disk, and what lies in it already."""
    held = sum(path.lstat().st_blocks * 512 for path in cache.path.iterdir())
    return shutil.disk_usage(cache.path).free + held


def _is_file(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def _fetch(entry: Path, shown: str, size: int, cache: CacheSettings, bring: Bring) -> None:
    """Under the entry's exclusive lock: bring it and rename it into place when it is whole."""
    part = entry.with_suffix(".part")
    try:
        _reserve(part, size, cache)
        with (
            open(os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "wb") as file,
            contextlib.closing(bring()) as pieces,
        ):
            for piece in pieces:
                for first in range(0, len(piece), WRITE_BYTES):
                    file.write(piece[first : first + WRITE_BYTES])
            if file.tell() != size:
                raise StorageFailed(f"{shown}: {file.tell()} bytes arrived instead of {size}")
        os.rename(part, entry)
    except OmniDropError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheFull(
                f"{shown}: no space left for files of the archive in {cache.path}; free some there, lower "
                "execution.cache_bytes, or name a folder on a larger disk with execution.cache_dir"
            ) from error
        raise StorageFailed(f"{shown}: {type(error).__name__}: {error}"[:1000]) from error
    finally:
        part.unlink(missing_ok=True)


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
