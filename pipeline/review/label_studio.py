"""Labels from Label Studio: corrected timelines of `omnidrop export --to label-studio`, as labels of clips.

Promises: a clip of which a range covers at least half is labelled with it; a clip of a yes/no question that a person's
ranges leave out is a no. Ranges of other media or questions are named, not left out in silence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidrop.answer_types import column_of
from omnidrop.json_text import parse_json
from pipeline.review.labels import RIGHT, WRONG, Label, LabelsError
from pipeline.review.reliability import is_right

if TYPE_CHECKING:
    import duckdb

Span = tuple[float, float]


def imported(path: Path, connection: duckdb.DuckDBPyConnection, job: str) -> list[Label]:
    """Labels of the published clips, from a JSON export. Raises LabelsError."""
    try:
        tasks = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabelsError(f"--import {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LabelsError(f"--import {path}: not JSON; export the project as JSON in Label Studio") from error
    ranges: dict[str, dict[str, dict[str, list[Span]]]] = {}
    try:
        for task in tasks:
            if done := [one for one in task.get("annotations", ()) if not one.get("was_cancelled")]:
                # The newest annotation of a task counts.
                data = task["data"]
                ranges[data["media_key"]] = _ranges(done[-1]["result"], float(data["fps"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabelsError(
            f"--import {path}: not tasks of `omnidrop export --to label-studio` with annotations ({error!r})"
        ) from error
    if not ranges:
        raise LabelsError(f"--import {path}: no task has an annotation; export the project after labelling")
    labels, known = [], set()
    rows = connection.execute(
        "SELECT media_key, start_s, end_s, question_id, answer_type, answer, clip_id, question FROM answers "
        "WHERE job = $job AND list_contains($keys, media_key) AND answer IS NOT NULL ORDER BY ALL",
        {"job": job, "keys": list(ranges)},
    ).fetchall()
    for key, start, end, question, kind, answer, clip_id, text in rows:
        known.add((key, question))
        right = _right(ranges[key].get(question, {}), start, end, column_of(kind) == "answer_boolean")
        if right is not None:
            label = Label(key, start, end, question, right, RIGHT, answer, clip_id)
            verdict = RIGHT if is_right(label, answer) else WRONG
            labels.append(replace(label, verdict=verdict, question=text or ""))
    unknown = sorted({(key, question) for key, of in ranges.items() for question in of} - known)
    if unknown:
        named = ", ".join(f"{question} of {key}" for key, question in unknown[:5])
        raise LabelsError(f"--import {path}: the published answers have no {named}; is this another job's?")
    return labels


def _ranges(results: Any, fps: float) -> dict[str, dict[str, list[Span]]]:
    """Question -> answer -> ranges in seconds."""
    found: dict[str, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result.get("type") != "timelinelabels":
            continue
        for title in result["value"]["timelinelabels"]:
            question, _, answer = title.partition(": ")
            for one in result["value"]["ranges"]:
                # Frames count from 1, and the last one belongs to the range.
                found[question][answer].append(((one["start"] - 1) / fps, one["end"] / fps))
    return found


def _right(answers: Mapping[str, list[Span]], start: float, end: float, is_boolean: bool) -> str | None:
    covered = {answer: sum(_overlaps(spans, start, end)) for answer, spans in answers.items()}
    best = max(covered, key=lambda answer: covered[answer], default=None)
    if best is not None and covered[best] >= (end - start) / 2:
        return best
    return "no" if is_boolean and answers else None


def _overlaps(spans: list[Span], start: float, end: float) -> Iterator[float]:
    for first, last in spans:
        yield max(0.0, min(last, end) - max(first, start))
