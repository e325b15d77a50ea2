"""Several clips of one shape in the same passes: seconds a clip at 1, 2, 4 and 8 clips a pass, on one CPU thread.

Promises: process time, sizes interleaved in every round, the minimum of the rounds, and every size answers the same
clips; the whole embedded model (`OmniModel.answer_batch`, frames remembered from before forgotten), and the decoder
alone at a middle size with random weights. Knows nothing about accuracy or CUDA.

    python -m benchmarks.speed.batching --json FILE [--quick]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.random_text_model import ClipShape, RandomTextModel, clip, questions
from omnidrop import policies
from omnidrop.engine import modes
from omnidrop.engine.attention import own_attention
from omnidrop.engine.state import ClipTokens
from omnidrop.model import Media, OmniModel, Request
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question
from omnidrop.selfcheck import sample_clip

CLIPS = 8
"""Answered by every size in every round."""
SIZES = (1, 2, 4, 8)
"""Clips in a pass."""
RATIO = 0.3


@dataclass(frozen=True)
class Row:
    """One kind of clip on one model."""

    what: str
    tokens: int
    """Audio and video tokens of a clip before pruning."""
    questions: int
    seconds_per_clip: dict[int, float]
    """By clips in a pass."""

    @property
    def ratios(self) -> dict[int, float]:
        """Of the seconds alone, by clips in a pass: below 1 is gained."""
        alone = self.seconds_per_clip[1]
        return {size: seconds / alone for size, seconds in self.seconds_per_clip.items()}


def timed(answer: Callable[[int, int], object], rounds: int) -> dict[int, float]:
    """Process seconds a clip by size, of `answer(first clip, clips)`."""
    best = dict.fromkeys(SIZES, float("inf"))
    for turn in range(rounds):
        # Another size goes first in every round.
        for size in (*SIZES[turn % len(SIZES) :], *SIZES[: turn % len(SIZES)]):
            started = time.process_time()
            for first in range(0, CLIPS, size):
                answer(first, size)
            best[size] = min(best[size], (time.process_time() - started) / CLIPS)
    return best


def whole(seconds: int, count: int, rounds: int) -> Row:
    """The embedded model with its encoders."""
    model = OmniModel.load("tiny", device="cpu", dtype="float32")
    frames, audio = sample_clip(seconds, 64, 112)
    drawn = np.random.default_rng(0)
    # Shifted pictures and sound: clips that have nothing in common but their shape.
    clips: list[Media] = [
        (np.roll(frames, int(shift), axis=2), np.roll(audio, int(shift) * 100)) for shift in drawn.permutation(CLIPS)
    ]
    asked = [Question(f"q{number}", f"Is thing number {number} shown?", Boolean()) for number in range(count)]

    def answer(first: int, size: int) -> object:
        model.adapter.memory.clear()
        return model.answer_batch(
            clips[first : first + size], Request(asked, fps=2.0, pruning=Pruning(retained_ratio=RATIO))
        )

    given = model.answer(*clips[0], Request(asked, fps=2.0))
    tokens = given.trace.audio_in + given.trace.video_in
    return Row(f"tiny, {seconds} s", tokens, count, timed(answer, rounds))


def decoder(size: str, layers: int, shape: ClipShape, count: int, rounds: int) -> Row:
    """A decoder with random weights, in float32; no encoders."""
    model = RandomTextModel(size, layers, dtype=torch.float32)
    clips = [ClipTokens.of(clip(model, shape, seed)) for seed in range(CLIPS)]
    asked = questions(count)
    policy = policies.named("omnidrop")
    schedule = policy.plan(clips[0].av, layers, RATIO)

    def answer(first: int, together: int) -> None:
        some: Sequence[ClipTokens] = clips[first : first + together]
        with torch.inference_mode(), own_attention(model):
            for done in modes.run(model, some, asked, "set_guided", policy, schedule, "max"):
                del done

    return Row(f"decoder, {size}, {layers} layers", shape.tokens, count, timed(answer, rounds))


def run(quick: bool) -> Iterator[Row]:
    """All rows, as they are measured; `quick` takes a moment and says little."""
    if quick:
        yield whole(2, 2, 1)
        yield decoder("test", 8, ClipShape(chunks=4, rows=2, columns=5, audio=5), 2, 1)
        return
    yield whole(4, 4, 4)
    yield decoder("middle", 4, ClipShape(chunks=1, rows=4, columns=4, audio=25), 4, 2)
    yield whole(16, 4, 2)
    yield decoder("middle", 4, ClipShape(chunks=2), 4, 2)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in run(given.quick):
        rows.append(row)
        cells = ", ".join(
            f"{size}: {seconds:.4f} s ({row.ratios[size]:.2f})" for size, seconds in row.seconds_per_clip.items()
        )
        print(
            f"{row.what}, {row.tokens} tokens, {row.questions} questions, s a clip by clips a pass: {cells}", flush=True
        )
    report = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": [{**vars(row), "ratios": row.ratios} for row in rows],
    }
    given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
