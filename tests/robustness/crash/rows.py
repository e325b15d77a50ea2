"""What a job has published and indexed, and how two states of it differ.

Promises: every row of every table is compared, leaving aside only what a second attempt may measure differently
(seconds, peak memory), audits, which it does not repeat, and which run it was; a unit whose rows come from two runs, a
row of a run without a record and an index that a rebuild from the journal does not reproduce count as mixed. Knows
nothing about kills.
"""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config.job import JobConfig
from pipeline.index import sync
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.planning.open_job import open_output
from pipeline.storage.store import open_store
from pipeline.tables import manifest

MEASURED = frozenset({"run_id", "decode_s", "answer_s", "model_s", "peak_bytes"})
TOLERANCE = 1e-5
"""Of numbers that are no integers: sums of floats depend on what else was in a batch."""
KEYS = {
    "answers": ("clip_id", "question_id"),
    "clips": ("clip_id",),
    "media": ("job", "media_id"),
    "quarantine": ("quarantine_id",),
    "units": ("unit_id",),
    "videos": ("version_id", "inputs"),
    "whole_answers": ("media_id", "question_id"),
}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """All rows of a job: `rows` by table and key, each with every copy that was found."""

    rows: Mapping[tuple[str, Any], tuple[Row, ...]]
    mixed: tuple[str, ...]
    """What is wrong with this state by itself."""


@dataclass
class Difference:
    """How a state differs from the one that it should be; each entry names a row."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.mixed)


def state_of(job: JobConfig) -> State:
    """Read everything that a job has published and indexed."""
    store = open_store(job.output, job.storage)
    published = manifest.current(store)
    found: dict[tuple[str, Any], list[Row]] = defaultdict(list)
    runs_of_unit: dict[str, set[str]] = defaultdict(set)
    run_ids: set[str] = set()
    for name, paths in (published.tables if published else {}).items():
        for path in paths if name != "audits" else ():
            for row in pq.read_table(io.BytesIO(store.read_bytes(f"tables/{path}"))).to_pylist():
                if name == "runs":
                    run_ids.add(row["run_id"])
                    continue
                found[_key(f"tables.{name}", name, row)].append(row)
                # An answer that is kept says the run that asked it.
                if "unit_id" in row and name != "answers":
                    runs_of_unit[row["unit_id"]].add(row["run_id"])
    _, _, index = open_output(job)
    try:
        contents = index.contents()
    finally:
        index.close()
    for name in ("media", "units", "videos", "clips", "quarantine"):
        columns = getattr(index.tables, name).c.keys()
        for values in contents[name]:
            row = dict(zip(columns, values, strict=True))
            found[_key(f"index.{name}", name, row)].append(row)
            if {"run_id", "unit_id"} <= row.keys():
                runs_of_unit[row["unit_id"]].add(row["run_id"])
    mixed = [f"unit {unit} holds rows of runs {sorted(runs)}" for unit, runs in runs_of_unit.items() if len(runs) > 1]
    unknown = set().union(*runs_of_unit.values()) - run_ids
    mixed += [f"run {run} has rows and no record" for run in sorted(unknown)]
    if _rebuilt(Journal(store)) != contents:
        mixed.append("the index is not what a rebuild from the journal gives")
    return State({key: tuple(rows) for key, rows in found.items()}, tuple(mixed))


def difference(should: State, found: State) -> Difference:
    """What `found` lacks, has too much, or has otherwise than `should`."""
    given = Difference(mixed=list(found.mixed))
    for key, rows in should.rows.items():
        copies = found.rows.get(key, ())
        if not copies:
            given.lost.append(f"{key}")
        else:
            given.mixed += [f"{key}: {differs}" for copy in copies if (differs := _differs(rows[0], copy))]
    for key, copies in found.rows.items():
        given.doubled += [f"{key}"] * (len(copies) - (key in should.rows))
    return given


def _rebuilt(journal: Journal) -> dict[str, list[tuple[Any, ...]]]:
    with tempfile.TemporaryDirectory() as folder:
        index = SavingsIndex(f"sqlite:///{Path(folder) / 'rebuilt.sqlite'}")
        try:
            sync.catch_up(journal, index)
            return index.contents()
        finally:
            index.close()


def _key(where: str, table: str, row: Row) -> tuple[str, Any]:
    return where, tuple(row[name] for name in KEYS[table])


def _differs(should: Row, found: Row) -> str | None:
    """The first column that differs by more than measuring twice explains."""
    for name in should.keys() | found.keys():
        expected, value = should.get(name), found.get(name)
        if name in MEASURED or expected == value:
            continue
        if not (isinstance(expected, float) and isinstance(value, float) and abs(expected - value) < TOLERANCE):
            return f"{name} is {value!r} instead of {expected!r}"
    return None
