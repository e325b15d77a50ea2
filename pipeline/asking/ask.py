"""One media file asked here and now: no Ray, no cluster, no index, and nothing is written.

Promises: the file goes the way every file of an archive goes (probed and decoded by confined children, cut alike, one
pruned pass a clip for all questions), so its answers are those that a job with the same settings gives. Knows nothing
about the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from omnidrop.errors import PolicyError, QuestionError, UserError
from omnidrop.question_text import as_questions
from omnidrop.questions import Question
from pipeline.asking.answered_file import AnsweredFile
from pipeline.config.sections import ClipsConfig, ExecutionConfig, ModelConfig, PruningConfig, Scalar
from pipeline.config.validation_errors import explain, joined
from pipeline.config.worker_settings import answerer_settings, decode_settings, pruning_of
from pipeline.context.prompt import clip_context
from pipeline.context.sidecars import Context, read_context
from pipeline.identity import clip_id, content_id, media_id
from pipeline.planning.cutting import cut_spans
from pipeline.questions.question_set import load_question_set
from pipeline.questions.templates import one_line
from workers.errors import MediaError
from workers.media.decode import decode_one, local_etag
from workers.media.probing import probe
from workers.model.answerer import Answerer
from workers.records import Clip, ClipFailure, ClipOutcome, Media, MediaInfo

S = TypeVar("S", bound=BaseModel)

JOB = "ask"
"""Stands where answers of an archive name their job."""


class AskError(UserError):
    """The file cannot be asked about, or the span or a setting cannot be used."""


def ask(
    path: str | os.PathLike[str],
    *questions: str | Question,
    question_set: str | Path | None = None,
    variables: Mapping[str, Scalar] | None = None,
    model: str | Answerer = "tiny",
    device: str = "auto",
    retained_ratio: float | None = 0.3,
    policy: str = "omnidrop",
    settings: Mapping[str, Scalar] | None = None,
    span_s: tuple[float, float] | None = None,
    length_s: float = 30.0,
    fps: float = 2.0,
    context: bool | Sequence[str] = False,
    answered: Callable[[ClipOutcome], None] = lambda outcome: None,
) -> AnsweredFile:
    """Ask one local file's clips all questions, in one pruned pass a clip.

    Questions are lines such as `"Is a circle shown? [yes/no]"` (see `omnidrop.question_text`), `Question`s, or a
    `question_set` (a YAML file or a built-in name), whose templates are filled from the file. `retained_ratio` None or
    1 prunes nothing. `policy` and its `settings` say what is kept, as `pruning.policy` and `pruning.settings` of a job;
    a policy that is given its rates takes `retained_ratio` None. `span_s` is the part of the file asked about, cut into
    clips of `length_s`. `model` may be an `Answerer` from an earlier call's result (`answer.answerer`), so that it is
    loaded once. With `context` the model is also told, for each clip, what the files named (True: those beside the
    file, see `pipeline.context`) say is said in it, its chapter, and what it is. `answered` is told of every clip. A
    clip that fails is in the result's `failures`.

    Raises AskError, QuestionError, PolicyError, CheckpointError, ContextError.
    """
    path = os.fspath(path)
    lines = as_questions(questions)
    if bool(lines) == bool(question_set):
        raise QuestionError(
            'give questions, as in "Is a circle shown? [yes/no]", or a question set; '
            + ("not both" if lines else "neither was given")
        )
    clips = _checked(ClipsConfig, {"length_s": length_s, "fps": fps, "min_length_s": min(1.0, length_s)})
    has_rates = "p_final" in (settings or {})
    prunes_nothing = retained_ratio == 1 or (retained_ratio is None and not has_rates)
    given: dict[str, object] = {"mode": "dense_shared"}
    if not prunes_nothing:
        given = {"retained_ratio": retained_ratio, "policy": policy, "settings": dict(settings or {})}
    pruning = _checked(PruningConfig, given)
    if not isinstance(model, Answerer):
        loading = _checked(ModelConfig, {"path": model, "device": device})
        model = Answerer(answerer_settings(loading, pruning))
    media, info = _looked_at(path)
    spans = _spans(info, clips, span_s, path)
    asked, instruction = lines, ""
    if question_set is not None:
        asked, instruction = load_question_set(question_set).resolve(media, info, variables or {})
    written = read_context(path, None if context is True else context) if context else Context()
    decoding = decode_settings(clips, ExecutionConfig())
    how = pruning_of(pruning)
    outcomes: list[ClipOutcome] = []
    words = left_out = 0
    model.load()
    version = content_id(JOB, media.media_id, media.etag)
    for number, (start, end) in enumerate(spans):
        clip = Clip(clip_id(version, start, end), number, start, end)
        decoded = decode_one(media, info, clip, decoding)
        if isinstance(decoded, ClipFailure):
            outcomes.append(decoded)
        else:
            told = clip_context(written, start, end)
            outcomes.append(model.answer(decoded, asked, _joined(told.text, instruction), pruning=how))
            words += told.words
            left_out += told.left_out
            _raise_what_every_clip_would(outcomes[-1])
        answered(outcomes[-1])
    told_of = _told_of(written, words, left_out) if context else ()
    return AnsweredFile(media, info, asked, tuple(outcomes), how, model, told_of)


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _told_of(context: Context, words: int, left_out: int) -> tuple[str, ...]:
    if not context.used:
        return (*context.notes, "no context was found beside the file")
    cut = f"; {left_out} words of long clips left out" if left_out else ""
    return (*context.notes, f"context of {', '.join(map(one_line, context.used))}: {words} words in the prompts{cut}")


def _looked_at(path: str) -> tuple[Media, MediaInfo]:
    if "://" in path:
        raise AskError(f"{path}: ask takes a file on this machine; copy it here, or index its bucket with a job")
    if not os.path.exists(path):
        raise AskError(f"{path}: there is no such file")
    if os.path.isdir(path):
        raise AskError(f"{path} is a folder; ask takes one file, `omnidrop index` a folder of them")
    whole = os.path.realpath(path)
    try:
        etag, info = local_etag(whole), probe(whole)
    except MediaError as error:
        raise AskError(
            f"{path} cannot be asked about: {error}; give a file with pictures or sound, such as mp4, mkv, webm, mov, "
            "wav or mp3"
        ) from error
    key = os.path.basename(path)
    return Media(media_id(JOB, whole), key, whole, etag, os.path.getsize(whole)), info


def _spans(
    info: MediaInfo, clips: ClipsConfig, span_s: tuple[float, float] | None, path: str
) -> list[tuple[float, float]]:
    start, end = span_s or (0.0, info.duration_s)
    if not 0 <= start < end:
        raise AskError(f"the span {start:g}-{end:g} must begin at 0 or later and end after it begins, in seconds")
    if start >= info.duration_s:
        raise AskError(f"the span begins at {start:g} s, but {path} is {info.duration_s:.1f} s long")
    end = min(end, info.duration_s)
    return [(round(start + a, 6), round(start + b, 6)) for a, b in cut_spans(end - start, clips)]


def _raise_what_every_clip_would(outcome: ClipOutcome) -> None:
    """A ratio that cannot be reached or options that read alike are a mistake of the call, not of the clip."""
    for kind in (PolicyError, QuestionError):
        if isinstance(outcome, ClipFailure) and outcome.error_class == kind.error_class:
            raise kind(outcome.message)


def _checked(section: type[S], given: Mapping[str, object]) -> S:
    try:
        return section.model_validate(given)
    except ValidationError as error:
        raise AskError(joined(explain(error, section, given))) from error
