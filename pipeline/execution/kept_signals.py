"""What SIGTERM and SIGINT do, kept as it is while a library that takes them over is started.

Promises: after the block both do what they did before it, whichever thread runs it. Knows nothing about Ray.

Ray takes SIGTERM in two places as it connects: in Python, where only the main thread can, and from the kernel, in any
thread. The latter calls what was there before, but ends the process 3 s later without a word (the alarm of absl's
`FailureSignalHandlerOptions::alarm_on_failure_secs`): a run that was asked to stop would never publish.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = (signal.SIGTERM, signal.SIGINT)
SIGACTION_BYTES = 256
"""More than any platform's `struct sigaction`; it is copied, not read."""


@contextmanager
def kept_signals() -> Iterator[None]:
    """Keep what Python and the kernel do on `KEPT`. Raises OSError where the kernel refuses."""
    is_main = threading.current_thread() is threading.main_thread()
    in_python = {number: signal.getsignal(number) for number in KEPT}
    in_kernel = {number: _sigaction(number) for number in KEPT}
    try:
        yield
    finally:
        for number in KEPT:
            if is_main and in_python[number] is not None:  # None: never Python's
                signal.signal(number, in_python[number])
            _sigaction(number, in_kernel[number])


def _sigaction(number: int, new: ctypes.Array[ctypes.c_char] | None = None) -> ctypes.Array[ctypes.c_char]:
    """What the kernel does on a signal, as the bytes of its `struct sigaction`; `new` takes its place."""
    before = ctypes.create_string_buffer(SIGACTION_BYTES)
    if ctypes.CDLL(None, use_errno=True).sigaction(int(number), new, before) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"signal {number}")
    return before
