"""What a run says when it is done: what it did, and how the job stands after it.

Promises: every number with its unit, and what to do next. Knows nothing about how a run works.
"""

from __future__ import annotations

import shlex

from rich.markup import escape

from jobs._shared.display import (
    banded,
    console,
    fetched,
    hours,
    off_line,
    print_facts,
    savings_lines,
    share,
    with_copies,
    with_reasons,
)
from pipeline.config.job import JobConfig
from pipeline.config.locations import as_typed
from pipeline.counted import counted
from pipeline.evaluation.audit import Audit, audit_of
from pipeline.records.run_record import RunSpending
from pipeline.runs.run import RunSummary
from pipeline.storage.store import open_store
from pipeline.tables.job_rows import JobRows, job_rows
from pipeline.tables.noticed import lines as noticed_lines


def print_summary(job: JobConfig, summary: RunSummary, *, output: str) -> None:
    """What the run did and how the job stands after it; `output` is how the results are named in what to do next."""
    run, totals, counts = summary.run, summary.totals, summary.run.counts
    if summary.did_nothing and not counts.quarantined:
        console.print(
            f"[bold]nothing to do[/]: all work ({counted(counts.units_done_before, 'work unit')} of "
            f"{counted(counts.media_listed, 'media item')}) is finished; "
            f"{'the tables were published again' if summary.has_published else 'the results are unchanged'}"
        )
    audit = audit_of(open_store(job.output, job.storage), summary.published, job.name, job.audit.min_agreement)
    rows = job_rows(job.output, job.storage, job.name)
    lines = [*summary_lines(summary, rows, audit), *noticed_lines(rows.noticed)]
    print_facts(f"job {run.job}, run {run.run_id}: {run.status}", lines)
    if run.status == "budget" and (spent := run.spending) is not None:
        console.print(
            f"[yellow]budget spent[/]: {hours(spent.gpu_hours, spent.usd)} of {spent.gpu_hours_cap or 0:.4g} "
            "GPU hours. Clips in progress were finished and kept. Run again to spend the same budget again, or change "
            "--budget-usd or --budget-gpu-hours (none: no limit)"
        )
    for note in summary.notes:
        # A path must not be broken where a narrow terminal ends.
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    if run.status == "stopped":
        console.print("[yellow]stopped early[/]: finished work is kept; run again to resume")
        if totals.clips == 0 and not totals.quarantined:
            return
    console.print(f"results: {escape(output)}/tables. To view them:")
    looks = ["report {} -o report.html", "query {} answers"]
    if totals.clips == 0:
        console.print("[red]no clip was answered[/]. To see what failed and why:")
    if totals.quarantined or totals.clips == 0:
        looks.append("query {} quarantine")
    whose = f" --job {shlex.quote(run.job)}" if rows.is_among_others else ""
    for look in looks:
        command = f"  omnidrop {look.format(as_typed(output, job.storage.endpoint_url))}{whose}"
        console.print(command, markup=False, highlight=False, soft_wrap=True)


def _whole(answers: int, videos: int) -> list[tuple[str, str]]:
    said = f"{answers} answers ({counted(videos, 'video')} asked in this run)"
    return [("about whole videos", said)] if answers or videos else []


def _answers(count: int | None, copies: int) -> str:
    return "unknown" if count is None else f"{count}{' (exact copies have theirs, too)' if copies else ''}"


def summary_lines(summary: RunSummary, rows: JobRows, audit: Audit | None) -> list[tuple[str, str]]:
    """The rows of the summary table: (name, value with its unit)."""
    run, totals = summary.run, summary.totals
    in_this_run = run.counts.clips_answered + run.counts.clips_partial
    busy_share, bottleneck = run.time.actor_busy_share, run.time.bottleneck
    lines = [
        ("media", with_copies(totals.media, totals.copies, "once")),
        *summary.not_taken.lines(),
        ("clips", f"{totals.clips} ({in_this_run} in this run, {totals.clips_partial} partial)"),
        ("answers", _answers(rows.answers, totals.copies)),
        *_whole(rows.whole_answers, run.counts.videos_asked or 0),
        ("quarantined", with_reasons(totals.quarantined, summary.error_classes)),
        *savings_lines(totals),
        ("audited", audit_line(audit)),
        ("model time in this run", f"{run.time.model_s:.1f} s of {run.time.wall_s:.1f} s wall"),
        *spending_lines(run.spending),
        *(
            [("actors busy", f"{share(busy_share)} of their time; bottleneck: {bottleneck}")]
            if busy_share is not None
            else []
        ),
        *([("fetched in this run", size)] if (size := fetched(run.resources)) else []),
        ("peak driver memory", f"{run.resources.driver_peak_rss_bytes / 2**20:.0f} MiB"),
    ]
    return lines


def spending_lines(spent: RunSpending | None) -> list[tuple[str, str]]:
    """What a run spent, and what it was expected to: nothing where no actor was started."""
    if spent is None or not spent.gpu_hours:
        return []
    busy = f"{share(spent.answering_gpu_hours / spent.gpu_hours)} of them answering"
    lines = [("GPU hours in this run", f"{hours(spent.gpu_hours, spent.usd)}, {busy}")]
    low, high, expected = spent.estimated_gpu_hours_low, spent.estimated_gpu_hours_high, spent.estimated_gpu_hours
    if expected and low is not None and high is not None:
        off = 100 * (spent.answering_gpu_hours / expected - 1)
        lines.append(
            (
                "answering, against the estimate",
                f"{spent.answering_gpu_hours:.4g} hours, {off:+.1f} %; estimated {expected:.4g} "
                f"({low:.4g} to {high:.4g})",
            )
        )
    return lines


def audit_line(audit: Audit | None) -> str:
    """An audit in one line: what was measured, how good the claim is, which questions suffer."""
    if audit is None:
        return "no clips yet"
    parts = [counted(audit.clips, "clip")]
    if audit.saved_s is not None and audit.saved_s.low is None:
        parts.append("all of one media item, too few to estimate the seconds saved (`omnidrop audit`)")
    elif audit.saved_s is not None:
        parts.append(f"{banded(audit.saved_s)} of model seconds saved against dense with prefix reuse")
    if audit.failed:
        parts.append(f"dense failed on {with_reasons(sum(count for _, count in audit.failed), audit.failed)}")
    if audit.claim is not None and not audit.claim.is_within:
        parts.append(off_line(audit.claim))
    if audit.below:
        parts.append(f"below {share(audit.min_agreement)} agreement: {', '.join(one.name for one in audit.below)}")
    return "; ".join(parts)
