"""Tables of one output: runs, media, units, clips, quarantine, savings, probes, marks, their names after its id.

What earlier versions kept in tables without an owner is left where it is: the journal has all of it, and other outputs
may be using them.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "tables_of_outputs"
down_revision = None

WAYS = ("as_run", "dense", "dense_shared")
COSTS = ("tokens", "prefill_flops", "selection_flops", "encoder_flops", "decode_flops", "kv_bytes", "flops")
TEXT = ("question_set_version", "model", "mode", "policy")


def _text(*names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _numbers(kind: type, *names: str, nullable: bool = True) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind(), nullable=nullable) for name in names]


def _key(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text(), primary_key=True) for name in names]


def upgrade() -> None:
    label = _text("job", "media_id", "media_key") + _text("content_id", nullable=True)
    of_unit = _text("version_id", "unit_id", "run_id")
    _create(
        "runs",
        _key("run_id")
        + _text("job", "recipe_hash", "status", "started_at")
        + _text("finished_at", nullable=True)
        + _text("record"),
        runs_of_job=["job"],
    )
    _create(
        "media",
        _key("job", "media_id")
        + _text("media_key", "uri", "etag")
        + _numbers(sa.BigInteger, "size_bytes", nullable=False)
        + _text("version_id", "recipe_hash")
        + _numbers(sa.Integer, "units", "clips", nullable=False)
        + _numbers(sa.Boolean, "is_listed", nullable=False)
        + _text("content_id", nullable=True)
        + _text("mark", "group", "item_id")
        + _numbers(sa.Integer, "clips_per_unit", "answer_format")
        + _text("earlier")
        + _numbers(sa.Integer, "bucket", nullable=False),
        media_of_version=["version_id"],
        media_of_content=["content_id"],
        media_of_item=["item_id"],
        media_of_label=["media_id"],
        media_of_key=["media_key"],
    )
    attempt = sa.Column("attempt", sa.Integer(), nullable=False, server_default="0")
    _create(
        "units",
        [*_key("unit_id"), *_text("group", "item_id", "version_id"), attempt],
        units_of_version=["version_id"],
        units_of_item=["item_id"],
    )
    _create(
        "clips",
        _key("clip_id")
        + label
        + of_unit
        + _text("question_set")
        + _text(*TEXT, nullable=True)
        + _numbers(sa.Double, "retained_ratio_target")
        + _numbers(sa.Integer, "clip_index")
        + _numbers(sa.Double, "start_s", "end_s")
        + _text("status", nullable=True)
        + _numbers(sa.Integer, "frames")
        + _numbers(sa.BigInteger, "samples")
        + _numbers(sa.Double, "fps", "decoded_share", "decode_s", "answer_s", "model_s")
        + _numbers(sa.Integer, "audio_tokens", "video_tokens")
        + _numbers(sa.Double, "retained_ratio", "retained_ratio_audio", "retained_ratio_video")
        + _numbers(sa.BigInteger, *(f"{way}_{cost}" for way in WAYS for cost in COSTS), "peak_bytes")
        + _numbers(sa.Integer, "passes", "segment")
        + _numbers(sa.Double, "segment_pts_s", "silent_s", "held_s", "missing_s", "clipped_share")
        + _numbers(sa.Boolean, "tone_mapped")
        + _text("decoded_hash", nullable=True)
        + _numbers(sa.Integer, "answer_format"),
        clips_of_unit=["unit_id"],
        clips_of_version=["version_id"],
        clips_of_media=["job", "media_id"],
    )
    _create(
        "quarantine",
        _key("quarantine_id")
        + label
        + of_unit
        + _text("clip_id", nullable=True)
        + _numbers(sa.Double, "start_s", "end_s")
        + _text("question_id", nullable=True)
        + _text("stage", "error_class", "message"),
        quarantine_of_class=["error_class"],
        quarantine_of_version=["version_id"],
        quarantine_of_media=["job", "media_id"],
    )
    sums = [f"{way}_{cost}" for way in WAYS for cost in ("gflop", "rest_flop", "kv_bytes", "tokens")]
    counts = ("clips", "clips_partial", "model_us", "weighed_tokens", "retained_token_millionths")
    _create(
        "savings",
        _key("savings_id")
        + _text("job", "run_id", "collection", "question_set")
        + _text(*TEXT, nullable=True)
        + _numbers(sa.Double, "retained_ratio_target")
        + _numbers(sa.BigInteger, *counts, *sums, nullable=False),
        savings_of_job=["job"],
    )
    _create("probes", _key("media_id") + _text("mark", "probe"))
    _create("marks", _key("name") + _text("value"))


def downgrade() -> None:
    for table in ("marks", "probes", "savings", "quarantine", "clips", "units", "media", "runs"):
        op.drop_table(_prefix() + table)


def _prefix() -> str:
    return str(context.config.attributes["prefix"])


def _create(table: str, columns: list[sa.Column[Any]], **indexes: list[str]) -> None:
    op.create_table(_prefix() + table, *columns)
    for name, names in indexes.items():
        op.create_index(_prefix() + name, _prefix() + table, names)
