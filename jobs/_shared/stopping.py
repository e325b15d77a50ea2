"""What SIGTERM, Ctrl-C and a terminal that closes do to a run: the first asks it to stop cleanly, the second ends it at
once."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from jobs._shared import interrupts
from jobs._shared.display import console

STOPPED_EXIT = 3
"""Exit status of a run that was asked to stop: finished units are kept, running again resumes."""


BUDGET_EXIT = 4
"""Exit status of a run that reached its budget: as above, but running it again spends the same amount again."""


class StopOnSignal:
    """A flag that SIGTERM, SIGINT, SIGHUP and SIGXCPU (the CPU time allowed is used up) set while the `with` block
    runs; a SIGHUP that was ignored (`nohup`) stays so."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until a stop is asked for, at most so long; whether it is."""
        return self._event.wait(timeout_s)

    def __enter__(self) -> StopOnSignal:
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGXCPU]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        interrupts.leave_terminal(number)
        if number == signal.SIGXCPU and self._event.is_set():
            return  # it comes again each second, until the hard limit kills
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()
        console.print("[yellow]stopping[/]: clips in progress may finish; press Ctrl-C again to stop at once")
