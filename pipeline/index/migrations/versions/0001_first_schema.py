"""The first schema: runs, media, units, clips, quarantine, probes, marks."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "clips",
        sa.Column("clip_id", sa.Text(), primary_key=True),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("media_key", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("unit_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("question_set", sa.Text(), nullable=False),
        sa.Column("question_set_version", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("mode", sa.Text()),
        sa.Column("policy", sa.Text()),
        sa.Column("retained_ratio_target", sa.Double()),
        sa.Column("clip_index", sa.Integer()),
        sa.Column("start_s", sa.Double()),
        sa.Column("end_s", sa.Double()),
        sa.Column("status", sa.Text()),
        sa.Column("frames", sa.Integer()),
        sa.Column("samples", sa.BigInteger()),
        sa.Column("fps", sa.Double()),
        sa.Column("decoded_share", sa.Double()),
        sa.Column("decode_s", sa.Double()),
        sa.Column("answer_s", sa.Double()),
        sa.Column("model_s", sa.Double()),
        sa.Column("audio_tokens", sa.Integer()),
        sa.Column("video_tokens", sa.Integer()),
        sa.Column("retained_ratio", sa.Double()),
        sa.Column("retained_ratio_audio", sa.Double()),
        sa.Column("retained_ratio_video", sa.Double()),
        sa.Column("as_run_tokens", sa.BigInteger()),
        sa.Column("as_run_prefill_flops", sa.BigInteger()),
        sa.Column("as_run_selection_flops", sa.BigInteger()),
        sa.Column("as_run_encoder_flops", sa.BigInteger()),
        sa.Column("as_run_decode_flops", sa.BigInteger()),
        sa.Column("as_run_kv_bytes", sa.BigInteger()),
        sa.Column("as_run_flops", sa.BigInteger()),
        sa.Column("dense_tokens", sa.BigInteger()),
        sa.Column("dense_prefill_flops", sa.BigInteger()),
        sa.Column("dense_selection_flops", sa.BigInteger()),
        sa.Column("dense_encoder_flops", sa.BigInteger()),
        sa.Column("dense_decode_flops", sa.BigInteger()),
        sa.Column("dense_kv_bytes", sa.BigInteger()),
        sa.Column("dense_flops", sa.BigInteger()),
        sa.Column("dense_shared_tokens", sa.BigInteger()),
        sa.Column("dense_shared_prefill_flops", sa.BigInteger()),
        sa.Column("dense_shared_selection_flops", sa.BigInteger()),
        sa.Column("dense_shared_encoder_flops", sa.BigInteger()),
        sa.Column("dense_shared_decode_flops", sa.BigInteger()),
        sa.Column("dense_shared_kv_bytes", sa.BigInteger()),
        sa.Column("dense_shared_flops", sa.BigInteger()),
        sa.Column("peak_bytes", sa.BigInteger()),
    )
    op.create_index("clips_of_media", "clips", ["job", "media_id"])
    op.create_index("ix_clips_unit_id", "clips", ["unit_id"])
    op.create_table(
        "marks",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )
    op.create_table(
        "media",
        sa.Column("job", sa.Text(), primary_key=True),
        sa.Column("media_id", sa.Text(), primary_key=True),
        sa.Column("media_key", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("recipe_hash", sa.Text(), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("clips", sa.Integer(), nullable=False),
    )
    op.create_index("ix_media_version_id", "media", ["version_id"])
    op.create_table(
        "probes",
        sa.Column("media_id", sa.Text(), primary_key=True),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("probe", sa.Text(), nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("quarantine_id", sa.Text(), primary_key=True),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("media_key", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("unit_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("clip_id", sa.Text()),
        sa.Column("start_s", sa.Double()),
        sa.Column("end_s", sa.Double()),
        sa.Column("question_id", sa.Text()),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
    )
    op.create_index("ix_quarantine_error_class", "quarantine", ["error_class"])
    op.create_index("quarantine_of_media", "quarantine", ["job", "media_id"])
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("recipe_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.Text()),
        sa.Column("record", sa.Text(), nullable=False),
    )
    op.create_index("ix_runs_job", "runs", ["job"])
    op.create_table(
        "units",
        sa.Column("unit_id", sa.Text(), primary_key=True),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
    )
    op.create_index("ix_units_version_id", "units", ["version_id"])
    op.create_index("units_of_media", "units", ["job", "media_id"])


def downgrade() -> None:
    for table in ("units", "runs", "quarantine", "probes", "media", "marks", "clips"):
        op.drop_table(table)
