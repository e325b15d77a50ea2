"""What was found out about files, kept in the index: probes, and what sidecars and subtitle tracks said.

Promises: a cache, known by each file's mark; what is not here is found out again. Follows from no journal, so a rebuild
leaves it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.archive.probing import Probed
from pipeline.batches import batches
from pipeline.index.database import BATCH, rows_in, upsert
from pipeline.index.schema import Tables
from workers.records import ClipFailure, Media, MediaInfo


@dataclass(frozen=True)
class ContextRow:
    """What was read of one sidecar or subtitle track of a media item."""

    name: str
    """The sidecar's key, or the track's name."""
    mark: str
    """What the file's mark was then."""
    content: bytes
    """What it said, see `pipeline.context.remembered`."""


class Caches:
    """The part of an open index that holds them."""

    _engine: sa.Engine
    tables: Tables

    def probes(self, items: Sequence[Media]) -> dict[str, Probed]:
        """Cached probes of those items whose mark has not changed."""
        marks, probes = {m.media_id: m.mark or m.etag for m in items}, self.tables.probes
        with self._engine.connect() as connection:
            rows = list(rows_in(connection, sa.select(probes), probes.c.media_id, marks))
        return {row.media_id: _probed_from(json.loads(row.probe)) for row in rows if row.mark == marks[row.media_id]}

    def put_probes(self, found: Iterable[tuple[Media, Probed]]) -> None:
        """Remember probes."""
        rows = [
            {"media_id": item.media_id, "mark": item.mark or item.etag, "probe": json.dumps(asdict(probed))}
            for item, probed in found
        ]
        with self._engine.begin() as connection:
            for batch in batches(rows, BATCH):
                upsert(connection, self.tables.probes, batch, replace=True)

    def context_read(self, media_ids: Sequence[str]) -> dict[str, list[ContextRow]]:
        """What sidecars and subtitle tracks of these media said when they were read, by media id."""
        table, found = self.tables.context, dict[str, list[ContextRow]]()
        with self._engine.connect() as connection:
            for media_id, *row in rows_in(connection, sa.select(table), table.c.media_id, media_ids):
                found.setdefault(media_id, []).append(ContextRow(*row))
        return found

    def put_context(self, read: Mapping[str, Collection[ContextRow]]) -> None:
        """Keep what was read for each of these media, and nothing else for them."""
        table = self.tables.context
        rows = [{"media_id": media_id, **asdict(row)} for media_id, found in read.items() for row in found]
        with self._engine.begin() as connection:
            for ids in batches(read, BATCH):
                connection.execute(sa.delete(table).where(table.c.media_id.in_(ids)))
            for batch in batches(rows, BATCH):
                upsert(connection, table, batch, replace=True)

    def forget_probes(self, media_ids: Iterable[str]) -> None:
        """Have these media probed again."""
        probes = self.tables.probes
        with self._engine.begin() as connection:
            for batch in batches(media_ids, BATCH):
                connection.execute(sa.delete(probes).where(probes.c.media_id.in_(batch)))


def _probed_from(given: Mapping[str, Any]) -> Probed:
    info, failure, cuts = given["info"], given["failure"], given["scene_cuts_s"]
    return Probed(
        info and MediaInfo.from_dict(info),
        failure and ClipFailure(None, failure["stage"], failure["error_class"], failure["message"]),
        None if cuts is None else tuple(cuts),
        given["scene_threshold"],
        given.get("content_id"),
        given.get("is_scanned", False),
    )
