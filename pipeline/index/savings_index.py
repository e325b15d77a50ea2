"""The savings index: what every clip cost and what pruning saved, in SQL, beside the planner's working memory.

Promises: everything here follows from the journal (applying a unit or a head twice changes nothing; `clear` and a
rebuild give equal contents), and belongs to one output. `clips` and `quarantine` hold only rows that count, each once:
a version counts while some job's archive lists an item that has it, and its rows say the first of these items; those of
a version that no listed item has any more leave, and come back from the journal. `savings` has their sums. Probe
results are a cache. Knows nothing about Ray, stores or how answers are made.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from pipeline.batches import batches
from pipeline.index import applying
from pipeline.index.caches import Caches
from pipeline.index.database import BATCH, BUSY_TIMEOUT_S, bytewise, open_database, rows_in, upsert
from pipeline.index.savings_queries import Saved, ask_savings
from pipeline.index.schema import tables_of
from pipeline.index.totals import Totals, ask_totals
from pipeline.normal_forms import normal_forms
from pipeline.records.columns import run_row
from pipeline.records.heads_and_runs import Head, StoredRun, decode_run
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import CONTENTS, UnitKey, UnitObject
from pipeline.records.video import VideoKey, VideoObject


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


@dataclass(frozen=True)
class Counted:
    """A labelled item that counts, with what is finished of its version."""

    head: Head
    """As its first job declared it."""
    jobs: tuple[str, ...]
    """All jobs that list it and ask the same."""
    units: tuple[UnitKey, ...]
    is_copy: bool
    """Whether another item, of the same content, has the version's rows, and this one copies of them."""
    video: VideoKey | None = None
    """What was answered about it as a whole, where that is known to who made this (see `pipeline.tables.publish`)."""


@dataclass(frozen=True)
class KnownVideo:
    """What is known of one record of a whole video."""

    key: VideoKey
    error_classes: tuple[str, ...]
    """What it has in quarantine."""


class SavingsIndex(Caches):
    """One output's index in one database; SQLite or PostgreSQL. One process may hold several connections to it."""

    def __init__(
        self,
        url: str,
        output_id: str = "0" * 12,
        *,
        is_read_only: bool = False,
        busy_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        """Open an output's index, creating or migrating its tables; read only, it is taken as it is.

        Raises UserError where the database cannot be used, see `open_database`.
        """
        self._engine = open_database(url, output_id, is_read_only=is_read_only, busy_s=busy_s)
        self.tables = tables_of(output_id)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # -- the journal's contents ---------------------------------------------------------------------------------------

    def apply_heads(self, heads: Sequence[Head], mark: str | None = None) -> list[UnitKey]:
        """Make these versions the ones that count; returns the finished units that must be (re-)applied: those that
        count again, and those whose rows are to say another job or key.

        Until then they are not known here: a crash in between leaves units that the next `catch_up` finds
        missing. `mark` is the head object they came from, remembered by `heads_mark`.
        """
        with self._engine.begin() as connection:
            return applying.apply_heads(connection, self.tables, heads, mark)

    def heads_mark(self) -> str | None:
        """The last head object that was applied."""
        with self._engine.connect() as connection:
            marks = self.tables.marks
            return connection.scalar(sa.select(marks.c.value).where(marks.c.name == "heads"))

    def apply_units(self, objects: Sequence[UnitObject]) -> list[UnitObject]:
        """Take up finished units; rows of versions that do not count and of older attempts are left out.

        Returns those whose rows are in.
        """
        with self._engine.begin() as connection:
            return applying.apply_units(connection, self.tables, objects)

    def apply_videos(self, objects: Sequence[VideoObject]) -> None:
        """Take up answers about whole videos, whichever count; older attempts than those known are left out."""
        if objects:
            with self._engine.begin() as connection:
                applying.apply_videos(connection, self.tables, objects)

    def forget(self, item_ids: Iterable[str]) -> None:
        """Erase everything about these contents (by short name, or by label in earlier formats), also what was found
        out about them and read beside them."""
        with self._engine.begin() as connection:
            erased = applying.forget(connection, self.tables, item_ids)
        if erased and self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def clear(self) -> None:
        """Erase all that follows from the journal; what was found out about files stays."""
        with self._engine.begin() as connection:
            applying.clear(connection, self.tables)

    def videos_of(self, version_ids: Sequence[str]) -> dict[tuple[str, str], KnownVideo]:
        """What is known of these versions as wholes, by version and inputs."""
        with self._engine.connect() as connection:
            return _videos(rows_in(connection, self._every_video(), self.tables.videos.c.version_id, version_ids))

    def failed_videos(self) -> list[KnownVideo]:
        """Those that have something in quarantine, whether they count or not."""
        with self._engine.connect() as connection:
            query = self._every_video().where(self.tables.videos.c.error_classes != "")
            return list(_videos(connection.execute(query)).values())

    def _every_video(self) -> Any:
        c = self.tables.videos.c
        return sa.select(c.item_id, c.version_id, c.inputs, c.attempt, c.error_classes)

    def write_run(self, run: RunRecord) -> None:
        """Store or replace a run's record, as `Journal.write_run` stores it."""
        self.write_runs([StoredRun.of(run)])

    def write_runs(self, stored: Iterable[StoredRun]) -> None:
        """The same with records as they lie in the journal."""
        runs = self.tables.runs
        names = [name for name in runs.c.keys() if name != "record"]  # noqa: SIM118 - a collection
        with self._engine.begin() as connection:
            for batch in batches(stored, BATCH):
                rows = [{n: getattr(one.run, n) for n in names} | {"record": one.text} for one in batch]
                upsert(connection, runs, rows, replace=True)

    def run_sizes(self) -> dict[str, int]:
        """How long the records of runs are, by run id: as those in the journal, where nothing has changed since."""
        runs = self.tables.runs
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(runs.c.run_id, sa.func.length(runs.c.record)))
            return {run_id: int(size) for run_id, size in found}

    # -- what the planner asks ----------------------------------------------------------------------------------------

    def known_units(self, unit_ids: Sequence[str]) -> set[str]:
        """Those of `unit_ids` that are finished."""
        return set(self.attempts(unit_ids))

    def attempts(self, unit_ids: Sequence[str]) -> dict[str, int]:
        """The newest attempt of those of `unit_ids` that are finished."""
        with self._engine.connect() as connection:
            return applying.attempts(connection, self.tables.units, unit_ids)

    def units_of(self, version_ids: Sequence[str]) -> dict[str, set[str]]:
        """Ids of the finished units of these versions, where there are any."""
        units = self.tables.units
        found: dict[str, set[str]] = {}
        with self._engine.connect() as connection:
            query = sa.select(units.c.version_id, units.c.unit_id)
            for version, unit in rows_in(connection, query, units.c.version_id, version_ids):
                found.setdefault(version, set()).add(unit)
        return found

    def unit_keys(self, version_ids: Sequence[str]) -> dict[str, list[UnitKey]]:
        """The finished units of these versions by their newest attempts, where there are any."""
        units = self.tables.units
        found: dict[str, list[UnitKey]] = {}
        with self._engine.connect() as connection:
            for row in rows_in(connection, applying.unit_keys(units), units.c.version_id, version_ids):
                found.setdefault(row.version_id, []).append(UnitKey(*row))
        return found

    def versions_of(self, item_id: str) -> list[str]:
        """All versions of a content of which some unit is finished, superseded ones too, sorted."""
        units = self.tables.units
        with self._engine.connect() as connection:
            query = sa.select(units.c.version_id).distinct().where(units.c.item_id == item_id)
            return list(connection.scalars(query.order_by(units.c.version_id)))

    def known_versions(self, version_ids: Sequence[str]) -> set[str]:
        """Those versions of which some unit is finished."""
        units = self.tables.units
        with self._engine.connect() as connection:
            query = sa.select(units.c.version_id).distinct()
            return {row.version_id for row in rows_in(connection, query, units.c.version_id, version_ids)}

    def heads_of(
        self,
        *,
        media_ids: Sequence[str] = (),
        contents: Sequence[str] = (),
        keys: Sequence[str] = (),
        versions: Sequence[str] = (),
    ) -> list[Head]:
        """What was last declared, by any job, listed or not, of these labels, of these contents, of these keys in a
        journal of an earlier format, or to have these versions."""
        c = self.tables.media.c
        found: list[Head] = []
        wanted: list[tuple[Any, Sequence[str], Any]] = [
            (c.media_id, media_ids, sa.true()),
            (c.content_id, contents, sa.true()),
            (c.media_key, keys, c.content_id.is_(None)),
            (c.version_id, versions, sa.true()),
        ]
        with self._engine.connect() as connection:
            for column, values, also in wanted:
                query = sa.select(self.tables.media).where(also).order_by(c.job, c.media_id)
                found += [_head(row._mapping) for row in rows_in(connection, query, column, values)]
        return found

    # -- what counts: listings ----------------------------------------------------------------------------------------

    def listed(self, job: str | None = None, *, but: Collection[str] = ()) -> Iterator[Head]:
        """What counts for a job, or for all, streamed, without that of the recipes `but` (their hashes)."""
        media = self.tables.media
        query = sa.select(media).where(media.c.is_listed)
        if job is not None:
            query = query.where(media.c.job == job)
        if but:
            query = query.where(media.c.recipe_hash.not_in(sorted(but)))
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            for row in connection.execute(query.order_by(media.c.job, media.c.media_id)).mappings():
                yield _head(row)

    def listing_jobs(self) -> list[str]:
        """Names of the jobs for which something counts, sorted."""
        media = self.tables.media
        with self._engine.connect() as connection:
            return sorted(connection.scalars(sa.select(media.c.job).where(media.c.is_listed).distinct()))

    def share_listed_by(self, job: str, other: str) -> float:
        """The share of what `other` lists that `job` lists, too, and asks the same of: by version."""
        mine, theirs = self.tables.media.alias(), self.tables.media.alias()
        has = sa.exists().where(mine.c.version_id == theirs.c.version_id, mine.c.job == job, mine.c.is_listed)
        query = sa.select(sa.func.count(), sa.func.sum(sa.case((has, 1), else_=0))).select_from(theirs)
        with self._engine.connect() as connection:
            count, shared = connection.execute(query.where(theirs.c.job == other, theirs.c.is_listed)).one()
        return int(shared or 0) / count if count else 0.0

    # -- what publishing, status and rebuilding ask -------------------------------------------------------------------

    def count(self, table: sa.Table) -> int:
        """How many rows a table has; `units` has superseded ones, too."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def counted(self, bucket: int | None = None) -> Iterator[Counted]:
        """Every labelled item that counts with its finished units, streamed, by bucket, media key, label and version.

        An item that several jobs list and ask the same of comes once; a content under several keys once for each.
        """
        media, units = self.tables.media, self.tables.units
        is_wanted = media.c.is_listed if bucket is None else media.c.is_listed & (media.c.bucket == bucket)
        listed = sa.select(media).where(is_wanted).subquery()
        (rank,) = bytewise(self._engine, applying.rank(listed.c))
        first = (
            sa.select(listed.c.version_id, sa.func.min(rank).label("first")).group_by(listed.c.version_id).subquery()
        )
        columns: list[Any] = [listed, first.c.first, units.c.unit_id, units.c.attempt]
        query = (
            sa.select(*columns)
            .join(first, first.c.version_id == listed.c.version_id)
            .outerjoin(units, units.c.version_id == listed.c.version_id)
            .order_by(
                listed.c.bucket,
                *bytewise(
                    self._engine,
                    *(listed.c.media_key, listed.c.media_id, listed.c.version_id, units.c.unit_id, listed.c.job),
                ),
            )
        )
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            rows = connection.execute(query).mappings()
            for _, group in groupby(rows, key=lambda row: (row["media_key"], row["media_id"], row["version_id"])):
                yield _counted(list(group))

    def counts(self) -> tuple[int, int]:
        """How many labelled items count, and how many finished units, without copies."""
        media, units = self.tables.media, self.tables.units
        items = sa.select(media.c.media_id, media.c.version_id).where(media.c.is_listed).distinct().subquery()
        versions = sa.select(media.c.version_id).where(media.c.is_listed)
        with self._engine.connect() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(items))
            done = connection.scalar(
                sa.select(sa.func.count()).select_from(units).where(units.c.version_id.in_(versions))
            )
        return int(count or 0), int(done or 0)

    def totals(self, job: str | None = None) -> Totals:
        """Sums over what counts, of one job or of all; a content that counts under several keys is summed once."""
        with self._engine.connect() as connection:
            return ask_totals(connection, self.tables, job)

    def savings(self, query: str, job: str | None = None, *, from_clips: bool = False) -> list[Saved]:
        """A query of `pipeline.index.savings_queries`, of one job or all; from the sums or from every clip."""
        with self._engine.connect() as connection:
            return ask_savings(connection, self.tables, query, job, from_clips=from_clips)

    def quarantine_classes(self, job: str | None = None) -> list[tuple[str, int]]:
        """(error class, count), most frequent first."""
        quarantine = self.tables.quarantine
        count = sa.func.count().label("count")
        query = sa.select(quarantine.c.error_class, count).group_by(quarantine.c.error_class)
        query = query.order_by(count.desc(), quarantine.c.error_class)
        if job is not None:
            query = query.where(quarantine.c.version_id.in_(self._versions_of(job)))
        with self._engine.connect() as connection:
            return [(name, int(n)) for name, n in connection.execute(query)]

    def failures(
        self, job: str, error_classes: Sequence[str], media_ids: Sequence[str] | None = None
    ) -> Iterator[Failure]:
        """What is in quarantine with these error classes, of all media of a job or of these, in order of their keys."""
        q, units, media = self.tables.quarantine.c, self.tables.units, self.tables.media
        query = (
            sa.select(
                *(media.c.media_id, media.c.media_key, q.version_id, q.unit_id, units.c.attempt, q.clip_id),
                q.error_class,
            )
            .join(media, media.c.version_id == q.version_id)
            .join(units, units.c.unit_id == q.unit_id)
            .where(media.c.job == job, media.c.is_listed, q.error_class.in_(error_classes))
            .order_by(media.c.media_key, q.unit_id, q.start_s, q.question_id)
        )
        if media_ids is not None:
            query = query.where(media.c.media_id.in_(media_ids))
        return self._failures(query)

    def failed_clips(self, error_classes: Sequence[str], version_ids: Sequence[str] | None = None) -> Iterator[Failure]:
        """What is in quarantine of clips with these error classes, of all versions that count or of these, whatever
        media they are of: media id and key are empty."""
        q, units = self.tables.quarantine.c, self.tables.units
        named = sa.literal("").label("media_id"), sa.literal("").label("media_key")
        query = (
            sa.select(*named, q.version_id, q.unit_id, units.c.attempt, q.clip_id, q.error_class)
            .join(units, units.c.unit_id == q.unit_id)
            .where(q.error_class.in_(error_classes), q.clip_id.is_not(None))
        )
        if version_ids is not None:
            query = query.where(q.version_id.in_(version_ids))
        return self._failures(query)

    def _failures(self, query: Any) -> Iterator[Failure]:
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            for row in connection.execute(query):
                yield Failure(*row)

    def _versions_of(self, job: str) -> Any:
        media = self.tables.media
        return sa.select(media.c.version_id).where(media.c.job == job, media.c.is_listed)

    def find_media(self, name: str) -> list[Head]:
        """What was declared of items with this key, media id, content id or its first 32 digits, and of all others with
        the same content, over all jobs, listed or not. Where no key is written so, other normal forms of it are."""
        c = self.tables.media.c
        found: list[Head] = []
        with self._engine.connect() as connection:
            for form in normal_forms(name):
                named = (c.media_key == form) | (c.media_id == form) | (c.content_id == form) | (c.item_id == form)
                query = sa.select(self.tables.media).where(named)
                found = found or [_head(row) for row in connection.execute(query).mappings()]
        contents = {head.content_id for head in found if head.content_id is not None}
        others = self.heads_of(contents=sorted(contents))
        return sorted({(h.job, h.media_id): h for h in (*found, *others)}.values(), key=lambda h: (h.media_key, h.job))

    def groups_of(self, item_ids: Sequence[str]) -> list[tuple[str, str]]:
        """(group, item id) under which units of these contents lie."""
        units, media = self.tables.units.c, self.tables.media.c
        with self._engine.connect() as connection:
            found = [
                rows_in(connection, sa.select(of.group, of.item_id), of.item_id, item_ids) for of in (units, media)
            ]
            return sorted({(row.group, row.item_id) for rows in found for row in rows})

    def jobs(self) -> list[str]:
        """Names of all jobs, and of those whose name a journal of an earlier format has in its paths, sorted."""
        media, units, runs = self.tables.media, self.tables.units, self.tables.runs
        with self._engine.connect() as connection:
            names = sa.union(sa.select(media.c.job), sa.select(units.c.group), sa.select(runs.c.job))
            return sorted(set(connection.scalars(names)) - {CONTENTS})

    def model_seconds(self, version_ids: Sequence[str]) -> dict[str, tuple[int, float]]:
        """(answered clips, seconds in the model) of those of these versions that count and have any."""
        c = self.tables.clips.c
        query = sa.select(c.version_id, sa.func.count(), sa.func.coalesce(sa.func.sum(c.model_s), 0.0))
        with self._engine.connect() as connection:
            rows = rows_in(connection, query.group_by(c.version_id), c.version_id, version_ids)
            return {version: (int(clips), float(seconds)) for version, clips, seconds in rows}

    def recipes(self) -> set[str]:
        """Hashes of all recipes under which something was declared to count."""
        with self._engine.connect() as connection:
            return set(connection.scalars(sa.select(self.tables.media.c.recipe_hash).distinct()))

    def runs(self, job: str | None = None) -> list[RunRecord]:
        """Run records, newest first."""
        runs = self.tables.runs
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
                yield self._compared(table, row)

    def faults(self) -> list[str]:
        """What SQLite finds wrong with its file, as where a look-up would miss rows that are there; PostgreSQL checks
        itself."""
        if self._engine.dialect.name != "sqlite":
            return []
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalars().all()
        return [one for one in found if one != "ok"]

    def unit_counts(self) -> Iterator[tuple[UnitKey, int]]:
        """Every version of which some unit is finished, by the first of them, with their number."""
        c = self.tables.units.c
        columns = (c.group, c.item_id, c.version_id, sa.func.min(c.unit_id), sa.func.count())
        query = sa.select(*columns).group_by(c.group, c.item_id, c.version_id).order_by(c.group, c.item_id)
        with self._engine.connect().execution_options(yield_per=10_000) as connection:
            for row in connection.execute(query):
                yield UnitKey(*row[:4]), int(row[4])

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that follows from the journal, sorted: two indexes of one journal compare equal."""
        with self._engine.connect() as connection:
            return {
                self.tables.plain(table): sorted(
                    (self._compared(table, row) for row in connection.execute(sa.select(table))), key=repr
                )
                for table in self.tables.derived
            }

    def _compared(self, table: sa.Table, row: sa.Row[Any]) -> tuple[Any, ...]:
        """A row as it is compared with another: a run's record by what it says, however it is written."""
        if table is not self.tables.runs:
            return tuple(row)
        told = json.dumps(run_row(_run(row.record)), sort_keys=True)
        return (*(value for name, value in row._mapping.items() if name != "record"), told)


def _head(row: Mapping[Any, Any]) -> Head:
    return Head(**{f.name: row[f.name] for f in fields(Head)})


def _videos(rows: Iterable[Any]) -> dict[tuple[str, str], KnownVideo]:
    found = [KnownVideo(VideoKey(*row[:4]), tuple(row.error_classes.split())) for row in rows]
    return {(video.key.version_id, video.key.inputs): video for video in found}


def _counted(rows: list[Mapping[Any, Any]]) -> Counted:
    """One item from its rows: one for each job and finished unit."""
    job = min(row["job"] for row in rows)
    head = _head(next(row for row in rows if row["job"] == job))
    found = {row["unit_id"]: row["attempt"] for row in rows if row["unit_id"] is not None}
    place = (*head.place, head.version_id)
    keys = tuple(UnitKey(*place, unit_id, attempt) for unit_id, attempt in sorted(found.items()))
    is_copy = rows[0]["first"] != applying.rank(head)
    return Counted(head, tuple(sorted({row["job"] for row in rows})), keys, is_copy)


def _run(record: str) -> RunRecord:
    return decode_run(record.encode(), where="a row of `runs` in the index").run
