"""Published benchmarks from a local folder in their own layout: WorldSense, Daily-Omni, Video-MME, AVUT.

Promises: a video's questions share one pass, asked in the published form and frame budget; a row that cannot be asked
or a video that is missing is named and counts as wrong. Knows nothing about models or figures, and downloads nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omnidrop.questions import Choice, Question, Text
from pipeline.counted import counted
from pipeline.evaluation.benchmark_files import Benchmark, Row, Videos, field_of, read_rows, text_of
from pipeline.evaluation.benchmark_text import answer_letter, names_in, options_of, prompt
from pipeline.evaluation.dataset import EvaluatedClip, EvaluationError, Target
from pipeline.evaluation.scoring import LETTERS
from pipeline.identity import content_id
from workers.media.opening import etag_of
from workers.media.probing import ProbePool
from workers.records import ClipFailure, Media, MediaInfo

WRITTEN_TOKENS = 16
"""Longest written answer: a letter, or a sentence that names one."""

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
    rows = read_rows(benchmark, root, questions_file)
    by_video: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for number, row in enumerate(rows, 1):
        by_video[text_of(row, benchmark.video)].append((number, row))
    chosen = list(by_video)[: most or None]
    files = Videos(benchmark, root)
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
        more = ", ..." if len(missing) > 3 else ""
        notes.append(
            f"missing, so that their questions count as wrong: {counted(len(missing), 'video')}, "
            f"{', '.join(missing[:3])}{more}"
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
        name = text_of(row, benchmark.ids) or str(number)
        ids[name] += 1
        name += f"-{ids[name]}" if ids[name] > 1 else ""
        task = text_of(row, benchmark.task) or "all"
        groups = tuple((kind, one) for kind, fields in benchmark.groups for one in _classes(field_of(row, fields)))
        try:
            options = _options(benchmark, row)
            right = answer_letter(field_of(row, benchmark.answer), options)
            asked = text_of(row, benchmark.question)
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
    several = [text_of(row, (field,)) for field in benchmark.option_fields]
    while several and not several[-1]:
        several.pop()
    # An empty option in the middle keeps its letter: the answer is given by letter.
    return options_of([text or "-" for text in several] if several else field_of(row, benchmark.options))


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


def _media(video: str, path: Path | None) -> Media:
    if path is None:
        return Media(video, video, "", "", 0)
    status = path.stat()
    return Media(video, video, str(path), etag_of(status), status.st_size)
