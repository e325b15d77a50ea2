"""Sums over clips, kept beside them: what is asked about savings reads a few hundred rows instead of every clip's.

Promises: `savings` holds exactly the sums over the rows of `clips`, whoever inserts or deletes them, because a
change is counted from the rows that the database says it took or gave. Sums are of whole numbers, so that they do not
depend on the order in which clips came: FLOPs are kept as GFLOP and the rest, seconds as microseconds. Knows nothing
about the journal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from pipeline.identity import content_id
from pipeline.index.database import insert
from pipeline.index.schema import SAVINGS_GROUP, Tables
from pipeline.records.columns import WAYS

GFLOP = 10**9
"""A clip may take 10^14 FLOPs: their sum leaves 64 bits after 100,000 clips, that of whole GFLOP after 10^13."""
MILLIONTHS = 10**6

NEEDED = (
    *("job", "run_id", "media_key", *SAVINGS_GROUP[3:], "status", "model_s", "retained_ratio"),
    *("audio_tokens", "video_tokens"),
    *(f"{way}_{cost}" for way in WAYS for cost in ("flops", "kv_bytes", "tokens")),
)
"""Columns of `clips` that the sums are made from."""


def collection_of(media_key: str) -> str:
    """The folder of the archive that a media item lies in: the first part of its key, empty at the top."""
    first, slash, _ = media_key.partition("/")
    return first if slash else ""


@dataclass
class Change:
    """What a transaction adds to the sums and takes from them; `write` it last, in the same transaction."""

    tables: Tables
    _groups: dict[tuple[Any, ...], dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )

    def add(self, rows: Iterable[Mapping[Any, Any]], sign: int = 1) -> None:
        """Count rows of `clips` (with at least the columns `NEEDED`) that came, or with -1 those that left."""
        for row in rows:
            group = (row["job"], row["run_id"], collection_of(row["media_key"]), *(row[n] for n in SAVINGS_GROUP[3:]))
            sums = self._groups[group]
            for name, value in _measures(row).items():
                sums[name] += sign * value

    def total(self) -> dict[str, int]:
        """The sums over all groups."""
        zero = {"media_key": "", "status": "", "model_s": 0.0, "retained_ratio": None}
        sums = dict.fromkeys(_measures(dict.fromkeys(NEEDED) | zero), 0)
        for group in self._groups.values():
            for name, value in group.items():
                sums[name] += value
        return sums

    def write(self, connection: sa.Connection) -> None:
        """Bring the table up to date. In one order for everybody, and last: two writers could wait for each other."""
        rows = [
            {"savings_id": content_id("savings", *map(_as_text, group)), **dict(zip(SAVINGS_GROUP, group, strict=True))}
            | sums
            for group, sums in self._groups.items()
            if any(sums.values())
        ]
        if not rows:
            return
        rows.sort(key=lambda row: str(row["savings_id"]))
        savings = self.tables.savings
        statement = insert(connection, savings)
        measured = [c.name for c in savings.c if c.name not in ("savings_id", *SAVINGS_GROUP)]
        added = {name: savings.c[name] + statement.excluded[name] for name in measured}
        connection.execute(statement.on_conflict_do_update(index_elements=["savings_id"], set_=added), rows)
        mine = savings.c.savings_id.in_([row["savings_id"] for row in rows])
        connection.execute(sa.delete(savings).where(mine & (savings.c.clips == 0)))


def recount(connection: sa.Connection, tables: Tables) -> None:
    """Recompute the sums from all clips."""
    connection.execute(sa.delete(tables.savings))
    change = Change(tables)
    wanted = sa.select(*(tables.clips.c[name] for name in NEEDED))
    # Of this statement only: set on the connection it would stream what comes after, too.
    found = connection.execute(wanted, execution_options={"yield_per": 10_000})
    change.add(found.mappings())
    change.write(connection)


def _measures(row: Mapping[Any, Any]) -> dict[str, int]:
    tokens = (row["audio_tokens"] or 0) + (row["video_tokens"] or 0)
    ratio = row["retained_ratio"]
    sums = {
        "clips": 1,
        "clips_partial": int(row["status"] == "partial"),
        "model_us": round((row["model_s"] or 0.0) * MILLIONTHS),
        "weighed_tokens": tokens if ratio is not None else 0,
        "retained_token_millionths": round((ratio or 0.0) * tokens * MILLIONTHS),
    }
    for way in WAYS:
        sums[f"{way}_gflop"], sums[f"{way}_rest_flop"] = divmod(row[f"{way}_flops"] or 0, GFLOP)
        sums[f"{way}_kv_bytes"] = row[f"{way}_kv_bytes"] or 0
        sums[f"{way}_tokens"] = row[f"{way}_tokens"] or 0
    return sums


def _as_text(value: Any) -> str | None:
    # Floats have no one canonical JSON in every database driver; `repr` of the same double is the same.
    return value if value is None or isinstance(value, str) else repr(float(value))
