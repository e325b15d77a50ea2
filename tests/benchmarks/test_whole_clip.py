"""The table of whole clips: the goals hold by the estimator, and its rows say what they are."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.speed import whole_clip


def test_the_goals_hold_whatever_the_content(tmp_path: Path) -> None:
    whole_clip.main(["--json", str(tmp_path / "table.json")])
    table = json.loads((tmp_path / "table.json").read_text())
    rows = table["rows"]
    assert len(rows) == len(whole_clip.GOALS) * len(whole_clip.RATIOS) * len(whole_clip.SHARES)
    assert {(row["video_tokens"], row["audio_tokens"], row["questions"]) for row in rows} == {(8640, 1500, 8)}
    costs = {
        (row["shape"], row["retained_ratio"], row["encoder_share"]): row["whole_over_dense_shared"] for row in rows
    }
    for shape, goal in whole_clip.GOALS.items():
        assert round(costs[shape, 0.2, 0.35], 2) <= goal
        for ratio in whole_clip.RATIOS:
            assert costs[shape, ratio, 0.35] < costs[shape, ratio, 1.0] < 1
    slides = {(row["shape"], row["retained_ratio"]): row for row in table["slides"]}
    assert all(slides[shape, 0.2]["whole_over_dense_shared"] <= whole_clip.SLIDES_GOAL for shape in whole_clip.GOALS)
    for (shape, ratio), row in slides.items():
        assert row["whole_over_dense_shared"] < costs[shape, ratio, 0.35]
        # Four pages of 144 cells, and a speaker of 2 to 6 cells in 60 temporal patches.
        assert 4 * 144 + 60 * 2 <= row["cells_encoded"] <= 4 * 144 + 60 * 6
    assert all(row["encoder_tflop"] == row["dense_shared_encoder_tflop"] for row in rows if row["encoder_share"] == 1)
