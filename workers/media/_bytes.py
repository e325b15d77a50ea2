"""Byte ranges of a file, as files and as windows for small reads.

Promises: reads stay within the range. Knows nothing about what the bytes are. Runs in the probing process.
"""

from __future__ import annotations

import io
from typing import Protocol

WINDOW_BYTES = 1 << 15

EMPTY_BYTES = 1 << 15
"""As many zeros behind a recording are no recording."""


class Bytes(Protocol):
    """A seekable file of bytes."""

    size: int

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of any file."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """As of any file."""
        ...


class Seekable(io.RawIOBase):
    """A file of `size` bytes, of which a subclass reads at `_at`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The offset of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at


class Part(Seekable):
    """A byte range of a file, presented as a file; if it has no header of its own, behind another range (`head`)."""

    def __init__(self, whole: Bytes, first: int, end: int, head: tuple[int, int] = (0, 0)) -> None:
        self._whole, self._first, self._head = whole, first, head
        self._head_bytes = head[1] - head[0]
        super().__init__(self._head_bytes + end - first)

    def read(self, size: int = -1) -> bytes:
        """Up to the end of a range."""
        is_head = self._at < self._head_bytes
        left = max(0, (self._head_bytes if is_head else self.size) - self._at)
        length = left if size < 0 else min(size, left)
        if not length:
            return b""
        self._whole.seek(self._at + (self._head[0] if is_head else self._first - self._head_bytes))
        content = self._whole.read(length)
        self._at += len(content)
        return content


class Window:
    """Serves small reads at ascending offsets from a large buffer, of `held_bytes`."""

    def __init__(self, file: Bytes, held_bytes: int = 2 * WINDOW_BYTES) -> None:
        self._file, self._held_bytes = file, held_bytes
        self._first, self._content = 0, b""

    def __call__(self, at: int, length: int) -> bytes:
        if not self._first <= at <= at + length <= self._first + len(self._content):
            self._file.seek(at)
            self._first, self._content = at, self._file.read(self._held_bytes)
        begin = at - self._first
        return self._content[begin : begin + length]


def is_empty(file: Bytes, first: int, end: int) -> bool:
    for at in (first, end - EMPTY_BYTES):
        file.seek(max(first, at))
        if any(read_up_to(file, min(EMPTY_BYTES, end - first))):
            return False
    return end - first >= EMPTY_BYTES


def read_up_to(file: Bytes, most: int) -> bytes:
    """Read up to `most` bytes from a file that may return less per call."""
    parts: list[bytes] = []
    while most > 0 and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)
