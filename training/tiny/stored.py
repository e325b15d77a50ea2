"""`python -m training.tiny.stored MODEL FILE`: a slice of questions, and what an embedded checkpoint answers.

Promises: clips are generated, never encoded, so that no codec's version changes an answer; the test suite compares
these answers with those of the day. Write the file anew whenever the checkpoint changes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from omnidrop.model import OmniModel, Request
from omnidrop.pruning import Pruning
from pipeline.toy_world import Event, Truth, events_of, questions_of
from pipeline.toy_world.questions import AskedQuestion
from pipeline.toy_world.render import Painter
from pipeline.toy_world.speech import heard
from pipeline.toy_world.world import generator_of

Clips = tuple[tuple[int, int | None], ...]
"""Seed and number of events of 8-second clips (None where the world draws it); training draws its seeds below 2^40."""
CLIPS: Clips = ((7_000_000_000_001, 1), (7_000_000_000_002, 2), (7_000_000_000_003, 2), (7_000_000_000_004, 3))
SLICES: dict[str, tuple[str, Clips]] = {
    "tiny": ("v1", CLIPS),
    "tiny-v2": ("v2", ((7_000_000_000_011, None), (7_000_000_000_012, None))),
    "tiny-v3": ("v3", ((7_000_000_000_021, None), (7_000_000_000_022, None), (7_000_000_000_023, None))),
}
"""World and clips by the name of the checkpoint."""
QUESTIONS = 12


def generated(
    world: str, events: tuple[Event, ...], seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Frames (16, 112, 196, 3) at 2 a second and 8 s of sound."""
    painter = Painter(world, events, generator_of(world, seed, "picture"))
    frames = np.stack([painter.frame(number / 2, 112, 196) for number in range(16)])
    return frames, heard(world, events, 8, generator_of(world, seed, "sound"))


def answers_of(model: OmniModel, world: str, seed: int, count: int | None) -> list[tuple[AskedQuestion, str]]:
    """The slice's questions about one clip, and the model's answers without pruning."""
    _, events = events_of(world, seed, length_s=8, count=count)
    asked = questions_of(Truth(events, world), seed=seed, most=QUESTIONS)
    frames, wave = generated(world, events, seed)
    questions = [one.question for one in asked]
    said = model.answer(frames, wave, Request(questions, fps=2.0, pruning=Pruning.off("dense_shared"))).answers
    return [(one, answer.text) for one, answer in zip(asked, said, strict=True)]


def main(name: str, path: Path) -> None:
    """Write the stored answers of an embedded checkpoint."""
    model = OmniModel.load(name, device="cpu", dtype="float32")
    clips, right = [], []
    world, chosen = SLICES[name]
    for seed, count in chosen:
        found = answers_of(model, world, seed, count)
        right += [one.right == said for one, said in found]
        clips.append({"seed": seed, "events": count, "answers": {one.question.text: said for one, said in found}})
    stored = {"accuracy": sum(right) / len(right), "weights_hash": model.weights_hash, "clips": clips}
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
