"""The savings index's tables, for SQLite and PostgreSQL; the migrations in `migrations/` create them.

Promises: a column has the name of its Parquet twin, taken from the journal's own list. Knows nothing about queries.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.records.columns import ASKED_FIELDS, CLIP_FIELDS

SQL_TYPES: dict[pa.DataType, Any] = {
    pa.string(): sa.Text,
    pa.int32(): sa.Integer,
    pa.int64(): sa.BigInteger,
    pa.float64(): sa.Double,
    pa.bool_(): sa.Boolean,
}

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False, index=True),
    sa.Column("recipe_hash", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("started_at", sa.Text, nullable=False),
    sa.Column("finished_at", sa.Text),
    sa.Column("record", sa.Text, nullable=False),
)
"""`record` is the whole run record as JSON; times are ISO 8601 in UTC."""

media = sa.Table(
    "media",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("media_id", sa.Text, primary_key=True),
    sa.Column("media_key", sa.Text, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("version_id", sa.Text, nullable=False, index=True),
    sa.Column("recipe_hash", sa.Text, nullable=False),
    sa.Column("units", sa.Integer, nullable=False),
    sa.Column("clips", sa.Integer, nullable=False),
)
"""The version of each media item that counts, with the units and clips it has when complete."""

units = sa.Table(
    "units",
    metadata,
    sa.Column("unit_id", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("media_id", sa.Text, nullable=False),
    sa.Column("version_id", sa.Text, nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Index("units_of_media", "job", "media_id"),
)
"""All finished units by their newest attempt, superseded versions too: what the planner looks up."""

clips = sa.Table(
    "clips",
    metadata,
    sa.Column("clip_id", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("media_id", sa.Text, nullable=False),
    sa.Column("media_key", sa.Text, nullable=False),
    sa.Column("version_id", sa.Text, nullable=False),
    sa.Column("unit_id", sa.Text, nullable=False, index=True),
    sa.Column("run_id", sa.Text, nullable=False),
    *(
        sa.Column(name, sa.Double if name == "retained_ratio_target" else sa.Text, nullable=name != ASKED_FIELDS[0])
        for name in ASKED_FIELDS
    ),
    *(sa.Column(name, SQL_TYPES[kind]) for name, kind in CLIP_FIELDS if kind in SQL_TYPES and name != "clip_id"),
    sa.Index("clips_of_media", "job", "media_id"),
)
"""Answered and partial clips: what was run and both counterfactuals. Column names are the Parquet tables'."""

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("quarantine_id", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("media_id", sa.Text, nullable=False),
    sa.Column("media_key", sa.Text, nullable=False),
    sa.Column("version_id", sa.Text, nullable=False),
    sa.Column("unit_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("clip_id", sa.Text),
    sa.Column("start_s", sa.Double),
    sa.Column("end_s", sa.Double),
    sa.Column("question_id", sa.Text),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("error_class", sa.Text, nullable=False, index=True),
    sa.Column("message", sa.Text, nullable=False),
    sa.Index("quarantine_of_media", "job", "media_id"),
)
"""What has no answer and why: a media item (no clip_id), a clip, or one answer (with question_id)."""

WAYS = ("as_run", "dense", "dense_shared")
SAVINGS_GROUP = ("job", "run_id", "collection", *ASKED_FIELDS)
"""What clips have in common that are summed in one row of `savings`."""

savings = sa.Table(
    "savings",
    metadata,
    sa.Column("savings_id", sa.Text, primary_key=True),
    *(
        sa.Column(
            name,
            sa.Double if name == "retained_ratio_target" else sa.Text,
            nullable=name in ASKED_FIELDS[1:],
            index=name == "job",
        )
        for name in SAVINGS_GROUP
    ),
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
)
"""Sums over `clips`, see `pipeline.index.rollups`. `collection` is the first folder of the media key; FLOPs are
`gflop` * 10^9 + `rest_flop`; `weighed_tokens` are the tokens of clips that have a retained ratio."""

probes = sa.Table(
    "probes",
    metadata,
    sa.Column("media_id", sa.Text, primary_key=True),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("probe", sa.Text, nullable=False),
)
"""Cache of probing and scene cuts, by etag: JSON of a `Probed`."""

marks = sa.Table(
    "marks", metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
"""How far the journal was followed, and which generation of tables was published from it."""
