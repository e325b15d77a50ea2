"""`omnidrop retry`: do again what failed, by error class."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from jobs._shared.display import ProgressBar, console, print_facts, with_reasons
from jobs._shared.options import JsonFile, with_job, write_json
from jobs._shared.run_summary import print_summary
from jobs._shared.stopping import BUDGET_EXIT, STOPPED_EXIT, StopOnSignal
from jobs.cli import main
from jobs.index import summary_json
from omnidrop.errors import UserError
from pipeline.config.job import JobConfig
from pipeline.failure_rules import RULES
from pipeline.planning.retry import Selection
from pipeline.runs.maintenance import select_failures
from pipeline.runs.run import run_job

EXAMPLES = (
    "omnidrop retry job.yaml --error-class storage --error-class probe_timeout",
    "omnidrop retry job.yaml --error-class decode_failed --media 'camera 3/**' --dry-run",
    'omnidrop query job.yaml "SELECT error_class, count(*) FROM quarantine GROUP BY 1"    # what failed',
)


@with_job
def command(
    job: JobConfig,
    error_class: Annotated[
        list[str],
        typer.Option("--error-class", metavar="CLASS", help="Error class, as shown in quarantine. Repeatable."),
    ],
    media: Annotated[
        list[str] | None,
        typer.Option("--media", metavar="GLOB", help="Only media whose key matches. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be retried, and change nothing.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Retry the clips and media that failed with one of these error classes.

    Existing answers are kept. An item that succeeds leaves the quarantine; one that fails again stays there with its
    new reason. Give the same options as for `omnidrop index`. Exit status: 0 done, 1 some items failed again, 2 no such
    failures or invalid job, 3 stopped early (run again to resume).
    """
    selection = Selection(tuple(error_class), tuple(media or ("**",)))
    selected = select_failures(job, selection)
    facts = [("media", f"{selected.media}"), ("work units", f"{selected.units}"), ("clips", f"{selected.clips}")]
    facts += [("whole videos", f"{selected.videos}")] * bool(selected.videos)
    if not selected.failures:
        there = with_reasons(sum(count for _, count in selected.quarantine), selected.quarantine)
        unknown = [name for name in error_class if name not in RULES]
        close = difflib.get_close_matches(unknown[0], RULES, n=1) if unknown else []
        hint = f"; did you mean {close[0]}?" if close else ""
        of = f" of media that match {', '.join(media)}" if media else ""
        raise UserError(f"no failures with error class {', '.join(error_class)}{of}{hint}; in quarantine: {there}")
    print_facts("to be retried", [*facts, ("failures", with_reasons(selected.failures, selected.classes))])
    if dry_run:
        write_json(json_file, {"selected": selected})
        return
    with StopOnSignal() as stop, ProgressBar() as bar:
        summary = run_job(job, bar, stop, again=selection)
    print_summary(job, summary, output=job.output)
    left = select_failures(job, selection).failures
    console.print(f"failures of {', '.join(error_class)}: {selected.failures} before, {left} now", highlight=False)
    write_json(json_file, summary_json(summary) | {"selected": selected, "left": left})
    if summary.run.status == "stopped":
        raise typer.Exit(STOPPED_EXIT)
    if summary.run.status == "budget":
        raise typer.Exit(BUDGET_EXIT)
    raise typer.Exit(1 if left else 0)


if __name__ == "__main__":
    main("retry")
