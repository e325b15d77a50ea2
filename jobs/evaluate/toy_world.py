"""`omnidrop evaluate toy-world`: clips of a frozen toy world, rendered here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.evaluation_options import Questions, Ways, with_ways
from jobs._shared.evaluation_run import Asked, run_evaluation
from jobs._shared.options import JsonFile
from pipeline.evaluation.toy import CHECKPOINTS, toy_clips
from pipeline.toy_world.world import WORLDS

EXAMPLES = (
    "omnidrop evaluate toy-world --world v1 --clips 20 --retained 0.2 --json result.json",
    "omnidrop evaluate toy-world --world v2 --policy random --retained 0.3,0.2,0.1 --dense",
    "omnidrop evaluate toy-world --clips 200 --policy omnidrop,random --details answers.jsonl   # run again to resume",
)

DEFAULT_CLIPS = 20
"""Enough to see whether it works; a comparison needs hundreds."""


@with_ways
def command(
    ways: Ways,
    world: Annotated[str, typer.Option("--world", help=f"Toy world: {', '.join(WORLDS)}.")] = "v1",
    clips: Annotated[int, typer.Option("--clips", help="Number of clips.")] = DEFAULT_CLIPS,
    questions: Questions = 8,
    media: Annotated[
        Path | None,
        typer.Option("--media", help="Where rendered clips are kept.", show_default="the user's cache"),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure accuracy on rendered clips of a toy world.

    The embedded model of the world answers unless --model names another. Clip n of a seed is always the same, and is
    never one that the model was trained on.
    """
    run_evaluation(
        lambda step: Asked(
            toy_clips(world, clips, ways.seed, folder=media, questions=questions or None, rendered=step),
            {"evaluation": "toy-world", "world": world, "clips_asked": clips, "questions": questions or None},
            CHECKPOINTS[world],
        ),
        ways.arms(),
        ways,
        ways.run_settings(),
        json_file,
        total=clips,
    )
