"""`omnidrop evaluate labels`: a job's archive and questions, against right answers of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.evaluation_options import Ways, with_ways
from jobs._shared.evaluation_run import Asked, run_evaluation
from jobs._shared.options import JsonFile
from pipeline.archive.probing import source
from pipeline.config.job import load_job
from pipeline.evaluation.dataset import EvaluationError
from pipeline.evaluation.labels import labelled_clips

EXAMPLES = (
    "omnidrop evaluate labels --labels labels.csv --job job.yaml   # which ratio is safe for my archive?",
    "omnidrop evaluate labels --labels labels.csv --job job.yaml --retained 0.4,0.3 --tolerance 1",
    "omnidrop evaluate labels --labels labels.csv --job job.yaml --policy omnidrop,random --json result.json",
)

RATIOS = (0.5, 0.3, 0.2, 0.1)
"""What is compared if no ratio is given."""


@with_ways
def command(
    ways: Ways,
    labels: Annotated[
        Path, typer.Option("--labels", help="CSV with file, start, end, question, answer: the right answers.")
    ],
    job_file: Annotated[
        Path, typer.Option("--job", help="Job file with the archive, the question set and the model.")
    ] = Path("job.yaml"),
    tolerance: Annotated[float, typer.Option("--tolerance", help="How far a number may be off.")] = 0.0,
    json_file: JsonFile = None,
) -> None:
    """Measure accuracy on your own archive, to choose a ratio before a big run.

    Every labelled span is asked the job's whole question set, by the job's model and pruning, at several ratios and
    without pruning. Only labelled answers are scored.
    """
    if not job_file.exists():
        raise EvaluationError(
            f"job file {job_file} does not exist: labels need a job with their archive and question set; "
            "give --job JOB.yaml"
        )
    job = load_job(job_file)
    run_evaluation(
        lambda step: Asked(
            labelled_clips(labels, job, tolerance=tolerance, probed=step),
            {"evaluation": "labels", "labels": str(labels), "job": job.name},
            source=source(job),
            job=job,
        ),
        ways.arms(job, ratios=RATIOS, dense=True),
        ways,
        ways.run_settings(job),
        json_file,
    )
