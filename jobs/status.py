"""`omnidrop status`: how far a job is and what its runs cost."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from jobs._shared.display import console, fetched, print_facts, savings_lines, with_reasons
from jobs._shared.notes import note_toy_answers
from jobs._shared.options import JsonFile, with_job, write_json
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.launch.schedule import last_run, overdue
from pipeline.planning.open_job import open_job
from pipeline.planning.whole_videos import quarantine_classes
from pipeline.records.columns import run_row
from pipeline.records.run_record import RunRecord
from pipeline.tables.noticed import lines as noticed_lines
from pipeline.tables.noticed import noticed_of

EXAMPLES = ("omnidrop status job.yaml", "omnidrop status job.yaml --json status.json")


@with_job
def command(job: JobConfig, json_file: JsonFile = None) -> None:
    """Show how far a job is and what its runs cost: from another shell while it runs, or later."""
    parts = open_job(job)
    try:
        classes = quarantine_classes(parts.store, parts.index, job.name)
        totals = replace(parts.index.totals(job.name), quarantined=sum(count for _, count in classes))
        last = last_run(parts.store, job.name)
        runs = with_idle(parts.index.runs(job.name), parts.journal.last_idle_run(job.name))
    finally:
        parts.index.close()
    facts = [
        ("media", f"{totals.media}"),
        ("work units", f"{totals.units_done} of {totals.units} planned so far"),
        ("clips with answers", f"{totals.clips} ({totals.clips_partial} partial)"),
        ("quarantined", with_reasons(totals.quarantined, classes)),
        *savings_lines(totals),
        ("model time", f"{totals.model_s:.1f} s"),
        *noticed_lines(noticed := noticed_of(job.output, job.storage, job.name)),
    ]
    print_facts(f"job {job.name}", facts)
    said = None if last is None else overdue(last, datetime.now(UTC))
    if said is not None:
        console.print(f"[yellow]note:[/] {escape(said)}")
    history = Table(title="runs, newest first", title_justify="left")
    for column in ("run", "status", "clips", "quarantined", "wall s", "model s", "fetched"):
        history.add_column(column)
    for run in runs[:10]:
        answered = run.counts.clips_answered + run.counts.clips_partial
        seconds = (f"{run.time.wall_s:.1f}", f"{run.time.model_s:.1f}")
        cells = (run.run_id, run.status, answered, run.counts.quarantined, *seconds, fetched(run.resources) or "")
        history.add_row(*map(str, cells))
    if runs:
        console.print(history)
    else:
        console.print("[yellow]note:[/] no run yet: `omnidrop index` with this job makes the first one")
    note_toy_answers([job.model.path])
    records = [run_row(run) for run in runs]
    found = {"totals": asdict(totals), "quarantine": dict(classes), "noticed": noticed, "runs": records}
    write_json(json_file, found | {"schedule": said})


def with_idle(runs: list[RunRecord], idle: RunRecord | None) -> list[RunRecord]:
    """Run records, newest first, with the last run that found nothing to do: of these no more is kept."""
    return runs if idle is None else sorted([idle, *runs], key=lambda run: run.started_at, reverse=True)


if __name__ == "__main__":
    main("status")
