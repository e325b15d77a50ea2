"""Finds one answered clip in a job's results by its id, or the beginning of it.

Promises: the clip found is one that counts, with its answers as stored. Knows nothing about media or models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnidrop.errors import UserError
from pipeline.config.locations import as_typed
from pipeline.config.sections import StorageConfig
from pipeline.identity import item_id
from pipeline.journal.journal import Journal
from pipeline.records.unit import CONTENTS, UnitKey, UnitMeta
from pipeline.storage.store import Store, open_store
from pipeline.tables.query import open_results, query
from workers.records import Clip

_ID = re.compile(r"[0-9a-f]{4,32}")
MOST_NAMED = 5


class ClipUnknown(UserError):
    """No answered clip has that id."""

    error_class = "clip_unknown"


@dataclass(frozen=True)
class StoredClip:
    """One clip as the journal holds it."""

    store: Store
    meta: UnitMeta
    clip: Clip
    answers: Mapping[str, Mapping[str, Any]]
    """Rows of `unit_format.ANSWER_TYPE` by question id, in the order asked."""


def find_clip(uri: str, clip_id: str, storage: StorageConfig | None = None) -> StoredClip:
    """The clip of the results at `uri` whose id begins with `clip_id`. Raises ClipUnknown and QueryError."""
    wanted = clip_id.strip().lower()
    place = as_typed(uri, storage.endpoint_url if storage else None)
    if not _ID.fullmatch(wanted):
        raise ClipUnknown(
            f"{clip_id!r} is not a valid clip id: give 4 to 32 of the digits 0-9a-f; "
            f'`omnidrop query {place} "SELECT clip_id, media_key, start_s FROM clips"` lists them'
        )
    with open_results(uri, storage) as connection:
        # The id is hexadecimal digits, so it can stand in the statement.
        columns = "coalesce(copy_of, clip_id), job, media_id, version_id, unit_id, media_key, start_s, content_id"
        where = f"WHERE clip_id LIKE '{wanted}%' ORDER BY clip_id"
        found = list(query(connection, f"SELECT {columns} FROM clips {where}").rows)
        failed = list(query(connection, f"SELECT error_class, message FROM quarantine {where}").rows)
    if failed and not found:
        raise ClipUnknown(f"clip {clip_id} has no answers to explain: quarantined as {failed[0][0]}: {failed[0][1]}")
    if not found:
        raise ClipUnknown(
            f"{uri} holds no clip whose id begins with {clip_id}; "
            f'`omnidrop query {place} "SELECT clip_id, media_key, start_s FROM clips"` lists them'
        )
    if len(found) > 1:
        named = ", ".join(f"{row[0]} ({row[5]} at {row[6]:g} s)" for row in found[:MOST_NAMED])
        raise ClipUnknown(f"{len(found)} clips begin with {clip_id}: {named}{', ...' * (len(found) > MOST_NAMED)}")
    full_id, job, media_id, version_id, unit_id, _, _, content = found[0]
    store = open_store(uri, storage)
    by_content = UnitKey(CONTENTS, item_id(content), version_id, unit_id) if content else None
    unit = Journal(store).read(_newest(store, by_content, UnitKey(job, media_id, version_id, unit_id)))
    row = next(row for row in unit.rows.to_pylist() if row["clip_id"] == full_id)
    told = tuple((one["name"], one["hash"]) for one in row["told"] or ())
    clip = Clip(full_id, row["clip_index"], row["start_s"], row["end_s"], told)
    return StoredClip(store, unit.meta, clip, {answer["question_id"]: answer for answer in row["answers"]})


def _newest(store: Store, named: UnitKey | None, earlier: UnitKey) -> UnitKey:
    """The unit's newest attempt, the one that counts; units of earlier formats lie where their job and label say, or
    said before either changed.
    """
    for first in filter(None, (named, earlier)):
        if found := _attempts(store, first.path.removesuffix(".parquet"), earlier):
            return max(found, key=lambda key: key.attempt)
    return max(_attempts(store, "journal/units/", earlier), key=lambda key: key.attempt, default=earlier)


def _attempts(store: Store, prefix: str, wanted: UnitKey) -> list[UnitKey]:
    keys = filter(None, (UnitKey.parse(path) for path, _ in store.list(prefix)))
    return [key for key in keys if (key.version_id, key.unit_id) == (wanted.version_id, wanted.unit_id)]
