"""One finished work unit as bytes: a Parquet object, one row per clip with its answers nested.

Promises: what is encoded is decoded equal; damage and newer formats are named, never misread. Knows nothing about where
the bytes are stored.

A unit that is done again (`omnidrop retry`) becomes an object of its own, its next *attempt*: the rows that are made
again, and all others as in the previous attempt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from omnidrop.answers import Answer
from omnidrop.questions import Question
from pipeline.records.checksummed_parquet import FORMAT_VERSION, JournalError, seal, unseal
from pipeline.records.columns import COSTS, UNIT_SCHEMA, WAYS
from pipeline.records.composed import Held, microseconds
from pipeline.records.legacy import formats as legacy
from workers.records import REPEATS, Clip, ClipAudit, ClipFailure, ClipOutcome, ClipResult, Media, MediaInfo, Version
from workers.redaction import without_secrets

_UNIT_PATH = re.compile(
    r"journal/units/([^/]+)/[0-9a-f]{2}/([0-9a-f]{32})/([0-9a-f]{32})-([0-9a-f]{32})(?:-([0-9]{3,9}))?\.parquet"
)


def utc_now() -> str:
    """ISO 8601, UTC, microseconds: sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Asked:
    """Who asked and how: what the rows of one recipe have in common."""

    job: str
    recipe_hash: str
    question_set: str
    question_set_version: str
    model: str
    weights_hash: str
    mode: str
    policy: str
    retained_ratio_target: float | None


NONE: Mapping[str, Any] = MappingProxyType({})
CONTENTS = "_"
"""The first folder of units that are named after their content; no job can be called so. Units of earlier formats lie
below the name of their job."""


def item_prefix(group: str, item_id: str) -> str:
    """Where all units of a content lie, of all its versions."""
    return f"journal/units/{group}/{item_id[:2]}/{item_id}/"


@dataclass(frozen=True)
class UnitKey:
    """Where a finished unit lies."""

    group: str
    """`CONTENTS`, or the job that asked in earlier formats."""
    item_id: str
    """The content's short name; the media id in earlier formats."""
    version_id: str
    unit_id: str
    attempt: int = 0
    """0 is the first; only the newest counts."""

    @property
    def path(self) -> str:
        """Key in the store."""
        return f"{item_prefix(self.group, self.item_id)}{self.version_id}-{self.name}.parquet"

    @property
    def name(self) -> str:
        """The unit's id, with the attempt where it is not the first."""
        return f"{self.unit_id}-{self.attempt:03d}" if self.attempt else self.unit_id

    def up_to(self) -> list[UnitKey]:
        """This attempt and all before it."""
        return [replace(self, attempt=attempt) for attempt in range(self.attempt + 1)]

    @staticmethod
    def parse(path: str) -> UnitKey | None:
        """The inverse of `path`; None for anything that is not a unit (a temp file, a stranger's file)."""
        found = _UNIT_PATH.fullmatch(path)
        if found is None:
            return None
        key = UnitKey(found[1], found[2], found[3], found[4], int(found[5] or 0))
        return key if key.path == path else None


@dataclass(frozen=True)
class Label:
    """The label under which a content counts: its rows say this, whichever job asked it under whatever key."""

    job: str
    media_id: str
    media_key: str
    content_id: str | None


@dataclass(frozen=True)
class UnitMeta:
    """Everything a unit's rows share."""

    asked: Asked
    media: Media
    info: MediaInfo | None
    """None where probing failed."""
    version_id: str
    unit_id: str
    run_id: str
    attempt: int = 0
    committed_at: str = field(default_factory=utc_now)
    format_version: int = FORMAT_VERSION
    version: Version | None = None
    """None in earlier formats."""
    answer_format: int | None = None
    """Of the decoding and method that answered; that of `version` is the one it was begun with."""

    @property
    def key(self) -> UnitKey:
        """Where this unit is or will be."""
        version = self.version or Version(self.version_id)
        group, item_id = version.group or self.asked.job, version.item_id or self.media.media_id
        return UnitKey(group, item_id, self.version_id, self.unit_id, self.attempt)

    @property
    def label(self) -> Label:
        """As what it was asked."""
        return Label(self.asked.job, self.media.media_id, self.media.key, self.media.content_id)


@dataclass(frozen=True, eq=False)
class UnitObject:
    """One finished unit as stored: `rows` by `UNIT_SCHEMA`, one row per clip (or one failed media row)."""

    meta: UnitMeta
    rows: pa.Table

    @cached_property
    def answered(self) -> pa.Table:
        """The rows of answered and partial clips."""
        return self.rows.filter(pc.not_equal(self.rows["status"], "quarantined"))

    @cached_property
    def told(self) -> dict[tuple[int, int], dict[str, str]]:
        """By span in microseconds, what answered clips were told by sidecars: name -> hash."""
        rows = self.answered.select(["start_s", "end_s", "told"]).to_pylist()
        return {
            microseconds(row["start_s"], row["end_s"]): {one["name"]: one["hash"] for one in row["told"] or ()}
            for row in rows
        }


def encode_unit(
    meta: UnitMeta,
    outcomes: Sequence[ClipOutcome],
    questions: Sequence[Question],
    before: UnitObject | None = None,
    held: Held | None = None,
    own: Mapping[str, Sequence[Question]] = NONE,
) -> bytes:
    """A unit as one sealed Parquet object: row order is the clips' order; `meta` goes into the file's metadata.

    `before` is the attempt before this one, whose other clips stay as they are; so do those that had answers, of which
    some could not be read, and have none now. `held` is what earlier recipes have of the unit, `own` are the questions
    of clips that are asked in words of their own.
    """
    if before is not None:
        failed = pc.equal(before.rows["status"], "quarantined")
        answered = set(before.rows.filter(pc.invert(failed))["clip_id"].to_pylist())
        outcomes = [
            o for o in outcomes if isinstance(o, ClipResult) or o.clip is None or o.clip.clip_id not in answered
        ]
    asked = {clip_id: {q.id: q for q in of_clip} for clip_id, of_clip in own.items()}
    by_all = {q.id: q for q in questions}
    repeated = _repeated(outcomes)
    rows = [
        _result_row(o, asked.get(o.clip.clip_id, by_all), repeats=o.clip.index in repeated)
        if isinstance(o, ClipResult)
        else _failure_row(o)
        for o in outcomes
    ]
    rows = [row | {"run_id": meta.run_id} for row in rows]
    if held is not None:
        rows = held.rows({row["clip_id"]: row for row in rows}, meta.run_id)
    table = pa.Table.from_pylist(rows, schema=UNIT_SCHEMA)
    if before is not None:
        kept = pc.invert(pc.is_in(before.rows["clip_id"], value_set=table["clip_id"].combine_chunks()))
        table = pa.concat_tables([before.rows.filter(kept), table]).sort_by("clip_index")
    return seal(table, _written(meta))


def _written(meta: UnitMeta) -> dict[str, Any]:
    """Without what sidecars say where none says anything: versions that knew no sidecars read it."""
    given = asdict(meta)
    given["media"] = {n: v for n, v in given["media"].items() if v != () or n not in ("told", "sidecars")}
    return given


def decode_unit(data: bytes, *, where: str) -> UnitObject:
    """The inverse of `encode_unit`. Raises JournalError, naming `where`, for damage or a newer format."""
    table, given = unseal(data, where=where)
    try:
        info = given["info"]
        meta = UnitMeta(
            **given
            | {
                "asked": Asked(**given["asked"]),
                "media": _media(given["media"]),
                "info": info and MediaInfo.from_dict(info),
                "version": _version(given.get("version")),
            }
        )
    except (KeyError, TypeError) as error:
        raise JournalError(f"{where} is no work unit ({error}); delete it and run the job again") from error
    return UnitObject(meta, legacy.unit_rows(table, UNIT_SCHEMA, meta.run_id))


def _media(given: Mapping[str, Any]) -> Media:
    pairs = {name: tuple(map(tuple, given[name])) for name in ("told", "sidecars") if name in given}
    return Media(**{**given, **pairs})


def _version(given: Mapping[str, Any] | None) -> Version | None:
    if given is None:
        return None
    return Version(**{**given, "labels": tuple((name, value) for name, value in given["labels"])})


def _clip_row(clip: Clip | None, status: str) -> dict[str, Any]:
    if clip is None:
        return {"status": status}
    return {
        "clip_id": clip.clip_id,
        "clip_index": clip.index,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "status": status,
    }


def _repeated(outcomes: Sequence[ClipOutcome]) -> frozenset[int]:
    """Indexes of clips that hold what the one before them holds."""
    results = {o.clip.index: o.noticed for o in outcomes if isinstance(o, ClipResult)}
    return frozenset(n for n, now in results.items() if n - 1 in results and now.repeats(results[n - 1]))


def _result_row(result: ClipResult, questions: Mapping[str, Question], *, repeats: bool) -> dict[str, Any]:
    row = _clip_row(result.clip, "partial" if result.decoded_share < 1 else "answered")
    cost, trace = result.answers.cost, result.answers.trace
    for way in WAYS:
        row |= {f"{way}_{name}": getattr(getattr(cost, way), name) for name in COSTS}
    return row | {
        "frames": result.frames,
        "samples": result.samples,
        "fps": result.fps,
        "decoded_share": result.decoded_share,
        "decode_s": result.decode_s,
        "answer_s": result.answer_s,
        "model_s": cost.seconds,
        "audio_tokens": trace.audio_in,
        "video_tokens": trace.video_in,
        "retained_ratio": trace.retained_ratio(),
        "retained_ratio_audio": trace.retained_ratio("audio"),
        "retained_ratio_video": trace.retained_ratio("video"),
        "layer_audio_tokens": [c.audio for c in trace.layers],
        "layer_video_tokens": [c.video for c in trace.layers],
        "peak_bytes": cost.peak_bytes,
        "notes": [*result.notes, *([REPEATS] if repeats else []), *result.answers.notes],
        "passes": 1,
        **asdict(result.noticed),
        "told": [{"name": name, "hash": said} for name, said in result.clip.told] or None,
        "answers": [answer_row(a, questions[a.question_id]) for a in result.answers.answers],
        "audit": None if result.audit is None else _audit_row(result.audit),
    }


def _audit_row(audit: ClipAudit) -> dict[str, Any]:
    found = audit.dense_shared
    return {
        "is_dense_first": audit.is_dense_first,
        "dense_shared_model_s": None if found is None else found.cost.seconds,
        "dense_shared_peak_bytes": None if found is None else found.cost.peak_bytes,
        "error_class": audit.error_class,
        "message": None if audit.message is None else without_secrets(audit.message),
        "answers": [
            {
                "question_id": one.question_id,
                "dense_shared_answer": answer_text(one),
                "error_class": one.error_class,
            }
            for one in (found.answers if found is not None else ())
        ],
    }


def answer_text(answer: Answer) -> str | None:
    """As the column `answer` holds it: one of the allowed texts, or what was written (JSON in one form); None where it
    could not be read."""
    if answer.value is None:
        return None
    if answer.probability is not None:
        return answer.text
    return (
        answer.value if isinstance(answer.value, str) else json.dumps(answer.value, sort_keys=True, ensure_ascii=False)
    )


def answer_row(answer: Answer, question: Question) -> dict[str, Any]:
    """The columns of `ANSWER_TYPE`."""
    value, column = answer.value, question.answer.column
    return {
        "question_id": question.id,
        "question": question.text,
        "answer_type": question.answer.kind,
        "answer": answer_text(answer),
        "answer_boolean": value if column == "answer_boolean" else None,
        "answer_number": value if column == "answer_number" else None,
        "unit": getattr(question.answer, "unit", None),
        "text": answer.text,
        "probability": answer.probability,
        "margin": answer.margin,
        "error_class": answer.error_class,
    }


def _failure_row(failure: ClipFailure) -> dict[str, Any]:
    return _clip_row(failure.clip, "quarantined") | {
        "stage": failure.stage,
        "error_class": failure.error_class,
        "message": without_secrets(failure.message),
    }
