"""The savings index's tables, for SQLite and PostgreSQL; the migrations in `migrations/` create them.

Promises: a column has the name of its Parquet twin, taken from the journal's own list; every output has tables of its
own, named after its id, so that several share a database, with each other and with strangers, and none can touch
another's. Knows nothing about queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.records.columns import ASKED_FIELDS, CLIP_FIELDS, SHARED_FIELDS, WAYS

SQL_TYPES: dict[pa.DataType, Any] = {
    pa.string(): sa.Text,
    pa.int32(): sa.Integer,
    pa.int64(): sa.BigInteger,
    pa.float64(): sa.Double,
    pa.bool_(): sa.Boolean,
}
REVISION = "context_read"
"""The newest of the migrations: what they make is what this module says."""
SAVINGS_GROUP = ("job", "run_id", "collection", *ASKED_FIELDS)
"""What clips have in common that are summed in one row of `savings`."""
DERIVED = ("runs", "media", "units", "videos", "clips", "savings", "quarantine")
"""The tables that follow from the journal."""


NONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def prefix_of(output_id: str) -> str:
    """What the names of an output's tables begin with."""
    return f"omnidrop_{output_id[:12]}_"


@lru_cache(maxsize=16)
def tables_of(output_id: str) -> Tables:
    """The tables of one output."""
    return Tables(prefix_of(output_id))


class Tables:
    """One output's tables. `name` of a table is its name in the database; `Tables.plain` the one for people."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = sa.MetaData()
        self.runs = self._table(
            "runs",
            sa.Column("run_id", sa.Text, primary_key=True),
            sa.Column("job", sa.Text, nullable=False),
            sa.Column("recipe_hash", sa.Text, nullable=False),
            sa.Column("status", sa.Text, nullable=False),
            sa.Column("started_at", sa.Text, nullable=False),
            sa.Column("finished_at", sa.Text),
            sa.Column("record", sa.Text, nullable=False),
            indexes={"runs_of_job": ("job",)},
        )
        """`record` is the whole run record as JSON; times are ISO 8601 in UTC."""
        self.media = self._table(
            "media",
            sa.Column("job", sa.Text, primary_key=True),
            sa.Column("media_id", sa.Text, primary_key=True),
            sa.Column("media_key", sa.Text, nullable=False),
            sa.Column("uri", sa.Text, nullable=False),
            sa.Column("etag", sa.Text, nullable=False),
            sa.Column("size_bytes", sa.BigInteger, nullable=False),
            sa.Column("version_id", sa.Text, nullable=False),
            sa.Column("recipe_hash", sa.Text, nullable=False),
            sa.Column("units", sa.Integer, nullable=False),
            sa.Column("clips", sa.Integer, nullable=False),
            sa.Column("is_listed", sa.Boolean, nullable=False),
            sa.Column("content_id", sa.Text),
            sa.Column("mark", sa.Text, nullable=False),
            sa.Column("group", sa.Text, nullable=False),
            sa.Column("item_id", sa.Text, nullable=False),
            sa.Column("clips_per_unit", sa.Integer),
            sa.Column("answer_format", sa.Integer),
            sa.Column("earlier", sa.Text, nullable=False),
            sa.Column("bucket", sa.Integer, nullable=False),
            indexes={
                "media_of_version": ("version_id",),
                "media_of_content": ("content_id",),
                "media_of_item": ("item_id",),
                "media_of_label": ("media_id",),
                "media_of_key": ("media_key",),
            },
        )
        """The version of each labelled media item that counts for a job, with the units and clips it has when complete;
        those that the job's archive no longer lists are kept, and do not count."""
        self.units = self._table(
            "units",
            sa.Column("unit_id", sa.Text, primary_key=True),
            sa.Column("group", sa.Text, nullable=False),
            sa.Column("item_id", sa.Text, nullable=False),
            sa.Column("version_id", sa.Text, nullable=False),
            sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
            indexes={"units_of_version": ("version_id",), "units_of_item": ("item_id",)},
        )
        """All finished units by their newest attempt, superseded versions too: what the planner looks up."""
        self.videos = self._table(
            "videos",
            sa.Column("version_id", sa.Text, primary_key=True),
            sa.Column("inputs", sa.Text, primary_key=True),
            sa.Column("item_id", sa.Text, nullable=False),
            sa.Column("attempt", sa.Integer, nullable=False),
            sa.Column("run_id", sa.Text, nullable=False),
            *(sa.Column(name, sa.Integer, nullable=False) for name in ("clips", "clips_missing", "texts")),
            *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("tokens", "flops", "kv_bytes")),
            sa.Column("model_s", sa.Double, nullable=False),
            sa.Column("error_classes", sa.Text, nullable=False),
            indexes={"videos_of_item": ("item_id",)},
        )
        """All answers about whole videos by their newest attempt, with what they cost, also those of other inputs than
        the present ones; `error_classes` are what they have in quarantine, one a line."""
        self.clips = self._table(
            "clips",
            sa.Column("clip_id", sa.Text, primary_key=True),
            *_shared(),
            *(_asked(name, nullable=name != ASKED_FIELDS[0]) for name in ASKED_FIELDS),
            *(
                sa.Column(name, SQL_TYPES[kind])
                for name, kind in CLIP_FIELDS
                if kind in SQL_TYPES and name != "clip_id"
            ),
            sa.Column("answer_format", sa.Integer),
            indexes={
                "clips_of_unit": ("unit_id",),
                "clips_of_version": ("version_id",),
                "clips_of_media": ("job", "media_id"),
            },
        )
        """Answered and partial clips: what was run and both counterfactuals. Column names are the Parquet tables'. A
        content that counts under several keys is here once, under the first of them."""
        self.quarantine = self._table(
            "quarantine",
            sa.Column("quarantine_id", sa.Text, primary_key=True),
            *_shared(),
            sa.Column("clip_id", sa.Text),
            sa.Column("start_s", sa.Double),
            sa.Column("end_s", sa.Double),
            sa.Column("question_id", sa.Text),
            sa.Column("stage", sa.Text, nullable=False),
            sa.Column("error_class", sa.Text, nullable=False),
            sa.Column("message", sa.Text, nullable=False),
            indexes={
                "quarantine_of_class": ("error_class",),
                "quarantine_of_version": ("version_id",),
                "quarantine_of_media": ("job", "media_id"),
            },
        )
        """What has no answer and why: a media item (no clip_id), a clip, or one answer (with question_id)."""
        self.savings = self._table(
            "savings",
            sa.Column("savings_id", sa.Text, primary_key=True),
            *(_asked(name, nullable=name in ASKED_FIELDS[1:]) for name in SAVINGS_GROUP),
            sa.Column("clips", sa.BigInteger, nullable=False),
            sa.Column("clips_partial", sa.BigInteger, nullable=False),
            sa.Column("model_us", sa.BigInteger, nullable=False),
            sa.Column("weighed_tokens", sa.BigInteger, nullable=False),
            sa.Column("retained_token_millionths", sa.BigInteger, nullable=False),
            *(
                sa.Column(f"{way}_{cost}", sa.BigInteger, nullable=False)
                for way in WAYS
                for cost in ("gflop", "rest_flop", "kv_bytes", "tokens")
            ),
            indexes={"savings_of_job": ("job",)},
        )
        """Sums over `clips`, see `pipeline.index.rollups`. `collection` is the first folder of the media key; FLOPs are
        `gflop` * 10^9 + `rest_flop`; `weighed_tokens` are the tokens of clips that have a retained ratio."""
        self.probes = self._table(
            "probes",
            sa.Column("media_id", sa.Text, primary_key=True),
            sa.Column("mark", sa.Text, nullable=False),
            sa.Column("probe", sa.Text, nullable=False),
        )
        """Cache of probing, scene cuts and contents, by mark: JSON of a `Probed`."""
        self.context = self._table(
            "context",
            sa.Column("media_id", sa.Text, primary_key=True),
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("mark", sa.Text, nullable=False),
            sa.Column("content", sa.LargeBinary, nullable=False),
        )
        """Cache of what sidecars and subtitle tracks say, by mark: see `pipeline.context.remembered`."""
        self.marks = self._table(
            "marks", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
        )
        """How far the journal was followed, and the whole id of the output."""

    def plain(self, table: sa.Table) -> str:
        """A table's name without the output's prefix."""
        return table.name.removeprefix(self.prefix)

    @property
    def derived(self) -> tuple[sa.Table, ...]:
        """The tables that follow from the journal."""
        return tuple(getattr(self, name) for name in DERIVED)

    def _table(self, name: str, *columns: sa.Column[Any], indexes: Mapping[str, tuple[str, ...]] = NONE) -> sa.Table:
        made = (sa.Index(self.prefix + of, *names) for of, names in indexes.items())
        return sa.Table(self.prefix + name, self.metadata, *columns, *made)


def _shared() -> list[sa.Column[Any]]:
    """What rows of clips and of quarantine have in common, as in the Parquet tables."""
    return [sa.Column(name, sa.Text, nullable=name == "content_id") for name, _ in SHARED_FIELDS]


def _asked(name: str, *, nullable: bool) -> sa.Column[Any]:
    return sa.Column(name, sa.Double if name == "retained_ratio_target" else sa.Text, nullable=nullable)
