"""Clips between a unit and its result that no task or actor has: ready to be answered, or to be begun again; and what
all of them hold in memory.

Promises: what a clip holds is counted from its start until it ends or is begun again. Knows nothing about Ray, or when
what is started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from pipeline.execution.actor_metering import Statistics
from pipeline.execution.clip_state import ClipState, UnitResult
from workers.records import ClipOutcome


class InFlight:
    """Of one run."""

    def __init__(self, held_elsewhere: Callable[[], int], statistics: Statistics) -> None:
        self._held_elsewhere, self._statistics = held_elsewhere, statistics
        self.again: deque[ClipState] = deque()
        """To be tried again, from its decoding on; videos that are read about, too."""
        self.ready: deque[ClipState] = deque()
        """Decoded and not given to an actor yet."""
        self.nbytes = 0
        """Of clips that are decoded, or will be."""

    @property
    def held(self) -> int:
        """Bytes, with those of clips that were decoded early."""
        return self.nbytes + self._held_elsewhere()

    def reserve(self, nbytes: int) -> None:
        """So many more are held; negative: less."""
        self.nbytes += nbytes
        self._statistics.peak_bytes_in_flight = max(self._statistics.peak_bytes_in_flight, self.held)

    def retry(self, state: ClipState) -> None:
        """Have it begun again."""
        self.reserve(-state.nbytes)
        state.payload = None
        self.again.append(state)

    def close(self, state: ClipState, outcome: ClipOutcome) -> Iterator[UnitResult]:
        """A clip ends, and with its last one a unit."""
        assert outcome.clip == state.clip, "an answer must carry the clip it was asked about"
        self.reserve(-state.nbytes)
        state.payload = None
        state.owner.outcomes[state.clip.clip_id] = outcome
        if (result := state.owner.result()) is not None:
            yield result
