"""A bound on the memory that reading somebody else's tables and journal may take.

Promises: while a block lasts, this process's memory grows by at most `MEMORY_BYTES`; what asks for more is told that
there is none, and the machine stays well. Blocks may overlap, in threads too. Knows nothing about what is read. Only
Linux counts what a process asked for (RLIMIT_DATA); elsewhere nothing is bounded.

23 KB of Parquet can stand for 300 GB: a text of 1 MB that stands once in a dictionary, and 300,000 rows that name it.
No footer tells, and Arrow asks for a whole batch of a column in one piece, so that looking at the process from time to
time would come too late.
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_BYTES = 8 << 30
"""4 GB for DuckDB, which writes to the disk what it cannot hold, and as much for what it is read from."""

_lock = threading.Lock()
_blocks = 0
_before = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Within the block an allocation beyond the bound fails: MemoryError, or what a library makes of it."""
    _enter()
    try:
        yield
    finally:
        _leave()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of an allocation that failed, in whichever library."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in told or "bad_alloc" in told


def _enter() -> None:
    global _blocks, _before
    with _lock:
        if _blocks == 0 and sys.platform == "linux":
            _before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            most = _data_bytes() + MEMORY_BYTES
            given = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min([most, *given]), hard))
        _blocks += 1


def _leave() -> None:
    global _blocks
    with _lock:
        _blocks -= 1
        if _blocks == 0 and sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, _before)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts, and the stack."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[5]) * resource.getpagesize()
