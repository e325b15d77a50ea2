"""What a whole video was asked and answered, as bytes: a Parquet object, one row an answer.

Promises: what is encoded is decoded equal; damage is named, never misread; its name says what was read: the version's
work units with their attempts, and the questions. Knows nothing about where the bytes are stored, or who reads what.

A record is derived from units: it counts while they, and the questions, are what it was made from, and nothing else
has to be declared. One that failed and is asked again becomes its next *attempt*, of which the newest counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from omnidrop.answers import Answer, Cost
from omnidrop.questions import Question
from pipeline.identity import content_id
from pipeline.records.checksummed_parquet import FORMAT_VERSION, JournalError, seal, unseal
from pipeline.records.columns import ANSWER_TYPE, ASKED_FIELDS, QUARANTINE_SCHEMA, WHOLE_ANSWERS_SCHEMA
from pipeline.records.unit import Asked, Label, UnitKey, answer_row, utc_now
from workers.redaction import without_secrets

FOLDER = "journal/videos/"
STAGE = "whole"
_PATH = re.compile(
    r"journal/videos/[0-9a-f]{2}/([0-9a-f]{32})/([0-9a-f]{32})-([0-9a-f]{32})(?:-([0-9]{3,9}))?\.parquet"
)
_ROWS = pa.schema([(one.name, one.type) for one in ANSWER_TYPE])


@dataclass(frozen=True)
class VideoKey:
    """Where a record lies."""

    item_id: str
    version_id: str
    inputs: str
    """Hash of all that it was made from, see `inputs_of`."""
    attempt: int = 0

    @property
    def path(self) -> str:
        """Key in the store."""
        return f"{video_prefix(self.item_id)}{self.version_id}-{self.name}.parquet"

    @property
    def name(self) -> str:
        """Its inputs, with the attempt where it is not the first."""
        return f"{self.inputs}-{self.attempt:03d}" if self.attempt else self.inputs

    def up_to(self) -> list[VideoKey]:
        """This attempt and all before it."""
        return [replace(self, attempt=attempt) for attempt in range(self.attempt + 1)]

    @staticmethod
    def parse(path: str) -> VideoKey | None:
        """The inverse of `path`; None for anything that is no record."""
        found = _PATH.fullmatch(path)
        key = None if found is None else VideoKey(found[1], found[2], found[3], int(found[4] or 0))
        return key if key is not None and key.path == path else None


def video_prefix(item_id: str) -> str:
    """Where all records of a content lie, of all its versions."""
    return f"{FOLDER}{item_id[:2]}/{item_id}/"


def inputs_of(asked: str, labels: Iterable[tuple[str, str]], units: Iterable[UnitKey]) -> str:
    """Hash of what is asked (see `pipeline.journal.whole_questions`) and of the units that are read: their objects
    never change, so their names say what is in them."""
    return content_id("whole", asked, sorted(map(list, labels)), sorted(key.name for key in units))


@dataclass(frozen=True)
class VideoMeta:
    """All but the answers."""

    asked: Asked
    label: Label
    """As what it was asked."""
    item_id: str
    version_id: str
    inputs: str
    run_id: str
    fingerprint: str
    """Of the questions, and of how the text is made."""
    labels: tuple[tuple[str, str], ...]
    """What the questions read of the item's key."""
    units: tuple[str, ...]
    """Names of the units that were read."""
    clips: int
    """Whose answers were read."""
    clips_missing: int
    """That have none: the answers are without them."""
    texts: int = 0
    """That were read: one, or one a stretch and one for what was concluded about them."""
    tokens: int = 0
    flops: int = 0
    kv_bytes: int = 0
    """Of the largest text."""
    model_s: float = 0.0
    attempt: int = 0
    error_class: str | None = None
    """Why there are no answers."""
    message: str | None = None
    answer_format: int | None = None
    committed_at: str = field(default_factory=utc_now)
    format_version: int = FORMAT_VERSION

    @property
    def key(self) -> VideoKey:
        """Where this record is or will be."""
        return VideoKey(self.item_id, self.version_id, self.inputs, self.attempt)

    def with_costs(self, costs: Sequence[Cost]) -> VideoMeta:
        """With what its texts took."""
        ran = [one.as_run for one in costs]
        return replace(
            self,
            texts=len(costs),
            tokens=sum(one.tokens for one in ran),
            flops=sum(one.flops for one in ran),
            kv_bytes=max((one.kv_bytes for one in ran), default=0),
            model_s=sum(one.seconds for one in costs),
        )


@dataclass(frozen=True, eq=False)
class VideoObject:
    """One record as stored: `rows` with the columns of `ANSWER_TYPE`, none where it failed."""

    meta: VideoMeta
    rows: pa.Table

    @property
    def error_classes(self) -> tuple[str, ...]:
        """Of what is in quarantine: the whole record, or answers that could not be read."""
        if self.meta.error_class is not None:
            return (self.meta.error_class,)
        return tuple(sorted(one for one in self.rows["error_class"].to_pylist() if one is not None))


def encode_video(meta: VideoMeta, answers: Sequence[Answer], questions: Sequence[Question]) -> bytes:
    """A record as one sealed Parquet object."""
    rows = [answer_row(answer, question) for answer, question in zip(answers, questions, strict=False)]
    given = asdict(meta)
    if meta.message is not None:
        given["message"] = without_secrets(meta.message)
    return seal(pa.Table.from_pylist(rows, schema=_ROWS), given)


def decode_video(data: bytes, *, where: str) -> VideoObject:
    """The inverse of `encode_video`. Raises JournalError, naming `where`, for damage."""
    table, given = unseal(data, where=where)
    try:
        made: dict[str, Any] = {
            "asked": Asked(**given["asked"]),
            "label": Label(**given["label"]),
            "labels": tuple((name, value) for name, value in given["labels"]),
            "units": tuple(given["units"]),
        }
        return VideoObject(VideoMeta(**{**given, **made}), table.select(_ROWS.names).cast(_ROWS))
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise JournalError(f"{where} is no whole video's record ({error}); delete it and run the job again") from error


def whole_table(video: VideoObject, label: Label, *, is_copy: bool = False) -> pa.Table:
    """Rows of `whole_answers`. Where another item of the same content has the record's costs, they are null."""
    meta = video.meta
    shared = {
        **asdict(label),
        "version_id": meta.version_id,
        "run_id": meta.run_id,
        "answer_format": meta.answer_format,
    }
    shared |= {name: getattr(meta.asked, name) for name in ASKED_FIELDS}
    shared |= {"clips": meta.clips, "clips_missing": meta.clips_missing}
    measured = ("texts", "tokens", "flops", "kv_bytes", "model_s")
    shared |= {name: None if is_copy else getattr(meta, name) for name in measured}
    rows = [{**shared, **row} for row in video.rows.to_pylist()]
    return pa.Table.from_pylist(rows, schema=WHOLE_ANSWERS_SCHEMA)


def whole_quarantine(video: VideoObject, label: Label) -> pa.Table:
    """Rows of `quarantine`: the whole record, or its unreadable answers. `unit_id` is what it was made from."""
    meta = video.meta
    failed: list[Mapping[str, Any]] = [
        {"question_id": row["question_id"], "error_class": row["error_class"], "message": row["text"]}
        for row in video.rows.to_pylist()
        if row["error_class"] is not None
    ]
    if meta.error_class is not None:
        failed = [{"question_id": None, "error_class": meta.error_class, "message": meta.message}]
    shared = {**asdict(label), "version_id": meta.version_id, "unit_id": meta.inputs, "run_id": meta.run_id}
    rows = [
        {
            **shared,
            **one,
            "stage": STAGE,
            "quarantine_id": content_id("quarantine", meta.inputs, None, one["question_id"], label.media_id),
        }
        for one in failed
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)
