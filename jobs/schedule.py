"""`omnidrop schedule`: a job's runs at the times of a cron expression, in the foreground."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from jobs._shared.display import console
from jobs._shared.options import JsonFile, job_now, with_job, write_json
from jobs._shared.stopping import STOPPED_EXIT, StopOnSignal
from jobs.cli import main
from jobs.index import run_and_show
from omnidrop.errors import UserError
from pipeline.config.job import JobConfig
from pipeline.launch.lease import Lease
from pipeline.launch.schedule import Cron, ScheduledRun, check_same_place, keep_schedule
from pipeline.runs.run import RunSummary
from pipeline.storage.store import open_store
from workers.media.ffmpeg import check_ffmpeg

log = logging.getLogger(__name__)

EXAMPLES = (
    'omnidrop schedule job.yaml --cron "0 2 * * *" --timezone Europe/Berlin    # every night at two',
    'omnidrop schedule job.yaml --cron "*/15 * * * *" --json last-run.json',
    'omnidrop schedule job.yaml --cron "0 2 * * *" --count 1    # the next run, or a missed one',
)


@with_job
def command(
    job: JobConfig,
    cron: Annotated[
        str,
        typer.Option(
            "--cron",
            metavar="TEXT",
            help='Cron expression: minute, hour, day of month, month, day of week. Example: "0 2 * * *".',
            show_default=False,
        ),
    ],
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="TEXT", help="Time zone of --cron, for example Europe/Berlin.")
    ] = "UTC",
    count: Annotated[
        int | None,
        typer.Option("--count", metavar="INTEGER", min=1, help="Exit after this many runs. Default: never."),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Do not ask for confirmation if a changed setting affects many answered clips."),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Run a job on a cron schedule. Each run works like `omnidrop index`, and reads the job file again.

    Scheduled runs of a job never overlap, even if several machines run the schedule: they share a lease in the output.
    Missed times are made up for by a single run. Every run ends with a record in the output (schedules/JOB/runs) and
    one line here. A failed run does not end the schedule, with two exceptions: without --yes, a run that would answer
    many clips again, and a job file that has another name or output by now. --json FILE holds the newest record.

    SIGTERM or Ctrl-C stops cleanly. Exit status: 0 stopped between runs, or --count runs done; 1 the last of them
    failed or answered nothing; 2 invalid job or schedule; 3 stopped during a run (the next start resumes it).
    """
    times = Cron(cron, timezone)
    check_ffmpeg()

    def report(record: ScheduledRun) -> None:
        console.print(record.line, markup=False, highlight=False, soft_wrap=True)
        try:
            write_json(json_file, record)
        except UserError as error:
            log.warning("%s", error)

    with StopOnSignal() as stop:

        def run(lease: Lease) -> RunSummary:
            now = job_now()
            check_same_place(job, now)
            return run_and_show(now, stop, lost=lease, due_times=lease.missed, yes=yes, is_attended=False)

        last = keep_schedule(open_store(job.output, job.storage), job.name, times, run, stop, report, count)
    if last is None:
        raise typer.Exit(0)
    if last.status == "stopped" and stop.is_set():
        raise typer.Exit(STOPPED_EXIT)
    raise typer.Exit(1 if last.error_class is not None and not stop.is_set() else 0)


if __name__ == "__main__":
    main("schedule")
