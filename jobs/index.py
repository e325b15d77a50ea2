"""`omnidrop index`: answer a job's questions about every clip that is new or changed."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs._shared.display import ProgressBar, console, print_summary, retry_hint
from jobs._shared.options import JsonFile, job_as_given, with_job, write_json
from jobs._shared.stopping import BUDGET_EXIT, STOPPED_EXIT, StopOnSignal
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.identity import checked_run_id
from pipeline.records.columns import run_row
from pipeline.runs.feed import AS_EVER, Choices
from pipeline.runs.run import RunSummary, run_job
from pipeline.storage.outage import StopFlag
from pipeline.tables.job_rows import job_rows
from workers.media.ffmpeg import check_ffmpeg

EXAMPLES = (
    "omnidrop index job.yaml",
    "omnidrop index job.yaml --sample 20            # start with a random sample of the archive",
    "omnidrop index job.yaml --pruning-retained-ratio 0.2 --json summary.json",
    "omnidrop index job.yaml --usd-per-gpu-hour 2.5 --budget-usd 100",
    "omnidrop submit job.yaml --address http://HEAD:8265    # the same on a cluster",
)


@with_job
def command(
    job: JobConfig,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="TEXT",
            help="Name of this run; numbered if an earlier run has it. Default: the time and a random suffix.",
        ),
    ] = None,
    allow_shrink: Annotated[
        bool, typer.Option("--allow-shrink", help="Run even if many known media are missing from the archive.")
    ] = False,
    redo_older: Annotated[
        bool,
        typer.Option("--redo-older", help="Answer clips again that an older version answered. See plan."),
    ] = False,
    ask_together: Annotated[
        bool,
        typer.Option("--together", help="Ask all questions in one pass, ignoring recorded passes. See plan."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Do not ask for confirmation if a changed setting affects many answered clips."),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Answer a job's questions about every new or changed clip of its archive.

    Finished work is never repeated, so you can run this as often as you like. Exit status: 0 done, 1 no clip could be
    answered, 2 invalid job, 3 stopped early (run again to resume), 4 budget spent (run again to spend the same amount
    again).
    """
    run_id = None if run_id is None else checked_run_id(run_id)
    check_ffmpeg()  # without it every clip would fail, and count as done
    with StopOnSignal() as stop:
        choices = Choices(allow_shrink, redo_older, ask_together)
        summary = run_and_show(job, stop, run_id, choices=choices, yes=yes)
    if json_file is not None:
        noticed = job_rows(job.output, job.storage, job.name).noticed
        write_json(json_file, summary_json(summary) | {"noticed": noticed})
    if summary.run.status == "stopped":
        raise typer.Exit(STOPPED_EXIT)
    if summary.run.status == "budget":
        raise typer.Exit(BUDGET_EXIT)
    raise typer.Exit(1 if summary.answered_nothing else 0)


def run_and_show(
    job: JobConfig,
    stop: StopFlag,
    run_id: str | None = None,
    lost: StopFlag | None = None,
    due_times: int = 0,
    *,
    choices: Choices = AS_EVER,
    yes: bool = False,
    is_attended: bool = True,
) -> RunSummary:
    """Run a job until it is done or `stop` or `lost` is set, see `run_job`, with a progress bar and a summary.

    Where nobody attends, nothing is asked, also at a terminal.
    """
    with ProgressBar() as bar:
        summary = run_job(
            job,
            bar,
            stop,
            run_id,
            lost=lost,
            due_times=due_times,
            choices=choices,
            may_ask_again=lambda refusal: yes or (is_attended and bar.confirmed(str(refusal))),
        )
    print_summary(job, summary, output=job.output)
    if hint := retry_hint(summary.error_classes, job_as_given()):
        console.print(hint, markup=False, highlight=False, soft_wrap=True)
    return summary


def summary_json(summary: RunSummary) -> dict[str, object]:
    """The summary as `--json` writes it."""
    return {
        "run": run_row(summary.run),
        "totals": summary.totals,
        "saved_against_dense_shared": summary.totals.saved_against_dense_shared,
        "saved_against_dense": summary.totals.saved_against_dense,
        "quarantine": dict(summary.error_classes),
        "published": summary.published,
        "notes": summary.notes,
        "not_taken": summary.not_taken.counts,
    }


if __name__ == "__main__":
    main("index")
