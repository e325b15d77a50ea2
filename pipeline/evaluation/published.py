"""Published benchmarks from a local folder in their own layout: WorldSense, Daily-Omni, Video-MME, AVUT.

Promises: a video's questions share one pass, the paper's prompt and frame budget are used, a row that cannot be asked
or a video that is missing is named and counts as wrong. Knows nothing about models or figures, and downloads nothing.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidrop.questions import Choice, Question, Text
from pipeline.evaluation.benchmark_text import answer_letter, names_in, options_of, prompt
from pipeline.evaluation.items import EvaluatedClip, EvaluationError, Target
from pipeline.evaluation.scoring import LETTERS
from pipeline.identity import content_id
from workers.probing import ProbePool
from workers.records import ClipFailure, Media, MediaInfo

Row = Mapping[str, Any]
WRITTEN_TOKENS = 16
"""Longest written answer: a letter, or a sentence that names one."""
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


_LETTER_ONLY = "Answer with the letter of the correct option only ({letters})."
BENCHMARKS = {
    "worldsense": Benchmark(
        name="WorldSense",
        video=("video_path", "video", "video_id"),
        places=("{0}", "videos/{0}", "{0}.mp4", "videos/{0}.mp4"),
        question=("question",),
        options=("candidates", "options"),
        answer=("answer",),
        task=("task_type", "task"),
        ids=("index", "qa_id", "question_id"),
        groups=(
            ("domain", ("domain", "task_domain")),
            ("audio class", ("audio_class",)),
            ("duration", ("duration",)),
        ),
        head="",
        before_options="Options:",
        tail=_LETTER_ONLY,
    ),
    "daily-omni": Benchmark(
        name="Daily-Omni",
        video=("video_id", "video_path", "video"),
        places=("videos/{0}/{0}_video.mp4", "Videos/{0}/{0}_video.mp4", "{0}/{0}_video.mp4", "{0}", "videos/{0}.mp4"),
        question=("question",),
        options=("choice", "choices", "options"),
        answer=("answer",),
        task=("type", "task_type"),
        ids=("question_id", "index"),
        groups=(("category", ("video_category",)), ("duration", ("video_duration",))),
        head="Watch the video, listen to its sound, and answer the multiple-choice question about it.",
        before_options="",
        tail="Answer with one capital letter only ({letters}).",
    ),
    "video-mme": Benchmark(
        name="Video-MME",
        video=("videoid", "video_id"),
        places=("data/{0}.mp4", "videos/{0}.mp4", "video/{0}.mp4", "{0}.mp4"),
        question=("question",),
        options=("options", "candidates"),
        answer=("answer",),
        task=("task_type",),
        ids=("question_id",),
        groups=(
            ("duration", ("duration",)),
            ("domain", ("domain",)),
        ),
        head="Select the best answer to the following multiple-choice question based on the video. Respond with only "
        "the letter of the correct option.",
        before_options="",
        tail="The best answer is:",
        max_frames=768,
    ),
    "avut": Benchmark(
        name="AVUT",
        video=("video_path", "video_id", "video"),
        places=("{0}", "videos/{0}", "videos/{0}.mp4", "{0}.mp4"),
        question=("question",),
        options=("options", "candidates", "choices"),
        option_fields=tuple(f"option_{letter.lower()}" for letter in LETTERS[:6]),
        answer=("answer",),
        task=("task_type",),
        ids=("qa_id", "question_id"),
        groups=(),
        head="",
        before_options="Options:",
        tail=_LETTER_ONLY,
    ),
}


def benchmark_clips(
    benchmark: Benchmark,
    root: Path,
    questions_file: Path | None = None,
    *,
    letters: bool = False,
    most: int = 0,
    probed: Callable[[], object] = lambda: None,
) -> tuple[list[EvaluatedClip], tuple[str, ...]]:
    """The benchmark's videos (the first `most`, all for 0) with their questions, and notes about what is not right.

    `letters` asks for the most probable letter, else a written answer is read. Raises EvaluationError where the folder
    holds no questions, several files of them, or none of the videos.
    """
    if not root.is_dir():
        raise EvaluationError(f"--root {root} is not a folder; give the one that holds {benchmark.name}")
    rows = _rows(benchmark, root, questions_file)
    by_video: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for number, row in enumerate(rows, 1):
        by_video[_text(row, benchmark.video)].append((number, row))
    chosen = list(by_video)[: most or None]
    files = _Files(benchmark, root)
    paths = {video: files.find(video) for video in chosen}
    if not any(paths.values()):
        raise EvaluationError(
            f"{root}: none of {len(chosen)} videos of {benchmark.name} is there; the first is expected at "
            f"{root / benchmark.places[0].format(chosen[0])}"
        )
    infos: dict[str, MediaInfo | ClipFailure] = {
        video: ClipFailure(None, "probe", "media_missing", f"{video} is not below {root}") for video in chosen
    }
    with ProbePool(2) as pool:
        for video, info in pool.probe_many((video, str(path)) for video, path in paths.items() if path):
            infos[video] = info
            probed()
    notes: list[str] = []
    if missing := [video for video, path in paths.items() if path is None]:
        notes.append(
            f"{len(missing)} videos are missing, their questions count as wrong: {', '.join(missing[:3])}, ..."
        )
    clips: list[EvaluatedClip] = []
    for video in chosen:
        clips += _clips(benchmark, video, paths[video], infos[video], by_video[video], letters, notes)
    return clips, tuple(notes)


def _clips(
    benchmark: Benchmark,
    video: str,
    path: Path | None,
    info: MediaInfo | ClipFailure,
    rows: Sequence[tuple[int, Row]],
    letters: bool,
    notes: list[str],
) -> Iterator[EvaluatedClip]:
    """One clip with all that can be asked of the video, and one that failed with the rows that cannot be read."""
    questions: list[Question] = []
    targets: list[Target] = []
    unreadable: list[Target] = []
    ids: Counter[str] = Counter()
    for number, row in rows:
        name = _text(row, benchmark.ids) or str(number)
        ids[name] += 1
        name += f"-{ids[name]}" if ids[name] > 1 else ""
        task = _text(row, benchmark.task) or "all"
        groups = tuple((kind, one) for kind, fields in benchmark.groups for one in _classes(_field(row, fields)))
        try:
            options = _options(benchmark, row)
            right = answer_letter(_field(row, benchmark.answer), options)
            asked = _text(row, benchmark.question)
            if not asked:
                raise EvaluationError("the question is empty")
        except EvaluationError as error:
            notes.append(f"row {number} ({video}, {name}) cannot be asked and counts as wrong: {error}")
            unreadable.append(Target(name, ("",), task, 0.0, groups=groups))
            continue
        text = prompt(asked, options, benchmark.head, benchmark.before_options, benchmark.tail)
        answer = Choice(tuple(LETTERS[: len(options)])) if letters else Text(WRITTEN_TOKENS)
        questions.append(Question(name, text, answer))
        targets.append(
            Target(name, (right,), task, 1 / len(options), options=() if letters else options, groups=groups)
        )
    media = _media(video, path)
    found = info if isinstance(info, MediaInfo) else None
    failure = info if isinstance(info, ClipFailure) else None
    end = found.duration_s if found else 0.0
    # One cluster: what is asked of a video and what cannot be asked share its id.
    clip_id = content_id(benchmark.name, video)
    if targets:
        yield EvaluatedClip(clip_id, media, found, 0.0, end, tuple(questions), tuple(targets), "", failure)
    if unreadable:
        why = ClipFailure(None, "plan", "bad_row", "the row cannot be read")
        yield EvaluatedClip(clip_id, media, found, 0.0, end, (), tuple(unreadable), "", why)


def _options(benchmark: Benchmark, row: Row) -> tuple[str, ...]:
    several = [_text(row, (field,)) for field in benchmark.option_fields]
    while several and not several[-1]:
        several.pop()
    # An empty option in the middle keeps its letter: the answer is given by letter.
    return options_of([text or "-" for text in several] if several else _field(row, benchmark.options))


def _classes(given: Any) -> tuple[str, ...]:
    """Names of classes; a length in seconds, as some releases have it, becomes one of minutes."""
    names = names_in(given)
    try:
        minutes = int(float(names[0]) // 60) if len(names) == 1 else -1
    except ValueError:
        return names
    if minutes < 0:
        return names
    return (f"{minutes} to {minutes + 1} min",) if minutes < 10 else ("over 10 min",)


def _rows(benchmark: Benchmark, root: Path, chosen: Path | None) -> list[Row]:
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
            found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        elif suffix in (".csv", ".tsv"):
            csv.field_size_limit(min(sys.maxsize, 1 << 24))
            with path.open(encoding="utf-8-sig", newline="") as file:
                found = list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
        else:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
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


class _Files:
    """Finds videos below a root, by the layout's places or else by name anywhere; never outside of it."""

    def __init__(self, benchmark: Benchmark, root: Path) -> None:
        self._benchmark = benchmark
        self._root = root.resolve()
        self._by_stem: dict[str, list[Path]] | None = None

    def find(self, video: str) -> Path | None:
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


def _media(video: str, path: Path | None) -> Media:
    if path is None:
        return Media(video, video, "", "", 0)
    status = path.stat()
    return Media(video, video, str(path), f"{status.st_size}-{status.st_mtime_ns}", status.st_size)


def _field(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _text(row: Row, names: Sequence[str]) -> str:
    value = _field(row, names)
    return "" if value is None else str(value).strip()
