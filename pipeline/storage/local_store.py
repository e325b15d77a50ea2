"""Objects as files of a local folder: whole or not at all, whatever dies while one is written."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.config.locations import checked_key
from pipeline.failpoints import reached
from pipeline.storage.errors import PASSES, StorageError, StorageUnavailable

_TEMPORARY = ".tmp~"


class LocalStore:
    """Objects as files. A temporary file beside the target is filled first, then linked or renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def exists(self, key: str) -> bool:
        """See Store."""
        # `Path.is_file` of newer Pythons takes a disk that fails for a file that is not there.
        with _explained("read", path := self._path(key)), suppress(FileNotFoundError, NotADirectoryError):
            return stat.S_ISREG(path.stat().st_mode)
        return False

    def read_bytes(self, key: str) -> bytes:
        """See Store."""
        with _explained("read", path := self._path(key)):
            return path.read_bytes()

    def open(self, key: str) -> IO[bytes]:
        """See Store."""
        with _explained("read", path := self._path(key)):
            return path.open("rb")

    def write(self, key: str, data: bytes) -> None:
        """See Store."""
        target = self._path(key)
        temporary = self._temporary(target, data)
        try:
            os.replace(temporary, target)
        except FileNotFoundError:
            self.write(key, data)  # swept
        except OSError as error:
            raise _local_error(error, "write", target) from error
        finally:
            _discard(temporary)

    def write_once(self, key: str, data: bytes) -> bool:
        """See Store."""
        if self.exists(key):
            return False
        target = self._path(key)
        temporary = self._temporary(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            return self.write_once(key, data)  # swept
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise _local_error(error, "write", target) from error
            # No hard links (exFAT, some network and FUSE file systems): whole objects still, but two writers at the
            # same moment may both believe to be first.
            if self.exists(key):
                return False
            os.replace(temporary, target)
        finally:
            _discard(temporary)
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store."""
        folder = prefix.rpartition("/")[0]
        with _explained("list", self.root / folder):
            for key, status in walk_files(self.root / folder, folder):
                if key.startswith(prefix) and not key.endswith(_TEMPORARY):
                    yield key, status.st_size

    def delete(self, keys: Iterable[str]) -> None:
        """See Store. Folders that become empty go, too."""
        for key in keys:
            path = self._path(key)
            with _explained("delete", path), suppress(FileNotFoundError, NotADirectoryError):
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
            except (FileNotFoundError, FileExistsError) as error:
                # A deletion beside us has removed the folder that had just become empty; `mkdir` says FileExistsError
                # where it found the folder there and it was gone when it looked what it is.
                if attempt == 9:
                    raise _local_error(error, "write", target) from error
            except OSError as error:
                with suppress(OSError):
                    path.unlink()
                raise _local_error(error, "write", target) from error
        raise AssertionError("the loop returns or raises")


def walk_files(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below a folder in ascending order of their keys, one folder's names of each depth in memory."""
    open_folders = [(str(folder), prefix, _names(str(folder)))]
    while open_folders:
        place, prefix, names = open_folders[-1]
        if (name := next(names, None)) is None:
            open_folders.pop()
            continue
        key = f"{prefix}/{name}" if prefix else name
        path = f"{place}/{name}"  # a `Path` takes longer than the call
        if name.endswith("/"):
            open_folders.append((path[:-1], key[:-1], _names(path)))
            continue
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield key, status


def _names(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # A folder sorts as its keys do: with the slash that follows its name.
            return iter(sorted(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in entries))
    except (FileNotFoundError, NotADirectoryError):
        return iter(())


def _discard(temporary: Path) -> None:
    """What cannot be removed must not hide why: a sweep does it later."""
    with suppress(OSError):
        temporary.unlink()


@contextmanager
def _explained(doing: str, path: Path) -> Iterator[None]:
    """What is not there stays a FileNotFoundError; anything else is told as what it is to the pipeline."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _local_error(error, doing, path) from error


def _local_error(error: OSError, doing: str, path: Path) -> StorageError:
    what = {
        errno.EACCES: f"permission denied; choose a folder that you may {doing}",
        errno.EPERM: f"not permitted here; choose a folder that you may {doing}",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.ENOSPC: "the disk is full; make room or choose another folder",
        errno.EDQUOT: "the disk quota is used up; make room or choose another folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EEXIST: "a part of the path is a file, not a folder",
    }.get(error.errno or 0, error.strerror or str(error))
    return (StorageUnavailable if error.errno in PASSES else StorageError)(f"cannot {doing} {path}: {what}")
