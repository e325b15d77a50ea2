"""Readers' differences between the formats, all in one place.

Promises: what earlier versions wrote comes out in this version's shape. Knows nothing about where it lies.

    format 1    Parquet objects without a checksum; units without attempts, their rows without `run_id`; manifests
                without marks of their files
    format 2    checksums and attempts; every generation of the tables has all of its files to itself
    format 3    a generation shares files with older ones, and says how many rows each has; media are named after their
                archive and key, versions after the job, too, and no content is known

Run records have no format of their own: fields came one by one, and a record lacks those that came after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_CHECKSUMS_SINCE = 2
_CONTENT_SINCE = 4

_RUN_FIELDS_THAT_CAME_LATER: Mapping[str, Any] = dict.fromkeys(
    (
        *("answers", "gpu_hours", "answering_gpu_hours", "usd", "gpu_hours_cap", "estimated_gpu_hours"),
        *(
            "media_unlisted",
            "files_not_media",
            "videos_asked",
            "bytes_fetched",
            "estimated_gpu_hours_low",
            "estimated_gpu_hours_high",
            "actor_busy_share",
            "bottleneck",
            "confinement",
            "model_revision",
            "code_version",
        ),
    )
)
_RUN_LISTS_THAT_CAME_LATER: Mapping[str, Any] = {"tools": (), "machines_out": ()}


def may_lack_checksum(format_version: int) -> bool:
    """Whether a Parquet object of the journal without a checksum is taken as it is."""
    return format_version < _CHECKSUMS_SINCE


def has_other_digest(format_version: int) -> bool:
    """Whether the digest of published tables was made of other things, so that it says nothing about them now."""
    return format_version < _CONTENT_SINCE


def run_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record with every field of this version: those that came after it are None, or empty."""
    return {**_RUN_FIELDS_THAT_CAME_LATER, **_RUN_LISTS_THAT_CAME_LATER, **row}


def head(row: Mapping[str, Any]) -> dict[str, Any]:
    """A head with every field of this version: what an earlier one declared is listed, and lies by job and label."""
    return dict(row) if "is_listed" in row else {**row, "group": row["job"], "item_id": row["media_id"]}


def unit_rows(table: pa.Table, schema: pa.Schema, run_id: str) -> pa.Table:
    """A unit's rows with every column of this version: columns that came after it are null, but for `run_id`, which is
    then the unit's own."""
    there = set(table.column_names)
    for field in schema:
        if field.name not in there:
            value = run_id if field.name == "run_id" else None
            table = table.append_column(field.name, pa.repeat(pa.scalar(value, field.type), table.num_rows))
    return table.select(schema.names)


def manifest(given: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of the tables with every field of this version. Raises AttributeError where it is none."""
    files = given.get("files", {})
    return {**given, "files": {path: {"rows": None} | mark for path, mark in files.items()}}
