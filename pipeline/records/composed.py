"""A unit's rows made of answers that earlier units have and of those given now, so that only what is new is asked.

Promises: an answer that is kept stays as it is stored, byte for byte, under the id that it has now, and says which run
gave it; a clip that failed before is carried over as it failed, without being asked again; a question that is asked now
and fails does not affect the answers that are kept. Every part of a clip's cost is counted once, whichever of its
answers are kept. Knows nothing about stores, or what is asked.

A clip's **parts** are the runs that asked it. FLOPs, tokens and seconds of a row are sums over them, as run and in both
counterfactuals: asked without pruning, a question that came later would have taken the clip to the model again, too.
Bytes are the most of any part; counts by layer and retained ratios the mean of the parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from omnidrop.questions import Question
from pipeline.records.audited import audits_of
from pipeline.records.columns import PART_FIELDS
from workers.records import Clip

Row = dict[str, Any]
Ids = tuple[tuple[str, str], ...]
_MOST = tuple(name for name in PART_FIELDS if name.endswith("_bytes"))
_MEAN = tuple(name for name in PART_FIELDS if name.startswith(("retained_ratio", "layer_")))
_SUM = tuple(name for name in PART_FIELDS if name not in (*_MOST, *_MEAN))


@dataclass(frozen=True, eq=False)
class EarlierRows:
    """An earlier recipe's unit of the same clips, of which answers are kept."""

    ids: tuple[tuple[str, str], ...]
    """(id of a question now, its id there)."""
    rows: pa.Table
    answer_format: int | None
    only: Mapping[str, frozenset[str]] | None = None
    """By clip id, the present questions whose answers are kept; None where those of all clips are."""

    def ids_of(self, clip_id: str) -> tuple[tuple[str, str], ...]:
        """`ids` of what is kept of a clip."""
        if self.only is None:
            return self.ids
        kept = self.only.get(clip_id, frozenset())
        return tuple((now, then) for now, then in self.ids if now in kept)


@dataclass(frozen=True, eq=False)
class Held:
    """What a unit is made of beside what is asked of it now."""

    clips: tuple[Clip, ...]
    """All of the unit's."""
    questions: tuple[Question, ...]
    """The whole set, in its order."""
    kept: tuple[EarlierRows, ...]
    own: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    """By clip id, the whole set where clips are asked in words of their own."""

    @property
    def answer_format(self) -> int | None:
        """Of the oldest answer that is kept."""
        return min((earlier.answer_format or 0 for earlier in self.kept), default=None)

    def asked(self) -> tuple[Clip, ...]:
        """The clips that can be asked further: those of which all that is to be kept is there."""
        found = self._rows()
        return tuple(clip for clip in self.clips if all(_is_answered(row) for _, row in found[clip.clip_id]))

    def rows(self, made: Mapping[str, Row], run_id: str) -> list[Row]:
        """The unit's rows, as `pipeline.records.columns.UNIT_SCHEMA`; `made` are those of this run by clip id."""
        found = self._rows()
        return [self._row(clip, found[clip.clip_id], made.get(clip.clip_id), run_id) for clip in self.clips]

    def _rows(self) -> dict[str, list[tuple[Ids, Row | None]]]:
        """By clip: (what is kept of it, the row that has it), of each earlier unit that has some."""
        by_span = [(one, {_span(row): row for row in one.rows.to_pylist()}) for one in self.kept]
        found: dict[str, list[tuple[Ids, Row | None]]] = {}
        for clip in self.clips:
            of_clip, span = clip.clip_id, microseconds(clip.start_s, clip.end_s)
            found[of_clip] = [(ids, rows.get(span)) for one, rows in by_span if (ids := one.ids_of(of_clip))]
        return found

    def _row(self, clip: Clip, found: Sequence[tuple[Ids, Row | None]], made: Row | None, run_id: str) -> Row:
        named = {"clip_id": clip.clip_id, "clip_index": clip.index, "start_s": clip.start_s, "end_s": clip.end_s}
        there = [row for _, row in found if row is not None]
        if failed := [row for row in there if not _is_answered(row)]:
            reason = {name: failed[0][name] for name in ("stage", "error_class", "message", "run_id")}
            return {**named, "status": "quarantined", **reason}
        if len(there) < len(found) or not there:
            missing = {"stage": "plan", "error_class": "internal", "message": "the earlier answers are gone"}
            return made or {**named, "status": "quarantined", **missing, "run_id": run_id}
        answers: dict[str, tuple[Row, str]] = {}
        for (ids, _), row in zip(found, there, strict=True):
            runs = row["answers_run_id"] or [row["run_id"]] * len(row["answers"])
            has = {one["question_id"]: (one, run) for one, run in zip(row["answers"], runs, strict=True)}
            answers |= {now: (has[then][0] | {"question_id": now}, has[then][1]) for now, then in ids}
        parts = {part["run_id"]: part for row in there for part in row["parts"] or [_part(row)]}
        used = {run for _, run in answers.values()}
        parts = {name: part for name, part in parts.items() if name in used}
        newest = there[0]
        if made is not None and _is_answered(made):
            answers |= {one["question_id"]: (one, run_id) for one in made["answers"]}
            parts[run_id] = _part(made | {"run_id": run_id})
            newest = made
        else:
            own = self.own.get(clip.clip_id, self.questions)
            answers |= {q.id: (_unanswered(q, made), run_id) for q in own if q.id not in answers}
        ordered = [answers[q.id] for q in self.questions]
        audits: dict[str, Row] = {}
        for (ids, _), row in zip(found, there, strict=True):
            for audit in _kept_audits(row, ids, used):
                same = audits.get(audit["run_id"], {"answers": []})
                audits[audit["run_id"]] = audit | {"answers": [*same["answers"], *audit["answers"]]}
        notes = dict.fromkeys(note for row in (*there, newest) for note in row["notes"] or ())
        return {
            **newest,
            **named,
            **_summed(list(parts.values())),
            "status": "partial" if any(row["status"] == "partial" for row in (*there, newest)) else "answered",
            "notes": list(notes),
            "answers": [one for one, _ in ordered],
            "answers_run_id": [run for _, run in ordered],
            "parts": list(parts.values()),
            "audit": newest.get("audit") if newest is made else None,
            "earlier_audits": list(audits.values()) or None,
            "run_id": run_id if newest is made else newest["run_id"],
        }


def _is_answered(row: Row | None) -> bool:
    return row is not None and row["status"] != "quarantined"


def _kept_audits(row: Row, ids: Ids, used: Collection[str]) -> Iterator[Row]:
    """A row's audits with the answers that are kept, under the ids that they have now; of those that failed, the ones
    of runs whose answers are `used`."""
    for audit in audits_of(row):
        dense = {one["question_id"]: one for one in audit["answers"]}
        answers = [dense[then] | {"question_id": now} for now, then in ids if then in dense]
        if answers or (audit["error_class"] is not None and audit["run_id"] in used):
            yield audit | {"answers": answers}


def microseconds(start_s: float, end_s: float) -> tuple[int, int]:
    """A span as ids have it, which tells the same clip of two versions."""
    return round(start_s * 1e6), round(end_s * 1e6)


def _span(row: Row) -> tuple[int, int] | None:
    return None if row["start_s"] is None else microseconds(row["start_s"], row["end_s"])


def _part(row: Row) -> Row:
    return {"run_id": row["run_id"]} | {name: row.get(name) for name in PART_FIELDS}


def _summed(parts: Sequence[Row]) -> Row:
    made: Row = {"passes": len(parts)}
    for name in PART_FIELDS:
        values = [part[name] for part in parts if part[name] is not None]
        if not values:
            made[name] = None
        elif name in _MOST:
            made[name] = max(values)
        elif name in _SUM:
            made[name] = sum(values)
        elif isinstance(values[0], list):
            made[name] = [round(sum(column) / len(column)) for column in zip(*values, strict=True)]
        else:
            made[name] = sum(values) / len(values)
    return made


def _unanswered(question: Question, failed: Row | None) -> Row:
    """What is new and could not be asked, as a row of answers."""
    why = failed or {"error_class": "internal", "message": "it was not asked"}
    return {
        **dict.fromkeys(("answer", "answer_boolean", "answer_number", "probability", "margin")),
        "question_id": question.id,
        "question": question.text,
        "answer_type": question.answer.kind,
        "unit": getattr(question.answer, "unit", None),
        "text": why["message"],
        "error_class": why["error_class"],
    }
