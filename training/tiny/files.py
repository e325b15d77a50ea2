"""`python -m training.tiny.files`: the shipped checkpoint measured on encoded files it never saw.

Promises: files are rendered by seed, decoded by the product's own decoder and answered by the product's own model, so
that the accuracy stated in the model card is what a user gets. Knows nothing about training.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from omnidrop.model import OmniModel, Request
from omnidrop.pruning import Pruning
from pipeline.toy_world import Format, Truth, format_of, questions_of, read_truth, render_clip, write_truth
from pipeline.toy_world.questions import TASKS
from pipeline.toy_world.world import WORLDS
from workers.media.clip_reader import decode_clip
from workers.media.probing import ProbePool
from workers.records import Clip, ClipFailure, DecodeSettings

TRUTH = "truth.json"
FIRST_SEED = 5_000_000_000_000
"""Training draws its seeds below 2^40, that is about 1.1e12."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """One file as the model receives it."""

    name: str
    truth: Truth
    frames: npt.NDArray[np.uint8] | None
    audio: npt.NDArray[np.float32] | None
    fps: float


def render_set(
    folder: Path,
    world: str,
    seeds: Iterable[int],
    *,
    length_s: float | None = None,
    count: int | None = None,
    small: bool = False,
) -> dict[str, Truth]:
    """Files of `seeds` in `folder` (those that are there stay), with their truth; `small` keeps encoding cheap."""
    folder.mkdir(parents=True, exist_ok=True)
    known = read_truth(folder / TRUTH) if (folder / TRUTH).exists() else {}
    for seed in seeds:
        name = f"{world}-{seed}"
        if any(Path(file).stem == name for file in known):
            continue
        chosen = format_of(world, seed)
        if small:
            scale = min(1.0, 240 / min(chosen.width, chosen.height))
            width, height = (round(side * scale / 2) * 2 for side in (chosen.width, chosen.height))
            chosen = Format(
                chosen.container, chosen.video_codec, chosen.audio_codec, width, height, min(chosen.frame_rate, 15)
            )
        clip = render_clip(folder / name, world, seed, length_s=length_s, count=count, format=chosen)
        known[clip.path.name] = clip.truth
        write_truth(folder / TRUTH, known)
    return known


def decoded(folder: Path, truths: dict[str, Truth], fps: float = 2.0) -> Iterator[Decoded]:
    """Probe and decode every file of `truths` whole, one at a time, as the archive job would."""
    with ProbePool(1) as pool:
        for name, found in pool.probe_many((file, str(folder / file)) for file in sorted(truths)):
            if isinstance(found, ClipFailure):
                raise RuntimeError(f"{name} cannot be probed: {found.message}")
            clip = Clip(name, 0, 0.0, found.duration_s)
            media = decode_clip(folder / name, found, clip, DecodeSettings(fps=fps))
            yield Decoded(name, truths[name].within(0.0, found.duration_s), media.frames, media.audio, media.fps)


def measure(model: OmniModel, clips: Iterable[Decoded], most: int | None = None) -> dict[str, list[float]]:
    """Per task, and for v1 per number of events: right answers, guessing's expectation, questions.

    Answered in mode `dense_shared`: nothing is pruned.
    """
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for number, clip in enumerate(clips):
        asked = questions_of(clip.truth, seed=number, most=most)
        if not asked:
            continue
        said = model.answer(
            clip.frames,
            clip.audio,
            Request([one.question for one in asked], fps=clip.fps, pruning=Pruning.off("dense_shared")),
        )
        events = f"clips of {len(clip.truth.events)} event{'s' * (len(clip.truth.events) != 1)}"
        for one, answer in zip(asked, said.answers, strict=True):
            for entry in (found[one.task], found[events]) if clip.truth.world == "v1" else (found[one.task],):
                entry[0] += answer.text == one.right
                entry[1] += one.guess
                entry[2] += 1
    return found


def summary(found: dict[str, list[float]]) -> dict[str, object]:
    """Accuracy, guess and count per task (and number of events) and overall, for JSON."""
    parts = {
        name: {"accuracy": round(right / count, 4), "guess": round(guess / count, 4), "count": int(count)}
        for name, (right, guess, count) in sorted(found.items())
    }
    right, guess, count = (sum(found[task][i] for task in TASKS if task in found) for i in range(3))
    return {"accuracy": right / count, "guess": guess / count, "count": int(count), "tasks": parts}


def main(arguments: list[str] | None = None) -> None:
    """Render, decode, answer, print."""
    parser = argparse.ArgumentParser(prog="python -m training.tiny.files", description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--world", default="v1", choices=WORLDS)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    parser.add_argument("--length", type=float, help="seconds of every clip (drawn where not given)")
    parser.add_argument("--events", type=int, help="events of every clip (drawn where not given)")
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny/files"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    name = f"{given.world}-{given.seed}-{given.length or 'any'}-{given.events or 'any'}"
    seeds = range(given.seed, given.seed + given.clips)
    truths = render_set(given.folder / name, given.world, seeds, length_s=given.length, count=given.events)
    chosen = dict(sorted(truths.items())[: given.clips])
    result = summary(measure(OmniModel.load(given.model), decoded(given.folder / name, chosen)))
    text = json.dumps({"model": given.model, "clips": len(chosen), "world": given.world, **result}, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
