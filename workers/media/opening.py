"""Opening a file of a local archive: once, and only below the archive's own folder.

Promises: what is opened is a regular file that lies below the folder given, whatever links lead there, at the moment
and for as long as it is open; whoever reads it by its path under Landlock gets that file or none. Knows nothing about
media.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote_from_bytes, unquote_to_bytes

from workers.errors import MediaMissing, NotMedia

_ADDRESS = "file://"


def local_path(uri: str) -> str:
    """The path of a local file. A name that is no text has a `file:` address with its bytes (`local_uri`)."""
    return os.fsdecode(unquote_to_bytes(uri.removeprefix(_ADDRESS))) if uri.startswith(_ADDRESS) else uri


def as_text(name: str) -> str:
    """A name as text that can be shown: bytes that are not UTF-8 become \\xNN, whatever else looks like that."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def local_uri(path: str) -> str:
    """An absolute path as text that every table can hold and `local_path` takes back to the byte."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _ADDRESS + quote_from_bytes(os.fsencode(path))
    return path


class CheckedPath(str):
    """A path, and the descriptor of the file that was found there and checked."""

    fd: int

    @classmethod
    def of(cls, path: str, fd: int) -> CheckedPath:
        """Both."""
        checked = cls(path)
        checked.fd = fd
        return checked


class Copy(str):
    """The path of a copy that has another name than the file it is of."""

    called: str

    @classmethod
    def of(cls, path: str, called: str) -> Copy:
        """Both."""
        copy = cls(path)
        copy.called = called
        return copy


class Joined(str):
    """An address under which ffmpeg finds a file's pieces one after the other, and the size of it all."""

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


@contextmanager
def opened_below(path: str | os.PathLike[str], folder: str | None = None) -> Iterator[CheckedPath]:
    """The file at `path` (or address, see `local_uri`) while the block lasts. Raises MediaMissing, also for what lies
    outside of `folder`, and NotMedia for what is no regular file or empty."""
    path = local_path(os.fspath(path))
    try:
        # A pipe or a device would block, or do something, when it is opened for reading.
        is_file = stat.S_ISREG(os.stat(path).st_mode)
        how = os.O_RDONLY if is_file else getattr(os, "O_PATH", os.O_RDONLY)
        fd = os.open(path, how | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MediaMissing(f"cannot open the file: {error.strerror}") from error
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
    """Whether a path without links lies in a folder, which may itself be a link."""
    return real_path.startswith(os.path.realpath(folder).rstrip("/") + "/")


def _place(fd: int, path: str | os.PathLike[str]) -> str:
    """Where an open file lies. On Linux the kernel knows, whatever became of the path."""
    return os.readlink(f"/proc/self/fd/{fd}") if sys.platform == "linux" else os.path.realpath(path)
