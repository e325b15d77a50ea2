"""The audits of a clip: one of each run that asked some of its questions and was also run dense.

Promises: an audit names its run, also one that was stored before there could be several. Knows nothing about what an
audit says.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Row = dict[str, Any]


def audits_of(row: Row) -> list[Row]:
    """Of a row of `pipeline.records.columns.UNIT_SCHEMA`, newest first, each with its `run_id`."""
    own = row.get("audit")
    newest = [] if own is None else [own | {"run_id": _run_of(own, row)}]
    return [*newest, *(row.get("earlier_audits") or ())]


def count_audits(rows: pa.Table) -> int:
    """How many audits the rows of a unit have."""
    earlier = pc.sum(pc.list_value_length(rows["earlier_audits"])).as_py() or 0
    return earlier + (pc.sum(pc.is_valid(rows["audit"])).as_py() or 0)


def _run_of(audit: Row, row: Row) -> str:
    """The run that gave what was compared: an older version kept the audit of an earlier run as the row's own."""
    compared = {one["question_id"] for one in audit["answers"]}
    by_run = zip(row["answers"] or (), row.get("answers_run_id") or (), strict=False)
    run: str = next((run for one, run in by_run if one["question_id"] in compared), row["run_id"])
    return run
