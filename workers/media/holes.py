"""Placeholder files that report when they are read: they stand for blocks that are not present (yet).

Promises: once a read by any process has returned, it is known here, so results derived from it can be discarded;
nothing is left behind, whatever is killed. Linux only (inotify). Knows nothing about what is missing, or why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

_IN_ACCESS, _IN_Q_OVERFLOW = 0x1, 0x4000
_EVENT = struct.Struct("iIII")
_READ_BYTES = 1 << 16


class Holes:
    """A set of numbered holes. Use it in a `with` block."""

    def __init__(self, sizes: Iterable[tuple[int, int]]) -> None:
        """`sizes`: (number, bytes) of each. Raises OSError if this system does not report reads."""
        self.descriptors: dict[int, int] = {}
        """By number: a file of that size, to be opened by its path in `/proc`."""
        self._numbers: dict[int, int] = {}
        self._first: int | None = None
        self._stack = ExitStack()
        with self._stack as stack:
            libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None
            if libc is None:
                raise OSError("only Linux tells who reads what")
            self._events = _checked(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
            stack.callback(os.close, self._events)
            for number, size in sizes:
                file = tempfile.TemporaryFile(prefix="omnidrop-")  # noqa: SIM115 - the stack closes it
                stack.enter_context(file)
                os.truncate(file.fileno(), size)
                place = f"/proc/self/fd/{file.fileno()}".encode()
                self._numbers[_checked(libc.inotify_add_watch(self._events, place, _IN_ACCESS))] = number
                self.descriptors[number] = file.fileno()
            self._stack = stack.pop_all()

    def first_touched(self) -> int | None:
        """Number of the hole that was read first, None if none was. Raises OSError if the kernel dropped events."""
        with contextlib.suppress(BlockingIOError):
            while True:
                content, at = os.read(self._events, _READ_BYTES), 0
                while at < len(content):
                    watch, kind, _, length = _EVENT.unpack_from(content, at)
                    at += _EVENT.size + length
                    if kind & _IN_Q_OVERFLOW:
                        raise OSError("the kernel lost count of who reads what")
                    if kind & _IN_ACCESS and self._first is None:
                        self._first = self._numbers[watch]
        return self._first

    def forget(self) -> None:
        """Discard past reads."""
        self._first = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
