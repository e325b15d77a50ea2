"""The truth: one Parquet object per finished work unit, at a key that follows from the unit's content.

Promises: a unit is there whole or not at all; a second attempt at the same unit changes nothing; what was forgotten
stays forgotten. Everything else (tables, index) is derived from here and may be deleted. Knows nothing about Ray, SQL
or how answers are made.

    journal/units/<job>/<media_id[:2]>/<media_id>/<version_id>-<unit_id>.parquet   clips with nested answers
    journal/heads/<sequence>-<run_id>.parquet      which version of each media item counts
    journal/tombstones/<media_id>.json             erased for good
    journal/runs/<run_id>.json                     what each run was and did
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from omnidrop.errors import UserError
from omnidrop.questions import Question
from pipeline.unit_format import (
    FORMAT_VERSION,
    UnitKey,
    UnitMeta,
    UnitObject,
    decode_unit,
    encode_unit,
    media_prefix,
    utc_now,
)
from workers.records import ClipOutcome

if TYPE_CHECKING:
    from pipeline.storage import Store

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
    """running, complete, stopped or failed."""
    media_listed: int = 0
    media_planned: int = 0
    units_done_before: int = 0
    units_finished: int = 0
    clips_answered: int = 0
    clips_partial: int = 0
    quarantined: int = 0
    wall_s: float = 0.0
    decode_s: float = 0.0
    model_s: float = 0.0
    answer_s: float = 0.0
    peak_bytes_in_flight: int = 0
    driver_peak_rss_bytes: int = 0
    actors: tuple[str, ...] = ()
    """One description per model actor: device, versions, peak memory."""


class Journal:
    """All finished units of one output folder or bucket prefix."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def commit(
        self, meta: UnitMeta, outcomes: Sequence[ClipOutcome], questions: Sequence[Question]
    ) -> UnitObject | None:
        """Store a finished unit and return what is now the truth about it.

        That is this attempt, or the one that was there first (another run's, or one whose writer died before it could
        say so), or None where the media item was forgotten: then nothing is left behind.
        """
        data = encode_unit(meta, outcomes, questions)
        path = meta.key.path
        is_first = self._store.write_once(path, data)
        # The order matters: forgetting writes its tombstone before it deletes, so a late attempt either is deleted
        # there or sees the tombstone here.
        if self._store.exists(_tombstone_path(meta.media.media_id)):
            self._store.delete([path])
            return None
        return decode_unit(data, where=path) if is_first else self.read(meta.key)

    def read(self, key: UnitKey) -> UnitObject:
        """One finished unit. Raises JournalError for damage."""
        return decode_unit(self._store.read_bytes(key.path), where=key.path)

    def units(self) -> Iterator[UnitKey]:
        """All finished units, superseded ones too, streamed from the store's listing."""
        for path, _ in self._store.list("journal/units/"):
            key = UnitKey.parse(path)
            if key is not None:
                yield key

    def drop(self, keys: Sequence[UnitKey]) -> None:
        """Delete finished units: late attempts of forgotten media, or units that are to be done again."""
        self._store.delete([key.path for key in keys])

    def write_heads(self, heads: Sequence[Head], run_id: str) -> None:
        """Declare which versions count from now on: a later object wins over an earlier one, media item by media item.

        The sequence number orders runs without trusting clocks; two runs that plan at the same moment are ordered by
        their run ids.
        """
        if not heads:
            return
        last = max((int(path.rsplit("/", 1)[1].split("-")[0]) for path in self._head_paths()), default=0)
        self._write_head_object(f"journal/heads/{last + 1:012d}-{run_id}.parquet", heads)

    def heads_after(self, path: str | None) -> Iterator[tuple[str, list[Head]]]:
        """Head objects in the order they count, from the one after `path` on (all with None): (path, heads)."""
        for found in self._head_paths():
            if path is None or found > path:
                table = pq.read_table(io.BytesIO(self._store.read_bytes(found)))
                yield found, [Head(**row) for row in table.to_pylist()]

    def write_run(self, run: RunRecord) -> None:
        """Store or replace a run's record."""
        self._store.write(f"journal/runs/{run.run_id}.json", json.dumps(asdict(run), indent=1).encode())

    def runs(self) -> Iterator[RunRecord]:
        """All runs, oldest first."""
        for path, _ in self._store.list("journal/runs/"):
            if path.endswith(".json"):
                given = json.loads(self._store.read_bytes(path))
                yield RunRecord(**given | {"actors": tuple(given["actors"])})

    def tombstones(self) -> frozenset[str]:
        """The media ids that were forgotten."""
        listed = (path.rsplit("/", 1)[1] for path, _ in self._store.list("journal/tombstones/"))
        return frozenset(name.removesuffix(".json") for name in listed if name.endswith(".json"))

    def forget(self, media_id: str, jobs: Iterable[str]) -> int:
        """Erase a media item from the journal for good; returns how many units went. Safe to repeat."""
        self._store.write(_tombstone_path(media_id), json.dumps({"forgotten_at": utc_now()}).encode())
        units = [path for job in jobs for path, _ in self._store.list(media_prefix(job, media_id))]
        self._store.delete(units)
        for path, heads in self.heads_after(None):
            kept = [h for h in heads if h.media_id != media_id]
            if not kept:
                self._store.delete([path])
            elif len(kept) < len(heads):
                self._write_head_object(path, kept)
        return len(units)

    def _head_paths(self) -> list[str]:
        return sorted(path for path, _ in self._store.list("journal/heads/") if path.endswith(".parquet"))

    def _write_head_object(self, path: str, heads: Sequence[Head]) -> None:
        sink = io.BytesIO()
        table = pa.Table.from_pylist([asdict(h) for h in heads], schema=HEAD_SCHEMA)
        pq.write_table(table, sink, compression="zstd")
        self._store.write(path, sink.getvalue())


def _tombstone_path(media_id: str) -> str:
    return f"journal/tombstones/{media_id}.json"


def check_output_is_ours(store: Store) -> None:
    """Raises UserError where the output holds a journal of a newer format than this version reads."""
    path = "journal/format.json"
    if not store.exists(path):
        store.write_once(path, json.dumps({"format_version": FORMAT_VERSION}).encode())
        return
    found = json.loads(store.read_bytes(path)).get("format_version")
    if found != FORMAT_VERSION:
        raise UserError(
            f"{store.uri} holds a journal of format {found}, this version writes format {FORMAT_VERSION}; "
            "use the version that wrote it, or another output folder"
        )
