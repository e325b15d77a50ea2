"""`omnidrop schedule`: a job's runs at the times of a cron expression, in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs._shared.display import console
from jobs._shared.options import JsonFile, with_job, write_json
from jobs._shared.stopping import STOPPED_EXIT, StopOnSignal
from jobs.cli import main
from jobs.index import run_and_show
from pipeline.config.job import JobConfig
from pipeline.launch.lease import Lease
from pipeline.launch.schedule import Cron, ScheduledRun, keep_schedule
from pipeline.runs.run import RunSummary
from pipeline.storage.store import open_store
from workers.media.ffmpeg import check_ffmpeg

EXAMPLES = (
    'omnidrop schedule job.yaml --cron "0 2 * * *" --timezone Europe/Berlin    # every night at two',
    'omnidrop schedule job.yaml --cron "*/15 * * * *" --json last-run.json',
    'omnidrop schedule job.yaml --cron "0 2 * * *" --count 1    # the next run, or the one that was missed',
)


@with_job
def command(
    job: JobConfig,
    cron: Annotated[
        str,
        typer.Option(
            "--cron",
            metavar="TEXT",
            help='When: minute, hour, day of the month, month, day of the week, as in "0 2 * * *".',
            show_default=False,
        ),
    ],
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="TEXT", help="Where --cron is read, as in Europe/Berlin.")
    ] = "UTC",
    count: Annotated[
        int | None,
        typer.Option("--count", metavar="INTEGER", min=1, help="End after so many runs; never where not given."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask answered clips again where a setting has changed, however many.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Run a job again and again at the times of a cron expression, each run as `omnidrop index` does it.

    Runs of a job on schedule never overlap, wherever its schedule is kept: a lease in the output sees to it. Times
    that passed while nobody was there, or while a run went on, are made up for by one run. Every run ends with a
    record in the output (schedules/JOB/runs) and one line here; one that fails does not end the schedule, but for one
    that would ask many answered clips again: that ends it, unless it has --yes. --json FILE holds the newest record.

    SIGTERM or Ctrl-C stops cleanly. Exit status: 0 stopped between runs, or --count runs were made; 1 the last one of
    them failed or answered nothing; 2 the job or the schedule is not right; 3 stopped in a run (it is gone on with at
    the next start).
    """
    times = Cron(cron, timezone)
    check_ffmpeg()

    def report(record: ScheduledRun) -> None:
        console.print(record.line, markup=False, highlight=False, soft_wrap=True)
        write_json(json_file, record)

    with StopOnSignal() as stop:

        def run(lease: Lease) -> RunSummary:
            return run_and_show(job, stop, lost=lease, due_times=lease.missed, yes=yes)

        last = keep_schedule(open_store(job.output, job.storage), job.name, times, run, stop, report, count)
    if last is None:
        raise typer.Exit(0)
    if last.status == "stopped" and stop.is_set():
        raise typer.Exit(STOPPED_EXIT)
    raise typer.Exit(1 if last.error_class is not None and not stop.is_set() else 0)


if __name__ == "__main__":
    main("schedule")
