"""What one run was and did, in parts.

Promises: a part is filled in one place and travels whole; `pipeline.records.columns.run_row` alone says which columns
it becomes. Knows nothing about how it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunCounts:
    """How much a run found, and did."""

    media_listed: int = 0
    media_planned: int = 0
    units_done_before: int = 0
    units_finished: int = 0
    clips_answered: int = 0
    clips_partial: int = 0
    answers: int | None = None
    """In this run; None in records of versions that did not count them."""
    quarantined: int = 0
    """Media, clips and answers."""
    media_unlisted: int | None = None
    """Items that stopped counting because the archive lists them no more; None in records of older versions."""
    files_not_media: int | None = None
    """Files of the archive that are no media and not called as if they were: left out, and counted here alone."""
    videos_asked: int | None = None
    """Whole videos that were asked about; None in records of older versions."""


@dataclass(frozen=True)
class RunTime:
    """Where a run's time went."""

    wall_s: float = 0.0
    decode_s: float = 0.0
    answer_s: float = 0.0
    model_s: float = 0.0
    actor_busy_share: float | None = None
    """Share of the time with a loaded model in which the actors answered; None in-process and in older records."""
    bottleneck: str | None = None
    """What took most of the actors' time: model, decode, bytes_in_flight, planning or storage."""


@dataclass(frozen=True)
class RunSpending:
    """What a run spent on model actors, and what it was expected to."""

    gpu_hours: float
    """Actors held, idle or not: see `pipeline/cost/budget.py`."""
    answering_gpu_hours: float
    """Of these, actors at work on clips."""
    usd: float | None = None
    """Of `gpu_hours`, where the job has a price."""
    gpu_hours_cap: float | None = None
    estimated_gpu_hours: float | None = None
    """Of `answering_gpu_hours`, by the calibration there was when the run began."""
    estimated_gpu_hours_low: float | None = None
    estimated_gpu_hours_high: float | None = None


@dataclass(frozen=True)
class RunResources:
    """What a run held."""

    peak_bytes_in_flight: int = 0
    driver_peak_rss_bytes: int = 0
    actors: tuple[str, ...] = ()
    """One description per model actor: device, versions, peak memory."""
    confinement: str | None = None
    """What the kernels of the machines that opened media granted; None in records of older versions."""
    tools: tuple[str, ...] = ()
    """Machines that decoded, each with the version and path of its ffmpeg, and what is wrong with one that was passed
    over."""
    machines_out: tuple[str, ...] = ()
    """Machines that were given no clips any more, and why."""
    bytes_fetched: int | None = None
    """Read from stores by the driver and by the machines that decoded; None in records of older versions."""


@dataclass(frozen=True)
class RunRecord:
    """One run, written when it begins its first work and again when it ends."""

    run_id: str
    job: str
    recipe_hash: str
    recipe: Mapping[str, Any]
    started_at: str
    finished_at: str | None = None
    status: str = "running"
    """running, complete, stopped, budget (the cap on spending was reached) or failed."""
    model_revision: str | None = None
    """The commit of a checkpoint that came from the hub; None also in records of older versions."""
    code_version: str | None = None
    """The software that ran: its number and a hash over its code; None in records of older versions."""
    counts: RunCounts = RunCounts()
    time: RunTime = RunTime()
    resources: RunResources = RunResources()
    spending: RunSpending | None = None
    """None until the run ends, and in records of older versions."""
