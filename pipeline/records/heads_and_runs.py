"""Current-version pointers and run records, as stored in the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.records.checksummed_parquet import JournalError, unseal

HEAD_SCHEMA = pa.schema(
    [
        ("job", pa.string()),
        ("media_id", pa.string()),
        ("media_key", pa.string()),
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("version_id", pa.string()),
        ("recipe_hash", pa.string()),
        ("units", pa.int32()),
        ("clips", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Head:
    """Which version of a media item counts for a job, and how many units it will have when complete."""

    job: str
    media_id: str
    media_key: str
    uri: str
    etag: str
    size_bytes: int
    version_id: str
    recipe_hash: str
    units: int
    clips: int


@dataclass(frozen=True)
class RunRecord:
    """One run, written when it starts and again when it ends."""

    run_id: str
    job: str
    recipe_hash: str
    recipe: Mapping[str, Any]
    started_at: str
    finished_at: str | None = None
    status: str = "running"
    """running, complete, stopped, budget (the cap on spending was reached) or failed."""
    media_listed: int = 0
    media_planned: int = 0
    units_done_before: int = 0
    units_finished: int = 0
    clips_answered: int = 0
    clips_partial: int = 0
    answers: int | None = None
    """In this run; None in records of versions that did not count them."""
    quarantined: int = 0
    wall_s: float = 0.0
    decode_s: float = 0.0
    model_s: float = 0.0
    answer_s: float = 0.0
    peak_bytes_in_flight: int = 0
    driver_peak_rss_bytes: int = 0
    actors: tuple[str, ...] = ()
    """One description per model actor: device, versions, peak memory."""
    gpu_hours: float | None = None
    """Actors held, idle or not: see `pipeline/cost/budget.py`. None in records of older versions, as all below."""
    answering_gpu_hours: float | None = None
    usd: float | None = None
    """Of `gpu_hours`, where the job has a price."""
    gpu_hours_cap: float | None = None
    estimated_gpu_hours: float | None = None
    """Of `answering_gpu_hours`, by the calibration there was when the run began."""
    estimated_gpu_hours_low: float | None = None
    estimated_gpu_hours_high: float | None = None
    actor_busy_share: float | None = None
    """Share of the time with a loaded model in which the actors answered; None in-process and in older records."""
    bottleneck: str | None = None
    """What took most of the actors' time: model, decode, bytes_in_flight, planning or storage."""


def decode_heads(data: bytes, *, where: str) -> list[Head]:
    """The heads in one object. Raises JournalError, naming `where`, for damage or a newer format."""
    table, _ = unseal(data, where=where)
    try:
        return [Head(**row) for row in table.to_pylist()]
    except TypeError as error:
        raise JournalError(f"{where} holds no heads ({error}); delete it and run `omnidrop rebuild`") from error


def decode_run(data: bytes, *, where: str) -> RunRecord:
    """A run's record. Raises JournalError, naming `where`, for damage."""
    try:
        given = json.loads(data)
        return RunRecord(**given | {"actors": tuple(given["actors"])})
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{where} is no run's record ({error}); delete it and run `omnidrop rebuild`") from error
