"""The published tables: `answers`, `audits`, `clips`, `media`, `quarantine`, `runs` as Parquet, for any reader.

Promises: readers see a whole generation or the one before it (the manifest `tables/current.json` is written last), with
only rows that count; publishing what is published already does nothing; a deleted `tables/` is rebuilt equal from the
journal. Knows nothing about Ray, SQL or how answers are made.

    tables/current.json                                     the generation that counts: its files, rows and digest
    tables/generation=000003/answers/part-00000.parquet     files of about 100 MB, sorted by job, media key and unit
"""

from __future__ import annotations

import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from omnidrop.errors import UserError
from pipeline.failpoints import reached
from pipeline.journal import Head, Journal
from pipeline.rows import (
    ANSWERS_SCHEMA,
    AUDITS_SCHEMA,
    CLIPS_SCHEMA,
    MEDIA_SCHEMA,
    QUARANTINE_SCHEMA,
    answers_table,
    audits_table,
    clips_table,
    quarantine_rows,
)
from pipeline.savings_index import SavingsIndex
from pipeline.sealing import FORMAT_VERSION, JournalError
from pipeline.sealing import digest as content_hash
from pipeline.unit_format import UnitKey, UnitObject, utc_now

if TYPE_CHECKING:
    from pipeline.storage import Store

FILE_BYTES = 100 << 20
"""Readers want few files of 100 MB or more: 1,000 small ones are 30 times slower to aggregate than one."""
ROW_GROUP_BYTES = 16 << 20
"""In memory, before compression."""
READERS = 8
"""Journal objects read at once: hides a store's latency, and bounds what is held in memory."""
MANIFEST = "tables/current.json"
NAMES = ("answers", "audits", "clips", "media", "quarantine", "runs")


@dataclass(frozen=True)
class FileMark:
    """What a published file must be."""

    bytes: int
    blake2b: str


@dataclass(frozen=True)
class Published:
    """One generation, as its manifest says."""

    generation: int
    digest: str
    tables: dict[str, list[str]]
    """Paths relative to `tables/`."""
    rows: dict[str, int]
    published_at: str
    format_version: int = FORMAT_VERSION
    files: dict[str, FileMark] = field(default_factory=dict)
    """Every file of `tables`; empty where format 1 published."""


def current(store: Store) -> Published | None:
    """The generation that counts, None where nothing was published.

    Raises JournalError for a damaged manifest, UserError for a newer one.
    """
    if not store.exists(MANIFEST):
        return None
    try:
        given = json.loads(store.read_bytes(MANIFEST))
        if given["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{store.uri}/{MANIFEST} has format {given['format_version']}, this version reads up to "
                f"{FORMAT_VERSION}; upgrade omnidrop"
            )
        files = {path: FileMark(**mark) for path, mark in given.get("files", {}).items()}
        return Published(**given | {"files": files})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(
            f"{store.uri}/{MANIFEST} is damaged; `omnidrop rebuild` makes the tables again from the journal"
        ) from error


def read(store: Store, published: Published, name: str) -> pa.Table:
    """A whole table of one generation; empty where the version that published had no such table."""
    schema = SCHEMAS[name]
    found = [pq.read_table(io.BytesIO(store.read_bytes(f"tables/{path}"))) for path in published.tables.get(name, ())]
    return pa.concat_tables([schema.empty_table(), *found], promote_options="default").select(schema.names)


def publish(
    store: Store,
    journal: Journal,
    index: SavingsIndex,
    *,
    keep_older: int = 1,
    advance: Callable[[int], None] = lambda units: None,
) -> Published:
    """Publish what counts, and drop generations older than the `keep_older` before it.

    A no-op where the published generation holds the same. `advance` is called with the number of units read.
    """
    before = _readable(store)
    forgotten = journal.tombstones()
    digest = state_digest(journal, index, forgotten)
    if before is not None and before.digest == digest and keep_older > 0:
        return before
    generation = _claim(store, before)
    reached("generation_claimed")
    writers = {name: _TableWriter(store, generation, name) for name in NAMES}
    kept = _kept_media(index, forgotten)
    for head, group in groupby(_read_ahead(journal, kept), key=lambda pair: pair[0]):
        units = 0
        clips = quarantined = 0
        info: dict[str, Any] = {}
        for _, unit in group:
            if unit is None:
                continue
            failed = quarantine_rows(unit)
            answered = clips_table(unit)
            writers["answers"].add(answers_table(unit))
            writers["audits"].add(audits_table(unit))
            writers["clips"].add(answered)
            writers["quarantine"].add(pa.Table.from_pylist(failed, schema=QUARANTINE_SCHEMA))
            info = info or _info_columns(unit)
            units, clips = units + 1, clips + answered.num_rows
            quarantined += sum(row["question_id"] is None for row in failed)
            advance(1)
        done = {"units_done": units, "clips_answered": clips, "quarantined": quarantined}
        row = asdict(head) | info | done | {"status": _status(head, units, clips)}
        writers["media"].add(pa.Table.from_pylist([row], schema=MEDIA_SCHEMA))
    writers["runs"].add(_runs_table(journal))
    tables = {name: writer.close() for name, writer in writers.items()}
    rows = {name: writer.rows for name, writer in writers.items()}
    files = {path: mark for writer in writers.values() for path, mark in writer.files.items()}
    made = Published(generation, digest, tables, rows, utc_now(), files=files)
    reached("generation_written")
    now = _readable(store)
    if now is not None and now.generation > generation:
        # Another run published a newer snapshot while this one was being written.
        _drop(store, lambda found: found == generation)
        return now
    store.write(MANIFEST, json.dumps(asdict(made), indent=1).encode())
    reached("manifest_written")
    _drop(store, lambda found: found < generation - keep_older)
    return made


class _TableWriter:
    """Writes one table of one generation as files of about `FILE_BYTES`."""

    def __init__(self, store: Store, generation: int, name: str) -> None:
        self._store, self._folder = store, f"generation={generation:06d}/{name}"
        self._schema = SCHEMAS[name]
        self._paths: list[str] = []
        self._pending: list[pa.Table] = []
        self.files: dict[str, FileMark] = {}
        self._open()
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Append rows; small tables are gathered into row groups first."""
        self.rows += table.num_rows
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        if self._pending_bytes > ROW_GROUP_BYTES:
            self._flush()
        if self._sink.tell() > FILE_BYTES:
            self._finish_file()
            self._open()

    def close(self) -> list[str]:
        """Write what is left; returns the files, at least one, relative to `tables/`."""
        self._flush()
        if self._writer_rows or not self._paths:
            self._finish_file()
        return self._paths

    def _open(self) -> None:
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")
        self._writer_rows = 0
        self._pending_bytes = 0

    def _flush(self) -> None:
        if self._pending:
            table = pa.concat_tables(self._pending)
            self._writer.write_table(table)
            self._writer_rows += table.num_rows
        self._pending, self._pending_bytes = [], 0

    def _finish_file(self) -> None:
        self._flush()
        self._writer.close()
        path = f"{self._folder}/part-{len(self._paths):05d}.parquet"
        data = self._sink.getvalue()
        self.files[path] = FileMark(len(data), content_hash(data))
        self._store.write(f"tables/{path}", data)
        self._paths.append(path)
        reached("table_file_written")


_RUN_TYPES: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
RUNS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "job", "recipe_hash", "started_at", "finished_at", "status")),
        *(
            (name, pa.int64())
            for name in (
                *("media_listed", "media_planned", "units_done_before", "units_finished", "clips_answered"),
                *("clips_partial", "quarantined", "peak_bytes_in_flight", "driver_peak_rss_bytes"),
            )
        ),
        *((name, pa.float64()) for name in ("wall_s", "decode_s", "answer_s", "model_s")),
        ("recipe", pa.string()),
        ("actors", pa.list_(pa.string())),
        *(
            (name, pa.float64())
            for name in (
                *("gpu_hours", "answering_gpu_hours", "usd", "gpu_hours_cap"),
                *("estimated_gpu_hours", "estimated_gpu_hours_low", "estimated_gpu_hours_high"),
            )
        ),
    ]
)
SCHEMAS = {
    "answers": ANSWERS_SCHEMA,
    "audits": AUDITS_SCHEMA,
    "clips": CLIPS_SCHEMA,
    "media": MEDIA_SCHEMA,
    "quarantine": QUARANTINE_SCHEMA,
    "runs": RUNS_SCHEMA,
}


def _runs_table(journal: Journal) -> pa.Table:
    rows = [asdict(run) | {"recipe": json.dumps(run.recipe, sort_keys=True)} for run in journal.runs()]
    return pa.Table.from_pylist(rows, schema=RUNS_SCHEMA)


def _status(head: Head, units_done: int, clips_answered: int) -> str:
    if units_done < head.units:
        return "pending"
    return "complete" if clips_answered else "failed"


def _info_columns(unit: UnitObject) -> dict[str, Any]:
    info = unit.meta.info
    if info is None:
        return {}
    names = ("container", "duration_s", "video_codec", "width", "height", "frame_rate", "audio_codec", "audio_streams")
    return {name: getattr(info, name) for name in names} | {"tags": list(info.tags)}


def _read_ahead(
    journal: Journal, wanted: Iterable[tuple[Head, UnitKey | None]]
) -> Iterator[tuple[Head, UnitObject | None]]:
    """Read objects in order, `READERS` at once and at most four times as many ahead."""
    pending = iter(wanted)

    def submit(count: int) -> list[tuple[Head, Future[UnitObject | None] | None]]:
        return [(head, pool.submit(journal.read_if_kept, key) if key else None) for head, key in islice(pending, count)]

    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque(submit(4 * READERS))
        while waiting:
            head, reading = waiting.popleft()
            yield head, reading.result() if reading else None
            waiting.extend(submit(1))


def _kept_media(index: SavingsIndex, forgotten: frozenset[str]) -> Iterator[tuple[Head, UnitKey | None]]:
    """What counts. A run that is under way while media are forgotten may still have them in the index."""
    return ((head, key) for head, key in index.live_media() if head.media_id not in forgotten)


def state_digest(journal: Journal, index: SavingsIndex, forgotten: frozenset[str]) -> str:
    """Changes when any row would change. Runs that found nothing to do are no reason to publish."""
    state = blake2b(digest_size=16)
    for head, key in _kept_media(index, forgotten):
        state.update(f"{head.version_id}/{head.units}/{key and key.name}\n".encode())
    for run in journal.runs():
        if run.units_finished:
            state.update(f"{run.run_id}/{run.status}\n".encode())
    return state.hexdigest()


def _readable(store: Store) -> Published | None:
    """A damaged manifest is as good as none: publishing is how it is mended."""
    try:
        return current(store)
    except JournalError:
        return None


def _claim(store: Store, before: Published | None) -> int:
    """A generation number of our own: two runs that publish at once must not write into one folder."""
    # Without a manifest there may be generations all the same: of a run that died, or whose manifest was damaged.
    generation = (before.generation if before else max(_generations(store), default=0)) + 1
    while not store.write_once(f"tables/generation={generation:06d}/_claimed", utc_now().encode()):
        generation += 1
    return generation


def _drop(store: Store, is_old: Callable[[int], bool]) -> None:
    for generation in filter(is_old, _generations(store)):
        store.sweep(f"tables/generation={generation:06d}/")
    listed = (path for path, _ in store.list("tables/"))
    store.delete([path for path in listed if (found := generation_of(path)) is not None and is_old(found)])


def _generations(store: Store) -> set[int]:
    return {found for path, _ in store.list("tables/") if (found := generation_of(path)) is not None}


def generation_of(path: str) -> int | None:
    """The generation that an object below `tables/` belongs to, None for any other object."""
    found = re.fullmatch(r"tables/generation=([0-9]{6,})/.+", path)
    return int(found[1]) if found else None
