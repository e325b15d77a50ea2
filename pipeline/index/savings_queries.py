"""What people ask about savings again and again: in total, by run, by day, by folder and by what was asked.

Promises: each query reads the sums in `savings` or every row of `clips`, and finds the same either way. Knows nothing
about how the sums are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.index.schema import Tables
from pipeline.records.columns import ASKED_FIELDS, WAYS

QUERIES: dict[str, tuple[str, ...]] = {
    "total": (),
    "by_run": ("run_id",),
    "by_day": ("day",),
    "by_collection": ("collection",),
    "by_recipe": ASKED_FIELDS,
}
"""Name and what rows are grouped by. `day` is when the run began, in UTC; `collection` the archive's first folder."""
TFLOP = 1e12


@dataclass(frozen=True)
class Saved:
    """Sums over the clips of one group."""

    group: tuple[Any, ...]
    """Values of the columns in `QUERIES`."""
    clips: int
    model_s: float
    as_run_tflop: float
    dense_tflop: float
    dense_shared_tflop: float

    @property
    def saved_against_dense_shared(self) -> float | None:
        """Share of FLOPs saved against dense with prefix reuse (negative where pruning cost more)."""
        return 1 - self.as_run_tflop / self.dense_shared_tflop if self.dense_shared_tflop else None


def ask_savings(
    connection: sa.Connection, tables: Tables, query: str, job: str | None, *, from_clips: bool = False
) -> list[Saved]:
    """Groups of a query in their order. Raises KeyError where there is no such query."""
    table, runs = tables.clips if from_clips else tables.savings, tables.runs
    groups = [_group(tables, table, name, connection.dialect.name).label(f"of_{name}") for name in QUERIES[query]]
    sums = _sums_of_clips(table) if from_clips else _sums_of_sums(table)
    source = table.outerjoin(runs, runs.c.run_id == table.c.run_id) if query == "by_day" else table
    statement = sa.select(*groups, *sums).select_from(source).group_by(*map(sa.text, [g.name for g in groups]))
    if job is not None:
        statement = statement.where(table.c.job == job)
    found = [
        Saved(tuple(row[: len(groups)]), int(row[len(groups)]), *(float(x) for x in row[len(groups) + 1 :]))
        for row in connection.execute(statement)
        if row[len(groups)]
    ]
    return sorted(found, key=lambda saved: [(x is not None, str(x)) for x in saved.group])


def _group(tables: Tables, table: sa.Table, name: str, dialect: str) -> Any:
    clips = tables.clips
    if name == "day":
        return sa.func.substr(tables.runs.c.started_at, 1, 10)
    if name == "collection" and table is clips:
        if dialect == "postgresql":
            return sa.case((clips.c.media_key.contains("/"), sa.func.split_part(clips.c.media_key, "/", 1)), else_="")
        return sa.func.substr(clips.c.media_key, 1, sa.func.max(sa.func.instr(clips.c.media_key, "/") - 1, 0))
    return table.c[name]


def _sums_of_sums(savings: sa.Table) -> list[Any]:
    def total(name: str) -> Any:
        return sa.cast(sa.func.sum(savings.c[name]), sa.Double)

    tflop = (total(f"{way}_gflop") / 1e3 + total(f"{way}_rest_flop") / TFLOP for way in WAYS)
    return [sa.func.sum(savings.c.clips), total("model_us") / 1e6, *tflop]


def _sums_of_clips(clips: sa.Table) -> list[Any]:
    tflop = (sa.func.sum(sa.cast(clips.c[f"{way}_flops"], sa.Double)) / TFLOP for way in WAYS)
    return [sa.func.count(), sa.func.sum(clips.c.model_s), *tflop]
