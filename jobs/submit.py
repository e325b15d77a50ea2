"""`omnidrop submit`: run a job on a Ray cluster, follow its log, stop it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.options import JsonFile, with_job, write_json
from jobs._shared.terminal import printable, say
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.launch.submit import NOT_FOUND_EXIT, PUBLISH_S, Cluster, Run, make_upload

EXAMPLES = (
    "omnidrop submit job.yaml --address http://HEAD:8265",
    "omnidrop submit job.yaml --no-wait             # start it and come back",
    "omnidrop submit job.yaml --follow              # follow the log of the newest run",
    "omnidrop submit job.yaml --stop                # stop it; submitting again resumes",
    "omnidrop submit job.yaml --shared /mnt/media   # a folder that all machines share at this path",
)
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOPPED_EXIT = 3
"""As of `omnidrop index`: finished units are kept, running again resumes."""


@with_job
def command(
    job: JobConfig,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="URL",
            help=f"The cluster's dashboard. Default: RAY_API_SERVER_ADDRESS or {DEFAULT_ADDRESS}.",
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id", metavar="TEXT", help="Name of the run, for example from a scheduler. Default: numbered."
        ),
    ] = None,
    shared: Annotated[
        list[Path] | None,
        typer.Option(
            "--shared", metavar="FOLDER", help="A folder that all machines of the cluster share at this path."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show the run's log and wait until it ends.")] = True,
    follow: Annotated[bool, typer.Option("--follow", help="Submit nothing; follow the job's newest run.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Submit nothing; stop the job's newest run.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Run a job on a Ray cluster whose machines have omnidrop installed.

    Only the job (with the options given here) and its question set are sent. The cluster uses its own credentials. The
    exit status is that of `omnidrop index` there: 0 done, 1 no clip could be answered or the run crashed, 2 the job is
    invalid or cannot be submitted, 3 stopped early (submit again to resume), 4 budget spent. Ctrl-C stops following,
    not the run.
    """
    if follow and stop:
        raise typer.BadParameter("give --follow or --stop, not both")
    upload = {} if follow or stop else make_upload(job, shared or ())
    cluster = Cluster(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    if follow or stop:
        name = cluster.run(run_id).run_id if run_id else cluster.latest(job).run_id
    else:
        name = cluster.submit(job, upload, run_id)
    if stop:
        say(f"stopping run {name}; clips in progress may finish", err=True)
        run = cluster.stop(name, timeout_s=job.execution.stop_grace_s + 2 * PUBLISH_S)
        status = 0
    else:
        say(f"run {name} on {cluster.address}", err=True)
        run = _watch(cluster, name) if wait or follow else cluster.run(name)
        status = exit_status(run)
    say(f"run {name}: {run.status}{_hint(run)}", err=True)
    write_json(json_file, {"run_id": name, "address": cluster.address, "status": run.status, "exit_status": status})
    raise typer.Exit(status)


def exit_status(run: Run) -> int:
    """The exit status that stands for how a run ended; 0 for one that goes on."""
    match run.status:
        case "FAILED":
            return run.exit_code if run.exit_code is not None and run.exit_code > 0 else 1
        case "STOPPED":
            return STOPPED_EXIT
        case _:
            return 0


def _watch(cluster: Cluster, name: str) -> Run:
    def write(text: str) -> None:
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    try:
        return cluster.follow(name, write)
    except KeyboardInterrupt:
        say(f"\nrun {name} continues; follow it again with --follow, stop it with --stop", err=True)
        raise


def _hint(run: Run) -> str:
    if run.exit_code == NOT_FOUND_EXIT:
        return "; omnidrop is not installed on the cluster's head: use an image of deploy/Dockerfile on every machine"
    if run.status == "FAILED" and run.exit_code is None:
        return f"; {run.message}"
    return ""


if __name__ == "__main__":
    main("submit")
