"""The savings index: what every clip cost and what pruning saved, in SQL, beside the planner's working memory.

Promises: everything here follows from the journal (applying a unit or a head twice changes nothing; `clear` and a
rebuild give equal contents), and `clips` and `quarantine` hold only rows that count: those of a superseded version
leave when a newer one is declared; `savings` has their sums. Probe results are a cache. Knows nothing about Ray, stores
or how answers are made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.archive.probing import Probed
from pipeline.batches import batches
from pipeline.failpoints import reached
from pipeline.index import database
from pipeline.index.database import bytewise, insert, open_database, upsert
from pipeline.index.rollups import GFLOP, MILLIONTHS, NEEDED, Change
from pipeline.index.savings_queries import Saved, ask_savings
from pipeline.index.schema import (
    WAYS,
    clips,
    marks,
    media,
    probes,
    quarantine,
    runs,
    savings,
    units,
)
from pipeline.index.totals import Totals
from pipeline.records.columns import run_row
from pipeline.records.heads_and_runs import Head, StoredRun, decode_run
from pipeline.records.rows import clips_table, quarantine_rows
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import UnitKey, UnitObject
from workers.records import ClipFailure, Media, MediaInfo

_COUNTS = (
    (units.c.job == media.c.job) & (units.c.media_id == media.c.media_id) & (units.c.version_id == media.c.version_id)
)
"""Which units count. The media id says nothing more, but by it SQLite finds them: by the job alone, as it would choose
itself, all units are gone through for each media item."""

BATCH = 500
"""Rows in one statement: 500 x 60 columns stays under PostgreSQL's 65,535 parameters."""


@dataclass(frozen=True)
class Failure:
    """A row of the quarantine, with the attempt of its unit."""

    media_id: str
    media_key: str
    version_id: str
    unit_id: str
    attempt: int
    clip_id: str | None
    """None where the whole media item failed."""
    error_class: str


class SavingsIndex:
    """The index in one database; SQLite or PostgreSQL. One process may hold several connections to it."""

    def __init__(self, url: str, *, is_read_only: bool = False, busy_s: float = database.SQLITE_BUSY_TIMEOUT_S) -> None:
        """Open the index, creating or migrating its tables; read only, it is taken as it is.

        Raises UserError where the database cannot be used, see `open_database`.
        """
        self._engine = open_database(url, is_read_only=is_read_only, busy_s=busy_s)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # -- the journal's contents ---------------------------------------------------------------------------------------

    def apply_heads(self, heads: Sequence[Head], mark: str | None = None) -> list[UnitKey]:
        """Make these versions the ones that count; returns the finished units that count again and must be re-applied.

        Until they are, they are not known here: whoever dies in between leaves units that the next `catch_up` finds
        missing. `mark` is the head object they came from, remembered by `heads_mark`.
        """
        revived: list[UnitKey] = []
        change = Change()
        with self._engine.begin() as connection:
            for batch in batches(heads, BATCH):
                current = _current_versions(connection, [(h.job, h.media_id) for h in batch])
                moved = [h for h in batch if current.get((h.job, h.media_id)) != h.version_id]
                for head in moved:
                    _erase_clips(connection, change, (clips.c.job == head.job) & (clips.c.media_id == head.media_id))
                    theirs = (quarantine.c.job == head.job) & (quarantine.c.media_id == head.media_id)
                    connection.execute(sa.delete(quarantine).where(theirs))
                upsert(connection, media, [asdict(h) for h in batch], replace=True)
                counts_again = units.c.version_id.in_([h.version_id for h in moved])
                found = connection.execute(
                    sa.select(units.c.job, units.c.media_id, units.c.version_id, units.c.unit_id, units.c.attempt)
                    .where(counts_again)
                    .order_by(units.c.unit_id)
                )
                revived += [UnitKey(*row) for row in found]
                connection.execute(sa.delete(units).where(counts_again))
            if mark is not None:
                upsert(connection, marks, [{"name": "heads", "value": mark}], replace=True)
            change.write(connection)
        return revived

    def heads_mark(self) -> str | None:
        """The last head object that was applied."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(marks.c.value).where(marks.c.name == "heads"))

    def apply_units(self, objects: Sequence[UnitObject]) -> list[UnitObject]:
        """Take up finished units; rows of versions that do not count and of older attempts are left out.

        Returns those whose rows are in.
        """
        taken: list[UnitObject] = []
        change = Change()
        with self._engine.begin() as connection:
            for batch in batches(objects, BATCH):
                metas = [o.meta for o in batch]
                _raise_attempts(connection, [m.key for m in metas])
                reached("units_half_applied")
                newest = _attempts(connection, [m.unit_id for m in metas])
                current = _current_versions(connection, [(m.asked.job, m.media.media_id) for m in metas])
                live = [
                    o
                    for o in batch
                    if current.get((o.meta.asked.job, o.meta.media.media_id)) == o.meta.version_id
                    and newest[o.meta.unit_id] == o.meta.attempt
                ]
                again = [o.meta.unit_id for o in live if o.meta.attempt]
                _erase_clips(connection, change, clips.c.unit_id.in_(again))
                connection.execute(sa.delete(quarantine).where(quarantine.c.unit_id.in_(again)))
                for rows in batches(
                    [row for o in live for row in clips_table(o).select(clips.c.keys()).to_pylist()], BATCH
                ):
                    change.add(upsert(connection, clips, rows, returning=NEEDED))
                for rows in batches((row for o in live for row in quarantine_rows(o)), BATCH):
                    upsert(connection, quarantine, rows)
                taken += live
            change.write(connection)
        return taken

    def write_run(self, run: RunRecord) -> None:
        """Store or replace a run's record, as `Journal.write_run` stores it."""
        self.write_runs([StoredRun.of(run)])

    def write_runs(self, stored: Iterable[StoredRun]) -> None:
        """The same with records as they lie in the journal."""
        names = [name for name in runs.c.keys() if name != "record"]  # noqa: SIM118 - a collection
        with self._engine.begin() as connection:
            for batch in batches(stored, BATCH):
                rows = [{n: getattr(one.run, n) for n in names} | {"record": one.text} for one in batch]
                upsert(connection, runs, rows, replace=True)

    def run_sizes(self) -> dict[str, int]:
        """How long the records of runs are, by run id: as those in the journal, where nothing has changed since."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(runs.c.run_id, sa.func.length(runs.c.record)))
            return {run_id: int(size) for run_id, size in found}

    def forget(self, media_ids: Iterable[str]) -> None:
        """Erase everything about these media items, their probes too."""
        erased = 0
        change = Change()
        with self._engine.begin() as connection:
            for batch in batches(media_ids, BATCH):
                erased += _erase_clips(connection, change, clips.c.media_id.in_(batch))
                for table in (quarantine, units, media, probes):
                    erased += connection.execute(sa.delete(table).where(table.c.media_id.in_(batch))).rowcount
            change.write(connection)
        if erased and self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def clear(self) -> None:
        """Erase all that follows from the journal; the probe cache stays."""
        with self._engine.begin() as connection:
            # The sums first: whoever is about to add to them waits, and his clips are not erased.
            for table in (savings, clips, quarantine, units, media, runs, marks):
                connection.execute(sa.delete(table))

    # -- what the planner asks ----------------------------------------------------------------------------------------

    def known_units(self, unit_ids: Sequence[str]) -> set[str]:
        """Those of `unit_ids` that are finished."""
        return set(self.attempts(unit_ids))

    def attempts(self, unit_ids: Sequence[str]) -> dict[str, int]:
        """The newest attempt of those of `unit_ids` that are finished."""
        with self._engine.connect() as connection:
            return _attempts(connection, unit_ids)

    def current_versions(self, job: str, media_ids: Sequence[str]) -> dict[str, str]:
        """The version that counts of each of these media items (absent where there is none)."""
        with self._engine.connect() as connection:
            found = _current_versions(connection, [(job, m) for m in media_ids])
        return {media_id: version for (_, media_id), version in found.items()}

    def probes(self, items: Sequence[Media]) -> dict[str, Probed]:
        """Cached probes of those items whose etag has not changed."""
        etags = {m.media_id: m.etag for m in items}
        found = {}
        with self._engine.connect() as connection:
            for batch in batches(list(etags), BATCH):
                for media_id, etag, probe in connection.execute(sa.select(probes).where(probes.c.media_id.in_(batch))):
                    if etag == etags[media_id]:
                        found[media_id] = _probed_from(json.loads(probe))
        return found

    def put_probes(self, found: Iterable[tuple[Media, Probed]]) -> None:
        """Remember probes."""
        rows = [
            {"media_id": item.media_id, "etag": item.etag, "probe": json.dumps(asdict(probed))}
            for item, probed in found
        ]
        with self._engine.begin() as connection:
            for batch in batches(rows, BATCH):
                upsert(connection, probes, batch, replace=True)

    # -- what publishing, status and rebuilding ask -------------------------------------------------------------------

    def count(self, table: sa.Table) -> int:
        """How many rows a table has; `units` has superseded ones, too."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def live_media(self) -> Iterator[tuple[Head, UnitKey | None]]:
        """Every media item with each of its finished units that count (None where there is none yet), streamed.

        Ordered by job, media key and unit id, so that items are consecutive.
        """
        query = (
            sa.select(media, units.c.unit_id, units.c.attempt)
            .outerjoin(units, _COUNTS)
            .order_by(*bytewise(self._engine, media.c.job, media.c.media_key, media.c.media_id, units.c.unit_id))
        )
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            for row in connection.execute(query).mappings():
                head = Head(**{name: row[name] for name in media.c.keys()})  # noqa: SIM118 - a collection
                key = UnitKey(head.job, head.media_id, head.version_id, row["unit_id"], row["attempt"])
                yield head, key if row["unit_id"] is not None else None

    def totals(self, job: str | None = None) -> Totals:
        """Sums over what counts, of one job or of all."""

        def of(table: sa.Table) -> Any:
            return table.c.job == job if job is not None else sa.true()

        def summed(name: str) -> Any:
            return sa.func.coalesce(sa.func.sum(savings.c[name]), 0).label(name)

        measured = [c.name for c in savings.c if isinstance(c.type, sa.BigInteger)]
        with self._engine.connect() as connection:
            sums = connection.execute(sa.select(*map(summed, measured)).where(of(savings))).mappings().one()
            items, planned = connection.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(media.c.units), 0)).where(of(media))
            ).one()
            finished = sa.select(sa.func.count()).select_from(media).join(units, _COUNTS)
            done = connection.scalar(finished.where(of(media)))
            failed = connection.scalar(sa.select(sa.func.count()).select_from(quarantine).where(of(quarantine)))
        number = {name: int(value) for name, value in sums.items()}
        weighed = number["weighed_tokens"]
        return Totals(
            media=items,
            units=int(planned),
            units_done=int(done or 0),
            clips=number["clips"],
            clips_partial=number["clips_partial"],
            quarantined=int(failed or 0),
            model_s=number["model_us"] / MILLIONTHS,
            retained_ratio=number["retained_token_millionths"] / MILLIONTHS / weighed if weighed else None,
            **{f"{way}_flops": number[f"{way}_gflop"] * GFLOP + number[f"{way}_rest_flop"] for way in WAYS},
            **{f"{way}_{cost}": number[f"{way}_{cost}"] for way in WAYS for cost in ("kv_bytes", "tokens")},
        )

    def savings(self, query: str, job: str | None = None, *, from_clips: bool = False) -> list[Saved]:
        """A query of `pipeline.index.savings_queries`, of one job or all; from the sums or from every clip."""
        with self._engine.connect() as connection:
            return ask_savings(connection, query, job, from_clips=from_clips)

    def quarantine_classes(self, job: str | None = None) -> list[tuple[str, int]]:
        """(error class, count), most frequent first."""
        count = sa.func.count().label("count")
        query = sa.select(quarantine.c.error_class, count).group_by(quarantine.c.error_class)
        query = query.order_by(count.desc(), quarantine.c.error_class)
        if job is not None:
            query = query.where(quarantine.c.job == job)
        with self._engine.connect() as connection:
            return [(name, int(n)) for name, n in connection.execute(query)]

    def failures(
        self, job: str, error_classes: Sequence[str], media_ids: Sequence[str] | None = None
    ) -> Iterator[Failure]:
        """What is in quarantine with these error classes, of all media or of these, streamed in order of their keys."""
        q = quarantine.c
        query = (
            sa.select(q.media_id, q.media_key, q.version_id, q.unit_id, units.c.attempt, q.clip_id, q.error_class)
            .join(units, units.c.unit_id == q.unit_id)
            .where(q.job == job, q.error_class.in_(error_classes))
            .order_by(q.media_key, q.unit_id, q.start_s, q.question_id)
        )
        if media_ids is not None:
            query = query.where(q.media_id.in_(media_ids))
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            for row in connection.execute(query):
                yield Failure(*row)

    def forget_probes(self, media_ids: Iterable[str]) -> None:
        """Have these media probed again."""
        with self._engine.begin() as connection:
            for batch in batches(media_ids, BATCH):
                connection.execute(sa.delete(probes).where(probes.c.media_id.in_(batch)))

    def find_media(self, key_or_id: str) -> list[tuple[str, str]]:
        """(media_id, key) of the items with this exact key or id, over all jobs."""
        query = sa.select(media.c.media_id, media.c.media_key).distinct()
        query = query.where((media.c.media_key == key_or_id) | (media.c.media_id == key_or_id))
        with self._engine.connect() as connection:
            return [(media_id, key) for media_id, key in connection.execute(query.order_by(media.c.media_key))]

    def jobs(self) -> list[str]:
        """Names of all jobs, sorted."""
        with self._engine.connect() as connection:
            names = sa.union(sa.select(media.c.job), sa.select(units.c.job), sa.select(runs.c.job))
            return sorted(connection.scalars(names))

    def runs(self, job: str | None = None) -> list[RunRecord]:
        """Run records, newest first."""
        query = sa.select(runs.c.record).order_by(runs.c.started_at.desc())
        if job is not None:
            query = query.where(runs.c.job == job)
        with self._engine.connect() as connection:
            return [_run(record) for record in connection.scalars(query)]

    def rows(self, table: sa.Table) -> Iterator[tuple[Any, ...]]:
        """A table's rows in the byte order of its primary key, streamed."""
        query = sa.select(table).order_by(*bytewise(self._engine, *table.primary_key))
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            for row in connection.execute(query):
                yield _compared(table, row)

    def undeclared(self) -> Iterator[tuple[str, str, int]]:
        """(job, media_id, finished units) of media of which no version was declared."""
        is_theirs = (units.c.job == media.c.job) & (units.c.media_id == media.c.media_id)
        query = (
            sa.select(units.c.job, units.c.media_id, sa.func.count())
            .outerjoin(media, is_theirs)
            .where(media.c.media_id.is_(None))
            .group_by(units.c.job, units.c.media_id)
            .order_by(units.c.job, units.c.media_id)
        )
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            for row in connection.execute(query):
                yield row[0], row[1], row[2]

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that follows from the journal, sorted: two indexes of one journal compare equal."""
        with self._engine.connect() as connection:
            return {
                table.name: sorted((_compared(table, row) for row in connection.execute(sa.select(table))), key=repr)
                for table in (runs, media, units, clips, savings, quarantine)
            }


def _compared(table: sa.Table, row: sa.Row[Any]) -> tuple[Any, ...]:
    """A row as it is compared with another: a run's record by what it says, however it is written."""
    if table is not runs:
        return tuple(row)
    told = json.dumps(run_row(_run(row.record)), sort_keys=True)
    return (*(value for name, value in row._mapping.items() if name != "record"), told)


def _run(record: str) -> RunRecord:
    return decode_run(record.encode(), where="a row of `runs` in the index").run


def _probed_from(given: Mapping[str, Any]) -> Probed:
    info, failure, cuts = given["info"], given["failure"], given["scene_cuts_s"]
    return Probed(
        info and MediaInfo.from_dict(info),
        failure and ClipFailure(None, failure["stage"], failure["error_class"], failure["message"]),
        None if cuts is None else tuple(cuts),
        given["scene_threshold"],
        given.get("is_scanned", False),
    )


def _erase_clips(connection: sa.Connection, change: Change, theirs: Any) -> int:
    """Delete rows of `clips`, and from the sums over them; returns how many."""
    columns = (clips.c[name] for name in NEEDED)
    erased = connection.execute(sa.delete(clips).where(theirs).returning(*columns)).mappings().all()
    change.add(erased, -1)
    return len(erased)


def _raise_attempts(connection: sa.Connection, keys: Sequence[UnitKey]) -> None:
    """Make the units known, by the newer of the attempt given and the one known.

    The rows stay locked until the transaction ends, so that nobody applies an older attempt beside it.
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


def _attempts(connection: sa.Connection, unit_ids: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for batch in batches(unit_ids, BATCH):
        rows = connection.execute(sa.select(units.c.unit_id, units.c.attempt).where(units.c.unit_id.in_(batch)))
        found.update((row.unit_id, row.attempt) for row in rows)
    return found


def _current_versions(connection: sa.Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    found = {}
    for batch in batches(wanted, BATCH):
        rows = connection.execute(
            sa.select(media.c.job, media.c.media_id, media.c.version_id).where(
                media.c.media_id.in_([media_id for _, media_id in batch])
            )
        )
        found.update({(job, media_id): version for job, media_id, version in rows})
    return {key: found[key] for key in wanted if key in found}
