"""Where results lie: whole objects under keys, in a local folder or in S3, behind one small interface.

Promises: an object is there whole or not at all, whatever dies while it is written; `write_once` never replaces an
object; listing streams; a failure that may pass (no answer, no room) is a `StorageUnavailable`, which a `PatientStore`
waits for. Knows nothing about what the objects hold. Credentials come from the environment (variables, profile, role),
never from a job.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from pipeline.config.locations import checked_key, is_s3
from pipeline.config.sections import StorageConfig
from pipeline.failpoints import reached
from pipeline.storage.outage import Patience
from pipeline.storage.s3_client import StorageError, StorageUnavailable
from pipeline.storage.s3_store import S3Store

_TEMPORARY = ".tmp~"


class Store(Protocol):
    """Objects under keys such as `journal/units/0a/1b.parquet`: relative, with forward slashes."""

    uri: str
    """The folder or `s3://` prefix that keys are relative to."""

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        ...

    def read_bytes(self, key: str) -> bytes:
        """A whole object. Raises FileNotFoundError."""
        ...

    def open(self, key: str) -> IO[bytes]:
        """An object as a seekable binary file. Raises FileNotFoundError."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Create or replace an object; readers see the old or the new one, never a part."""
        ...

    def write_once(self, key: str, data: bytes) -> bool:
        """Create an object unless there is one; False where there was another.

        True also for a request that had to be repeated because the reply to it was lost.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that start with `prefix`, with sizes in bytes, streaming, in ascending order of keys."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        ...

    def sweep(self, prefix: str) -> None:
        """Remove what writers that were killed left below `prefix`; a writer at work there begins again."""
        ...


def open_store(uri: str, storage: StorageConfig | None = None) -> Store:
    """A store for a local folder (made when something is written) or an `s3://bucket/prefix`."""
    if is_s3(uri):
        return S3Store(uri, storage or StorageConfig())
    return LocalStore(Path(uri).absolute())


def caveats(store: Store, key: str) -> tuple[str, ...]:
    """What a store does not do that results rely on, in sentences; tried on the object `key`, which must be there."""
    if isinstance(store, S3Store) and not store.keeps_first(key):
        return (
            "this S3 server ignores If-None-Match: let no two runs write to this output at the same time, or the index "
            "may hold one run's costs for the other's rows until `omnidrop rebuild`",
        )
    return ()


class LocalStore:
    """Objects as files. A temporary file beside the target is filled first, then linked or renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def exists(self, key: str) -> bool:
        """See Store."""
        return self._path(key).is_file()

    def read_bytes(self, key: str) -> bytes:
        """See Store."""
        return self._path(key).read_bytes()

    def open(self, key: str) -> IO[bytes]:
        """See Store."""
        return self._path(key).open("rb")

    def write(self, key: str, data: bytes) -> None:
        """See Store."""
        target = self._path(key)
        temporary = self._temporary(target, data)
        try:
            os.replace(temporary, target)
        except FileNotFoundError:
            self.write(key, data)  # swept
        except OSError as error:
            raise _local_error(error, target) from error
        finally:
            temporary.unlink(missing_ok=True)

    def write_once(self, key: str, data: bytes) -> bool:
        """See Store."""
        target = self._path(key)
        if target.exists():
            return False
        temporary = self._temporary(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            return self.write_once(key, data)  # swept
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise _local_error(error, target) from error
            # No hard links (exFAT, some network file systems): whole objects still, but two writers at the same
            # moment may both believe to be first.
            if target.exists():
                return False
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store."""
        folder = prefix.rpartition("/")[0]
        try:
            for key, status in walk_files(self.root / folder, folder):
                if key.startswith(prefix) and not key.endswith(_TEMPORARY):
                    yield key, status.st_size
        except OSError as error:
            raise StorageError(f"cannot list {self.root / folder}: {error.strerror}") from error

    def delete(self, keys: Iterable[str]) -> None:
        """See Store. Folders that become empty go, too."""
        for key in keys:
            path = self._path(key)
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                reached("object_deleted")
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break

    def sweep(self, prefix: str) -> None:
        """See Store."""
        folder = prefix.rpartition("/")[0]
        for key, _ in walk_files(self.root / folder, folder):
            if key.startswith(prefix) and key.endswith(_TEMPORARY):
                (self.root / key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def _temporary(self, target: Path, data: bytes) -> Path:
        for attempt in range(10):
            path = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}{_TEMPORARY}"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                reached("file_filled")
                return path
            except FileNotFoundError as error:
                # A deletion beside us has removed the folder that had just become empty.
                if attempt == 9:
                    raise _local_error(error, target) from error
            except OSError as error:
                with suppress(OSError):
                    path.unlink()
                raise _local_error(error, target) from error
        raise AssertionError("the loop returns or raises")


def walk_files(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below a folder in ascending order of their keys, one folder's names in memory at a time."""
    try:
        with os.scandir(folder) as entries:
            # A folder sorts as its keys do: with the slash that follows its name.
            names = sorted(entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        key = f"{prefix}/{name}" if prefix else name
        if name.endswith("/"):
            yield from walk_files(folder / name, key[:-1])
            continue
        try:
            status = os.stat(folder / name)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield key, status


def _local_error(error: OSError, path: Path) -> StorageError:
    what = {
        errno.EACCES: "permission denied; choose a folder that you may write",
        errno.EPERM: "not permitted here; choose a folder that you may write",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.ENOSPC: "the disk is full; make room or choose another folder",
        errno.EDQUOT: "the disk quota is used up; make room or choose another folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EEXIST: "a part of the path is a file, not a folder",
    }.get(error.errno or 0, error.strerror or str(error))
    passes = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
    return (StorageUnavailable if passes else StorageError)(f"cannot write {path}: {what}")


class PatientStore:
    """Another store, whose failures that may pass are waited for."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store, self._patience = store, patience
        self.uri = store.uri

    def exists(self, key: str) -> bool:
        """See Store."""
        return self._patience.call(lambda: self._store.exists(key))

    def read_bytes(self, key: str) -> bytes:
        """See Store."""
        return self._patience.call(lambda: self._store.read_bytes(key))

    def open(self, key: str) -> IO[bytes]:
        """See Store."""
        return self._patience.call(lambda: self._store.open(key))

    def write(self, key: str, data: bytes) -> None:
        """See Store."""
        self._patience.call(lambda: self._store.write(key, data))

    def write_once(self, key: str, data: bytes) -> bool:
        """See Store."""
        return self._patience.call(lambda: self._store.write_once(key, data))

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store."""
        return self._patience.listing(lambda: self._store.list(prefix), key=lambda item: item[0])

    def delete(self, keys: Iterable[str]) -> None:
        """See Store."""
        named = list(keys)
        self._patience.call(lambda: self._store.delete(named))

    def sweep(self, prefix: str) -> None:
        """See Store."""
        self._patience.call(lambda: self._store.sweep(prefix))
