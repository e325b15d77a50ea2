"""The answers inside the page: videos with their clips, as JSON, compressed, as many as fit.

Promises: at most `budget_bytes` of compressed data whatever the archive holds, whole videos in order of their names,
and the count of what did not fit. Knows nothing about SQL or HTML.

    {"questions": [{"id", "text", "chart", "unit", "low", "high", "answers": [...those with a colour]}],
     "videos": [{"key", "uri", "open", "duration", "clip": [...], "start": [...], "end": [...],
                 "answers": [[...] per question], "sure": [[...] per question], "unread": [[question, clip, class]...],
                 "lost": [[start, end, class]...]}]}
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from omnidrop.answer_types import column_of
from pipeline.config.locations import is_s3
from pipeline.report.formats import cut
from pipeline.report.view_model import Explorer, QuestionFacts
from workers.media.opening import local_path

MOST_ANSWERS = 250_000
"""Read at most: bounds memory, and how long a browser takes to sort."""
CHECKED_BYTES = 1 << 14
"""How much JSON is compressed between two looks at the budget: a look costs some compression."""
CLIP_ID_DIGITS = 12
"""Of a clip's id, as `omnidrop explain` takes it: enough to tell a million clips apart."""


@dataclass(frozen=True)
class EncodedClip:
    """One clip: for each question its (answer, probability, error class), None where it was not asked."""

    clip_id: str
    start_s: float
    end_s: float
    answers: tuple[tuple[str, float | None, str | None] | None, ...]


@dataclass(frozen=True)
class EncodedMedia:
    """One media item with its answered clips, and the spans that have no answer."""

    key: str
    uri: str
    duration_s: float | None
    clips: tuple[EncodedClip, ...]
    lost: tuple[tuple[float, float, str], ...]
    """(start, end, error class) of clips in quarantine."""


def encode(
    questions: Sequence[QuestionFacts], media: Iterable[EncodedMedia], *, media_of: int, budget_bytes: int
) -> Explorer:
    """Compress whole videos until the budget is spent."""
    head = [
        {
            "id": question.question_id,
            "text": cut(question.text),
            "chart": _chart(question),
            "unit": question.unit,
            "low": question.lowest,
            "high": question.highest,
            "answers": [cut(answer) for answer, _ in question.counts],
        }
        for question in questions
    ]
    packed = _Packed(f'{{"questions":{_json(head)},"videos":[')
    taken = answers = 0
    waiting: list[str] = []
    counts = [0, 0]
    for item in media:
        waiting.append(_json(_video(item, len(questions))))
        counts = [counts[0] + 1, counts[1] + sum(a is not None for clip in item.clips for a in clip.answers)]
        if sum(map(len, waiting)) >= CHECKED_BYTES:
            if not packed.add(waiting, budget_bytes):
                break
            taken, answers = taken + counts[0], answers + counts[1]
            waiting, counts = [], [0, 0]
    else:
        if packed.add(waiting, budget_bytes):
            taken, answers = taken + counts[0], answers + counts[1]
    return Explorer(
        packed.close(), media=taken, media_of=media_of, answers=answers, answers_of=sum(q.asked for q in questions)
    )


def _chart(question: QuestionFacts) -> str | None:
    """How its answers are coloured, by the column they are typed in; None for free text."""
    charts = {"answer_boolean": "yes_no", "answer_number": "scale"}
    return charts.get(column_of(question.kind) or "", "words" if question.counts else None)


class _Packed:
    """gzip of a JSON text whose videos are added in groups, each whole or not at all."""

    def __init__(self, head: str) -> None:
        self._compressor = zlib.compressobj(9, wbits=31)
        self._data = self._compressor.compress(head.encode()) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        self._empty = True

    def add(self, videos: Sequence[str], budget_bytes: int) -> bool:
        """Add these; False, and nothing happens, where the budget does not allow it."""
        if not videos:
            return True
        tried = self._compressor.copy()
        text = ("" if self._empty else ",") + ",".join(videos)
        more = tried.compress(text.encode()) + tried.flush(zlib.Z_SYNC_FLUSH)
        if len(self._data) + len(more) > budget_bytes:
            return False
        self._compressor, self._data, self._empty = tried, self._data + more, False
        return True

    def close(self) -> bytes:
        """The whole text, compressed."""
        return self._data + self._compressor.compress(b"]}") + self._compressor.flush()


def _video(item: EncodedMedia, questions: int) -> dict[str, Any]:
    columns: list[list[str | None]] = [[] for _ in range(questions)]
    sure: list[list[int | None]] = [[] for _ in range(questions)]
    unread = []
    for number, clip in enumerate(item.clips):
        for question, cell in enumerate(clip.answers):
            answer, probability, error_class = cell or (None, None, None)
            columns[question].append(None if answer is None else cut(answer))
            # Rounded down: nothing short of certainty reads as 100 %.
            sure[question].append(None if probability is None else int(probability * 1000))
            if error_class is not None:
                unread.append([question, number, error_class])
    return {
        "key": item.key,
        "uri": item.uri,
        "open": _opened(item.uri),
        "duration": _seconds(max([item.duration_s or 0.0, *(clip.end_s for clip in item.clips)])),
        "clip": [clip.clip_id[:CLIP_ID_DIGITS] for clip in item.clips],
        "start": [_seconds(clip.start_s) for clip in item.clips],
        "end": [_seconds(clip.end_s) for clip in item.clips],
        "answers": columns,
        "sure": sure,
        "unread": unread,
        "lost": [[_seconds(start), _seconds(end), error_class] for start, end, error_class in item.lost],
    }


def _opened(uri: str) -> str | None:
    """What a browser opens: a local file's address. A bucket's object has none without a signature."""
    if is_s3(uri):
        return None
    path = PurePath(local_path(uri))
    return path.as_uri() if path.is_absolute() else None


def _seconds(value: float) -> float | int:
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
