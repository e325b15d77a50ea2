"""What the method's open choices cost in right answers: temporal diversity, guidance over a set, one pass or many.

Promises: generated clips of a toy world whose truth is known, seeds that training never uses, every arm on the same
clips and questions, accuracy per task beside guessing and beside no pruning. Knows nothing about files or the pipeline.

    python -m benchmarks.pruning_choices --model tiny --clips 100 --json FILE
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnidrop.model import OmniModel, Pruning
from pipeline.toy_world import AskedQuestion, Truth, events_of, questions_of
from pipeline.toy_world.render import Painter, wave_of
from pipeline.toy_world.world import generator_of

FIRST_SEED = 9_000_000
"""Far from what training and the embedded model's own evaluation draw."""
FPS = 2.0


def arms(ratios: list[float]) -> dict[str, Pruning]:
    """Every way that is compared, by name."""
    table = {"no pruning": Pruning.off("dense_shared")}
    for ratio in ratios:
        for kind in ("off", "printed", "normalised"):
            table[f"diversity {kind}, {ratio:.0%}"] = Pruning(retained_ratio=ratio, settings=(("diversity", kind),))
        for guidance in ("mean", "quota"):
            table[f"guidance {guidance}, {ratio:.0%}"] = Pruning(retained_ratio=ratio, guidance=guidance)  # type: ignore[arg-type]
        table[f"per question, {ratio:.0%}"] = Pruning("per_question", retained_ratio=ratio)
        table[f"random, {ratio:.0%}"] = Pruning(policy="random", retained_ratio=ratio)
    return table


def clips(world: str, count: int, most: int) -> Iterator[tuple[Any, Any, tuple[AskedQuestion, ...]]]:
    """(frames, sound, questions) of `count` generated clips, at most `most` questions each."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        length_s, events = events_of(world, seed)
        painter = Painter(world, events, generator_of(world, seed, "picture"))
        frames = np.stack(list(painter.frames([i / FPS for i in range(int(length_s * FPS))], 240, 320)))
        sound = wave_of(events, length_s, generator_of(world, seed, "sound"))
        asked = questions_of(Truth(events, world), seed=seed, most=most)
        if asked:
            yield frames, sound, asked


def main() -> None:
    """Ask everything, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--world", choices=("v1", "v2"), default="v1")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--questions", type=int, default=8, help="at most so many a clip, asked as one set")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.2, 0.1])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, table = OmniModel.load(given.model, device=given.device), arms(given.ratios)
    right: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in table}
    retained: dict[str, list[float]] = defaultdict(list)
    guessing: dict[str, list[float]] = defaultdict(list)
    for frames, sound, asked in clips(given.world, given.clips, given.questions):
        for one in asked:
            guessing[one.task].append(one.guess)
        for name, pruning in table.items():
            got = model.answer(frames, sound, [one.question for one in asked], fps=FPS, pruning=pruning)
            retained[name].append(got.trace.retained_ratio() or 0.0)
            for one, answer in zip(asked, got.answers, strict=True):
                right[name][one.task].append(answer.text == one.right)
    tasks = sorted(guessing)
    rows = [_row("guessing", {task: guessing[task] for task in tasks}, None)]
    rows += [_row(name, {t: [float(r) for r in right[name][t]] for t in tasks}, retained[name]) for name in table]
    width = max(len(row["arm"]) for row in rows)
    print(f"{'':{width}}  retained  overall        " + "  ".join(f"{task:>22}" for task in tasks))
    for row in rows:
        kept = "" if row["retained_ratio"] is None else f"{row['retained_ratio']:.3f}"
        by_task = "  ".join(f"{row['tasks'][task]:22.3f}" for task in tasks)
        print(f"{row['arm']:{width}}  {kept:8}  {row['accuracy']:.3f} ± {row['standard_error']:.3f}  {by_task}")
    if given.json:
        setting = {"model": given.model, "world": given.world, "weights": model.weights_hash, "clips": given.clips}
        given.json.write_text(json.dumps({"rows": rows, "setting": setting}, indent=1))


def _row(name: str, scores: dict[str, list[float]], retained: list[float] | None) -> dict[str, Any]:
    pooled = [score for of_task in scores.values() for score in of_task]
    mean = sum(pooled) / len(pooled)
    return {
        "arm": name,
        "retained_ratio": sum(retained) / len(retained) if retained else None,
        "questions": len(pooled),
        "accuracy": mean,
        "standard_error": math.sqrt(mean * (1 - mean) / len(pooled)),
        "tasks": {task: sum(of_task) / len(of_task) for task, of_task in scores.items()},
    }


if __name__ == "__main__":
    main()
