"""The model actors of one run: started when clips pile up, replaced when they die, given back when they are idle.

Promises: there are never more than asked for, and one at least from the first clip on; an actor that dies is replaced,
until it died so often in a row that its next must show on a clip that was answered before whether it works at all; all
are ended by `close`. Knows nothing about decoding, or which clip comes next.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from omnidrop.errors import OmniDropError, first_line
from pipeline.execution.actor_metering import Statistics
from pipeline.execution.clip_state import ClipState
from pipeline.execution.worker_failures import is_preemption
from workers.records import Loaded

log = logging.getLogger(__name__)

GET_S = 5.0
"""What is done already is here within this time."""


class ExecutionError(OmniDropError):
    """The run as a whole cannot go on; what is committed stays, and running again resumes."""

    error_class = "execution"


MOST_CALLS = 2
"""Of one actor: it answers a clip and makes the next one ready. A third would only wait, and be lost with the actor."""


@dataclass(frozen=True, eq=False)
class Call:
    """What an actor was given in one call."""

    clips: tuple[ClipState, ...]
    answer: ray.ObjectRef
    ready: ray.ObjectRef | None = None
    """Of a clip that was given to an actor with another one: done when it was made ready."""

    def was_made_ready(self) -> bool:
        """Whether the actor had done with this clip what it does beside answering another, when it died."""
        assert self.ready is not None
        try:
            ray.get(self.ready, timeout=GET_S)
        except (RayActorError, GetTimeoutError):
            return False
        except RayError:
            return True  # it failed and said so
        return True


@dataclass(eq=False)
class Slot:
    """An actor's place: the actor in it is replaced when it dies."""

    handle: Any
    is_loaded: bool = False
    calls: deque[Call] = field(default_factory=deque)
    """What it was given and has not given back, in the order in which it answers."""
    failures_in_a_row: int = 0
    is_under_check: bool = False
    """It died so often that it must show on a clip that was answered before whether it works at all."""
    node_id: str | None = None
    """Where the actor is; known once it is loaded."""
    idle_since: float | None = None
    """When the loop first saw it without work (monotonic clock)."""

    @property
    def is_free(self) -> bool:
        """Whether it has nothing to answer and can be given a clip."""
        return self.is_loaded and not self.calls

    @property
    def takes_another(self) -> bool:
        """Whether it answers one clip and may be given another to make ready."""
        is_one = 0 < len(self.calls) < MOST_CALLS and len(self.calls[0].clips) == 1
        return is_one and not self.is_under_check and self.calls[0].clips[0].is_trusted

    @property
    def waiting(self) -> int:
        """Clips in it that it does not answer yet."""
        return sum(len(call.clips) for call in list(self.calls)[1:])


class ActorPool:
    """The slots of one run. What their actors did and cost is noted in `statistics`."""

    def __init__(
        self, start: Callable[[], Any], statistics: Statistics, *, most: int, max_failures: int, idle_s: float
    ) -> None:
        """At most `most` actors; the caps as in `Limits` (`max_deaths_per_worker`, `actor_idle_s`)."""
        self._start, self._statistics = start, statistics
        self._most, self._max_failures, self._idle_s = most, max_failures, idle_s
        self.slots: list[Slot] = []
        self.loading: dict[ray.ObjectRef, Slot] = {}
        self.canary: ClipState | None = None
        """A clip that was answered before, to try an actor on."""

    def grow(self, ready: int, *, is_decoding: bool) -> None:
        """Start as many as wanted: while more than one clip waits for each there is. The first loads while the first
        clip is decoded."""
        while len(self.slots) < self._most:
            places = sum(not slot.calls for slot in self.slots)
            if not (ready - places > len(self.slots) if self.slots else ready or is_decoding):
                return
            slot = Slot(None)
            self.slots.append(slot)
            self._fill(slot)

    def places(self) -> Counter[str]:
        """How many loaded actors each machine has, by its node's id."""
        return Counter(slot.node_id for slot in self.slots if slot.node_id is not None)

    @property
    def is_checking(self) -> bool:
        """Whether any was given a clip that was answered before, which is decoded for that once more."""
        return any(slot.is_under_check and slot.calls for slot in self.slots)

    def give_back_idle(self) -> None:
        """Actors with nothing to do go, so that their machines can: all but one, started again when clips pile up."""
        now = time.monotonic()
        for slot in list(self.slots):
            if not slot.is_free or slot.is_under_check:
                slot.idle_since = None
            elif slot.idle_since is None:
                slot.idle_since = now
            elif now - slot.idle_since > self._idle_s and len(self.slots) > 1:
                self._give_back([slot])

    def loaded(self, ref: ray.ObjectRef, slot: Slot) -> None:
        """Loading ended. Raises ExecutionError where the model cannot be loaded."""
        try:
            loaded: Loaded | None = ray.get(ref)
        except RayTaskError as error:
            # Loading is deterministic: another try would fail the same way.
            raise ExecutionError(f"the model cannot be loaded: {error.cause or error}") from error
        except RayActorError as error:
            self.replace(slot, error, is_lost=is_preemption(error))
        else:
            slot.is_loaded = True
            slot.node_id = loaded.node_id if loaded else None
            self._statistics.actor_time.start(slot, loaded.load_s if loaded else 0.0)

    def replace(self, slot: Slot, error: RayActorError, *, is_lost: bool) -> None:
        """Put another actor in the place of one that died, which `is_lost` says was not its own doing.

        Raises ExecutionError where it died too often.
        """
        # An actor that is only unavailable would keep its GPU.
        ray.kill(slot.handle)
        self._statistics.actor_time.stop(slot)
        if not is_lost:
            slot.failures_in_a_row += 1
            self._statistics.worker_failures["actor"] += 1
            if slot.failures_in_a_row >= self._max_failures:
                # Poison clips in a row, or a machine that kills every clip: one that was answered before tells which.
                if slot.is_under_check or self.canary is None:
                    raise ExecutionError(
                        f"the model actor died {slot.failures_in_a_row} times in a row without answering a clip"
                        f"{', the last time on a clip that was answered before' if slot.is_under_check else ''}; last: "
                        f"{first_line(error)}. Check memory first (model.gpus_per_actor, clips.max_pixels), then run "
                        "again; finished units are kept"
                    )
                slot.is_under_check = True
        self._fill(slot)

    def close(self) -> None:
        """End all of them."""
        self._give_back(list(self.slots))

    def _fill(self, slot: Slot) -> None:
        slot.handle, slot.is_loaded, slot.node_id = self._start(), False, None
        self.loading[slot.handle.load.remote()] = slot

    def _give_back(self, slots: Sequence[Slot]) -> None:
        """End actors, having noted what those without work say of themselves."""
        asked = [slot.handle.describe.remote() for slot in slots if slot.is_free]
        try:
            self._statistics.actors += [str(d) for d in ray.get(asked, timeout=GET_S)] if asked else []
        except (RayError, GetTimeoutError) as error:
            log.warning("an actor did not describe itself: %s", first_line(error))
        for slot in slots:
            ray.kill(slot.handle)
            self._statistics.actor_time.stop(slot)
            self.slots.remove(slot)
