"""Units and clips on their way through a run: what the loop knows of each.

Promises: a unit comes out with one outcome per clip, in the clips' order, and not before. Knows nothing about Ray's
workings, or when what is started.

The life of a clip: queued -> decoding (a Ray task) -> ready (in the object store) -> answering (an actor call, perhaps
behind another one's) -> done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from workers.ray_workers import packed
from workers.records import Clip, ClipOutcome, WorkUnit

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True)
class UnitResult:
    """A finished unit: one outcome per clip, in the clips' order."""

    unit: WorkUnit
    outcomes: tuple[ClipOutcome, ...]


@dataclass(eq=False)
class UnitState:
    """A unit whose clips are on their way."""

    unit: WorkUnit
    outcomes: dict[str, ClipOutcome] = field(default_factory=dict)

    @cached_property
    def asked(self) -> bytes:
        """What an actor is asked about each clip, where all are asked the same."""
        return packed(self.unit.questions, self.unit.lines or self.unit.instruction)

    def result(self) -> UnitResult | None:
        """The finished unit, None while clips are missing."""
        if len(self.outcomes) < len(self.unit.clips):
            return None
        return UnitResult(self.unit, tuple(self.outcomes[c.clip_id] for c in self.unit.clips))


@dataclass(eq=False)
class ClipState:
    """One clip on its way. `nbytes` is what it holds of the bound: the estimate, then what decoding really gave."""

    owner: UnitState
    clip: Clip
    nbytes: int
    worker_failures: int = 0
    retries: int = 0
    due: float = 0.0
    """Not decoded again before this (monotonic clock)."""
    begun_s: float = 0.0
    """When decoding it was last begun (monotonic clock)."""
    refused_at: int | None = None
    """How many clips had been answered when there was no room for this one."""
    machine: str = ""
    """Where it is decoded: its node's id; empty where Ray chooses."""
    is_helped: bool = False
    """Whether that is not the home of its file, but a machine that helps it."""
    payload: ray.ObjectRef | None = None
    is_its_own: bool = False
    """Its file could not be read, and another could: if it fails once more, it is this file that fails."""
    is_alone: bool = False
    """Not in an actor with others any more: one failed that had it and others, and this tells which of them it was."""

    @property
    def is_text(self) -> bool:
        """Whether it stands for a whole video that is read about: there is nothing to decode."""
        return bool(self.owner.unit.lines)

    @property
    def is_trusted(self) -> bool:
        """Whether an actor may have it and another clip at once: nothing died of it or of a call that it was in."""
        return not (self.is_alone or self.worker_failures or self.owner.unit.attempt or self.is_text)

    @cached_property
    def asked(self) -> bytes:
        """What an actor is asked about this clip."""
        if not self.owner.unit.own:
            return self.owner.asked
        asking = self.owner.unit.asked_of(self.clip)
        return packed(asking.questions, asking.instruction)

    def joins(self, other: ClipState) -> bool:
        """Whether the two may be answered in one call: as many bytes are nearly always one shape; the actor looks."""
        one, two = self.owner.unit, other.owner.unit
        return (
            self.is_trusted
            and other.is_trusted
            and self.nbytes == other.nbytes
            and ((one is two and not one.own) or self.asked == other.asked)
        )

    def fresh(self) -> ClipState:
        """The same clip, as if nothing had been done with it."""
        return ClipState(self.owner, self.clip, self.nbytes)
