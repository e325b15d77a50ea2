"""What of a page of writing is ever seen: the share of its written cells that enter each layer.

Promises: the same pages for every way; a cell counts while its own page is shown. Asks nothing about what is written:
neither embedded model reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.written_pages import coverage, page, still
from omnidrop.model import OmniModel, Request
from omnidrop.policies.registry import STILL_LEVELS
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question

MODEL = "tiny"
HEIGHT, WIDTH, FPS = 252, 448, 2.0
FRAMES, NOISE = 48, 1.5
"""24 seconds in front of a still camera, whose noise is so many 8-bit levels."""
CLIPS = ((3,), (9,), (12,), (12, 6), (9, 5, 3), (12, 9, 6, 3))
"""Lines of each page that is shown, in turn and for as long."""
RATIOS = (0.3, 0.2, 0.1, 0.05)
WAYS = {
    "everything encoded (the default)": Pruning(),
    "35 % encoded, what stands still at every moment": Pruning(encoder_share=0.35, still_levels=0.0),
    "35 % encoded, what stands still once": Pruning(encoder_share=0.35),
    "everything encoded, what stands still once": Pruning(still_levels=STILL_LEVELS),
}
ASKED = Question("a", "Is a circle shown?", Boolean())


def measure(ratios: Sequence[float] = RATIOS, clips: Sequence[Sequence[int]] = CLIPS) -> dict[str, Any]:
    """The mean over `clips` for every way and ratio: cells encoded, and what is covered of the writing."""
    model = OmniModel.load(MODEL, device="cpu")
    rows = []
    for way, pruning in WAYS.items():
        for ratio in ratios:
            found = [_of_clip(model, lines, pruning, ratio) for lines in clips]
            mean = (round(sum(of) / len(found), 4) for of in zip(*found, strict=True))
            figures = dict(zip(("cells", "enters", "half", "last"), mean, strict=True))
            rows.append({"way": way, "ratio": ratio, **figures})
    return {"model": MODEL, "clips": len(clips), "rows": rows}


def _of_clip(model: OmniModel, lines: Sequence[int], pruning: Pruning, ratio: float) -> tuple[float, ...]:
    shown = [page(number, count, HEIGHT, WIDTH) for number, count in enumerate(lines)]
    frames = still(shown, FRAMES // len(shown), NOISE)
    request = Request([ASKED], FPS, replace(pruning, retained_ratio=ratio), positions=True)
    trace = model.answer(frames, None, request).positions
    assert trace is not None
    own = np.ones(len(trace.modality), dtype=np.bool_) if trace.encoded is None else trace.encoded
    if trace.is_still is not None:
        own = own & ~trace.is_still
    (kept,) = trace.kept
    layers = (kept[0], kept[len(kept) // 2], kept[-1])
    return (float(own.mean()), *(coverage(trace, tokens, shown) for tokens in layers))
