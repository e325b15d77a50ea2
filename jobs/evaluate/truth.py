"""`omnidrop evaluate truth`: toy clips that someone else rendered, and a file that says what they show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.evaluation_options import Questions, Ways, with_ways
from jobs._shared.evaluation_run import Asked, run_evaluation
from jobs._shared.options import JsonFile
from pipeline.evaluation.toy import CHECKPOINTS, archive_clips
from pipeline.toy_world import read_truth

EXAMPLES = (
    "omnidrop evaluate truth --archive clips/ --truth truth.json",
    "omnidrop evaluate truth --archive clips/ --truth truth.json --retained 0.3,0.2 --dense --json result.json",
)


@with_ways
def command(
    ways: Ways,
    archive: Annotated[Path, typer.Option("--archive", help="Folder of the clips.")],
    truth: Annotated[Path, typer.Option("--truth", help="What they show: JSON with events per file.")],
    questions: Questions = 8,
    json_file: JsonFile = None,
) -> None:
    """Measure accuracy on toy clips made elsewhere, in any container and of any length.

    The embedded model of the truth's world answers unless --model names another.
    """

    def asked(step: Callable[[], object]) -> Asked:
        clips, notes = archive_clips(archive, truth, seed=ways.seed, questions=questions or None, probed=step)
        worlds = {one.world for one in read_truth(truth).values()}
        about = {"evaluation": "truth", "archive": str(archive), "truth": str(truth), "questions": questions or None}
        return Asked(clips, about, CHECKPOINTS.get(worlds.pop() if len(worlds) == 1 else "v1", "tiny"), notes)

    run_evaluation(asked, ways.arms(), ways, ways.run_settings(), json_file)
