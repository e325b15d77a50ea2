"""Opens a file of a local archive: once, and only below the archive's folder.

Promises: the file opened is a regular file below the given folder, whatever links lead there, as long as it is open;
a process that reads its path under Landlock gets that file or none. Knows nothing about media.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote_from_bytes, unquote_to_bytes

from workers.errors import MediaMissing, MediaRefused, NotMedia

_ADDRESS = "file://"


def local_path(uri: str) -> str:
    """The path of a local file. A name that is not UTF-8 is a `file:` address with its bytes (`local_uri`)."""
    return os.fsdecode(unquote_to_bytes(uri.removeprefix(_ADDRESS))) if uri.startswith(_ADDRESS) else uri


def as_text(name: str) -> str:
    """A name as printable text: bytes that are not UTF-8 become \\xNN. Not reversible."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def local_uri(path: str) -> str:
    """An absolute path as text that every table can store; `local_path` restores the exact bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _ADDRESS + quote_from_bytes(os.fsencode(path))
    return path


class CheckedPath(str):
    """A path with the descriptor of the file that was opened and checked there."""

    fd: int

    @classmethod
    def of(cls, path: str, fd: int) -> CheckedPath:
        """Both."""
        checked = cls(path)
        checked.fd = fd
        return checked


class Copy(str):
    """The path of a cached copy, with the name of the original."""

    called: str

    @classmethod
    def of(cls, path: str, called: str) -> Copy:
        """Both."""
        copy = cls(path)
        copy.called = called
        return copy


class Joined(str):
    """An ffmpeg address that concatenates a file's pieces, with the total size in bytes."""

    size: int

    @classmethod
    def of(cls, address: str, size: int) -> Joined:
        """Both."""
        joined = cls(address)
        joined.size = size
        return joined


def etag_of(status: os.stat_result) -> str:
    """The etag of a local file: `{size}-{mtime_ns}`."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def mark_of(status: os.stat_result) -> str:
    """While it stays, a local file holds what it held. One put in place of another may have its size and time, not its
    inode or the time of its change."""
    return f"{etag_of(status)}-{status.st_ctime_ns}-{status.st_ino}"


def changed_since(mark: str, status: os.stat_result) -> bool:
    """Whether a file may hold something else than it did at a mark. By the time of its change alone: machines may see
    different inodes of one file."""
    return mark.rpartition("-")[0] != mark_of(status).rpartition("-")[0]


@contextmanager
def opened_below(path: str | os.PathLike[str], folder: str | None = None) -> Iterator[CheckedPath]:
    """Open the file at `path` (or address, see `local_uri`) inside the `with` block. Raises MediaMissing, also if it is
    outside `folder`, MediaRefused where this user may not read it, NotMedia if it is empty or not a regular file."""
    path = local_path(os.fspath(path))
    try:
        # Opening a pipe or a device for reading may block or have side effects.
        is_file = stat.S_ISREG(os.stat(path).st_mode)
        how = os.O_RDONLY if is_file else getattr(os, "O_PATH", os.O_RDONLY)
        fd = os.open(path, how | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        kind = MediaRefused if isinstance(error, PermissionError) else MediaMissing
        raise kind(f"cannot open the file: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not is_file or not found.st_size:
            raise NotMedia("the file is empty" if stat.S_ISREG(found.st_mode) else "not a regular file")
        if folder is not None and not is_below(_place(fd, path), folder):
            raise MediaMissing("the link points outside the archive; set archive.follow_links: true to follow it")
        yield CheckedPath.of(os.fspath(path), fd)
    finally:
        os.close(fd)


def is_below(real_path: str, folder: str) -> bool:
    """Whether a resolved path is in a folder, which may itself be a link."""
    return real_path.startswith(os.path.realpath(folder).rstrip("/") + "/")


def _place(fd: int, path: str | os.PathLike[str]) -> str:
    """The real path of an open file; on Linux the kernel knows it, whatever has happened to `path`."""
    return os.readlink(f"/proc/self/fd/{fd}") if sys.platform == "linux" else os.path.realpath(path)
