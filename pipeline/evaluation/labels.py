"""Right answers from a user's own table, for the archive and question set of a job: to choose a ratio before a big run.

Promises: every labelled span is asked the job's whole question set, as in the job, and scored on what is labelled;
whatever is wrong with the table is said at once, by line. Knows nothing about models or figures.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from omnidrop.answer_types import normalised
from omnidrop.errors import QuestionError
from omnidrop.questions import Question, Scored
from pipeline.archive.listing import list_media
from pipeline.archive.probing import source
from pipeline.config.job import JobConfig
from pipeline.context.sidecars import ContextError
from pipeline.evaluation.dataset import EvaluatedClip, EvaluationError, Target
from pipeline.evaluation.scoring import right_answers
from pipeline.identity import content_id
from pipeline.planning.context import ItemContext, context_reader
from pipeline.questions.question_set import QuestionSet, load_question_set
from pipeline.questions.templates import UNTOLD
from pipeline.spreadsheet import plain
from workers.media.probing import ProbePool
from workers.records import ClipFailure, Media, MediaInfo

COLUMNS = {
    "file": ("file", "media", "media_key", "key", "path"),
    "start": ("start", "start_s", "from"),
    "end": ("end", "end_s", "to"),
    "question": ("question_id", "question", "id"),
    "answer": ("answer", "right_answer", "right", "label", "expected"),
    "verdict": ("verdict",),
}
"""What columns may be called; start and end may be left out, and verdict, which `omnidrop review` writes."""
SHOWN_PROBLEMS = 20
BORDER_S = 0.5
"""A span may end so much after its file: times in tables are rounded."""


@dataclass(frozen=True)
class _Row:
    line: int
    file: str
    start_s: float | None
    end_s: float | None
    question: str
    answer: str
    asked: str
    """The question's words when it was labelled; empty where the table does not say."""


@dataclass(frozen=True)
class _Spanned:
    """A span of a file with the rows that label it."""

    file: str
    start_s: float | None
    end_s: float | None
    rows: tuple[_Row, ...]


def labelled_clips(
    path: Path, job: JobConfig, *, tolerance: float = 0.0, probed: Callable[[], object] = lambda: None
) -> list[EvaluatedClip]:
    """The labelled spans in the table's order.

    An empty start or end is the file's own. Raises EvaluationError with the lines of bad rows, ArchiveError and
    QuestionSetError.
    """
    if tolerance < 0:
        raise EvaluationError(f"--tolerance must be at least 0, got {tolerance:g}")
    question_set = load_question_set(job.question_set)
    question_set.values(job.variables)
    problems: list[str] = []
    rows = _read(path, question_set, problems)
    found, alike = _media(job, {row.file for row in rows})
    for row in rows:
        if row.file not in found:
            hint = f"; did you mean {alike[name]}?" if (name := _name(row.file)) in alike else ""
            problems.append(f"line {row.line}: file {row.file!r} is not in the archive {job.archive.uri}{hint}")
    _raise(path, problems)
    options = dict(source(job).storage_options)
    with ProbePool(2, timeout_s=job.execution.probe_timeout_s, storage_options=options) as pool:
        infos: dict[str, MediaInfo | ClipFailure] = {}
        for key, info in pool.probe_many((key, media.uri) for key, media in found.items()):
            infos[key] = info
            probed()
    context = context_reader(job, question_set.context_names)
    read = [(media, info) for key, media in found.items() if isinstance(info := infos[key], MediaInfo)]
    contexts = {} if context is None else context.read_all(read)
    of_job = (question_set, job, contexts, tolerance, problems)
    clips = [_clip(span, found[span.file], infos[span.file], *of_job) for span in _spans(rows)]
    _raise(path, problems)
    guesses = _most_frequent(clips)
    return [_with_guesses(clip, guesses) for clip in clips]


def _read(path: Path, question_set: QuestionSet, problems: list[str]) -> list[_Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EvaluationError(
            f"--labels {path}: {error.strerror}; give a CSV with the columns file, start, end, question and answer, "
            "for example one that `omnidrop review` writes"
        ) from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"--labels {path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    header = [name.strip().lower() for name in next(reader, [])]
    places = {
        name: next((header.index(alias) for alias in aliases if alias in header), None)
        for name, aliases in COLUMNS.items()
    }
    places["asked"] = header.index("question") if {"question_id", "question"} <= set(header) else None
    missing = [name for name in ("file", "question", "answer") if places[name] is None]
    if missing:
        raise EvaluationError(
            f"--labels {path}, line 1: no column {', '.join(missing)}; it has: {', '.join(header) or 'nothing'}; "
            "needed: file, start, end, question, answer"
        )
    ids = [question.id for question in question_set.questions]
    rows: list[_Row] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        line = reader.line_num

        def cell(name: str, cells: Sequence[str] = cells) -> str:
            place = places[name]
            return plain(cells[place]).strip() if place is not None and place < len(cells) else ""

        if cell("verdict") == "wrong" and not cell("answer"):
            continue  # a person knew that an answer was wrong, and not what would be right
        if not cell("file"):
            problems.append(f"line {line}: file is empty")
            continue
        if cell("question") not in ids:
            problems.append(
                f"line {line}: question {cell('question')!r} is not in {question_set.source}; it has: {', '.join(ids)}"
            )
            continue
        try:
            start, end = (seconds_of(cell(name), name) for name in ("start", "end"))
            if (start or 0.0) >= (float("inf") if end is None else end):
                raise EvaluationError(f"start {cell('start')} must be before end {cell('end')}")
        except EvaluationError as error:
            problems.append(f"line {line}: {error}")
            continue
        rows.append(_Row(line, cell("file"), start, end, cell("question"), cell("answer"), cell("asked")))
    if not rows and not problems:
        problems.append("there is no row below the header")
    return rows


def seconds_of(written: str, name: str = "start") -> float | None:
    """Seconds, or [hours:]minutes:seconds; None where empty. Raises EvaluationError."""
    if not written:
        return None
    parts = written.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3 or any(not 0 <= v < 1e9 for v in values) or any(v >= 60 for v in values[1:]):
        raise EvaluationError(f"{name} must be seconds or hh:mm:ss, got {written!r}")
    total = 0.0
    for value in values:
        total = total * 60 + value
    return total


def _media(job: JobConfig, wanted: set[str]) -> tuple[dict[str, Media], dict[str, str]]:
    """The wanted media by key, and for names that are in another folder than written a key with that name."""
    found: dict[str, Media] = {}
    alike: dict[str, str] = {}
    names = {_name(file) for file in wanted}
    with closing(list_media(job.archive, leave_out=job.output)) as listed:  # type: ignore[type-var]
        for media in listed:
            if (name := _name(media.key)) in names:
                alike.setdefault(name, media.key)
            if media.key in wanted:
                found[media.key] = media
                if len(found) == len(wanted):
                    break
    return found, alike


def _name(key: str) -> str:
    return key.replace("\\", "/").rpartition("/")[2]


def _spans(rows: Iterable[_Row]) -> list[_Spanned]:
    spans: dict[tuple[str, float | None, float | None], list[_Row]] = defaultdict(list)
    for row in rows:
        spans[row.file, row.start_s, row.end_s].append(row)
    return [_Spanned(*key, tuple(those)) for key, those in spans.items()]


def _clip(
    span: _Spanned,
    media: Media,
    info: MediaInfo | ClipFailure,
    question_set: QuestionSet,
    job: JobConfig,
    contexts: Mapping[str, ItemContext],
    tolerance: float,
    problems: list[str],
) -> EvaluatedClip:
    """What is wrong with the span's rows goes to `problems`; a file that cannot be read is a failure, no problem."""
    failure = info if isinstance(info, ClipFailure) else None
    start = span.start_s or 0.0
    end = span.end_s if span.end_s is not None else info.duration_s if isinstance(info, MediaInfo) else start
    questions: tuple[Question, ...] = ()
    instruction = ""
    targets: dict[str, Target] = {}
    if isinstance(info, MediaInfo):
        line = span.rows[0].line
        if end > info.duration_s + BORDER_S or start >= info.duration_s:
            problems.append(
                f"line {line}: {start:g} to {end:g} s is not within {span.file}, which has {info.duration_s:g} s"
            )
        end = min(end, info.duration_s)
        try:
            item = contexts.get(media.media_id)
            if item is not None and item.failure:
                raise ContextError(item.failure)
            told = UNTOLD if item is None else item.of_clip(start, end)[0]
            questions, instruction = question_set.resolve(media, info, job.variables, told)
        except (QuestionError, ContextError) as error:
            failure = ClipFailure(None, "plan", error.error_class, str(error))
    by_id = {question.id: question for question in questions}
    for row in span.rows:
        if row.question in targets:
            problems.append(f"line {row.line}: question {row.question} of this span was labelled before")
            continue
        question = by_id.get(row.question)
        if question is not None and row.asked not in ("", question.text.strip()):
            problems.append(
                f"line {row.line}: question {row.question} was {row.asked!r} when it was labelled, and is "
                f"{question.text!r} now; label it again with `omnidrop review`, or clear the column `question` if the "
                "labels hold for both"
            )
            continue
        try:
            # A file that cannot be read or asked has no resolved question: its rows count as wrong.
            right = (row.answer,) if question is None else right_answers(question, row.answer)
        except EvaluationError as error:
            problems.append(f"line {row.line}: question {row.question}: {error}")
            continue
        allowed = tolerance if question is not None and question.answer.column == "answer_number" else 0.0
        guess = 0.0 if question is None else question.answer.guess
        targets[row.question] = Target(row.question, right, row.question, guess, allowed)
    clip_id = content_id("labels", media.media_id, media.etag, round(start * 1e6), round(end * 1e6))
    return EvaluatedClip(
        clip_id=clip_id,
        media=media,
        info=info if isinstance(info, MediaInfo) else None,
        start_s=start,
        end_s=end,
        questions=questions,
        targets=tuple(targets.values()),
        instruction=instruction,
        failure=failure,
    )


def _most_frequent(clips: Sequence[EvaluatedClip]) -> Mapping[str, float]:
    """Per question the share of the most frequent right answer: what always saying the same would get.

    Text is left at 0: no answer could be said without knowing it.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    is_text = {q.id for clip in clips for q in clip.questions if not isinstance(q.answer, Scored)}
    for clip in clips:
        for target in clip.targets:
            if target.question_id not in is_text:
                counts[target.question_id][normalised(target.right[0])] += 1
    return {name: max(of.values()) / of.total() for name, of in counts.items()}


def _with_guesses(clip: EvaluatedClip, guesses: Mapping[str, float]) -> EvaluatedClip:
    targets = (replace(t, guess=max(t.guess, guesses.get(t.question_id, 0.0))) for t in clip.targets)
    return replace(clip, targets=tuple(targets))


def _raise(path: Path, problems: Sequence[str]) -> None:
    if problems:
        rest = len(problems) - SHOWN_PROBLEMS
        lines = [*problems[:SHOWN_PROBLEMS], *([f"and {rest} more"] if rest > 0 else [])]
        raise EvaluationError(f"--labels {path} cannot be used:\n  " + "\n  ".join(lines))
