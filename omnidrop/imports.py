"""Importing a thousand modules without Python's collector walking over all of them again and again.

Promises: what a caller's process made is collected as before; only in a process of our own is what was there after an
import never looked at again. Knows nothing about what is imported, but for one module that must be freed.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_is_ours = False
_COUNTED_AT_EXIT = "_duckdb"
"""When Python ends, nanobind prints forty lines about each such module of which something was not freed."""


@contextmanager
def own_process() -> Iterator[None]:
    """Within the block this process is one command's or one actor's, which ends with it: what it has after imports
    stays to the end, so the collector need not walk over it each time (15 % of the CPU seconds of a run)."""
    global _is_ours
    before, _is_ours = _is_ours, True
    try:
        yield
    finally:
        _is_ours = before


@contextmanager
def uncollected() -> Iterator[None]:
    """Imports only: what is made within stays until the end, and what is referred to in circles until later.

    Torch, transformers and what they import are 3,000 modules, whose objects all live as long as the process: looking
    for some that do not took a quarter of the CPU seconds in which a model actor imports them.
    """
    was_on, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        # Once for each import, so that a process that runs for weeks keeps no garbage of its runs.
        if _is_ours and len(sys.modules) > known and _COUNTED_AT_EXIT not in sys.modules:
            gc.freeze()
        if was_on:
            gc.enable()
