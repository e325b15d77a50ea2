"""What the parts of one run share, from planning to the executor. Knows nothing about what they do with it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.archive.decoded_early import DecodedEarly
from pipeline.archive.health import ArchiveHealth
from pipeline.config.job import JobConfig
from pipeline.storage.outage import Patience, StopFlag


@dataclass(frozen=True)
class RunContext:
    """Made once for a run, before its first unit."""

    job: JobConfig
    """Without an `auto` that a calibration has an answer to."""
    weights_hash: str
    """Of the checkpoint that every actor must load."""
    stop: StopFlag
    patience: Patience
    """Nothing new is taken while it waits."""
    health: ArchiveHealth
    early: DecodedEarly
    """Clips that need no decoding any more."""
