"""Writes the files of one generation of the published tables, slice by slice.

Promises: all rows of a media item are in one slice, and a slice's files grow to about `FILE_BYTES`; memory does not
grow with the generation; a table without rows has a file all the same. Knows nothing about what counts, or what was
published before.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.failpoints import reached
from pipeline.records.checksummed_parquet import digest as content_hash
from pipeline.records.columns import QUARANTINE_SCHEMA, run_row
from pipeline.records.heads_and_runs import Head
from pipeline.records.rows import answers_table, audits_table, clips_table, quarantine_rows
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import UnitObject, utc_now
from pipeline.tables.manifest import NAMES, SCHEMAS, FileMark, Published

if TYPE_CHECKING:
    from pipeline.storage.store import Store

FILE_BYTES = 100 << 20
"""Readers want few files of 100 MB or more: 1,000 small ones are 30 times slower to aggregate than one."""
ROW_GROUP_BYTES = 16 << 20
"""In memory, before compression."""
SMALL_TABLES = 256
"""Rows come in tables of a media item or a unit, and each weighs some 20 KB beside its bytes: so many become one."""
SLICED = tuple(name for name in NAMES if name != "runs")
"""The tables whose rows belong to media items."""


class GenerationWriter:
    """Writes the slices of one generation."""

    def __init__(self, store: Store, generation: int) -> None:
        self._store, self._generation = store, generation
        self._slices = 0
        self._writers: dict[str, _FileWriter] = {}
        self._tables: defaultdict[str, list[str]] = defaultdict(list)
        self._files: dict[str, FileMark] = {}

    def add(self, head: Head, rows_digest: str, units: Iterable[UnitObject], advance: Callable[[int], None]) -> None:
        """Write all rows of a media item; `advance` is called for each unit."""
        count = clips = quarantined = 0
        info: dict[str, Any] = {}
        for unit in units:
            failed = quarantine_rows(unit)
            answered = clips_table(unit)
            self._write("answers", answers_table(unit))
            self._write("audits", audits_table(unit))
            self._write("clips", answered)
            self._write("quarantine", pa.Table.from_pylist(failed, schema=QUARANTINE_SCHEMA))
            info = info or _info_columns(unit)
            count, clips = count + 1, clips + answered.num_rows
            quarantined += sum(row["question_id"] is None for row in failed)
            advance(1)
        done = {"units_done": count, "clips_answered": clips, "quarantined": quarantined}
        found = {"status": _status(head, count, clips), "rows_digest": rows_digest}
        self._write("media", pa.Table.from_pylist([asdict(head) | info | done | found], schema=SCHEMAS["media"]))
        if max(writer.nbytes for writer in self._writers.values()) > FILE_BYTES:
            self._finish_slice()

    def keep(self, name: str, path: str, mark: FileMark) -> None:
        """Take a file of an older generation over."""
        self._tables[name].append(path)
        self._files[path] = mark

    def close(self, digest: str, runs: Iterable[RunRecord]) -> Published:
        """The new generation: what was written, what was taken over, and the runs."""
        self._finish_slice()
        self._write("runs", _runs_table(runs), even_empty=True)
        for name in SLICED:
            if not self._tables[name]:
                self._write(name, SCHEMAS[name].empty_table(), even_empty=True)  # some readers cannot read no file
        self._finish_slice()
        tables = {name: sorted(self._tables[name]) for name in NAMES}
        rows = {name: sum(self._files[path].rows or 0 for path in paths) for name, paths in tables.items()}
        return Published(self._generation, digest, tables, rows, utc_now(), files=self._files)

    def _write(self, name: str, rows: pa.Table, *, even_empty: bool = False) -> None:
        if rows.num_rows or even_empty:
            if name not in self._writers:
                self._writers[name] = _FileWriter(SCHEMAS[name])
            self._writers[name].add(rows)

    def _finish_slice(self) -> None:
        for name, writer in self._writers.items():
            path = f"generation={self._generation:06d}/{name}/part-{self._slices:05d}.parquet"
            data = writer.close()
            self._files[path] = FileMark(len(data), content_hash(data), writer.rows)
            self._tables[name].append(path)
            self._store.write(f"tables/{path}", data)
            reached("table_file_written")
        self._slices += bool(self._writers)
        self._writers = {}


class _FileWriter:
    """One Parquet file, made in memory; small tables are gathered into row groups first."""

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd")
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self.rows = 0

    @property
    def nbytes(self) -> int:
        """Written so far, without the row group that is being gathered."""
        return self._sink.tell()

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self.rows += table.num_rows
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        if self._pending_bytes > ROW_GROUP_BYTES:
            self._flush()
        elif len(self._pending) == SMALL_TABLES:
            self._pending = [pa.concat_tables(self._pending).combine_chunks()]

    def close(self) -> bytes:
        """The whole file."""
        self._flush()
        self._writer.close()
        return self._sink.getvalue()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
        self._pending, self._pending_bytes = [], 0


def _runs_table(runs: Iterable[RunRecord]) -> pa.Table:
    rows = [run_row(run) | {"recipe": json.dumps(run.recipe, sort_keys=True)} for run in runs]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["runs"])


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
    return {name: getattr(info, name) for name in names} | noticed | {"tags": list(info.tags)}
