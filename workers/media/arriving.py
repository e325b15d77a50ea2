"""An object on its way into a file of this machine: its bytes in order, and some of them before their turn.

Promises: every byte comes from the store once, whoever wants it first, unless a request fails; what is given out is
there, whole and the object's own; whoever waits for bytes is told when nobody brings them any more. Knows nothing about
media, or what becomes of the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Self

from workers.errors import StorageFailed
from workers.media.holes import Holes
from workers.media.opening import Joined
from workers.media.remote import RemoteFile

CELL_BYTES = 1 << 20
"""What comes at once of bytes that are wanted before their turn."""
AHEAD_BYTES = 8 << 20
"""What comes at once where such bytes are read one after the other: a request takes 30 ms and more."""
MORE_BYTES = 8 << 20
"""How much more is waited for where what was thought to be enough was not."""
REQUESTS_OF_A_CORE = 2
"""Half a core receives, hashes and writes what one request brings, and serves it where the store is near."""
HELD_S = 3.0
"""What comes in order gives way to who works on what is here for so many seconds at most."""
_NOBODYS, _COMING, _HERE = 0, 1, 2


class OutOfReach(Exception):
    """Bytes are wanted that are not here, and nobody can tell when they will be."""


@dataclass(frozen=True)
class _Run:
    """Bytes one after the other that are all here, or all not."""

    first: int
    end: int
    is_here: bool


class Arriving:
    """Use it in a `with` block: when it ends, nobody waits any more. Threads may share it."""

    def __init__(self, remote: RemoteFile, path: str, *, streams: int, step: int, gives_way: bool = False) -> None:
        """Into a file that has the object's size; some `step` bytes are asked for at once. With `gives_way`, what comes
        in order takes no more cores than probing and decoding leave, for `HELD_S` or until `go_on` is called; what
        someone waits for comes all the same."""
        self._remote, self._streams = remote, streams
        self._gives_way_until = time.monotonic() + HELD_S if gives_way else 0.0
        self._busy = 1
        """Cores that work on what is here."""
        self._at, self._awaited = 0, 0
        """Bytes that came in order, and that someone waits for."""
        self._most = max(1, step // CELL_BYTES)
        self.size = remote.size
        self.waited_s = 0.0
        """Seconds in which what reads the file in order waited for it."""
        self._cells = bytearray(-(-self.size // CELL_BYTES))
        self._changed = threading.Condition()
        self._is_over = False
        self._stack = contextlib.ExitStack()
        self._write_fd, self.fd = (os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC) for how in (os.O_WRONLY, 0))
        self._stack.callback(os.close, self._write_fd)
        self._stack.callback(os.close, self.fd)

    def pieces(self) -> Generator[memoryview]:
        """All bytes in order, each valid until the next is asked for: by then the caller has written it to the file."""
        at = 0
        wanted = self._remote.read_each(
            self._unclaimed(),
            streams=self._streams,
            longest=min(self._most * CELL_BYTES, self.size),
            most=self._at_once,
        )
        with contextlib.closing(wanted) as coming:
            for first, piece in coming:
                yield from self._of_others(at, first)
                self._at = at = first + len(piece)
                yield piece
                self._mark(first // CELL_BYTES, -(-at // CELL_BYTES), _HERE)
        yield from self._of_others(at, self.size)

    def go_on(self) -> None:
        """Give way no more."""
        self._gives_way_until = 0.0

    def _at_once(self) -> int:
        """Pieces that may be in flight, as many as there are where nothing is to give way."""
        if time.monotonic() > self._gives_way_until:
            return len(self._cells)
        spare = REQUESTS_OF_A_CORE * ((os.cpu_count() or 1) - self._busy)
        awaited = -(-(self._awaited - self._at) // (self._most * CELL_BYTES))
        return max(1, spare, awaited)

    def read(self, offset: int, length: int, deadline: float, ahead: int = 0) -> bytes:
        """Some bytes, before their turn where they are not here; what has to be fetched for them comes with up to
        `ahead` bytes after it. Raises StorageFailed, MediaChanged and the like."""
        first, end = offset // CELL_BYTES, -(-(offset + length) // CELL_BYTES)
        while (mine := self._claim(first, end, deadline, ahead // CELL_BYTES)) is not None:
            self._bring(*mine, self._remote.until(deadline))
        return os.pread(self.fd, length, offset)

    def wait_for(self, end: int) -> None:
        """Until all bytes up to `end` are here. Raises OutOfReach where they never will be."""
        cells, began = -(-min(end, self.size) // CELL_BYTES), time.monotonic()
        with self._changed:
            self._awaited = max(self._awaited, end)
            self._changed.wait_for(lambda: self._is_over or self._cells.count(_HERE, 0, cells) == cells)
            self.waited_s += time.monotonic() - began
            if self._cells.count(_HERE, 0, cells) < cells:
                raise OutOfReach

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        return self._cells.count(_HERE) == len(self._cells)

    def by(self, deadline: float) -> SoonerBytes:
        """Its bytes, before their turn."""
        return SoonerBytes(self, deadline)

    def runs(self) -> list[_Run]:
        """What is here and what is not, from the first byte to the last."""
        with self._changed:
            cells = bytes(self._cells)
        found, at = [], 0
        for is_here, some in groupby(cells, lambda cell: cell == _HERE):
            first, at = at, at + sum(1 for _ in some)
            found.append(_Run(first * CELL_BYTES, min(at * CELL_BYTES, self.size), is_here))
        return found

    @contextlib.contextmanager
    def view(self, begin: float, end: float) -> Iterator[ArrivingView]:
        """What ffmpeg may be given while the block lasts, to read what lies in this stretch, in shares of all."""
        self.wait_for(int(end * self.size))
        with contextlib.ExitStack() as stack:
            self._busy += 1
            try:
                yield ArrivingView(self, stack)
            finally:
                self._busy -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the file, when nobody uses it any more."""
        self._stack.close()

    def _unclaimed(self) -> Iterator[tuple[int, int]]:
        """What nobody brings yet, in order, each claimed when it is asked for."""
        at = 0
        while True:
            with self._changed:
                first = self._cells.find(_NOBODYS, at)
                if first < 0:
                    return
                # The first cell by itself: probing begins with it.
                at = self._end_of_nobodys(first, min(first + (self._most if first else 1), len(self._cells)))
                self._cells[first:at] = bytes([_COMING]) * (at - first)
            yield first * CELL_BYTES, min(at * CELL_BYTES, self.size)

    def _end_of_nobodys(self, first: int, most: int) -> int:
        return next((cell for cell in range(first, most) if self._cells[cell] != _NOBODYS), most)

    def _claim(self, first: int, end: int, deadline: float, more: int) -> tuple[int, int] | None:
        """Some of these cells that nobody brings, with so many more, to be brought by who asks; None when all are
        here."""
        with self._changed:
            while True:
                cell = self._cells.find(_NOBODYS, first, end)
                if cell >= 0:
                    last = self._end_of_nobodys(cell, min(end + more, len(self._cells)))
                    self._cells[cell:last] = bytes([_COMING]) * (last - cell)
                    return cell, last
                if self._cells.count(_HERE, first, end) == end - first:
                    return None
                if self._is_over or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise StorageFailed(f"{self._remote.uri}: the store is too slow, or fetching it ended")

    def _bring(self, first: int, end: int, remote: RemoteFile) -> None:
        begin, stop = first * CELL_BYTES, min(end * CELL_BYTES, self.size)
        coming = remote.read_on(begin, stop, streams=self._streams, step=2 * CELL_BYTES)
        try:
            with contextlib.closing(coming) as pieces:
                for content in pieces:
                    while content:
                        written = os.pwrite(self._write_fd, content, begin)
                        content, begin = content[written:], begin + written
                    self._mark(first, -(-begin // CELL_BYTES), _HERE)
                    first = -(-begin // CELL_BYTES)
        except BaseException:
            self._mark(first, end, _NOBODYS)
            raise

    def _mark(self, first: int, end: int, state: int) -> None:
        with self._changed:
            self._cells[first:end] = bytes([state]) * (end - first)
            self._changed.notify_all()

    def _of_others(self, at: int, end: int) -> Iterator[memoryview]:
        """Bytes that came before their turn."""
        for first in range(at, end, CELL_BYTES):
            yield memoryview(self.read(first, min(CELL_BYTES, end - first), self._remote.deadline))


class ArrivingView:
    """An arriving object as ffmpeg sees it: with what is here now, and holes for the rest."""

    def __init__(self, source: Arriving, stack: contextlib.ExitStack) -> None:
        self._source, self._stack = source, stack
        self._runs: list[_Run] = []
        self._more = MORE_BYTES

    def opened(self) -> tuple[Joined, tuple[int, ...]]:
        """What ffmpeg opens, and the descriptors that it reads by."""
        self._stack.close()
        self._runs = self._source.runs()
        missing = ((number, run.end - run.first) for number, run in enumerate(self._runs) if not run.is_here)
        self._holes = self._stack.enter_context(Holes(missing))
        holes = self._holes.descriptors
        here = f"file:/proc/self/fd/{self._source.fd}"
        pieces = (
            f"subfile,,start,{run.first},end,{run.end},,:{here}"
            if run.is_here
            else f"file:/proc/self/fd/{holes[number]}"
            for number, run in enumerate(self._runs)
        )
        return Joined.of("concat:" + "|".join(pieces), self._source.size), (self._source.fd, *holes.values())

    def first_touched(self) -> int | None:
        """Number of the hole that was read first, None if none was."""
        return self._holes.first_touched()

    def want(self, touched: int) -> None:
        """Wait for more, where what was read is what comes next. Raises OutOfReach where it is not."""
        run = self._runs[touched]
        if any(not before.is_here for before in self._runs[:touched]):
            raise OutOfReach
        self._source.wait_for(min(run.first + self._more, self._source.size))
        self._more *= 2


class SoonerBytes:
    """Bytes of an arriving object for who cannot wait for their turn, by a deadline."""

    def __init__(self, source: Arriving, deadline: float) -> None:
        self._source, self._deadline, self.size = source, deadline, source.size
        self._next = -1

    def read(self, offset: int, length: int) -> bytes:
        """Exactly so many bytes. Raises what `Arriving.read` raises."""
        ahead = AHEAD_BYTES if offset == self._next else 0
        self._next = offset + length
        return self._source.read(offset, length, self._deadline, ahead)

    def extend(self, seconds: float) -> None:
        """Put the deadline off."""
        self._deadline += seconds
