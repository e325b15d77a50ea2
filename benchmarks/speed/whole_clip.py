"""What a whole clip costs, encoders in, against dense with prefix reuse: FLOPs of published shapes, without weights.

Promises: the product's own estimator, which a run's FLOPs equal, on configurations of the published sizes; the clip is
the paper's, 60 s at 2 frames a second, 8,640 video and 1,500 audio tokens, asked eight of the toy world's questions; no
content spares anything. And what content spares: the same clip where it is slides, pages of writing in front of a still
camera, drawn and compared cell by cell as the product does. Knows nothing about seconds or accuracy.

    python -m benchmarks.speed.whole_clip --json FILE
    python -m benchmarks.speed.whole_clip --tower    # and CPU seconds of four blocks of the published vision encoder
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from benchmarks.speed.whole_model import FPS, HEIGHT, WIDTH, random_model, write_configuration
from benchmarks.written_pages import page, still
from omnidrop import policies
from omnidrop.estimate import Estimate, Estimator
from omnidrop.models.base import ClipPrompt, SomeOf
from omnidrop.models.processing import ClipProcessor
from omnidrop.models.registry import geometry_of
from omnidrop.models.still_cells import looks, versions
from omnidrop.policies.intra_modality import choose_cells
from omnidrop.pruning import Pruning
from omnidrop.questions import Question
from pipeline.toy_world.questions import questions_of
from pipeline.toy_world.world import events_of

SECONDS = 60
QUESTIONS = 8
RATIOS = (0.3, 0.2, 0.1)
SHARES = (1.0, 0.5, 0.35)
GOALS = {"7b": 0.25, "3b": 0.29}
"""At 20 % kept and a share of 0.35, whatever the content, to two digits."""
SLIDES_GOAL = 0.2
"""The same on slides, at both shapes."""
PAGES, NOISE = 4, 1.5
"""Pages of the slides, each shown for a quarter of the minute, and the camera's noise in 8-bit levels."""


def asked() -> tuple[Question, ...]:
    """Eight of the toy world's questions, of every task."""
    _, events = events_of("v1", 0, length_s=SECONDS, count=6)
    return tuple(one.question for one in questions_of(events, seed=0, most=QUESTIONS))


def rows(shape: str, ratios: Sequence[float] = RATIOS, shares: Sequence[float] = SHARES) -> list[dict[str, Any]]:
    """One row for every ratio and share."""
    with tempfile.TemporaryDirectory() as scratch:
        write_configuration(Path(scratch), shape)
        # A checkpoint has weights; no tensor of them is read to price a clip.
        save_file({}, Path(scratch) / "model.safetensors")
        estimator, questions = Estimator(scratch), asked()
        pairs = [(ratio, share) for ratio in ratios for share in shares]
        return [_row(shape, ratio, share, _priced(estimator, questions, ratio, share)) for ratio, share in pairs]


def _priced(estimator: Estimator, questions: Sequence[Question], ratio: float, share: float) -> Estimate:
    return estimator.clip(
        questions,
        Pruning(retained_ratio=ratio, encoder_share=share),
        frames=round(SECONDS * FPS),
        height=HEIGHT,
        width=WIDTH,
        samples=SECONDS * 16_000,
        fps=FPS,
    )


def _row(shape: str, ratio: float, share: float, priced: Estimate) -> dict[str, Any]:
    return {
        "shape": shape,
        "questions": QUESTIONS,
        "retained_ratio": ratio,
        "encoder_share": share,
        "whole_over_dense_shared": priced.as_run.flops / priced.dense_shared.flops,
        "video_tokens": priced.video_tokens,
        "audio_tokens": priced.audio_tokens,
        "encoder_tflop": priced.as_run.encoder_flops / 1e12,
        "decoder_tflop": (priced.as_run.flops - priced.as_run.encoder_flops) / 1e12,
        "dense_shared_tflop": priced.dense_shared.flops / 1e12,
        "dense_shared_encoder_tflop": priced.dense_shared.encoder_flops / 1e12,
    }


def slides() -> npt.NDArray[np.uint8]:
    """A minute of pages with a title, 3 to 12 lines and a table; the speaker, who moves, in a corner."""
    frames = round(SECONDS * FPS)
    shown = still([page(number, 3 + 3 * number, HEIGHT, WIDTH) for number in range(PAGES)], frames // PAGES, NOISE)
    tall, wide = 2 * HEIGHT // 9, WIDTH // 8
    speaker = np.random.default_rng(0).integers(0, 256, (frames, tall, wide, 3), dtype=np.uint8)
    shown[:, :tall, -wide:] = speaker
    return shown


def slide_rows(shape: str, ratios: Sequence[float] = RATIOS) -> list[dict[str, Any]]:
    """The clip of slides at a share of 0.35, what stands still encoded once."""
    with tempfile.TemporaryDirectory() as scratch:
        write_configuration(Path(scratch), shape)
        save_file({}, Path(scratch) / "model.safetensors")
        processor = ClipProcessor(Path(scratch), geometry_of(Path(scratch)))
        estimator, questions = Estimator(scratch), asked()
        prices = [_priced(estimator, questions, ratio, 0.35) for ratio in ratios]
    frames = slides()
    step, grid = processor.geometry.temporal_patch, processor.geometry.grid(*frames.shape[:3])
    cells = grid[1] * grid[2]
    looked = [
        looks(processor.pixels(frames[at : at + step])[0], cells, step, processor.deviation)
        for at in range(0, len(frames), step)
    ]
    standing = versions(torch.stack(looked), policies.still_levels(0.35))
    own = (standing == torch.arange(len(standing))).view(grid[0], cells)
    made = []
    for ratio, priced in zip(ratios, prices, strict=True):
        found = min(int(own.sum()), priced.video_encoded)
        encoders = [
            processor.geometry.vision_flops(patches, *grid[1:], cells=count, embedded=own.numel())
            for patches, count in ((grid[0], priced.video_encoded), (int(own.any(dim=1).sum()), found))
        ]
        spared = encoders[0] - encoders[1]
        run = replace(priced, as_run=replace(priced.as_run, encoder_flops=priced.as_run.encoder_flops - spared))
        made.append(_row(shape, ratio, 0.35, run) | {"cells_encoded": found})
    return made


@torch.inference_mode()
def tower(seconds: int = 12, rounds: int = 2) -> dict[str, Any]:
    """Process seconds of encoding `seconds` of video on one thread, whole and in part, choosing included and alone; the
    width is the published one, the blocks are four of 32, so that choosing weighs eight times what it does there."""
    torch.set_num_threads(1)
    adapter = random_model("tower", torch.device("cpu"), torch.float32).adapter
    frames = np.random.default_rng(0).integers(0, 256, (round(seconds * FPS), HEIGHT, WIDTH, 3), dtype=np.uint8)
    cells = math.prod(adapter.geometry.grid(*frames.shape[:3]))  # type: ignore[attr-defined]
    found: dict[str, Any] = {"video_tokens": cells, "choosing_s": math.inf}

    def choose(cells: torch.Tensor, patches: int, keep: int, candidates: torch.Tensor | None = None) -> torch.Tensor:
        started = time.process_time()
        chosen = choose_cells(cells, patches, keep, candidates)
        found["choosing_s"] = min(found["choosing_s"], time.process_time() - started)
        return chosen

    for share in (1.0, 0.35):
        some_of = SomeOf(math.ceil(share * cells), choose, policies.still_levels(share))
        best = math.inf
        for _ in range(rounds):
            adapter.memory.clear()
            started = time.process_time()
            adapter.prefix(frames, None, ClipPrompt(FPS), some_of=some_of)
            best = min(best, time.process_time() - started)
        found[f"share_{share:g}_s"] = best
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the table, print it, write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.whole_clip", description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tower", action="store_true", help="also time a true-width vision encoder of four blocks")
    given = parser.parse_args(arguments)
    table = [row for shape in GOALS for row in rows(shape)]
    for row in table:
        print(
            f"{row['shape']} {row['retained_ratio']:4.0%} kept, {row['encoder_share']:4.0%} encoded: "
            f"{row['encoder_tflop']:5.1f} TFLOP encoders + {row['decoder_tflop']:5.1f} decoder = "
            f"{row['whole_over_dense_shared']:.3f} of {row['dense_shared_tflop']:.1f} dense with prefix reuse"
        )
    report: dict[str, Any] = {
        "rows": table,
        "goals": GOALS,
        "slides": [r for shape in GOALS for r in slide_rows(shape)],
    }
    for row in report["slides"]:
        print(
            f"{row['shape']} {row['retained_ratio']:4.0%} kept of slides: {row['cells_encoded']:,} of "
            f"{row['video_tokens']:,} cells encoded, {row['encoder_tflop']:5.1f} TFLOP encoders + "
            f"{row['decoder_tflop']:5.1f} decoder = {row['whole_over_dense_shared']:.3f}"
        )
    if given.tower:
        report["tower"] = tower()
        print(json.dumps(report["tower"]))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
