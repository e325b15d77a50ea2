"""What the rows of a plan say of the picture that is encoded, and of clips that cannot be asked."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.plan import plan_lines
from omnidrop.errors import PolicyError
from pipeline.config.job import make_job
from pipeline.config.sections import PruningConfig
from pipeline.cost.estimate import Price, price_job


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


def test_clips_that_cannot_be_asked_are_counted_and_end_no_plan(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for name, seconds in (("long", 3.5), ("short", 0.03)):
        with wave.open(str(tmp_path / "archive" / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.full(round(16_000 * seconds), 1000, np.int16).tobytes())
    given: dict[str, Any] = {
        "name": "plan",
        "archive": {"uri": str(tmp_path / "archive")},
        "output": str(tmp_path / "results"),
    }
    more: dict[str, Any] = {"question_set": "toy-world", "clips": {"length_s": 2}, "pruning": {"retained_ratio": 0.03}}
    price = price_job(make_job({**given, **more}))
    assert (price.clips, sum(reason.clips for reason in price.reasons.values())) == (3, 1)
    assert price.unaskable == {"policy": 1, "too_short": 1}
    (said,) = price.notes
    assert "will be quarantined: 2 (policy 1, too_short 1), the first is long.wav, 2 s to 3.5 s: retained_ratio" in said
    with pytest.raises(PolicyError, match=r"a clip of 2 s of long\.wav: retained_ratio 0\.01 cannot be reached"):
        price_job(make_job({**given, **more, "pruning": {"retained_ratio": 0.01}}))
