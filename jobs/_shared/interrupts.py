"""What Ctrl-C, SIGTERM, a terminal that closes and the end of the CPU time allowed do to a command: what it has open is
closed and put away, then it exits with 130, 143, 129 or 152.

Promises: a signal that was ignored when the process began (`nohup`, a shell's background) stays ignored; an interrupt
that a callback of a library swallows comes again; nothing is written to a terminal that has gone. Knows nothing about
runs, which stop more slowly (`jobs/_shared/stopping.py`).
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from contextlib import suppress
from types import FrameType

_received: list[int] = []


def begin() -> None:
    """Until the command line is imported, Ctrl-C ends the process without a word."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def handle() -> None:
    """From now on these signals raise KeyboardInterrupt in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _unraisable


def exit_status() -> int | None:
    """That of a process that a signal ends, 128 and its number; None where none has come."""
    return 128 + _received[0] if _received else None


def said() -> str:
    """What to say of the signal that ends the process."""
    if signal.SIGXCPU in _received:
        return "the CPU time that this process may take is used up (`ulimit -t`)"
    return "interrupted"


def leave_terminal(number: int) -> None:
    """After SIGHUP what goes to the terminal goes nowhere: each write would fail, the last words of a clean end too."""
    if number == signal.SIGHUP:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            with suppress(OSError):
                if stat.S_ISCHR(os.fstat(stream).st_mode):  # one that has gone is no terminal to `isatty`
                    os.dup2(nowhere, stream)


def _interrupt(number: int, frame: FrameType | None) -> None:
    leave_terminal(number)
    _received.append(number)
    raise KeyboardInterrupt


def _unraisable(ignored: sys.UnraisableHookArgs) -> None:
    """An interrupt in a finaliser or another callback, where nobody can catch it."""
    if isinstance(ignored.exc_value, KeyboardInterrupt) and _received:
        # By a thread, since a signal of our own would be handled, and swallowed, right here. It ends what the main one
        # waits for.
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.1, signal.pthread_kill, (main, _received.pop())).start()
    else:
        sys.__unraisablehook__(ignored)
