"""Which machines still decode: one that fails on file after file is given a clip that worked before.

Promises: a failure that may be a machine's is held back until another file was decoded there, or a clip that worked
before was, begun after the failure was known; a machine that fails on that, too, is out, and what failed there is tried
elsewhere. Knows nothing about Ray, or how anything is decoded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.execution.clip_state import ClipState
from pipeline.failure_rules import Fault, rule_of
from workers.errors import (
    CacheUnsafe,
    ConfinementMissing,
    DecodeFailed,
    DecoderMissing,
    FfmpegMissing,
    ResourceLimit,
)
from workers.records import ClipFailure

IN_A_ROW = 3
"""Files, not clips of one file: damaged files come in rows, too, and a clip that worked before is decoded for each."""


def may_be_machines(failure: ClipFailure) -> bool:
    """Whether a failure to decode may be the machine's. A broken ffmpeg decodes nothing of a good file, either."""
    return failure.error_class == DecodeFailed.error_class or rule_of(failure.error_class).fault is not Fault.FILE


def nothing_decodes(why: str) -> str:
    """What to say where no machine is left."""
    return (
        f"no machine can decode any more ({why}). Fix that and run again; finished units are kept, and no file was "
        "quarantined for it"
    )


def is_certain(failure: ClipFailure) -> bool:
    """Whether the machine itself says that it cannot decode."""
    certain = (FfmpegMissing, ResourceLimit, DecoderMissing, ConfinementMissing, CacheUnsafe)
    return failure.error_class in {error.error_class for error in certain}


Held = tuple[ClipState, ClipFailure]


@dataclass
class _Doubt:
    """What failed on one machine since a file was last decoded there, and when that was known (monotonic clock)."""

    held: list[tuple[float, Held]] = field(default_factory=list)
    is_under_check: bool = False

    @property
    def all(self) -> list[Held]:
        return [held for _, held in self.held]

    @property
    def files(self) -> int:
        return len({state.owner.unit.media.media_id for state, _ in self.all})


class Machines:
    """What one run knows of its machines, by their ids."""

    def __init__(self) -> None:
        self.out: dict[str, str] = {}
        """Why each machine that is out is."""
        self.worked: ClipState | None = None
        """A clip that was decoded, to try a machine on."""
        self._doubts: dict[str, _Doubt] = {}

    def decoded(self, machine: str, state: ClipState) -> list[Held]:
        """A clip came from this machine; returns what failed there before that was begun, which was not its fault.

        One that was begun earlier and took longer says nothing: the machine may have broken meanwhile.
        """
        self.worked = state.fresh()
        doubt = self._doubts.get(machine)
        if doubt is None or doubt.is_under_check:
            return []
        later = [(known_s, held) for known_s, held in doubt.held if known_s > state.begun_s]
        before = [held for known_s, held in doubt.held if known_s <= state.begun_s]
        self._doubts.pop(machine)
        if later:
            self._doubts[machine] = _Doubt(later)
        return before

    def failed(self, machine: str, state: ClipState, failure: ClipFailure) -> bool:
        """Hold a failure back, if it may be the machine's; returns whether it is held."""
        if not machine or not may_be_machines(failure):
            return False
        is_told = is_certain(failure) or rule_of(failure.error_class).fault is Fault.ITEM
        if self.worked is None and machine not in self.out and not is_told:
            return False  # nothing to compare with: damaged files may well be an archive's first
        self._doubts.setdefault(machine, _Doubt()).held.append((time.monotonic(), (state, failure)))
        if is_certain(failure):
            self.out.setdefault(machine, failure.message)  # it tried itself
        return True

    def to_check(self, *, is_all: bool) -> list[str]:
        """Machines that are to be given a clip that worked before: those that failed often enough, or `is_all` that
        failed. They count as asked."""
        if self.worked is None:
            return []
        asked = [
            machine
            for machine, doubt in self._doubts.items()
            if machine not in self.out and not doubt.is_under_check and (is_all or doubt.files >= IN_A_ROW)
        ]
        for machine in asked:
            self._doubts[machine].is_under_check = True
        return asked

    def checked(self, machine: str, problem: str | None) -> list[Held]:
        """How the clip that worked before went; returns the failures held back where it went well: they stand."""
        if problem is None:
            return self._doubts.pop(machine, _Doubt()).all
        self.out.setdefault(machine, problem)
        return []

    def unchecked(self, machine: str) -> list[ClipState]:
        """It cannot be given a clip any more: nobody knows whether it works, and what failed there is to be tried
        elsewhere."""
        return [state for state, _ in self._doubts.pop(machine, _Doubt()).all]

    def to_retry(self) -> list[ClipState]:
        """Clips that failed on machines that are out: to be tried elsewhere."""
        held = [held for machine in self.out for held in self._doubts.pop(machine, _Doubt()).all]
        return [state for state, _ in held]

    def hopeless(self, here: set[str]) -> str | None:
        """What to say where nothing was ever decoded, and on every machine file after file, all probed well, cannot
        even be read."""
        held = [held for doubt in self._doubts.values() for held in doubt.all]
        files = {state.owner.unit.media.media_id for state, _ in held}
        if self.worked is not None or len(files) < IN_A_ROW or not here <= self._doubts.keys():
            return None
        return f"none of the first {len(files)} files can be read on this machine: {held[-1][1].message}"

    def unresolved(self) -> list[Held]:
        """What is held back and cannot be checked, since nothing was ever decoded: given up as it is."""
        held = [held for doubt in self._doubts.values() for held in doubt.all]
        self._doubts.clear()
        return held

    @property
    def is_holding(self) -> bool:
        """Whether any failure waits for a verdict."""
        return any(machine not in self.out for machine in self._doubts)
