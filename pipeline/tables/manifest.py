"""The published tables, `answers`, `clips`, `media` and the others of `NAMES`, as Parquet, for any reader.

Promises: what the manifest `tables/current.json` names is one whole generation of all tables, in the columns of
`SCHEMAS`; a file that an older version wrote and that lacks a column reads as null there. Knows nothing about the
journal, or how tables are written (`pipeline/tables/publish.py`).

    tables/current.json                                       the generation that counts: its files, rows and digest
    tables/generation=000003/answers/bucket-007.parquet       written with generation 3, also part of later ones
    tables/live/answers/bucket-007.parquet                    what counts now (`pipeline/tables/live.py`)
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from omnidrop.errors import UserError, first_line
from omnidrop.json_text import parse_json
from pipeline.config.locations import checked_key
from pipeline.memory_bound import bounded_memory
from pipeline.records.checksummed_parquet import FORMAT_VERSION, JournalError
from pipeline.records.columns import (
    ANSWERS_SCHEMA,
    AUDITS_SCHEMA,
    CLIPS_SCHEMA,
    MEDIA_SCHEMA,
    QUARANTINE_SCHEMA,
    RUNS_SCHEMA,
    WHOLE_ANSWERS_SCHEMA,
)
from pipeline.records.legacy import formats as legacy
from pipeline.tables.written import refusal, unwritten_column

if TYPE_CHECKING:
    from pipeline.storage.store import Store

MANIFEST = "tables/current.json"
NAMES = ("answers", "audits", "clips", "media", "quarantine", "runs", "whole_answers")


@dataclass(frozen=True)
class FileMark:
    """What a published file must be."""

    bytes: int
    blake2b: str
    rows: int | None
    """None where a format before 3 published."""


@dataclass(frozen=True)
class Published:
    """One generation, as its manifest says."""

    generation: int
    digest: str
    tables: dict[str, list[str]]
    """Paths relative to `tables/`, also of files that came with older generations."""
    rows: dict[str, int]
    published_at: str
    format_version: int = FORMAT_VERSION
    files: dict[str, FileMark] = field(default_factory=dict)
    """Every file of `tables`; empty where format 1 published."""
    buckets: dict[str, str] = field(default_factory=dict)
    """What is in each bucket, as a digest; empty where a format before 4 published."""


_PUBLISHED = TypeAdapter(Published)


def current(store: Store) -> Published | None:
    """The generation that counts, None where nothing was published.

    Raises JournalError for a damaged manifest, UserError for a newer one.
    """
    if not store.exists(MANIFEST):
        return None
    try:
        given = parse_json(store.read_bytes(MANIFEST))
        if given["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{store.uri}/{MANIFEST} has format {given['format_version']}, this version reads up to "
                f"{FORMAT_VERSION}; upgrade omnidrop"
            )
        known = legacy.manifest(given)
        for path in chain(known["files"], *known["tables"].values()):
            _check_inside(path)
        return _PUBLISHED.validate_python(known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(
            f"{store.uri}/{MANIFEST} is damaged; `omnidrop rebuild` makes the tables again from the journal"
        ) from error


def _check_inside(path: object) -> None:
    """A results folder may come from a third party: the files it names are read, so it may name only its own tables."""
    if not isinstance(path, str) or generation_of(f"tables/{checked_key(path)}") is None:
        raise ValueError(f"not a published file: {path!r}")


def read(store: Store, published: Published, name: str) -> pa.Table:
    """A whole table of one generation; empty where the version that published had no such table. Raises JournalError
    for a file that is damaged, holds what no run writes, or unpacks to more than `memory_bound` lets it."""
    schema, paths = SCHEMAS[name], [f"tables/{path}" for path in published.tables.get(name, ())]
    with bounded_memory():
        try:
            found = [pq.read_table(io.BytesIO(store.read_bytes(path))) for path in paths]
            for path, table in zip(paths, found, strict=True):
                if (column := unwritten_column(table, name)) is not None:
                    raise JournalError(f"{store.uri}: {refusal(name, column, path)}")
            return pa.concat_tables([schema.empty_table(), *found], promote_options="default").select(schema.names)
        except (pa.ArrowException, KeyError) as error:
            raise JournalError(
                f"{store.uri}: the published table {name} cannot be read ({first_line(error)}); `omnidrop verify` says "
                "which file, `omnidrop rebuild` makes the tables again from the journal"
            ) from error


SCHEMAS = {
    "answers": ANSWERS_SCHEMA,
    "audits": AUDITS_SCHEMA,
    "clips": CLIPS_SCHEMA,
    "media": MEDIA_SCHEMA,
    "quarantine": QUARANTINE_SCHEMA,
    "runs": RUNS_SCHEMA,
    "whole_answers": WHOLE_ANSWERS_SCHEMA,
}


def first_unwritten(store: Store, published: Published, name: str, column: str) -> str | None:
    """The first file of a table whose `column` holds what no run writes; None where all is well meanwhile."""
    for path in published.tables.get(name, ()):
        found = pq.read_table(io.BytesIO(store.read_bytes(f"tables/{path}")), columns=[column])
        if unwritten_column(found, name) is not None:
            return f"tables/{path}"
    return None


def bucket_name(bucket: int) -> str:
    """What a bucket's files are called."""
    return f"bucket-{bucket:03d}"


def generation_of(path: str) -> int | None:
    """The generation that an object below `tables/` belongs to, None for any other object."""
    found = re.fullmatch(r"tables/generation=([0-9]{6,})/.+", path)
    return int(found[1]) if found else None
