"""A table of what was answered about whole videos."""

import sqlalchemy as sa
from alembic import context, op

revision = "whole_videos"
down_revision = "tables_of_outputs"


def upgrade() -> None:
    prefix = str(context.config.attributes["prefix"])
    op.create_table(
        prefix + "videos",
        sa.Column("version_id", sa.Text(), primary_key=True),
        sa.Column("inputs", sa.Text(), primary_key=True),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("clips", "clips_missing", "texts")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("tokens", "flops", "kv_bytes")),
        sa.Column("model_s", sa.Double(), nullable=False),
        sa.Column("error_classes", sa.Text(), nullable=False),
    )
    op.create_index(prefix + "videos_of_item", prefix + "videos", ["item_id"])


def downgrade() -> None:
    op.drop_table(str(context.config.attributes["prefix"]) + "videos")
