"""Lets ffmpeg read an object larger than the node's cache as if it were a file on disk.

Promises: ffmpeg sees a file of the object's size in which some blocks are present and the others are holes; if a run
reads a hole, its output is discarded and it is repeated with the missing blocks, so only the object's own bytes are
ever decoded; blocks are cache entries under the cache's rules. Knows nothing about containers: where a clip's bytes lie
is guessed from its time and learned from what ffmpeg reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from workers.errors import CacheFull, CacheTooSmall
from workers.media.arriving import Arriving
from workers.media.fetching import READ_BYTES, Bring, CacheSettings, has, kept, opened_as_planned, own_folder
from workers.media.ffmpeg import Finished, Limits, run
from workers.media.holes import Holes
from workers.media.opening import CheckedPath, Joined
from workers.media.remote import RemoteFile
from workers.records import Media

MOST_BLOCKS = 256
"""Maximum number of blocks per object: ffmpeg opens each as a file. A 22 GB master has blocks of 86 MB."""
LEAST_STEP = 1 << 20
"""Smaller requests cost more in latency than in transfer."""
BLOCK_BYTES = 8 << 20
"""Minimum block size, unless the cache is smaller."""
BLOCKS_IN_CACHE = 64
"""A clip needs a file's beginning, its end and the blocks at its own time; this many leave room for other clips."""
SPARE_BYTES = 256 << 20
"""A clip that reads no more than this need not fit into the cache: the excess goes to anonymous files meanwhile."""
MOST_AHEAD = 8
"""Blocks fetched beyond the one that was read."""
SECTION_BYTES = 1 << 28
"""Bytes of a sequential read that share one fetch's time limit."""


@dataclass(frozen=True)
class _Piece:
    """A block's byte range in the object."""

    number: int
    first: int
    end: int


@dataclass
class InBlocks:
    """An object that is never stored whole."""

    media: Media
    storage_options: dict[str, Any]
    cache: CacheSettings
    waited_s: float = 0.0
    """Seconds spent fetching blocks."""
    _length: int = field(init=False)

    def __post_init__(self) -> None:
        least = -(-self.media.size_bytes // MOST_BLOCKS)
        most = max(least, min(BLOCK_BYTES, self.cache.max_bytes // BLOCKS_IN_CACHE))
        self._length = -(-most // 4096) * 4096

    @property
    def size(self) -> int:
        """Size of the whole object in bytes."""
        return self.media.size_bytes

    @cached_property
    def _remote(self) -> RemoteFile:
        return opened_as_planned(self.media, self.storage_options, self.cache)

    @cached_property
    def _pieces(self) -> list[_Piece]:
        starts = range(0, self.size, self._length)
        return [_Piece(n, first, min(first + self._length, self.size)) for n, first in enumerate(starts)]

    def around(self, first: int, end: int) -> set[int]:
        """Blocks that hold a byte range and the object's beginning and end, where indexes lie."""
        at, last = (max(0, min(place, self.size - 1)) // self._length for place in (first, end))
        return {0, len(self._pieces) - 1, *range(at, last + 1)}

    def with_more(self, wanted: set[int], touched: int, ahead: int) -> set[int]:
        """`wanted` plus the block `touched` and `ahead` blocks after it, or all up to the next wanted block."""
        following = min((n for n in wanted if n > touched), default=touched)
        end = following if following - touched <= MOST_AHEAD else touched
        return wanted | set(range(touched, min(max(end, touched + ahead), len(self._pieces))))

    @contextlib.contextmanager
    def view(self, begin: float, end: float) -> Iterator[View]:
        """A view for ffmpeg of this stretch, in shares of the file, valid inside the `with` block. Raises
        CacheTooSmall if this system has no inotify."""
        with contextlib.ExitStack() as stack:
            try:
                holes = stack.enter_context(Holes((p.number, p.end - p.first) for p in self._pieces))
            except OSError as error:
                raise CacheTooSmall(
                    f"{self.media.key}: {self.size} bytes do not fit into the cache, which may hold "
                    f"{self.cache.max_bytes}, and it cannot be read in blocks here ({error}); raise that bound with "
                    "execution.cache_bytes"
                ) from error
            yield View(self, holes, stack, self.around(int(begin * self.size), int(end * self.size)))

    def bytes_of(self, wanted: set[int]) -> int:
        """Total size of these blocks."""
        return sum(piece.end - piece.first for piece in self._pieces if piece.number in wanted)

    def open(self, number: int, stack: contextlib.ExitStack, *, is_spare: bool) -> int:
        """A descriptor of a block, open until the stack closes; with `is_spare` it may go to an anonymous file if the
        cache is full. Raises what fetching raises."""
        piece = self._pieces[number]
        try:
            fd = os.open(stack.enter_context(self._kept(piece)), os.O_RDONLY | os.O_CLOEXEC)
        except CacheFull:
            if not is_spare:
                raise
            began = time.monotonic()
            file = tempfile.TemporaryFile(dir=own_folder(self.cache.path))  # noqa: SIM115 - the stack closes it
            stack.enter_context(file)
            with contextlib.closing(self.read(piece.first, piece.end)) as content:
                file.writelines(content)
            file.flush()
            self.waited_s += time.monotonic() - began
            return file.fileno()
        stack.callback(os.close, fd)
        return fd

    @contextlib.contextmanager
    def _kept(self, piece: _Piece, bring: Bring | None = None) -> Iterator[Path]:
        began = time.monotonic()
        bring = bring or (lambda _: self.read(piece.first, piece.end))
        with kept(self._name(piece), self.media.key, piece.end - piece.first, self.cache, bring) as path:
            self.waited_s += time.monotonic() - began
            yield path

    def _name(self, piece: _Piece) -> str:
        return f"{self.media.uri}\0{self.media.etag}\0{piece.first}-{piece.end}"

    def read(self, first: int, end: int) -> Generator[memoryview]:
        """Read a byte range from the store, within the time limit of one fetch."""
        self._remote.renew(self.cache.timeout_s)
        step = max(LEAST_STEP, min(READ_BYTES, -(-(end - first) // self.cache.streams)))
        return self._remote.read_on(first, end, streams=self.cache.streams, step=step)

    def sections(self, first: int, end: int) -> Generator[memoryview]:
        """Read a longer byte range; each section has the time limit of one fetch."""
        for start in range(first, end, SECTION_BYTES):
            with contextlib.closing(self.read(start, min(start + SECTION_BYTES, end))) as pieces:
                yield from pieces

    def sha256(self) -> str:
        """SHA-256 of the object; each byte is read once. If the object is larger than the cache, its first blocks and
        the last one stay in the cache as far as they fit, for its first clips. Cached blocks are not read again."""
        room = self.cache.max_bytes if self.size > self.cache.max_bytes else 0
        found_here = {piece.first for piece in self._pieces if has(self._name(piece), self.cache)}
        here: list[Path] = []
        with contextlib.closing(_Passing(self, found_here)) as passing:
            for piece in self._pieces:
                has_room = room >= self._length * (1 if piece is self._pieces[-1] else 2)
                if has_room or piece.first in found_here:
                    room -= self._length
                    try:
                        with self._kept(piece, passing.bringing(piece)) as path:
                            if passing.at < piece.end:
                                passing.over(path)
                            here.append(path)
                    except CacheFull:
                        room = 0
                for _ in passing.up_to(piece.end):
                    pass
        now = time.time_ns()
        # Clips come in order and all read the end: evict the block that is used last.
        for number, path in enumerate(here[-1:] + here[:-1]):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, ns=(now - number, now - number))
        return passing.found.hexdigest()


_NOTHING = memoryview(b"")


class _Passing:
    """One sequential pass over an object, hashed on the way."""

    def __init__(self, source: InBlocks, here: Set[int]) -> None:
        """`here`: offsets of blocks that are in the cache already; requests end there."""
        self._source, self._here = source, here
        self.at, self.found = 0, hashlib.sha256()
        self._coming: Generator[memoryview] | None = None
        self._rest = _NOTHING

    def bringing(self, piece: _Piece) -> Bring:
        """What brings a block's bytes: the next ones of the pass, or fetched again if the block was evicted at once."""

        def bring(_: Path) -> Generator[memoryview]:
            return self.up_to(piece.end) if self.at == piece.first else self._source.read(piece.first, piece.end)

        return bring

    def up_to(self, end: int) -> Generator[memoryview]:
        """Yield the next bytes from the store."""
        while self.at < end:
            if self._coming is None:
                stop = min((place for place in self._here if place > self.at), default=self._source.size)
                self._coming = self._source.sections(self.at, stop)
            self._rest = self._rest or next(self._coming, _NOTHING)
            if not self._rest:
                self._coming = None
                continue
            piece, self._rest = self._rest[: end - self.at], self._rest[end - self.at :]
            self.found.update(piece)
            self.at += len(piece)
            yield piece

    def over(self, path: Path) -> None:
        """Hash the next bytes from a cached block."""
        self.close()
        with open(path, "rb") as file:
            while piece := file.read(READ_BYTES):
                self.found.update(piece)
                self.at += len(piece)

    def close(self) -> None:
        """Cancel requests in flight."""
        if self._coming is not None:
            self._coming.close()
        self._coming, self._rest = None, _NOTHING


class View:
    """Some blocks of an object, with holes for the others."""

    def __init__(self, source: InBlocks, holes: Holes, stack: contextlib.ExitStack, wanted: set[int]) -> None:
        self._source, self._stack, self._holes, self._wanted = source, stack, holes, wanted
        self._opened: dict[int, int] = {}
        self._ahead = 1

    def opened(self) -> tuple[Joined, tuple[int, ...]]:
        """The address that ffmpeg opens, and the descriptors of all pieces in order, with the wanted ones present.
        Raises CacheTooSmall if these exceed the cache's bound, and what fetching raises."""
        source, needed = self._source, self._source.bytes_of(self._wanted)
        if needed > max(source.cache.max_bytes, SPARE_BYTES):
            raise CacheTooSmall(
                f"{source.media.key}: {needed} bytes of it are read at once; the cache may hold "
                f"{source.cache.max_bytes}; raise that bound with execution.cache_bytes"
            )
        for number in sorted(self._wanted - self._opened.keys()):
            self._opened[number] = source.open(number, self._stack, is_spare=needed <= SPARE_BYTES)
        pieces = self._holes.descriptors | self._opened
        descriptors = tuple(pieces[number] for number in sorted(pieces))
        return Joined.of("concat:" + "|".join(f"file:{_place(fd)}" for fd in descriptors), source.size), descriptors

    def first_touched(self) -> int | None:
        """Number of the hole that was read first, None if none was."""
        return self._holes.first_touched()

    def want(self, touched: int) -> None:
        """Want the block that was touched as well, and more if reading continues."""
        self._holes.forget()
        # Everything read after the first hole followed from bytes that are not the file's. A run that reads on from
        # present blocks will read further.
        self._ahead = min(2 * self._ahead, MOST_AHEAD) if touched - 1 in self._wanted else 1
        self._wanted = self._source.with_more(self._wanted, touched, self._ahead)


Readable = str | os.PathLike[str] | InBlocks | Arriving
"""What clips are decoded from: a local file, an object too large to be one, or one that is still arriving."""


def waited_s(source: Readable) -> float:
    """Seconds that decoding has waited for the store."""
    return source.waited_s if isinstance(source, InBlocks | Arriving) else 0.0


def run_over(
    source: Readable,
    arguments: Callable[[str | os.PathLike[str]], Sequence[str]],
    *,
    limits: Limits,
    pass_fds: Sequence[int],
    about: tuple[float, float] = (0.0, 1.0),
) -> Finished:
    """`ffmpeg.run` over a source. `arguments` makes the argument list from the path or address to open; `about` is the
    expected byte range as shares of the source (0 to 1); `pass_fds` are descriptors that it writes.

    Raises what fetching raises, and OutOfReach.
    """
    if not isinstance(source, InBlocks | Arriving):
        return run(arguments(source), limits=limits, pass_fds=pass_fds, reads=(source,))
    ran_s = 0.0
    with source.view(*about) as view:
        while True:
            address, pieces = view.opened()
            finished = run(
                arguments(address),
                limits=replace(
                    limits,
                    timeout_s=max(min(0.1, limits.timeout_s), limits.timeout_s - ran_s),
                    open_files=limits.open_files + 2 * len(pieces),
                ),
                pass_fds=(*pass_fds, *pieces),
                reads=tuple(CheckedPath.of(_place(fd), fd) for fd in pieces),
                is_in_vain=lambda: view.first_touched() is not None,
            )
            touched = view.first_touched()
            if touched is None:
                return finished
            ran_s += finished.wall_s
            for fd in pass_fds:
                os.truncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
            view.want(touched)


def _place(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
