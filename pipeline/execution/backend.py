"""What the loop is given: how work is started, and within which limits.

Knows nothing about what starts when (`pipeline.execution.scheduler`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.archive.health import ArchiveHealth
from workers.records import Clip, WorkUnit

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True)
class Limits:
    """The caps of one run."""

    bytes_in_flight: int
    decode_tasks: int
    actors: int
    max_deaths_per_clip: int
    """Workers one clip may take down before it is quarantined."""
    max_deaths_per_worker: int
    """Deaths in a row, without an answered clip between, after which an actor is given a clip that was answered before;
    if it dies of that, too, or there is none, the run fails."""
    max_retries: int
    stop_grace_s: float
    clips_per_pass: int = 1
    """Most clips of one shape and question set that an actor is given in one call."""
    actor_idle_s: float = math.inf
    """An actor that had nothing to answer for so long is given back, the last one never."""

    def __post_init__(self) -> None:
        # Otherwise a single poison clip would end the run before it is recognised.
        assert self.max_deaths_per_worker > self.max_deaths_per_clip


@dataclass(frozen=True)
class Backend:
    """How work is started: real tasks and actors, or timed stand-ins for measuring the loop itself."""

    start_decode: Callable[[WorkUnit, Clip], tuple[ray.ObjectRef, ray.ObjectRef]]
    """Returns references to a `DecodeReport` and to the `DecodedClip` (None where decoding failed)."""
    start_actor: Callable[[], Any]
    """Returns a handle with `load()` (returns a `Loaded`, or None), `answer(decoded, packed(questions, instruction))`
    (with `may_audit=False` where the clip had its chance before), `make_ready` of the same
    in a concurrency group of its own, for `Limits.clips_per_pass` above 1
    `answer_batch(packed(questions, instruction), *decoded)`, for whole videos `answer_whole(clip, packed(questions,
    lines))`, and `describe()`."""
    estimate_bytes: Callable[[WorkUnit, Clip], int]
    """How large the decoded clip will be, before decoding."""
    held_bytes: Callable[[], int] = int
    """Of decoded clips that are held elsewhere until they are asked for."""
    health: ArchiveHealth | None = None
    """Tells a file that cannot be read from an archive that cannot."""
    start_decode_on: Callable[[str, WorkUnit, Clip], tuple[ray.ObjectRef, ray.ObjectRef]] | None = None
    """`start_decode` on one machine, by its node's id. Without it no machine is doubted."""
    start_decode_at: Callable[[str, bool, WorkUnit, Clip], tuple[ray.ObjectRef, ray.ObjectRef]] | None = None
    """`start_decode` on one machine if it is there; true where it only helps the one that has the file."""
    slots: Callable[[Mapping[str, int]], Mapping[str, int]] = dict
    """How many clips each machine that files may have as their home may decode at once, by its node's id, beside so
    many actors on each."""
    room: Callable[[Mapping[str, int]], Mapping[str, int] | None] = lambda actors: None
    """The same of all machines; None where that is not known."""
    no_actor_room: Callable[[], str] = str
    """Why no machine of the cluster can hold a model actor; nothing where one can, whatever it holds now."""
    leave_out: Callable[[Iterable[str]], None] = lambda machines: None
    """Have `start_decode` start nothing on these machines any more."""
    machines: Callable[[], set[str]] = set
    """Those that may decode."""
