"""What the rows of a plan say of the picture that is encoded."""

from __future__ import annotations

import pytest

from jobs.plan import plan_lines
from pipeline.config.sections import PruningConfig
from pipeline.cost.estimate import Price


@pytest.mark.parametrize(
    ("pruning", "said"),
    [
        (
            PruningConfig(encoder_share=0.35),
            "up to 3.02 k of 8.64 k cells (lossy); unchanged cells are skipped",
        ),
        # Every cell is its own: so many are encoded, whatever is shown.
        (PruningConfig(encoder_share=0.35, still_levels=0), "3.02 k of 8.64 k cells (lossy)"),
    ],
)
def test_a_plan_says_how_much_of_the_picture_is_encoded(pruning: PruningConfig, said: str) -> None:
    assert dict(plan_lines(Price(video_tokens=8640, video_encoded=3024), pruning))["image cells to encode"] == said


def test_a_plan_that_encodes_everything_has_no_such_row() -> None:
    assert "image cells to encode" not in dict(
        plan_lines(Price(video_tokens=8640, video_encoded=8640), PruningConfig())
    )
