"""Makes the files of one bucket: all rows of the media items whose content falls into it, one file for each table.

Promises: an item's rows are together, in the items' order, in every file; rows of items that have not changed are taken
from the files of the generation before. Memory is one bucket's. Knows nothing about what counts, or where files lie.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omnidrop.json_text import parse_json
from pipeline.index.savings_index import Counted
from pipeline.records.columns import QUARANTINE_SCHEMA, run_row
from pipeline.records.heads_and_runs import Head
from pipeline.records.rows import answers_table, audits_table, clips_table, quarantine_rows
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import Label, UnitObject
from pipeline.records.video import VideoObject, whole_quarantine, whole_table
from pipeline.tables.manifest import NAMES, SCHEMAS

ROW_GROUP_ROWS = 128 * 1024
BUCKETED = tuple(name for name in NAMES if name != "runs")
"""The tables whose rows belong to media items."""
_ROWS = b"omnidrop.rows"
"""In the footer of a bucket's `media`: of each item in order, how many rows each table has."""


class BucketRows:
    """The rows of one bucket, as a generation has them: tables by name, and how many rows are whose."""

    def __init__(self, tables: dict[str, pa.Table]) -> None:
        """Raises KeyError or ValueError for tables that were not made here."""
        self._tables = tables
        self._spans: dict[str, dict[str, tuple[int, int]]] = {}
        start = dict.fromkeys(BUCKETED, 0)
        digests = tables["media"]["rows_digest"].to_pylist()
        counts = parse_json((tables["media"].schema.metadata or {})[_ROWS])
        for digest, rows in zip(digests, counts, strict=True):
            self._spans[digest] = {name: (start[name], rows[name]) for name in BUCKETED}
            for name in BUCKETED:
                start[name] += rows[name]
        if any(start[name] != tables[name].num_rows for name in BUCKETED):
            raise ValueError("the files of a bucket do not belong together")

    def has(self, digest: str) -> bool:
        """Whether an item is here as it is now."""
        return digest in self._spans

    def of(self, digest: str) -> dict[str, pa.Table]:
        """An item's rows, by table."""
        return {name: self._tables[name].slice(*span) for name, span in self._spans[digest].items()}


def item_rows(
    counted: Counted, rows_digest: str, units: Iterable[UnitObject], video: VideoObject | None = None
) -> dict[str, pa.Table]:
    """An item's rows by table, from its finished units and what was answered about it as a whole."""
    head, is_copy = counted.head, counted.is_copy
    label = Label(head.job, head.media_id, head.media_key, head.content_id)
    found: defaultdict[str, list[pa.Table]] = defaultdict(list)
    info: dict[str, Any] = {}
    count = clips = quarantined = 0
    seen: set[str] = set()
    for unit in units:
        # Units of two sizes over the same clips, of two runs at once with different settings: each clip is taken once.
        unit = _without(unit, seen)
        answered = clips_table(unit, label, is_copy=is_copy)
        failed = quarantine_rows(unit, label, is_copy=is_copy)
        found["clips"].append(answered)
        found["answers"].append(answers_table(unit, label, is_copy=is_copy))
        if not is_copy:
            found["audits"].append(audits_table(unit, label))
        found["quarantine"].append(pa.Table.from_pylist(failed, schema=QUARANTINE_SCHEMA))
        info = info or _info_columns(unit)
        count, clips = count + 1, clips + answered.num_rows
        quarantined += sum(row["question_id"] is None for row in failed)
    if video is not None:
        # What the questions read of a key is asked of each copy apart, and costs apart.
        found["whole_answers"].append(whole_table(video, label, is_copy=is_copy and not video.meta.labels))
        found["quarantine"].append(whole_quarantine(video, label))
    made = {"units_done": count, "clips_answered": clips, "quarantined": quarantined, "jobs": list(counted.jobs)}
    made |= {"status": _status(head, count, clips), "rows_digest": rows_digest}
    found["media"].append(pa.Table.from_pylist([asdict(head) | info | made], schema=SCHEMAS["media"]))
    return {name: _joined(name, found[name]) for name in BUCKETED}


def bucket_files(items: Sequence[dict[str, pa.Table]], *, even_empty: bool) -> dict[str, tuple[bytes, int]]:
    """The files of a bucket by table, with their rows; a table without rows has one only with `even_empty`."""
    files = {}
    for name in BUCKETED:
        table = _joined(name, [rows[name] for rows in items])
        if table.num_rows or even_empty:
            if name == "media":
                counts = [{other: rows[other].num_rows for other in BUCKETED} for rows in items]
                table = table.replace_schema_metadata({_ROWS: json.dumps(counts)})
            files[name] = (_file(table), table.num_rows)
    return files


def runs_file(runs: Iterable[RunRecord]) -> tuple[bytes, int]:
    """The file of `runs`."""
    rows = [run_row(run) | {"recipe": json.dumps(run.recipe, sort_keys=True)} for run in runs]
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["runs"])
    return _file(table), table.num_rows


@cache
def empty_file(name: str) -> bytes:
    """A table's file without rows."""
    return _file(_empty(name))


def read_bucket(files: dict[str, bytes]) -> BucketRows:
    """The inverse of `bucket_files`. Raises KeyError, ValueError or ArrowException for files that are not."""
    # Not `read_table`, which opens a data set for it: 4 ms a small file in place of 2.
    tables = {name: pq.ParquetFile(pa.BufferReader(data)).read() for name, data in files.items()}
    return BucketRows({name: _empty(name) for name in BUCKETED} | tables)


@cache
def _empty(name: str) -> pa.Table:
    # Arrow makes an array for each column: half a millisecond, many times an item.
    return SCHEMAS[name].empty_table()


def _joined(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    with_rows = [table for table in tables if table.num_rows]
    return pa.concat_tables(with_rows) if with_rows else _empty(name)


def _file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def _without(unit: UnitObject, seen: set[str]) -> UnitObject:
    names = unit.rows["clip_id"].to_pylist()
    fresh = [name is None or name not in seen for name in names]
    seen.update(name for name in names if name is not None)
    return unit if all(fresh) else UnitObject(unit.meta, unit.rows.filter(pa.array(fresh)))


def _status(head: Head, units_done: int, clips_answered: int) -> str:
    if units_done < head.units:
        return "pending"
    return "complete" if clips_answered else "failed"


def _info_columns(unit: UnitObject) -> dict[str, Any]:
    info = unit.meta.info
    if info is None:
        return {}
    names = ("container", "duration_s", "video_codec", "width", "height", "frame_rate", "audio_codec", "audio_streams")
    noticed = {
        "segments": len(info.parts),
        "unused_tracks": info.unused_tracks,
        "timeline_checked": info.is_checked,
    }
    told = {"tags": list(info.tags), "sidecars": list(unit.meta.media.sidecars)}
    return {name: getattr(info, name) for name in names} | noticed | told
