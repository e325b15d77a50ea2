"""Every column of what is stored and published, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa

from omnidrop.answers import PassCost
from pipeline.records.run_record import RunCounts, RunRecord, RunResources, RunSpending, RunTime

WAYS = ("as_run", "dense", "dense_shared")

COSTS = (*(f.name for f in fields(PassCost)), "flops")

ANSWER_TYPE = pa.struct(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("answer_type", pa.string()),
        ("answer", pa.string()),
        ("answer_boolean", pa.bool_()),
        ("answer_number", pa.float64()),
        ("unit", pa.string()),
        ("text", pa.string()),
        ("probability", pa.float64()),
        ("margin", pa.float64()),
        ("error_class", pa.string()),
    ]
)
"""One answer. `answer` is the value as text (JSON for json answers), null where it could not be read."""

NOTICED_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("segment", pa.int32()),
    ("segment_pts_s", pa.float64()),
    ("silent_s", pa.float64()),
    ("held_s", pa.float64()),
    ("missing_s", pa.float64()),
    ("clipped_share", pa.float64()),
    ("tone_mapped", pa.bool_()),
    ("decoded_hash", pa.string()),
)
"""`workers.records.Noticed`: null in rows of versions that did not notice. `start_s` counts content over all of a
file's segments; `segment_pts_s` is the container's own time at that point."""

CLIP_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("clip_id", pa.string()),
    ("clip_index", pa.int32()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
    ("status", pa.string()),
    ("frames", pa.int32()),
    ("samples", pa.int64()),
    ("fps", pa.float64()),
    ("decoded_share", pa.float64()),
    ("decode_s", pa.float64()),
    ("answer_s", pa.float64()),
    ("model_s", pa.float64()),
    ("audio_tokens", pa.int32()),
    ("video_tokens", pa.int32()),
    ("retained_ratio", pa.float64()),
    ("retained_ratio_audio", pa.float64()),
    ("retained_ratio_video", pa.float64()),
    ("layer_audio_tokens", pa.list_(pa.int32())),
    ("layer_video_tokens", pa.list_(pa.int32())),
    *((f"{way}_{cost}", pa.int64()) for way in WAYS for cost in COSTS),
    ("peak_bytes", pa.int64()),
    ("notes", pa.list_(pa.string())),
    ("passes", pa.int32()),
    *NOTICED_FIELDS,
)
"""What is stored of a clip, beside its answers. `status` is answered, partial or quarantined. `passes` says
how many runs asked it for the answers that it has: more than one where questions came later."""

MEASURED = tuple(
    name
    for name, _ in CLIP_FIELDS
    if (
        name.endswith(("_s", "_tokens", "_flops", "_bytes"))
        and name not in ("start_s", "end_s", *(noticed for noticed, _ in NOTICED_FIELDS))
    )
    or name.startswith("retained_ratio")
)
"""What a clip cost: null of a copy, so that sums count it once."""

_OF_A_PASS = ("decode_s", "answer_s", "model_s", "peak_bytes", *(f"{way}_{cost}" for way in WAYS for cost in COSTS))
PART_FIELDS: Mapping[str, pa.DataType] = {
    name: kind for name, kind in CLIP_FIELDS if name in _OF_A_PASS or name.startswith(("retained_ratio", "layer_"))
}
"""What one run's asking of a clip cost: see `pipeline.records.composed`."""

FAILURE_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("stage", pa.string()),
    ("error_class", pa.string()),
    ("message", pa.string()),
)

AUDIT_TYPE = pa.struct(
    [
        ("is_dense_first", pa.bool_()),
        ("dense_shared_model_s", pa.float64()),
        ("dense_shared_peak_bytes", pa.int64()),
        ("error_class", pa.string()),
        ("message", pa.string()),
        (
            "answers",
            pa.list_(
                pa.struct([(name, pa.string()) for name in ("question_id", "dense_shared_answer", "error_class")])
            ),
        ),
    ]
)
"""The same clip dense with prefix reuse; null where it was not audited. `error_class` where that run failed."""

UNIT_SCHEMA = pa.schema(
    [
        *CLIP_FIELDS,
        *FAILURE_FIELDS,
        ("answers", pa.list_(ANSWER_TYPE)),
        ("run_id", pa.string()),
        ("audit", AUDIT_TYPE),
        ("answers_run_id", pa.list_(pa.string())),
        ("parts", pa.list_(pa.struct([("run_id", pa.string()), *PART_FIELDS.items()]))),
        ("told", pa.list_(pa.struct([("name", pa.string()), ("hash", pa.string())]))),
        ("earlier_audits", pa.list_(pa.struct([pa.field("run_id", pa.string()), *AUDIT_TYPE]))),
    ]
)
"""`run_id` is the run that made the row: in a later attempt, rows of earlier runs stay. Where it was made of answers of
several runs, `answers_run_id` says which gave each, `parts` what each cost, and `earlier_audits` has the audits of runs
before the one that made the row; all three are null elsewhere. `told` are
hashes of what sidecars said in the clip, of what its question set reads; the words themselves are in no column but in a
question's text that repeats them."""

ASKED_FIELDS = ("question_set", "question_set_version", "model", "mode", "policy", "retained_ratio_target")

SHARED_FIELDS: tuple[tuple[str, pa.DataType], ...] = tuple(
    (name, pa.string()) for name in ("job", "media_id", "media_key", "content_id", "version_id", "unit_id", "run_id")
)
"""`media_id` is a label: where a file lies; `content_id` what it is: SHA-256 of its bytes."""

_ASKED: tuple[tuple[str, pa.DataType], ...] = tuple(
    (name, pa.float64() if name == "retained_ratio_target" else pa.string()) for name in ASKED_FIELDS
)

_SPAN: tuple[tuple[str, pa.DataType], ...] = (
    ("clip_id", pa.string()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
)

MADE_FIELDS: tuple[tuple[str, pa.DataType], ...] = (("answer_format", pa.int32()), ("copy_of", pa.string()))
"""`answer_format` is the version of decoding and method that answered; `copy_of` the clip of the same content, under
another key, that was asked: what that cost stands there, and is null here."""

CLIPS_SCHEMA = pa.schema([*SHARED_FIELDS, *_ASKED, *CLIP_FIELDS, *MADE_FIELDS])

ANSWERS_SCHEMA = pa.schema([*SHARED_FIELDS, *_ASKED, *_SPAN, ("status", pa.string()), *ANSWER_TYPE, *MADE_FIELDS])

WHOLE_ANSWERS_SCHEMA = pa.schema(
    [
        *(one for one in SHARED_FIELDS if one[0] != "unit_id"),
        *_ASKED,
        *ANSWER_TYPE,
        *((name, pa.int32()) for name in ("clips", "clips_missing", "texts")),
        *((name, pa.int64()) for name in ("tokens", "flops", "kv_bytes")),
        ("model_s", pa.float64()),
        ("answer_format", pa.int32()),
    ]
)
"""Answers to questions of whole videos. `clips` counts those whose answers were read, `clips_missing` those that have
none. What the texts cost is that of all the video's questions together; null where a copy's record is shared."""

_COMPARED_COSTS = tuple((name, kind) for name, kind in CLIP_FIELDS if name.startswith(("as_run_", "dense_shared_")))

COMPARED_TYPE = pa.struct(
    [
        *((name, pa.string()) for name in ("question_id", "answer_type", "answer", "dense_shared_answer")),
        ("agrees", pa.bool_()),
    ]
)
"""One question asked both ways. `agrees` is null where dense gave no readable answer to agree with."""

AUDITS_SCHEMA = pa.schema(
    [
        *SHARED_FIELDS,
        *_ASKED,
        *_SPAN,
        ("is_dense_first", pa.bool_()),
        ("model_s", pa.float64()),
        ("dense_shared_model_s", pa.float64()),
        ("peak_bytes", pa.int64()),
        ("dense_shared_peak_bytes", pa.int64()),
        ("error_class", pa.string()),
        ("message", pa.string()),
        *_COMPARED_COSTS,
        ("answers", pa.list_(COMPARED_TYPE)),
    ]
)
"""Runs of a clip that were also run dense with prefix reuse: seconds and bytes measured of both ways, FLOPs as
counted."""

QUARANTINE_SCHEMA = pa.schema(
    [
        ("quarantine_id", pa.string()),
        *SHARED_FIELDS,
        *_SPAN,
        *((name, pa.string()) for name in ("question_id", "stage", "error_class", "message")),
    ]
)

MEDIA_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("job", "media_id", "media_key", "content_id", "uri", "etag")),
        ("size_bytes", pa.int64()),
        ("version_id", pa.string()),
        ("recipe_hash", pa.string()),
        ("status", pa.string()),
        *((name, pa.int32()) for name in ("units", "units_done", "clips", "clips_answered", "quarantined")),
        ("container", pa.string()),
        ("duration_s", pa.float64()),
        ("video_codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frame_rate", pa.float64()),
        ("audio_codec", pa.string()),
        ("audio_streams", pa.int32()),
        *((name, pa.int32()) for name in ("segments", "unused_tracks")),
        ("timeline_checked", pa.bool_()),
        ("tags", pa.map_(pa.string(), pa.string())),
        ("sidecars", pa.map_(pa.string(), pa.string())),
        ("answer_format", pa.int32()),
        ("jobs", pa.list_(pa.string())),
        ("rows_digest", pa.string()),
    ]
)
"""`status`: failed (nothing could be asked of it), pending (units are missing) or complete. `rows_digest` changes when
any row of the item does, in any table: what has it already need not be copied again. `sidecars` are those whose words
its clips were told: key -> SHA-256; of a subtitle track, `KEY#s:N`. `jobs` are all that list the item
and ask the same of it; `job` is the first of them."""

RUNS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "job", "recipe_hash", "started_at", "finished_at", "status")),
        *(
            (name, pa.int64())
            for name in (
                *("media_listed", "media_planned", "units_done_before", "units_finished", "clips_answered"),
                *("clips_partial", "answers", "quarantined", "media_unlisted", "files_not_media", "videos_asked"),
                *("peak_bytes_in_flight", "driver_peak_rss_bytes", "bytes_fetched"),
            )
        ),
        *((name, pa.float64()) for name in ("wall_s", "decode_s", "answer_s", "model_s")),
        ("recipe", pa.string()),
        ("actors", pa.list_(pa.string())),
        ("tools", pa.list_(pa.string())),
        ("machines_out", pa.list_(pa.string())),
        *(
            (name, pa.float64())
            for name in (
                *("gpu_hours", "answering_gpu_hours", "usd", "gpu_hours_cap"),
                *("estimated_gpu_hours", "estimated_gpu_hours_low", "estimated_gpu_hours_high", "actor_busy_share"),
            )
        ),
        ("bottleneck", pa.string()),
        ("confinement", pa.string()),
        ("model_revision", pa.string()),
        ("code_version", pa.string()),
    ]
)

_NAMED = ("job", "media_id", "media_key")
_ASKED_SO = ("question_set", "question_set_version", "model", "mode", "policy")
_CLIP = ("run_id", "clip_id", "start_s", "end_s")
_QUESTION = ("question_id", "question", "answer_type")

NEVER_NULL: Mapping[str, tuple[str, ...]] = {
    "answers": (*_NAMED, *_ASKED_SO, *_CLIP, *_QUESTION),
    "audits": (
        *(*_NAMED, *_ASKED_SO, *_CLIP, "model_s", *(name for name, _ in _COMPARED_COSTS)),
        *("answers", "answers.question_id", "answers.answer_type"),
    ),
    "clips": (*_NAMED, *_ASKED_SO, *_CLIP, "status"),
    "media": _NAMED,
    "quarantine": (*_NAMED, "quarantine_id", "stage", "error_class", "message"),
    "runs": ("run_id", "job", "started_at", "status"),
    "units": (*_CLIP, "status", "answers", *(f"answers.{name}" for name in _QUESTION)),
    "whole_answers": (*_NAMED, *_ASKED_SO, *_QUESTION),
}
"""Columns of the published tables that have a value in every row, whichever version published it. `units` are the
journal's rows of answered clips."""
NEVER_NULL_OF_A_SUCCESS: Mapping[str, tuple[str, ...]] = {"audits": ("dense_shared_model_s",)}
"""The same of rows without an `error_class`."""

_RUN_PARTS = {"counts": RunCounts, "time": RunTime, "resources": RunResources, "spending": RunSpending}


def run_row(run: RunRecord) -> dict[str, Any]:
    """A run's record as one flat row, its parts' fields beside its own: in journal, index, tables and `--json`."""
    row: dict[str, Any] = {f.name: getattr(run, f.name) for f in fields(run) if f.name not in _RUN_PARTS}
    for name, part in _RUN_PARTS.items():
        value = getattr(run, name)
        row |= {f.name: None if value is None else getattr(value, f.name) for f in fields(part)}
    return row


def run_from_row(row: Mapping[str, Any]) -> RunRecord:
    """The inverse of `run_row`, also of rows that were JSON. Raises TypeError or KeyError for any other row."""
    rest = dict(row)
    parts = {name: {f.name: rest.pop(f.name) for f in fields(part)} for name, part in _RUN_PARTS.items()}
    spending = parts.pop("spending")
    resources = parts.pop("resources")
    return RunRecord(
        **rest,
        counts=RunCounts(**parts["counts"]),
        time=RunTime(**parts["time"]),
        resources=RunResources(**resources | {n: tuple(resources[n]) for n in ("actors", "tools", "machines_out")}),
        spending=None if spending["gpu_hours"] is None else RunSpending(**spending),
    )
