"""Files whose bytes this process reads for a probing one: local ones, and objects of a store.

Promises: exactly the bytes that were asked for, or an error that names what went wrong. Knows nothing about media.
"""

from __future__ import annotations

import os
from typing import Protocol

from workers.errors import MediaChanged, MediaMissing
from workers.media.remote import RemoteFile

AHEAD_BYTES = 8 << 20
"""Bytes fetched per request during a scan of an object: a request takes 10 to 50 ms."""


class HandedFile(Protocol):
    """Bytes that this process hands over."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Exactly so many. Raises StorageFailed and the like."""
        ...

    def extend(self, seconds: float) -> None:
        """Put the deadline off."""
        ...


class LocalFile:
    """A local file, opened by this process: the child gets bytes and no path."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises MediaMissing, MediaChanged."""
        try:
            content = os.pread(self._fd, length, offset)
        except OSError as error:
            raise MediaMissing(f"cannot read the file: {error.strerror}") from error
        if len(content) != length:
            raise MediaChanged("the file shrank while being probed; run again")
        return content

    def extend(self, seconds: float) -> None:
        """Nothing to do: a disk has no deadline."""


class Ahead:
    """An object with read-ahead: sequential reads cost one request per `AHEAD_BYTES`."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self.size = file, file.size
        self._first, self._content, self._next = 0, b"", -1

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises what the file raises."""
        begin = offset - self._first
        if not 0 <= begin <= begin + length <= len(self._content):
            ahead = AHEAD_BYTES if offset == self._next else length
            self._content = self._file.read(offset, max(length, min(ahead, self.size - offset)))
            self._first, begin = offset, 0
        self._next = offset + length
        return self._content[begin : begin + length]

    def extend(self, seconds: float) -> None:
        """Extend the store's deadline by `seconds`."""
        self._file.extend(seconds)
