"""What a run's loop measures of itself: where the time of its model actors goes, and what it holds at the moment.

Promises: an actor counts from when its model began to load until it is given back or dies, idle or not, since that is
what is paid for; waiting for a machine does not count. Held time is loading and loaded, loaded time is busy and idle.
Knows nothing about how actors are started, or what they are asked.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from workers.records import ClipResult

HOUR_S = 3600.0


class ActorTime:
    """A meter of actors that are held, each for `gpus` GPUs. All seconds are summed over actors."""

    def __init__(self, gpus: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.gpus = gpus
        self.busy_s = 0.0
        """Seconds in which clips were answered or audited, as the actors measure it."""
        self.idle_s: defaultdict[str, float] = defaultdict(float)
        """Seconds in which a loaded actor had no clip, by what it waited for: `decode`, `bytes_in_flight`, `planning`,
        `storage`, or `end` (nothing was left for it)."""
        self._clock = clock
        self._since: dict[object, float] = {}
        self._ended_s = self._loading_s = self._planning_s = 0.0
        self._looked_at = clock()

    def start(self, actor: object, load_s: float = 0.0) -> None:
        """An actor is loaded and held from now on, and was loading for `load_s` seconds before; nothing where it was
        held already."""
        if actor not in self._since:
            self._since[actor] = self._clock() - load_s
            self._loading_s += load_s

    def stop(self, actor: object) -> None:
        """It is held no more; nothing where it was not held."""
        if (since := self._since.pop(actor, None)) is not None:
            self._ended_s += self._clock() - since

    def book_answer(self, result: ClipResult) -> None:
        """An actor gave back a clip."""
        self.busy_s += result.answer_s
        if result.audit is not None and result.audit.dense_shared is not None:
            self.busy_s += result.audit.dense_shared.cost.seconds

    def book_planning(self, seconds: float) -> None:
        """The planner was waited for: idle actors did so, too, whatever else they waited for."""
        self._planning_s += seconds

    def book_idle(self, idle: int, waits_for: str) -> None:
        """Book the time since the last call to what so many idle actors waited for."""
        now = self._clock()
        passed_s, planning_s = now - self._looked_at, self._planning_s
        self._looked_at, self._planning_s = now, 0.0
        self.idle_s["planning"] += idle * planning_s
        self.idle_s[waits_for] += idle * max(0.0, passed_s - planning_s)

    @property
    def held_s(self) -> float:
        """All so far."""
        now = self._clock()
        return self._ended_s + sum(now - since for since in self._since.values())

    @property
    def gpu_hours(self) -> float:
        """Of all that was held so far."""
        return self.gpus * self.held_s / HOUR_S

    @property
    def loaded_s(self) -> float:
        """Of the time held, that with a loaded model."""
        return max(0.0, self.held_s - self._loading_s)

    @property
    def busy_share(self) -> float | None:
        """Share of the loaded time in which actors answered; None if it was not measured."""
        return min(1.0, self.busy_s / self.loaded_s) if self._was_watched else None

    @property
    def bottleneck(self) -> str | None:
        """What took most of the actors' time: `model`, or what they waited for; None if it was not measured."""
        if not self._was_watched:
            return None
        waits = {reason: seconds for reason, seconds in self.idle_s.items() if reason != "end"}
        # An actor was done, and the driver had not looked yet: it was asking the planner for units.
        unseen_s = max(0.0, self.loaded_s - self.busy_s - sum(self.idle_s.values()))
        waits["planning"] = waits.get("planning", 0.0) + unseen_s
        return max({"model": self.busy_s, **waits}.items(), key=lambda item: item[1])[0]

    @property
    def _was_watched(self) -> bool:
        return self.loaded_s > 0 and self.busy_s + sum(self.idle_s.values()) > 0


@dataclass(frozen=True)
class Load:
    """What the loop holds at one moment."""

    bytes_in_flight: int = 0
    """Decoded and not yet answered, and reserved for clips that are being decoded."""
    queued: int = 0
    """Clips planned and not yet begun, or to be decoded again."""
    decoding: int = 0
    ready: int = 0
    """Clips decoded, waiting for an actor."""
    actors_loading: int = 0
    actors_busy: int = 0
    actors_idle: int = 0


@dataclass
class Statistics:
    """What the loop measured; filled while it runs."""

    peak_bytes_in_flight: int = 0
    worker_failures: Counter[str] = field(default_factory=Counter)
    """Of clips in `decode` and `answer`, and of places of an `actor`; lost machines are not counted."""
    actors: list[str] = field(default_factory=list)
    """What actors said of themselves in the end."""
    tools: set[str] = field(default_factory=set)
    """Machines that decoded, each with its ffmpeg."""
    machines_out: dict[str, str] = field(default_factory=dict)
    """Machines that are given no clips any more, by name, and why."""
    actor_time: ActorTime = field(default_factory=ActorTime)
    confinements: set[str] = field(default_factory=set)
    """What the machines that decoded grant."""
    bytes_fetched: int = 0
    """Read from stores by decode tasks."""
    load: Load = field(default_factory=Load)


Watch = Callable[[Statistics], None]
"""Who is told what the loop measured so far, from the loop's own thread."""


def unwatched(_: Statistics) -> None:
    """No-op watcher."""


def gpus_counted(gpus_per_actor: float | Literal["auto"] | None) -> float:
    """GPUs that an actor is charged for: its share, or one where it has none (its CPU cores are a price, too)."""
    return 1.0 if gpus_per_actor in (None, 0, "auto") else float(gpus_per_actor)
