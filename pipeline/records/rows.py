"""Rows: what one finished work unit becomes in the index and in the published tables.

Promises: the same columns with the same names in both; an answer that could not be read is a row of `answers` with an
error class, and a row of `quarantine`. A unit's rows say what it counts as (`Label`), which may be another job or key
than it was asked as; under a second key of the same content they are `copies`: clips with ids of their own, whose costs
stand with the clip that was asked. Knows nothing about databases or files.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.identity import content_id
from pipeline.records.audited import audits_of
from pipeline.records.columns import (
    ANSWER_TYPE,
    ANSWERS_SCHEMA,
    ASKED_FIELDS,
    AUDITS_SCHEMA,
    CLIP_FIELDS,
    CLIPS_SCHEMA,
    MEASURED,
)
from pipeline.records.unit import Label, UnitMeta, UnitObject


def clips_table(unit: UnitObject, label: Label | None = None, *, is_copy: bool = False) -> pa.Table:
    """Rows of `clips` by `CLIPS_SCHEMA`: the answered and partial clips of a unit."""
    rows = unit.answered.select([*(n for n, _ in CLIP_FIELDS), "run_id"])
    if unit.meta.info is not None and unit.meta.info.notes:
        # What was noted of the whole file is true of each clip.
        at = rows.column_names.index("notes")
        notes = [[*unit.meta.info.notes, *(own or ())] for own in rows["notes"].to_pylist()]
        rows = rows.set_column(at, "notes", pa.array(notes, rows.schema.field(at).type))
    if is_copy:
        for name in MEASURED:
            at = rows.column_names.index(name)
            rows = rows.set_column(at, name, pa.nulls(rows.num_rows, rows.schema.field(name).type))
    return _with_shared(unit.meta, label or unit.meta.label, rows, CLIPS_SCHEMA, is_copy)


def answers_table(unit: UnitObject, label: Label | None = None, *, is_copy: bool = False) -> pa.Table:
    """Rows of `answers` by `ANSWERS_SCHEMA`: one per question of each answered or partial clip."""
    answered = unit.answered.combine_chunks()
    nested = answered["answers"].combine_chunks()
    clip_of = pc.list_parent_indices(nested)
    flat = pc.list_flatten(nested)
    columns = {name: answered[name].take(clip_of) for name in ("clip_id", "start_s", "end_s", "status", "run_id")}
    columns |= {f.name: pc.struct_field(flat, [i]) for i, f in enumerate(ANSWER_TYPE)}
    if len(given := pc.list_flatten(answered["answers_run_id"].combine_chunks())):
        # Of rows without it all answers are of the run that made the row.
        has = pc.is_valid(answered["answers_run_id"]).combine_chunks().take(clip_of)
        runs = iter(given.to_pylist())
        own = zip(has.to_pylist(), columns["run_id"].to_pylist(), strict=True)
        columns["run_id"] = pa.array([next(runs) if is_given else run for is_given, run in own], pa.string())
    return _with_shared(unit.meta, label or unit.meta.label, pa.table(columns), ANSWERS_SCHEMA, is_copy)


def audits_table(unit: UnitObject, label: Label | None = None) -> pa.Table:
    """Rows of `audits` by `AUDITS_SCHEMA`: one per run of a clip that was also run dense."""
    is_audited = (pc.is_valid(unit.answered[name]) for name in ("audit", "earlier_audits"))
    audited = unit.answered.filter(pc.or_(*is_audited))
    if not audited.num_rows:
        return AUDITS_SCHEMA.empty_table()
    label = label or unit.meta.label
    shared = _shared_row(unit.meta, label).keys() | set(ASKED_FIELDS)
    schema = pa.schema([field for field in AUDITS_SCHEMA if field.name not in shared])
    rows = []
    for row in audited.to_pylist():
        # What each run cost, where the row sums several: dense was asked no more than that run.
        parts = {part["run_id"]: part for part in row["parts"] or ()}
        rows += [
            row | parts.get(audit["run_id"], {}) | audit | {"answers": _compared(row["answers"], audit)}
            for audit in audits_of(row)
        ]
    return _with_shared(unit.meta, label, pa.Table.from_pylist(rows, schema=schema), AUDITS_SCHEMA)


def _compared(answers: list[dict[str, Any]], audit: dict[str, Any]) -> list[dict[str, Any]]:
    dense = {one["question_id"]: one for one in audit["answers"]}
    rows = []
    for one in answers:
        if (other := dense.get(one["question_id"])) is None:
            continue
        is_same = one["error_class"] is None and one["answer"] == other["dense_shared_answer"]
        rows.append(
            {
                **{name: one[name] for name in ("question_id", "answer_type", "answer")},
                "dense_shared_answer": other["dense_shared_answer"],
                "agrees": is_same if other["error_class"] is None else None,
            }
        )
    return rows


def _shared_row(meta: UnitMeta, label: Label) -> dict[str, Any]:
    return {**asdict(label), "version_id": meta.version_id, "unit_id": meta.unit_id}


def quarantine_rows(unit: UnitObject, label: Label | None = None, *, is_copy: bool = False) -> list[dict[str, Any]]:
    """Rows of `quarantine`: the media item or clips of a unit that failed, and its unreadable answers."""
    label = label or unit.meta.label
    shared = _shared_row(unit.meta, label)
    rows: list[dict[str, Any]] = []
    if not _has_failed(unit):
        return rows  # as nearly all units
    for row in unit.rows.to_pylist():
        where = {name: row[name] for name in ("run_id", "clip_id", "start_s", "end_s")}
        if is_copy and row["clip_id"] is not None:
            where["clip_id"] = _copied(row["clip_id"], label)
        if row["status"] == "quarantined":
            reason = {name: row[name] for name in ("stage", "error_class", "message")}
            rows.append(shared | where | {"question_id": None} | reason)
        for answer in row["answers"] or ():
            if answer["error_class"] is not None:
                reason = {"stage": "answer", "error_class": answer["error_class"], "message": answer["text"]}
                rows.append(shared | where | {"question_id": answer["question_id"]} | reason)
    for made in rows:
        of = [made["unit_id"], made["clip_id"], made["question_id"]]
        made["quarantine_id"] = content_id("quarantine", *of, *([label.media_id] if is_copy else ()))
    return rows


def _has_failed(unit: UnitObject) -> bool:
    errors = pc.struct_field(pc.list_flatten(unit.rows["answers"]), "error_class")
    return bool(len(errors) > errors.null_count or unit.answered.num_rows < unit.rows.num_rows)


def _copied(clip_id: str, label: Label) -> str:
    return content_id("copy", clip_id, label.media_id)


def _with_shared(meta: UnitMeta, label: Label, table: pa.Table, schema: pa.Schema, is_copy: bool = False) -> pa.Table:
    shared = _shared_row(meta, label) | {name: getattr(meta.asked, name) for name in ASKED_FIELDS}
    if "copy_of" in schema.names:
        shared["answer_format"] = meta.answer_format
        asked = table["clip_id"]
        table = table.append_column("copy_of", asked if is_copy else pa.nulls(len(asked), pa.string()))
        if is_copy:
            copied = {clip_id: _copied(clip_id, label) for clip_id in asked.unique().to_pylist()}
            ids = pa.array([copied[clip_id] for clip_id in asked.to_pylist()], pa.string())
            table = table.set_column(table.column_names.index("clip_id"), "clip_id", ids)
    columns: dict[str, Any] = dict(zip(table.column_names, table.columns, strict=True))
    for name, value in shared.items():
        columns[name] = pa.repeat(pa.scalar(value, schema.field(name).type), table.num_rows)
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)
