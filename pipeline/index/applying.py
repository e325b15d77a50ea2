"""How the journal's contents change the tables: what is declared, finished and forgotten, each in one transaction.

Promises: applying anything twice changes nothing; rows of versions that do not count and of older attempts are left
out; sums change with the rows they are of; two writers take locks in one order. Knows nothing about what is asked of
the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from pipeline.batches import batches
from pipeline.failpoints import reached
from pipeline.identity import bucket_of
from pipeline.index.database import BATCH, insert, rows_in, upsert
from pipeline.index.rollups import NEEDED, Change
from pipeline.index.schema import Tables
from pipeline.records.heads_and_runs import Head
from pipeline.records.rows import clips_table, quarantine_rows
from pipeline.records.unit import Label, UnitKey, UnitObject
from pipeline.records.video import VideoObject


def apply_heads(
    connection: sa.Connection, tables: Tables, heads: Sequence[Head], mark: str | None = None
) -> list[UnitKey]:
    """See `SavingsIndex.apply_heads`."""
    again: list[UnitKey] = []
    units = tables.units
    change = Change(tables)
    for batch in batches(heads, BATCH):
        newest = {(h.job, h.media_id): h for h in batch}
        before = _current_versions(connection, tables, list(newest))
        versions = sorted({*before.values(), *(h.version_id for h in newest.values())})
        owners = _owners(connection, tables, versions)
        rows = [_media_row(h) for h in newest.values()]
        upsert(connection, tables.media, rows, replace=True)
        owners_now = _owners(connection, tables, versions)
        moved = [v for v in versions if owners.get(v) != owners_now.get(v)]
        for some in batches(moved, BATCH):
            _erase_clips(connection, change, tables.clips.c.version_id.in_(some))
            connection.execute(sa.delete(tables.quarantine).where(tables.quarantine.c.version_id.in_(some)))
        for some in batches([v for v in moved if v in owners_now], BATCH):
            theirs = units.c.version_id.in_(some)
            found = connection.execute(unit_keys(units).where(theirs).order_by(units.c.unit_id))
            again += [UnitKey(*row) for row in found]
            connection.execute(sa.delete(units).where(theirs))
    if mark is not None:
        upsert(connection, tables.marks, [{"name": "heads", "value": mark}], replace=True)
    change.write(connection)
    return again


def apply_units(connection: sa.Connection, tables: Tables, objects: Sequence[UnitObject]) -> list[UnitObject]:
    """See `SavingsIndex.apply_units`."""
    taken: list[UnitObject] = []
    clips, quarantine = tables.clips, tables.quarantine
    change = Change(tables)
    for batch in batches(objects, BATCH):
        metas = [o.meta for o in batch]
        _raise_attempts(connection, tables.units, [m.key for m in metas])
        reached("units_half_applied")
        newest = attempts(connection, tables.units, [m.unit_id for m in metas])
        owners = _owners(connection, tables, sorted({m.version_id for m in metas}))
        live = [o for o in batch if o.meta.version_id in owners and newest[o.meta.unit_id] == o.meta.attempt]
        again = [o.meta.unit_id for o in live if o.meta.attempt]
        _erase_clips(connection, change, clips.c.unit_id.in_(again))
        connection.execute(sa.delete(quarantine).where(quarantine.c.unit_id.in_(again)))
        answered = (clips_table(o, owners[o.meta.version_id]).select(clips.c.keys()) for o in live)
        for rows in batches([row for table in answered for row in table.to_pylist()], BATCH):
            change.add(upsert(connection, clips, rows, returning=NEEDED))
        failed = (row for o in live for row in quarantine_rows(o, owners[o.meta.version_id]))
        for rows in batches(failed, BATCH):
            upsert(connection, quarantine, rows)
        taken += live
    change.write(connection)
    return taken


def apply_videos(connection: sa.Connection, tables: Tables, objects: Sequence[VideoObject]) -> None:
    """See `SavingsIndex.apply_videos`."""
    videos = tables.videos
    for batch in batches(sorted(objects, key=lambda one: one.meta.attempt), BATCH):
        rows = {(row["version_id"], row["inputs"]): row for row in map(_video_row, batch)}
        statement = insert(connection, videos)
        given = {name: statement.excluded[name] for name in rows[next(iter(rows))]}
        statement = statement.on_conflict_do_update(
            index_elements=["version_id", "inputs"], set_=given, where=videos.c.attempt < given["attempt"]
        )
        # In one order for everybody: two writers could wait for each other.
        connection.execute(statement, [rows[key] for key in sorted(rows)])


def forget(connection: sa.Connection, tables: Tables, item_ids: Iterable[str]) -> int:
    """See `SavingsIndex.forget`; returns how many rows were erased."""
    erased, t, change = 0, tables, Change(tables)
    for batch in batches(item_ids, BATCH):
        theirs = (t.media.c.item_id.in_(batch)) | (t.media.c.content_id.is_(None) & t.media.c.media_id.in_(batch))
        found = connection.execute(sa.select(t.media.c.media_id, t.media.c.version_id).where(theirs)).all()
        units = connection.scalars(sa.select(t.units.c.version_id).where(t.units.c.item_id.in_(batch))).all()
        for some in batches(sorted({row.version_id for row in found} | set(units)), BATCH):
            erased += _erase_clips(connection, change, t.clips.c.version_id.in_(some))
            connection.execute(sa.delete(t.quarantine).where(t.quarantine.c.version_id.in_(some)))
        erased += connection.execute(sa.delete(t.media).where(theirs)).rowcount
        for table in (t.units, t.videos):
            erased += connection.execute(sa.delete(table).where(table.c.item_id.in_(batch))).rowcount
        for some in batches(sorted({row.media_id for row in found}), BATCH):
            for cache in (t.probes, t.context):
                erased += connection.execute(sa.delete(cache).where(cache.c.media_id.in_(some))).rowcount
    change.write(connection)
    return erased


def clear(connection: sa.Connection, tables: Tables) -> None:
    """See `SavingsIndex.clear`."""
    t = tables
    # The sums first: a concurrent writer that is about to add to them waits, and its clips are not erased.
    for table in (t.savings, t.clips, t.quarantine, t.videos, t.units, t.media, t.runs):
        connection.execute(sa.delete(table))
    connection.execute(sa.delete(t.marks).where(t.marks.c.name == "heads"))


def rank(of: Any) -> Any:
    """Of a row, or of a table's columns: the first of a version's items by this, byte by byte, has its rows."""
    return of.job + "\n" + of.media_key + "\n" + of.media_id


def _media_row(head: Head) -> dict[str, Any]:
    group, item_id = head.place
    return asdict(head) | {"group": group, "item_id": item_id, "bucket": bucket_of(item_id)}


def _video_row(video: VideoObject) -> dict[str, Any]:
    meta = video.meta
    names = ("version_id", "inputs", "item_id", "attempt", "run_id", "clips", "clips_missing", "texts")
    row = {name: getattr(meta, name) for name in (*names, "tokens", "flops", "kv_bytes", "model_s")}
    return {**row, "error_classes": "\n".join(video.error_classes)}


def _erase_clips(connection: sa.Connection, change: Change, theirs: Any) -> int:
    """Delete rows of `clips`, and from the sums over them; returns how many."""
    clips = change.tables.clips
    columns = (clips.c[name] for name in NEEDED)
    erased = connection.execute(sa.delete(clips).where(theirs).returning(*columns)).mappings().all()
    change.add(erased, -1)
    return len(erased)


def unit_keys(units: sa.Table) -> Any:
    """All units as the fields of `UnitKey`."""
    c = units.c
    return sa.select(c.group, c.item_id, c.version_id, c.unit_id, c.attempt)


def _raise_attempts(connection: sa.Connection, units: sa.Table, keys: Sequence[UnitKey]) -> None:
    """Make the units known, by the newer of the attempt given and the one known.

    The rows stay locked until the transaction ends, so that no other process applies an older attempt meanwhile.
    """
    newest = {key.unit_id: key for key in sorted(keys, key=lambda key: key.attempt)}
    if not newest:
        return
    statement = insert(connection, units)
    given = statement.excluded.attempt
    statement = statement.on_conflict_do_update(
        index_elements=["unit_id"], set_={"attempt": given}, where=units.c.attempt < given
    )
    # In one order for everybody: two writers could wait for each other.
    connection.execute(statement, [asdict(newest[unit_id]) for unit_id in sorted(newest)])


def attempts(connection: sa.Connection, units: sa.Table, unit_ids: Iterable[str]) -> dict[str, int]:
    """The newest attempt of those of `unit_ids` that are finished."""
    rows = rows_in(connection, sa.select(units.c.unit_id, units.c.attempt), units.c.unit_id, unit_ids)
    return {row.unit_id: row.attempt for row in rows}


def _current_versions(
    connection: sa.Connection, tables: Tables, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    c = tables.media.c
    query = sa.select(c.job, c.media_id, c.version_id)
    rows = rows_in(connection, query, c.media_id, [media_id for _, media_id in wanted])
    found = {(row.job, row.media_id): row.version_id for row in rows}
    return {key: found[key] for key in wanted if key in found}


def _owners(connection: sa.Connection, tables: Tables, versions: Sequence[str]) -> dict[str, Label]:
    """As what each of these versions counts: the first of the listed items that have it; absent where none has."""
    c = tables.media.c
    query = sa.select(c.version_id, c.job, c.media_id, c.media_key, c.content_id).where(c.is_listed)
    # Sorted here, whatever the database's collation is.
    rows = sorted(rows_in(connection, query, c.version_id, versions), key=lambda row: rank(row).encode(), reverse=True)
    return {row.version_id: Label(row.job, row.media_id, row.media_key, row.content_id) for row in rows}
