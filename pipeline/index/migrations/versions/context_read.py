"""A table of what sidecars and subtitle tracks said when they were read."""

import sqlalchemy as sa
from alembic import context, op

revision = "context_read"
down_revision = "whole_videos"


def upgrade() -> None:
    prefix = str(context.config.attributes["prefix"])
    op.create_table(
        prefix + "context",
        sa.Column("media_id", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table(str(context.config.attributes["prefix"]) + "context")
