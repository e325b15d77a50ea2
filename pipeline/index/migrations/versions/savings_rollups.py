"""Sums over clips by job, run, collection and what was asked: `savings`."""

import sqlalchemy as sa
from alembic import op

from pipeline.index.rollups import recount

revision = "savings_rollups"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "savings",
        sa.Column("savings_id", sa.Text(), primary_key=True),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("question_set", sa.Text(), nullable=False),
        sa.Column("question_set_version", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("mode", sa.Text()),
        sa.Column("policy", sa.Text()),
        sa.Column("retained_ratio_target", sa.Double()),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("clips", "clips_partial", "model_us", "weighed_tokens", "retained_token_millionths")
        ),
        *(
            sa.Column(f"{way}_{cost}", sa.BigInteger(), nullable=False)
            for way in ("as_run", "dense", "dense_shared")
            for cost in ("gflop", "rest_flop", "kv_bytes", "tokens")
        ),
    )
    op.create_index("ix_savings_job", "savings", ["job"])
    recount(op.get_bind())


def downgrade() -> None:
    op.drop_table("savings")
