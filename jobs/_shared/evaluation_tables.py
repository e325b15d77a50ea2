"""What `omnidrop evaluate` shows and writes: tables on the terminal, one object as JSON.

Promises: tables fit a terminal of 80 columns for up to four ways. Knows nothing about how figures came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jobs._shared.display import console, share
from omnidrop.pruning import DENSE_MODES
from pipeline.evaluation.dataset import DENSE
from pipeline.evaluation.summary import Evaluation, Score


def result_json(found: Evaluation, about: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """What `--json` writes: the figures of the first pruned way (or the only one) at the top, all ways in `arms`."""
    main_arm = next((arm for arm in found.arms if arm.mode not in DENSE_MODES), found.arms[0])
    return {
        **asdict(main_arm),
        "arms": [asdict(arm) for arm in found.arms],
        "refused": found.refused,
        "setting": about,
        "notes": list(notes),
    }


def progress_bar() -> Progress:
    """Clips prepared, then clips answered."""
    return Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console,
    )  # fmt: skip


def print_evaluation(found: Evaluation) -> None:
    """Accuracy of every way, overall, by task and by class."""
    names = short_names([arm.name for arm in found.arms])
    table = Table(title="accuracy, with 95 % intervals clustered by clip", title_justify="left")
    for column in ("", "retained", "accuracy", "to dense", "same", "saved"):
        table.add_column(column, no_wrap=column != "", min_width=0 if column else 12)
    for arm, name in zip(found.arms, names, strict=True):
        against = arm.against_dense
        table.add_row(
            escape(name),
            share(arm.retained_ratio),
            f"{100 * arm.accuracy:.1f} {_span(arm.interval)}",
            "" if against is None else f"{100 * against.difference:+.1f} {_span(against.difference_interval)}",
            "" if against is None else share(against.agreement),
            "" if arm.mode == DENSE.name else share(arm.saved_against_dense_shared),
        )
    console.print(table)
    console.print(
        f"[dim]{found.arms[0].count} questions about {found.arms[0].clips} clips. to dense: accuracy change in points; "
        "same: share of equal answers; saved: FLOPs against prefix reuse[/]"
    )
    for name, why in found.refused.items():
        console.print(f"[yellow]not possible:[/] {escape(name)}: {escape(why)}")
    _print_tasks(names, "task", [arm.tasks for arm in found.arms])
    for kind in found.arms[0].groups:
        _print_tasks(names, kind, [arm.groups.get(kind, {}) for arm in found.arms])
    for arm, name in zip(found.arms, names, strict=True):
        wrong = arm.failures | ({"unparsable": arm.unparsable} if arm.unparsable else {})
        if wrong:
            counts = ", ".join(f"{error_class} {count}" for error_class, count in wrong.items())
            console.print(f"{escape(name)}: questions counted as wrong without a readable answer: {counts}")


def _print_tasks(names: Sequence[str], kind: str, scores: Sequence[dict[str, Score]]) -> None:
    table = Table(title=f"accuracy by {kind}", title_justify="left")
    for column in (kind, "questions", "guess", *names):
        table.add_column(escape(column))
    for name, first in scores[0].items():
        cells = [f"{100 * s.accuracy:.1f} {_span(s.interval)}" if (s := of_arm.get(name)) else "" for of_arm in scores]
        table.add_row(escape(name), str(first.count), f"{100 * first.guess:.0f}", *cells)
    console.print(table)


def short_names(names: Sequence[str]) -> list[str]:
    """The ways' names without the words that all pruned ones share: terminals are narrow."""
    words = [name.replace(" %", "%").split() for name in names]
    pruned = [those for those in words if those[0] not in DENSE_MODES]
    shared = {word for word in pruned[0] if all(word in those for those in pruned)} if len(pruned) > 1 else set()
    return [" ".join(word for word in those if word not in shared) or "plain" for those in words]


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[dim]({100 * interval[0]:.0f}…{100 * interval[1]:.0f})[/]"
