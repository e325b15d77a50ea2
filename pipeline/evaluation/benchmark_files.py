"""A benchmark's folder: the table of questions in any usual format, and the videos where the layout has them.

Promises: field names in lower case, rows of nested files made flat, no file outside the folder. Knows nothing about
what a field means, prompts or models.
"""

from __future__ import annotations

import csv
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidrop.json_text import parse_json
from pipeline.evaluation.dataset import EvaluationError

Row = Mapping[str, Any]
TABLES = (".json", ".jsonl", ".parquet", ".tsv", ".csv")
MEDIA = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".flv", ".mpg")


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark lies on disk and how it is asked. Fields may have several names: releases differ."""

    name: str
    video: tuple[str, ...]
    """Fields that name the video: a path or an id."""
    places: tuple[str, ...]
    """Where it lies below the root; {0} is the field's value."""
    question: tuple[str, ...]
    options: tuple[str, ...]
    """Fields that may hold the list."""
    answer: tuple[str, ...]
    task: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    head: str
    before_options: str
    tail: str
    max_frames: int = 128
    option_fields: tuple[str, ...] = ()
    """Where every option has a field of its own."""


def read_rows(benchmark: Benchmark, root: Path, chosen: Path | None) -> list[Row]:
    """The questions of `chosen`, or of the one table below `root` that has the benchmark's fields.

    Shards of one table count as one. Raises EvaluationError where there is none, or several.
    """
    if chosen is not None:
        rows = _read(chosen)
        if not _fits(benchmark, rows):
            raise EvaluationError(
                f"--questions-file {chosen} holds no rows with {_needed(benchmark)}; its first has: "
                f"{', '.join(rows[0]) if rows else 'nothing'}"
            )
        return rows
    fitting: dict[Path, list[Row]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in TABLES and len(path.relative_to(root).parts) <= 3 and not path.name.startswith("."):
            try:
                rows = _read(path)
            except EvaluationError:
                continue
            if _fits(benchmark, rows):
                fitting[path] = rows
    shards = {(path.parent, path.name.split("-")[0]) for path in fitting if "-of-" in path.name}
    if len(fitting) > 1 and (len(shards) != 1 or any("-of-" not in path.name for path in fitting)):
        names = ", ".join(str(path.relative_to(root)) for path in fitting)
        raise EvaluationError(f"{root} holds several files of questions: {names}; choose with --questions-file")
    if not fitting:
        raise EvaluationError(
            f"{root}: no file of questions with {_needed(benchmark)} among its {', '.join(TABLES)} files; give one "
            "with --questions-file"
        )
    return [row for rows in fitting.values() for row in rows]


def _needed(benchmark: Benchmark) -> str:
    return ", ".join(names[0] for names in (benchmark.video, benchmark.question, benchmark.options, benchmark.answer))


def _fits(benchmark: Benchmark, rows: Sequence[Row]) -> bool:
    options = (*benchmark.options, *benchmark.option_fields)
    needed = (benchmark.video, benchmark.question, options, benchmark.answer)
    return bool(rows) and all(any(name in rows[0] for name in names) for names in needed)


def _read(path: Path) -> list[Row]:
    """Rows with lower-case field names. Raises EvaluationError."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            found: Any = pq.read_table(path).to_pylist()
        elif suffix == ".jsonl":
            found = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        elif suffix in (".csv", ".tsv"):
            csv.field_size_limit(min(sys.maxsize, 1 << 24))
            with path.open(encoding="utf-8-sig", newline="") as file:
                found = list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
        else:
            found = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, csv.Error) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    return [{str(name).strip().lower(): value for name, value in row.items()} for row in _flat(found)]


def _flat(found: Any) -> Iterator[dict[str, Any]]:
    """Rows from a list, from a list below one key, or from videos that hold their questions (task0, task1, ...)."""
    if isinstance(found, list):
        yield from (row for row in found if isinstance(row, dict))
    elif isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) == 1:
            yield from _flat(lists[0])
            return
        for video, entry in found.items():
            if isinstance(entry, list):
                yield from ({"video_id": video, **row} for row in entry if isinstance(row, dict))
            elif isinstance(entry, dict):
                shared = {name: value for name, value in entry.items() if not isinstance(value, dict)}
                inner = [value for value in entry.values() if isinstance(value, dict)]
                if inner and all("question" in row for row in inner):
                    yield from ({"video_id": video, **shared, **row} for row in inner)
                else:
                    yield {"video_id": video, **entry}


class Videos:
    """Finds videos below a root, by the layout's places or else by name anywhere; never outside of it."""

    def __init__(self, benchmark: Benchmark, root: Path) -> None:
        self._benchmark = benchmark
        self._root = root.resolve()
        self._by_stem: dict[str, list[Path]] | None = None

    def find(self, video: str) -> Path | None:
        """The file of a video, None if there is none or more than one."""
        if not video:
            return None
        for place in self._benchmark.places:
            path = (self._root / place.format(video)).resolve()
            if path.suffix.lower() in MEDIA and path.is_relative_to(self._root) and path.is_file():
                return path
        if self._by_stem is None:
            self._by_stem = defaultdict(list)
            for folder, _, names in os.walk(self._root):
                for name in sorted(names):
                    if Path(name).suffix.lower() in MEDIA:
                        self._by_stem[Path(name).stem].append(Path(folder) / name)
        same = self._by_stem.get(Path(video).stem if Path(video).suffix in MEDIA else Path(video).name, [])
        return same[0] if len(same) == 1 else None


def field_of(row: Row, names: Sequence[str]) -> Any:
    """The first of the fields that holds something."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def text_of(row: Row, names: Sequence[str]) -> str:
    """The same as text."""
    value = field_of(row, names)
    return "" if value is None else str(value).strip()
