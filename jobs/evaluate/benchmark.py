"""`omnidrop evaluate benchmark NAME`: a published benchmark, from a local folder in its own layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.evaluation_options import Ways, with_ways
from jobs._shared.evaluation_run import Asked, run_evaluation
from jobs._shared.options import JsonFile
from pipeline.evaluation.benchmarks import BENCHMARKS, benchmark_clips
from pipeline.evaluation.dataset import EvaluationError

EXAMPLES = (
    "omnidrop evaluate benchmark worldsense --root WorldSense/ --model Qwen/Qwen2.5-Omni-7B --details answers.jsonl",
    "omnidrop evaluate benchmark video-mme --root Video-MME/ --model Qwen/Qwen2.5-Omni-7B --retained 0.3,0.2 --dense",
    "omnidrop evaluate benchmark avut --root AVUT/ --clips 50 --letters",
)


@with_ways
def command(
    ways: Ways,
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(BENCHMARKS)}.", show_default=False)],
    root: Annotated[Path, typer.Option("--root", help="Folder of the benchmark in its own layout.")],
    questions_file: Annotated[
        Path | None,
        typer.Option(
            "--questions-file", help="Its questions, if --root holds several files of them.", show_default=False
        ),
    ] = None,
    clips: Annotated[int, typer.Option("--clips", min=0, help="Only the first N videos; 0 for all.")] = 0,
    letters: Annotated[
        bool,
        typer.Option(
            "--letters/--written",
            help="Compare the letters' probabilities, or read the letter from written text as published.",
        ),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Measure accuracy on a published benchmark. Nothing is downloaded.

    A video's questions share one pass, in the published form and frame budget.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(f"there is no benchmark {name!r}; allowed: {', '.join(BENCHMARKS)}")
    published = BENCHMARKS[name]

    def asked(step: Callable[[], object]) -> Asked:
        found, notes = benchmark_clips(published, root, questions_file, letters=letters, most=clips, probed=step)
        scoring = "letters" if letters else "written"
        about = {"evaluation": "benchmark", "benchmark": name, "root": str(root), "scoring": scoring}
        return Asked(found, about, notes=notes)

    run_evaluation(
        asked, ways.arms(), ways, ways.run_settings(max_frames=published.max_frames, is_long=True), json_file
    )
