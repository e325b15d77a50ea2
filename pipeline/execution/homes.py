"""Which machine decodes which file: all clips of one on the same, so that its bytes come from the store once.

Promises: while the machines are the same, a file's home is, too, in every run and without anything being remembered; a
clip is handed out only where a decode slot of its home is free; where a home has far more to do than its slots, and
nothing else is left, another machine may help. Knows nothing about Ray, or how anything is decoded.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping

from pipeline.execution.clip_state import ClipState
from workers.records import Media

LOOK_S = 5.0
"""How often the machines are looked at."""
MOST_WAITING = 4096
"""Clips that wait while another's home is looked for: then machines without work help."""
WORTH_HELP = 3
"""Clips that wait for each slot of a home from which on others may help."""
LEAST_HELPED_BYTES = 256 << 20
"""Of a smaller file a helper would read most to decode a few clips."""


def home_of(media: Media, machines: Iterable[str]) -> str:
    """The machine of some that decodes a file; of the files of one that goes each finds another, and no others move."""

    def weight(machine: str) -> bytes:
        return hashlib.blake2b(f"{machine}\0{media.uri}\0{media.etag}".encode(), digest_size=8).digest()

    return max(machines, key=weight)


def _size(state: ClipState) -> int:
    return state.owner.unit.media.size_bytes


class Waiting:
    """Clips that wait to be decoded, by their homes; in one queue where there are no two machines."""

    def __init__(self, slots: Callable[[], Mapping[str, int]], most: int) -> None:
        """`slots` tells how many clips each machine that is there may decode at once. Where up to `most` may be
        decoded and there are fewer slots, the rest is for machines that are yet to come."""
        self._look, self._slots, self._most = slots, dict[str, int](), most
        self._looked_at = float("-inf")
        self._queues: dict[str, deque[ClipState]] = {}
        self._decoding: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def is_full(self) -> bool:
        """Whether enough wait."""
        return len(self) >= MOST_WAITING

    def add(self, states: Iterable[ClipState]) -> None:
        """Take some in."""
        self._refresh()
        for state in states:
            self._queues.setdefault(self._home(state), deque()).append(state)

    def next(self, *, may_help: bool) -> ClipState | None:
        """One that may begin now, with the machine it is for; None where all homes are busy."""
        self._refresh()
        for home, queue in self._queues.items():
            if queue and self._has_slot(home):
                queue[0].machine, queue[0].is_helped = home, False
                return queue[0]
        home, queue = max(self._queues.items(), key=lambda item: len(item[1]), default=("", deque[ClipState]()))
        if not queue:
            return None
        free = next((machine for machine in self._slots if self._has_slot(machine)), None) if may_help else None
        if free is None and sum(self._slots.values()) < self._most:
            free = ""  # a cluster grows only where something waits for it
        is_worth = len(queue) > WORTH_HELP * self._slots.get(home, 0) and _size(queue[-1]) >= LEAST_HELPED_BYTES
        if free is None or (free and not is_worth):
            return None
        # The last ones: the home reads on from where it is.
        queue[-1].machine, queue[-1].is_helped = free, True
        return queue[-1]

    def may_begin(self, state: ClipState) -> bool:
        """Whether one that does not wait here (it is tried again) may begin on its home."""
        self._refresh()
        state.machine, state.is_helped = self._home(state), False
        return self._has_slot(state.machine)

    def started(self, state: ClipState) -> None:
        """It is being decoded, and waits no more."""
        self._decoding[state.machine] += 1
        for queue in self._queues.values():
            if queue and queue[0] is state:
                queue.popleft()
                return
            if queue and queue[-1] is state:
                queue.pop()
                return

    def ended(self, state: ClipState) -> None:
        """Its decoding has ended, however."""
        self._decoding[state.machine] -= 1

    def look_again(self) -> None:
        """The machines are not those that they were."""
        self._looked_at = float("-inf")

    def _has_slot(self, machine: str) -> bool:
        return not machine or self._decoding[machine] < self._slots.get(machine, 0)

    def _home(self, state: ClipState) -> str:
        return home_of(state.owner.unit.media, self._slots) if self._slots else ""

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at, found = now, dict(self._look())
        there = found if len(found) > 1 else {}
        moves, self._slots = there.keys() != self._slots.keys(), there
        if moves and len(self):
            waiting = [state for queue in self._queues.values() for state in queue]
            self._queues = {}
            self.add(waiting)
