"""How things look on a terminal: a run's progress bar, tables of facts, numbers with their units.

Promises: plain lines instead of a moving bar where the output is not a terminal. Knows nothing about how a run works,
and imports nothing of it: every command's `--help` pays for what stands here.
"""

from __future__ import annotations

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
from pipeline.failure_rules import Again, rule_of
from pipeline.report.formats import quantity as quantity
from workers.records import ClipFailure

if TYPE_CHECKING:
    from pipeline.evaluation.audit import Claim, Share
    from pipeline.execution.clip_state import UnitResult
    from pipeline.index.totals import Totals
    from pipeline.records.run_record import RunResources

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


def fetched(resources: RunResources) -> str | None:
    """Bytes that a run read from stores; None where it read none, or did not count them."""
    return f"{resources.bytes_fetched / 2**20:,.1f} MiB" if resources.bytes_fetched else None


def hours(gpu_hours: float, usd: float | None) -> str:
    """GPU hours, and what they cost where there is a price."""
    return f"{gpu_hours:.4g}" + ("" if usd is None else f" ({usd:.4g} USD)")


def savings_lines(totals: Totals) -> list[tuple[str, str]]:
    """What pruning kept and saved, against both unpruned ways."""
    clips = totals.clips or 1  # caches are one clip's at a time: a sum of them is nowhere
    return [
        ("retained ratio", share(totals.retained_ratio)),
        ("FLOPs saved vs prefix reuse", saved(totals.as_run_flops, totals.dense_shared_flops)),
        ("FLOPs saved vs dense", saved(totals.as_run_flops, totals.dense_flops)),
        (
            "KV cache per clip saved vs prefix reuse",
            saved(totals.as_run_kv_bytes / clips, totals.dense_shared_kv_bytes / clips, "B"),
        ),
    ]


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


def saved(run: float, reference: float, unit: str = "FLOP") -> str:
    """How much less was spent than the reference, in percent of it; both in `unit`."""
    if not reference:
        return "-"
    return f"{100 * (1 - run / reference):.1f} % ({quantity(run, unit)} instead of {quantity(reference, unit)})"
