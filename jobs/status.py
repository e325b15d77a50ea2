"""`omnidrop status`: how far a job is and what its runs cost."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from jobs._shared.display import console, fetched, print_facts, savings_lines, with_copies, with_reasons
from jobs._shared.notes import note
from jobs._shared.options import JsonFile, job_as_given, with_job, write_json
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.index.database import IndexFull, IndexNotWritable
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.totals import Totals
from pipeline.journal.journal import Journal
from pipeline.journal.output_id import read_output_id
from pipeline.launch.schedule import last_run, overdue
from pipeline.planning.open_job import open_job
from pipeline.planning.whole_videos import quarantine_classes
from pipeline.records.columns import run_row
from pipeline.records.run_record import RunRecord
from pipeline.storage.errors import StorageError
from pipeline.storage.store import Store, open_store
from pipeline.tables.job_rows import job_rows
from pipeline.tables.noticed import lines as noticed_lines

EXAMPLES = ("omnidrop status job.yaml", "omnidrop status job.yaml --json status.json")


@with_job
def command(job: JobConfig, json_file: JsonFile = None) -> None:
    """Show the progress of a job and the cost of its runs, during a run or later."""
    store = open_store(job.output, job.storage)
    if next(iter(store.list("journal/")), None) is None:
        _never_ran(job, store, json_file)
        return
    index = _index(job, store)
    try:
        classes = quarantine_classes(store, index, job.name)
        totals = replace(index.totals(job.name), quarantined=sum(count for _, count in classes))
        last = last_run(store, job.name)
        runs = with_idle(index.runs(job.name), Journal(store).last_idle_run(job.name))
    finally:
        index.close()
    facts = [
        ("media", with_copies(totals.media, totals.copies, "once")),
        ("work units", f"{totals.units_done} of {totals.units} planned so far"),
        ("clips with answers", f"{totals.clips} ({totals.clips_partial} partial)"),
        ("quarantined", with_reasons(totals.quarantined, classes)),
        *savings_lines(totals),
        ("model time", f"{totals.model_s:.1f} s"),
        *noticed_lines(noticed := job_rows(job.output, job.storage, job.name).noticed),
    ]
    print_facts(f"job {job.name}", facts)
    said = None if last is None else overdue(last, datetime.now(UTC))
    if said is not None:
        note(said)
    # A terminal is 80 columns wide, and a run's name takes 22.
    title = "runs, newest first; wall and model in seconds"
    history = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("run", "status", "clips", "failed", "wall", "model", "fetched"):
        history.add_column(column)
    for run in runs[:10]:
        answered = run.counts.clips_answered + run.counts.clips_partial
        seconds = (f"{run.time.wall_s:.1f}", f"{run.time.model_s:.1f}")
        cells = (run.run_id, run.status, answered, run.counts.quarantined, *seconds, fetched(run.resources) or "")
        history.add_row(*map(str, cells))
    if runs:
        console.print(history)
    else:
        note(_first_run())
    records = [run_row(run) for run in runs]
    found = {"totals": asdict(totals), "quarantine": dict(classes), "noticed": noticed, "runs": records}
    write_json(json_file, found | {"schedule": said})


def _index(job: JobConfig, store: Store) -> SavingsIndex:
    """The index, brought up to the journal where there is room for that, and this user may."""
    try:
        return open_job(job).index
    except (IndexFull, IndexNotWritable, StorageError) as error:
        output_id = read_output_id(store)
        if output_id is None:
            raise
        index = SavingsIndex(job.resolved_index_url(), output_id, is_read_only=True)
        note(f"{error}. What follows is what the index knew before")
        return index


def _never_ran(job: JobConfig, store: Store, json_file: Path | None) -> None:
    """What there is to say of a job without an output, which is not made here."""
    last = last_run(store, job.name)
    said = None if last is None else overdue(last, datetime.now(UTC))
    for text in (_first_run(), *([said] if said else ())):
        note(text)
    nothing = {"totals": asdict(Totals()), "quarantine": {}, "noticed": [], "runs": list[object](), "schedule": said}
    write_json(json_file, nothing)


def _first_run() -> str:
    return f"this job has not run yet; start it with: omnidrop index {job_as_given()}"


def with_idle(runs: list[RunRecord], idle: RunRecord | None) -> list[RunRecord]:
    """Run records, newest first, with the last run that found nothing to do (only the last of these is kept)."""
    return runs if idle is None else sorted([idle, *runs], key=lambda run: run.started_at, reverse=True)


if __name__ == "__main__":
    main("status")
