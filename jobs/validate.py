"""`omnidrop validate`: everything that a job needs, tried before a GPU second is spent."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs._shared.options import JsonFile, with_job, write_json
from jobs._shared.terminal import say
from jobs.cli import main
from pipeline.config.job import JobConfig

EXAMPLES = (
    "omnidrop validate job.yaml",
    "omnidrop validate job.yaml --no-weights        # fetch a hub checkpoint's configuration, but not its weights",
    "omnidrop validate job.yaml --no-with-model     # skip the checkpoint, for example without a network",
)


@with_job
def command(
    job: JobConfig,
    with_model: Annotated[
        bool, typer.Option(help="Load the checkpoint and ask the question set about one second of black video.")
    ] = True,
    weights: Annotated[
        bool,
        typer.Option(help="With --no-weights, check only the checkpoint's other files and download no weights."),
    ] = True,
    json_file: JsonFile = None,
) -> None:
    """Check everything that a job needs before it uses a GPU.

    Configuration, question set, archive, metadata, output, savings index, ffmpeg and checkpoint are each really tried.
    A failed check says what to do. Exit status: 0 all checks passed, 1 a check failed, 2 invalid job file.
    """
    from pipeline.checks.validate import run_checks

    checks = []
    for check in run_checks(job, with_model=with_model, weights=weights):
        mark = {True: "ok     ", False: "FAILED ", None: "skipped"}[check.ok]
        say(f"{mark}  {check.name}: {check.detail}", err=str(json_file) == "-")
        checks.append(check)
    failed = sum(check.ok is False for check in checks)
    write_json(json_file, {"ok": not failed, "checks": checks})
    if failed:
        say(f"{failed} of {len(checks)} checks failed", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    main("validate")
