"""The shipped checkpoint measured on encoded files, and encoded files as training clips.

Promises: files are rendered by seed, decoded by the product's own decoder and answered by the product's own model, so
that the accuracy stated in the model card is what a user gets. Knows nothing about losses.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from omnidrop.model import OmniModel, Pruning
from pipeline.toy_world import Format, Truth, format_of, questions_of, read_truth, render_clip, write_truth
from workers.media import decode_clip
from workers.probing import ProbePool
from workers.records import Clip, ClipFailure, DecodeSettings

log = logging.getLogger("train_tiny")
TRUTH = "truth.json"


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
    """Per task: right answers, guessing's expectation, questions, in mode `dense_shared`."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for number, clip in enumerate(clips):
        asked = questions_of(clip.truth, seed=number, most=most)
        if not asked:
            continue
        # Ids must differ within a set; texts do.
        said = model.answer(
            clip.frames,
            clip.audio,
            [one.question for one in asked],
            fps=clip.fps,
            pruning=Pruning.off("dense_shared"),
        )
        for one, answer in zip(asked, said.answers, strict=True):
            entry = found[one.task]
            entry[0] += answer.text == one.right
            entry[1] += one.guess
            entry[2] += 1
    return found


def summary(found: dict[str, list[float]]) -> dict[str, object]:
    """Accuracy, guess and count per task and overall, for JSON."""
    tasks = {
        task: {"accuracy": right / count, "guess": guess / count, "count": int(count)}
        for task, (right, guess, count) in sorted(found.items())
    }
    right, guess, count = (sum(entry[i] for entry in found.values()) for i in range(3))
    return {"accuracy": right / count, "guess": guess / count, "count": int(count), "tasks": tasks}


def write_summary(path: Path, found: dict[str, list[float]]) -> None:
    """Write `summary` as JSON."""
    path.write_text(json.dumps(summary(found), indent=1) + "\n")
