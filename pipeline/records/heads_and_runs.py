"""Current-version pointers and run records, as stored in the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa

from omnidrop.json_text import parse_json
from pipeline.records.checksummed_parquet import JournalError, unseal
from pipeline.records.columns import run_from_row, run_row
from pipeline.records.legacy import formats as legacy
from pipeline.records.run_record import RunRecord

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
        ("is_listed", pa.bool_()),
        ("content_id", pa.string()),
        ("mark", pa.string()),
        ("group", pa.string()),
        ("item_id", pa.string()),
        ("clips_per_unit", pa.int32()),
        ("answer_format", pa.int32()),
        ("earlier", pa.string()),
    ]
)


@dataclass(frozen=True)
class Head:
    """Which version of a labelled media item counts for a job, and how many units it will have when complete."""

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
    is_listed: bool = True
    """False where the job's archive no longer lists the item: then it does not count, and loses nothing."""
    content_id: str | None = None
    """SHA-256 of what the item holds; None where it could not be read, and in journals before format 4."""
    mark: str = ""
    """While the item has it, it has this content, see `Media.mark`."""
    group: str = ""
    """First folder of its units, see `Version`; the job where it is empty."""
    item_id: str = ""
    """The media id where it is empty."""
    clips_per_unit: int | None = None
    answer_format: int | None = None
    earlier: str = ""
    """How a journal before format 4 named this content, see `pipeline.planning.earlier`: for its other versions."""

    @property
    def place(self) -> tuple[str, str]:
        """Group and item id of its units, spelled out."""
        return self.group or self.job, self.item_id or self.media_id


@dataclass(frozen=True)
class StoredRun:
    """A run's record as it lies in the journal, and as the index keeps it: its size tells whether it has changed."""

    run: RunRecord
    text: str
    """JSON: one flat object with the columns of `runs`."""

    @classmethod
    def of(cls, run: RunRecord) -> StoredRun:
        """As this version stores it."""
        return cls(run, json.dumps(run_row(run), indent=1))


def decode_heads(data: bytes, *, where: str) -> list[Head]:
    """The heads in one object. Raises JournalError, naming `where`, for damage or a newer format."""
    table, _ = unseal(data, where=where)
    try:
        return [Head(**legacy.head(row)) for row in table.to_pylist()]
    except TypeError as error:
        raise JournalError(f"{where} holds no heads ({error}); delete it and run `omnidrop rebuild`") from error


def decode_run(data: bytes, *, where: str) -> StoredRun:
    """A run's record. Raises JournalError, naming `where`, for damage."""
    try:
        text = data.decode()
        return StoredRun(run_from_row(legacy.run_row(parse_json(text))), text)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{where} is not a run's record ({error}); delete it and run `omnidrop rebuild`") from error
