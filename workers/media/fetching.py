"""The node's cache of a bucket's files: fetched once, shared by all processes of the node, bounded in bytes.

Promises: a yielded path holds the complete object (or block of it) with the requested etag, and exists while it is
used; the cache never exceeds its bound; eviction is least recently used first, never an entry in use; a crash at any
point leaves nothing that counts as complete. Knows nothing about media.

Every entry has a lock file: exclusive during fetching and removal, shared during reading. A file being fetched has its
full size from the start (sparse), so concurrent fetches cannot exceed the bound together.
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
from workers.media.arriving import Arriving
from workers.media.remote import RemoteFile
from workers.records import Media

READ_BYTES = 8 << 20
"""Bytes per request to the store, twice as many for an object of at least `LARGE_BYTES`: a request takes some 4 ms of a
core, and what is held of an object is as many pieces as `streams`, and two more."""
LARGE_BYTES = 512 << 20
WRITE_BYTES = 1 << 18
"""Bytes per write: for larger writes Linux uses larger pages, and a virtual machine waits for its host at each (1.8 CPU
seconds per GB of new file, with 256 KiB 1.2; small files 1.1 and 0.25)."""


def _default_folder() -> str:
    return str(Path(tempfile.gettempdir()) / f"omnidrop-media-{os.getuid()}")


@dataclass(frozen=True)
class CacheSettings:
    """Where a node stores fetched files, how many bytes of them, and how they are fetched."""

    folder: str | None = None
    """None: a private folder of this user in the system's temporary folder."""
    max_bytes: int = 20 << 30
    streams: int = 8
    """Concurrent requests for one object."""
    timeout_s: float = 3600.0
    """Time limit in seconds for one object: a trickling store must not hold a decode task for ever."""

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder or _default_folder())


Bring = Callable[[Path], Generator[memoryview]]
"""Yields an entry's bytes in order; each piece is valid until the next one is requested, and is then in the file whose
path was given."""


def _nothing(_: Any) -> None:
    pass


@contextlib.contextmanager
def fetched(
    media: Media,
    storage_options: dict[str, Any],
    cache: CacheSettings,
    seen: Callable[[memoryview], None] = _nothing,
    meanwhile: Callable[[Arriving], None] | None = None,
) -> Iterator[str]:
    """The local copy of an object, valid inside the `with` block. `seen` is called with its bytes in order as they
    arrive, in another thread, each valid during the call; it is not called if the copy exists already. `meanwhile` runs
    in a third thread and is waited for.

    Raises MediaMissing, MediaRefused, MediaChanged (the store has another etag by now), StorageFailed (worth a retry),
    CacheFull (no room beside entries in use), CacheUnsafe (other users have access to the folder).
    """

    def whole(part: Path) -> Generator[memoryview]:
        remote = opened_as_planned(media, storage_options, cache)
        step = READ_BYTES if media.size_bytes < LARGE_BYTES else 2 * READ_BYTES
        gives_way = meanwhile is not None
        arriving = Arriving(remote, str(part), streams=cache.streams, step=step, gives_way=gives_way)
        with (
            contextlib.closing(arriving),
            ThreadPoolExecutor(2, thread_name_prefix="seen") as beside,
            arriving,
            contextlib.closing(arriving.pieces()) as pieces,
        ):
            running = None if meanwhile is None else beside.submit(meanwhile, arriving)
            if running is not None:
                running.add_done_callback(lambda _: arriving.go_on())
            for piece in pieces:
                being_seen = beside.submit(seen, piece)  # while this piece is being written
                yield piece
                being_seen.result()
            if running is not None:
                running.result()

    with kept(_name_of(media), media.key, media.size_bytes, cache, whole) as entry:
        yield str(entry)


@contextlib.contextmanager
def kept(name: str, shown: str, size: int, cache: CacheSettings, bring: Bring) -> Iterator[Path]:
    """The cache entry `name`, valid inside the `with` block; if missing, `bring` yields its `size` bytes. Errors
    call it `shown`.

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
                os.utime(entry)  # eviction is least recently used first
                yield entry
                return
        with _locked(entry, exclusive=True) as lock:
            if not _is_file(entry):
                try:
                    _fetch(entry, shown, size, cache, bring)
                except BaseException:
                    lock.unlink(missing_ok=True)  # nothing is left of what did not come
                    raise


def is_here(media: Media, cache: CacheSettings) -> bool:
    """Whether the cache holds a copy of an object now."""
    return has(_name_of(media), cache)


def has(name: str, cache: CacheSettings) -> bool:
    """Whether it holds the entry `name` now."""
    return _is_file(_entry(name, cache))


def _name_of(media: Media) -> str:
    return f"{media.uri}\0{media.etag}"


def _entry(name: str, cache: CacheSettings) -> Path:
    return cache.path / hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def opened_as_planned(media: Media, storage_options: dict[str, Any], cache: CacheSettings) -> RemoteFile:
    """The object in its store, if its etag is still the planned one. Raises MediaChanged and StorageFailed."""
    remote = RemoteFile(media.uri, storage_options, time.monotonic() + cache.timeout_s)
    if remote.etag != media.etag:
        raise MediaChanged(
            f"{media.key}: planned with etag {media.etag}, now {remote.etag}; the object was replaced; run again"
        )
    if remote.size != media.size_bytes:
        raise StorageFailed(f"{media.key}: the store now says {remote.size} bytes instead of {media.size_bytes}")
    return remote


def own_folder(folder: Path) -> Path:
    """Make a folder private to this user. Raises CacheUnsafe if it belongs to another user or is open to others: anyone
    who can write to it could substitute files, or have us overwrite one of ours.
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
    """Bytes that the cache folder may hold: free disk space plus its present content."""
    held = sum(status.st_blocks * 512 for status in _content(cache.path).values())
    return shutil.disk_usage(cache.path).free + held


def _is_file(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def _fetch(entry: Path, shown: str, size: int, cache: CacheSettings, bring: Bring) -> None:
    """Under the entry's exclusive lock: fetch it, and rename it into place when complete."""
    part = entry.with_suffix(".part")
    try:
        _reserve(part, size, cache)
        with (
            open(os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "wb", buffering=0) as file,
            contextlib.closing(bring(part)) as pieces,
        ):
            for piece in pieces:
                rest = piece
                while rest:
                    rest = rest[file.write(rest[:WRITE_BYTES]) :]
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
    """Evict as needed and reserve `size` bytes, under the cache's lock. Raises CacheFull."""
    with _locked(cache.path / "room", exclusive=True):
        found = {path: status for path, status in _content(cache.path).items() if path != part}
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


def _content(folder: Path) -> dict[Path, os.stat_result]:
    """The entries, and what is being fetched: by others, too, so that it may get its name, or go, while we look."""
    found = {}
    for path in folder.iterdir():
        for name in (path, path.with_suffix("")) if path.suffix in ("", ".part") else ():
            with contextlib.suppress(FileNotFoundError):
                found[name] = name.lstat()
                break
    return found


def _remove(path: Path) -> bool:
    """Remove an entry, or the remains of one after a crash, unless it is in use."""
    try:
        with _locked(path.with_suffix(""), exclusive=True, wait=False) as lock:
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            return True
    except BlockingIOError:
        return False


@contextlib.contextmanager
def _locked(entry: Path, *, exclusive: bool, wait: bool = True) -> Iterator[Path]:
    """Hold the entry's lock file. With `wait=False`, raises BlockingIOError if it is held. The kernel releases it if
    this process dies."""
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
    """Whether the descriptor is still the file at `path`: removing an entry removes its lock file, too."""
    try:
        return os.fstat(fd).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False
