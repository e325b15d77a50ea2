"""What was noticed about each clip: its segment, silence, held pictures, what is missing, clipping, tone mapping."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "clips_noticed"
down_revision = "savings_rollups"

COLUMNS: tuple[tuple[str, Any], ...] = (
    ("segment", sa.Integer()),
    ("segment_pts_s", sa.Double()),
    ("silent_s", sa.Double()),
    ("held_s", sa.Double()),
    ("missing_s", sa.Double()),
    ("clipped_share", sa.Double()),
    ("tone_mapped", sa.Boolean()),
    ("decoded_hash", sa.Text()),
)


def upgrade() -> None:
    for name, kind in COLUMNS:
        op.add_column("clips", sa.Column(name, kind))


def downgrade() -> None:
    for name, _ in COLUMNS:
        op.drop_column("clips", name)
