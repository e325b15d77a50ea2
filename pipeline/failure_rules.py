"""What becomes of a failure, by its error class: the one table that execution, planning, hints and docs read.

Promises: every class that quarantine can hold has a row; a class without one (of a newer version) is never tried again
by itself. Knows nothing about how anything is tried, or who reads the table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from omnidrop.errors import ClipTooLong, ModelError, ModelOutOfMemory, PolicyError, QuestionError
from workers import errors

FIRST_PAUSE_S = 2.0
"""Before the first further try of a clip: the store's own retries have taken some seconds."""
RUNS = 3
"""Runs that try a clip again of themselves where its file is not at fault, and neither is its store: one that really
does take the machine down, or too long, must not do so for ever."""


class Again(StrEnum):
    """When a failed clip or media item is retried automatically."""

    NOW = "at once, up to `execution.max_retries` times, then by the next run"
    ROOM = "when there is room, up to `storage.patience_s`, then by the next run"
    NEXT_RUN = "by the next run"
    UPGRADE = "never; by `retry` after an upgrade, since a later version may read it"
    NEVER = "never"


class Fault(StrEnum):
    """What has to change before another try can go better."""

    FILE = "the file"
    ITEM = "the item at this store"
    MACHINE = "the machine"
    RUN = "the run: its settings, its store, this software"


@dataclass(frozen=True)
class Rule:
    """One row."""

    again: Again
    fault: Fault

    @property
    def may_pass(self) -> bool:
        """Whether the next try may go well with the file as it is: the next run makes it, and what was found is not
        remembered."""
        return self.again not in (Again.UPGRADE, Again.NEVER)

    def is_due(self, attempts: int) -> bool:
        """Whether a run tries again of itself what was tried by so many runs (one at least)."""
        return self.may_pass and (self.fault is Fault.ITEM or attempts <= RUNS)


RULES: Mapping[str, Rule] = {
    errors.StorageFailed.error_class: Rule(Again.NOW, Fault.ITEM),
    errors.DecodeKilled.error_class: Rule(Again.NOW, Fault.MACHINE),
    errors.CacheFull.error_class: Rule(Again.ROOM, Fault.MACHINE),
    "object_store_full": Rule(Again.ROOM, Fault.MACHINE),
    errors.MediaMissing.error_class: Rule(Again.NEXT_RUN, Fault.ITEM),
    errors.MediaRefused.error_class: Rule(Again.NEXT_RUN, Fault.ITEM),
    errors.MediaChanged.error_class: Rule(Again.NEXT_RUN, Fault.ITEM),
    errors.ProbeTimeout.error_class: Rule(Again.NEXT_RUN, Fault.MACHINE),
    errors.DecodeTimeout.error_class: Rule(Again.NEXT_RUN, Fault.MACHINE),
    # Workers that die are replaced, and their clips tried again, by `execution.max_deaths_per_clip`: this is the end.
    "worker_died": Rule(Again.NEXT_RUN, Fault.MACHINE),
    "out_of_memory": Rule(Again.NEXT_RUN, Fault.MACHINE),
    errors.FfmpegMissing.error_class: Rule(Again.NEXT_RUN, Fault.MACHINE),
    errors.ResourceLimit.error_class: Rule(Again.NEXT_RUN, Fault.MACHINE),
    errors.DecoderMissing.error_class: Rule(Again.NEXT_RUN, Fault.MACHINE),
    errors.ConfinementMissing.error_class: Rule(Again.NEXT_RUN, Fault.MACHINE),
    errors.CacheUnsafe.error_class: Rule(Again.NEXT_RUN, Fault.MACHINE),
    errors.CacheTooSmall.error_class: Rule(Again.NEXT_RUN, Fault.RUN),
    ModelOutOfMemory.error_class: Rule(Again.NEXT_RUN, Fault.RUN),
    ModelError.error_class: Rule(Again.NEXT_RUN, Fault.RUN),
    PolicyError.error_class: Rule(Again.NEXT_RUN, Fault.RUN),
    "internal": Rule(Again.NEXT_RUN, Fault.RUN),
    errors.MediaError.error_class: Rule(Again.UPGRADE, Fault.FILE),
    errors.NotMedia.error_class: Rule(Again.UPGRADE, Fault.FILE),
    errors.NoDuration.error_class: Rule(Again.UPGRADE, Fault.FILE),
    errors.ProbeCrashed.error_class: Rule(Again.UPGRADE, Fault.FILE),
    errors.DecodeFailed.error_class: Rule(Again.UPGRADE, Fault.FILE),
    errors.DecodeIncomplete.error_class: Rule(Again.UPGRADE, Fault.FILE),
    errors.Sidecar.error_class: Rule(Again.NEVER, Fault.FILE),
    errors.MediaTooLarge.error_class: Rule(Again.NEVER, Fault.FILE),
    errors.MediaTruncated.error_class: Rule(Again.NEVER, Fault.FILE),
    errors.NoStreams.error_class: Rule(Again.NEVER, Fault.FILE),
    errors.MediaEncrypted.error_class: Rule(Again.NEVER, Fault.FILE),
    errors.TrackMissing.error_class: Rule(Again.NEVER, Fault.FILE),
    "empty_media": Rule(Again.NEVER, Fault.FILE),
    errors.ClipTooShort.error_class: Rule(Again.NEVER, Fault.FILE),
    QuestionError.error_class: Rule(Again.NEVER, Fault.FILE),
    "json_invalid": Rule(Again.NEVER, Fault.FILE),
    "context": Rule(Again.NEVER, Fault.FILE),
    ClipTooLong.error_class: Rule(Again.NEVER, Fault.RUN),
    "too_many_clips": Rule(Again.NEXT_RUN, Fault.RUN),
}


def rule_of(error_class: str) -> Rule:
    """The row of a class."""
    return RULES.get(error_class, Rule(Again.NEVER, Fault.FILE))


def pause_s(tries: int) -> float:
    """How long to wait before another try, after so many (at least one)."""
    return FIRST_PAUSE_S * 2.0 ** (tries - 1)


def rules_table() -> str:
    """The table in Markdown, for `docs/operations.md`; `python -m pipeline.failure_rules` prints it."""
    rows = ["| tried again by itself | has to change first | classes |", "|---|---|---|"]
    for rule in dict.fromkeys(sorted(RULES.values(), key=lambda r: (list(Again).index(r.again), r.fault))):
        names = ", ".join(f"`{name}`" for name, of in RULES.items() if of == rule)
        rows.append(f"| {rule.again} | {rule.fault} | {names} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rules_table())
