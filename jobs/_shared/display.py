"""What a run looks like on a terminal: a progress bar while it goes, a table when it is done.

Promises: plain lines instead of a moving bar where the output is not a terminal. Knows nothing about how a run works.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.prompt import Confirm
from rich.table import Table

from jobs._shared.terminal import PrintableConsole
from pipeline.config.job import JobConfig
from pipeline.counted import counted
from pipeline.evaluation.audit import Audit, Claim, Share, audit_of
from pipeline.failure_rules import Again, rule_of
from pipeline.index.totals import Totals
from pipeline.records.run_record import RunResources, RunSpending
from pipeline.report.formats import quantity as quantity
from pipeline.runs.run import RunSummary
from pipeline.storage.store import open_store
from pipeline.tables.job_rows import JobRows, job_rows
from pipeline.tables.noticed import lines as noticed_lines
from workers.records import ClipFailure

if TYPE_CHECKING:
    from pipeline.execution.clip_state import UnitResult

console = PrintableConsole(stderr=True)
"""Progress and tables go to stderr: stdout is for results that other programs read."""


class ProgressBar:
    """An `Observer` of a run that draws a bar: clips done of clips planned so far, and what is in quarantine."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("clips"),
            TextColumn("{task.fields[quarantined]}"),
            TimeElapsedColumn(),
            Remaining(),
            console=console,
        )
        self._task = self._progress.add_task("listing", total=None, quarantined="")
        self._planned = 0
        self._quarantined = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def confirmed(self, what: str) -> bool:
        """Ask a person who sits at a terminal; no elsewhere."""
        if not (sys.stdin.isatty() and console.is_terminal):
            return False
        self._progress.stop()
        console.print(what, markup=False, highlight=False, soft_wrap=True)
        is_meant = Confirm.ask("Answer them again?", console=console, default=False)
        self._progress.start()
        return is_meant

    def stage(self, name: str) -> None:
        """See Observer."""
        self._progress.update(self._task, description=name)

    def planned(self, clips: int, finished: int) -> None:
        """See Observer."""
        self._planned += clips
        self._progress.update(self._task, total=self._planned)

    def unit_done(self, result: UnitResult) -> None:
        """See Observer."""
        self._quarantined += sum(isinstance(o, ClipFailure) for o in result.outcomes)
        shown = f"[yellow]{self._quarantined} quarantined" if self._quarantined else ""
        self._progress.update(self._task, advance=len(result.outcomes), quarantined=shown)


def print_summary(job: JobConfig, summary: RunSummary, *, output: str) -> None:
    """What the run did and how the job stands after it; `output` is how the results are named in what to do next."""
    run, totals, counts = summary.run, summary.totals, summary.run.counts
    if summary.did_nothing and not counts.quarantined:
        console.print(
            f"[bold]nothing to do[/]: all work ({counted(counts.units_done_before, 'work unit')} of "
            f"{counted(counts.media_listed, 'media item')}) is finished; "
            f"{'the tables were published anew' if summary.has_published else 'the results are unchanged'}"
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
    for look in looks:
        command = f"  omnidrop {look.format(shlex.quote(output))}"
        console.print(command, markup=False, highlight=False, soft_wrap=True)


def _whole(answers: int, videos: int) -> list[tuple[str, str]]:
    said = f"{answers} answers ({counted(videos, 'video')} asked in this run)"
    return [("about whole videos", said)] if answers or videos else []


def summary_lines(summary: RunSummary, rows: JobRows, audit: Audit | None) -> list[tuple[str, str]]:
    """The rows of the summary table: (name, value with its unit)."""
    run, totals = summary.run, summary.totals
    in_this_run = run.counts.clips_answered + run.counts.clips_partial
    busy_share, bottleneck = run.time.actor_busy_share, run.time.bottleneck
    lines = [
        ("media", with_copies(totals.media, totals.copies, "once")),
        *summary.not_taken.lines(),
        ("clips", f"{totals.clips} ({in_this_run} in this run, {totals.clips_partial} partial)"),
        ("answers", f"{rows.answers}"),
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


def fetched(resources: RunResources) -> str | None:
    """Bytes that a run read from stores; None where it read none, or did not count them."""
    return f"{resources.bytes_fetched / 2**20:,.1f} MiB" if resources.bytes_fetched else None


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


def hours(gpu_hours: float, usd: float | None) -> str:
    """GPU hours, and what they cost where there is a price."""
    return f"{gpu_hours:.4g}" + ("" if usd is None else f" ({usd:.4g} USD)")


def savings_lines(totals: Totals) -> list[tuple[str, str]]:
    """What pruning kept and saved, against both unpruned ways."""
    return [
        ("retained ratio", share(totals.retained_ratio)),
        ("FLOPs saved vs prefix reuse", saved(totals.as_run_flops, totals.dense_shared_flops)),
        ("FLOPs saved vs dense", saved(totals.as_run_flops, totals.dense_flops)),
        ("KV cache saved vs prefix reuse", saved(totals.as_run_kv_bytes, totals.dense_shared_kv_bytes, "B")),
    ]


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


def off_line(claim: Claim) -> str:
    """How far the seconds that FLOPs claim are from those measured."""
    if claim.off is None:
        return f"no seconds saved on {claim.judged_on} clips; FLOPs predict {claim.claimed_s:.2f} s"
    return (
        f"seconds saved differ by {100 * claim.off:+.1f} % from the FLOPs estimate ({claim.claimed_s:.2f} s estimated, "
        f"{claim.audited_s:.2f} s measured on {claim.judged_on} clips)"
    )


def banded(found: Share) -> str:
    """A share with its interval, in percent."""
    if found.low is None or found.high is None:
        return f"{share(found.value)} (no interval: one media item)"
    return f"{share(found.value)} ({100 * found.low:.1f} to {100 * found.high:.1f} %)"


def print_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """A table of names and values, for people."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in facts:
        table.add_row(name, escape(value))
    console.print(table)


def with_reasons(count: int, classes: Iterable[tuple[str, int]]) -> str:
    """A number of failures and what they were."""
    reasons = ", ".join(f"{name} {number}" for name, number in classes)
    return f"{count} ({reasons})" if reasons else f"{count}"


def with_copies(media: int, copies: int, count: str, of: str = "") -> str:
    """A number of media, and how the clips of those that are exact copies of others `count`."""
    said = f"{copies} exact {'copy' if copies == 1 else 'copies'}: clips count {count}" if copies else ""
    notes = "; ".join(filter(None, (of, said)))
    return f"{media} ({notes})" if notes else f"{media}"


def retry_hint(classes: Iterable[tuple[str, int]], job: str) -> str | None:
    """How to do again what may have failed for a moment only, and what a later version may read; `job` is the job file
    and options as given."""
    classes = list(classes)
    lines = []
    for kinds, said in (
        ([one for one in classes if rule_of(one[0]).may_pass], "may succeed next time"),
        (
            [one for one in classes if rule_of(one[0]).again is Again.UPGRADE],
            "may be readable by a later version of OmniDrop",
        ),
    ):
        if kinds:
            options = " ".join(f"--error-class {name}" for name, _ in kinds)
            lines.append(f"{with_reasons(sum(n for _, n in kinds), kinds)} {said}: omnidrop retry {job} {options}")
            if said == "may succeed next time":
                lines.append("(the files are not at fault: the next `omnidrop index` also retries them)")
    return "\n".join(lines) or None


def share(ratio: float | None) -> str:
    """A ratio in percent."""
    return "-" if ratio is None else f"{100 * ratio:.1f} %"


def saved(run: int, reference: int, unit: str = "FLOP") -> str:
    """How much less was spent than the reference, in percent of it; both in `unit`."""
    if not reference:
        return "-"
    return f"{100 * (1 - run / reference):.1f} % ({quantity(run, unit)} instead of {quantity(reference, unit)})"
