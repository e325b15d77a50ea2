"""Importing a thousand modules without Python's collector walking over all of them again and again.

Promises: what is collected afterwards is what was collected before. Knows nothing about what is imported.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Imports only: what is made within stays until the end, and what is referred to in circles until later.

    Torch, transformers and what they import are 3,000 modules, whose objects all live as long as the process: looking
    for some that do not took about a tenth of the CPU seconds in which a model actor imports them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
