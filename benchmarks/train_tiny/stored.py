"""`python -m benchmarks.train_tiny.stored FILE`: a fixed slice of questions and what the shipped checkpoint answers.

Promises: clips are generated, never encoded, so that no codec's version changes an answer; the test suite compares
these answers with those of the day. Write the file anew whenever the checkpoint changes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from omnidrop.model import OmniModel, Pruning
from pipeline.toy_world import Event, events_of, questions_of
from pipeline.toy_world.questions import AskedQuestion
from pipeline.toy_world.render import Painter, wave_of
from pipeline.toy_world.world import generator_of

CLIPS = ((7_000_000_000_001, 1), (7_000_000_000_002, 2), (7_000_000_000_003, 2), (7_000_000_000_004, 3))
"""Seed and number of events of 8-second clips; training draws its seeds below 2^40."""
QUESTIONS = 12


def generated(events: tuple[Event, ...], seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Frames (16, 112, 196, 3) at 2 a second and 8 s of sound."""
    painter = Painter("v1", events, generator_of("v1", seed, "picture"))
    frames = np.stack([painter.frame(number / 2, 112, 196) for number in range(16)])
    return frames, wave_of(events, 8, generator_of("v1", seed, "sound"))


def answers_of(model: OmniModel, seed: int, count: int) -> list[tuple[AskedQuestion, str]]:
    """The slice's questions about one clip, and the model's answers without pruning."""
    _, events = events_of("v1", seed, length_s=8, count=count)
    asked = questions_of(events, seed=seed, most=QUESTIONS)
    frames, wave = generated(events, seed)
    questions = [one.question for one in asked]
    said = model.answer(frames, wave, questions, fps=2.0, pruning=Pruning.off("dense_shared")).answers
    return [(one, answer.text) for one, answer in zip(asked, said, strict=True)]


def main(path: Path) -> None:
    """Write the stored answers of `tiny`."""
    model = OmniModel.load("tiny", device="cpu", dtype="float32")
    clips, right = [], []
    for seed, count in CLIPS:
        found = answers_of(model, seed, count)
        right += [one.right == said for one, said in found]
        clips.append({"seed": seed, "events": count, "answers": {one.question.text: said for one, said in found}})
    stored = {"accuracy": sum(right) / len(right), "weights_hash": model.weights_hash, "clips": clips}
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
