"""One media file asked here and now: no Ray, no cluster, no index, and nothing is written.

Promises: the file goes the way every file of an archive goes (probed and decoded by confined children, cut alike, one
pruned pass a clip for all questions), so its answers are those that a job with the same settings gives. Knows nothing
about the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omnidrop import policies
from omnidrop.errors import PolicyError, QuestionError
from omnidrop.question_text import as_questions
from omnidrop.questions import Question
from pipeline.asking.answered_file import AnsweredFile
from pipeline.asking.one_file import JOB, checked, checked_clips, looked_at, spans_of
from pipeline.asking.whole_file import ask_whole
from pipeline.config.sections import ContextConfig, ExecutionConfig, ModelConfig, PruningConfig, Scalar
from pipeline.config.worker_settings import answerer_settings, decode_settings, pruning_of
from pipeline.context.prompt import clip_context
from pipeline.context.sidecars import Context, HoldsNothing, joined, read_context
from pipeline.context.tracks import chosen, name_of, words_of
from pipeline.identity import clip_id, content_id
from pipeline.planning.context import ItemContext, cap_of, with_chapters
from pipeline.questions.question_set import QuestionSet, load_question_set
from pipeline.questions.templates import UNTOLD, one_line
from workers.errors import MediaError
from workers.media.decode import decode_one
from workers.media.probing import subtitles
from workers.model.answerer import Answerer
from workers.records import Asking, Clip, ClipFailure, ClipOutcome, Media, MediaInfo


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
    audio_track: str = "auto",
    video_track: str = "auto",
    context: bool | Sequence[str] = False,
    whole: Sequence[str | Question] = (),
    begins: Callable[[int], None] = lambda clips: None,
    answered: Callable[[ClipOutcome], None] = lambda outcome: None,
) -> AnsweredFile:
    """Ask one local file's clips all questions, in one pruned pass a clip.

    Questions are lines such as `"Is a circle shown? [yes/no]"` (see `omnidrop.question_text`), `Question`s, or a
    `question_set` (a YAML file or a built-in name), whose templates are filled from the file. `retained_ratio` None or
    1 prunes nothing. `policy` and its `settings` say what is kept, as `pruning.policy` and `pruning.settings` of a job;
    a policy that is given its rates takes `retained_ratio` None. `span_s` is the part of the file asked about, cut into
    clips of `length_s`; `audio_track` and `video_track` say which of several tracks, as in a job. `model` may be an
    `Answerer` from an earlier call's result (`answer.answerer`), so that it is loaded once. With `context` the model is
    also told, for each clip, what the files named (True: those beside the file, or else its own subtitles) say is said
    in it, its chapter, and what it is. The `whole` questions are asked once, about a text of all clips' answers and,
    with `context`, of what is said in them (see `pipeline.asking.whole_file`); what they are answered is the result's
    `whole`. `begins` is told how many clips there are, `answered` of every clip. A clip that fails is in the result's
    `failures`.

    Raises AskError, QuestionError, PolicyError, CheckpointError, ContextError.
    """
    path = os.fspath(path)
    lines, of_all = as_questions(questions), as_questions(whole)
    _check_asked(lines, question_set, variables)
    clips = checked_clips(length_s=length_s, fps=fps, audio_track=audio_track, video_track=video_track)
    pruning = _pruning(retained_ratio, policy, settings or {})
    if not isinstance(model, Answerer):
        loading = checked(ModelConfig, {"path": model, "device": device})
        model = Answerer(answerer_settings(loading, pruning))
    media, info = looked_at(path, clips)
    spans = spans_of(info, clips, span_s, path)
    written = Context()
    if context:
        written = _beside_or_inside(media, path, info) if context is True else read_context(path, context)
    item: ItemContext | None = None
    loaded = None if question_set is None else load_question_set(question_set)
    if loaded is not None and loaded.context_names:
        # What a question set reads is part of what is asked: without it the questions would be others.
        written_beside = with_chapters(written if context else _beside_or_inside(media, path, info), info)
        item = ItemContext(loaded.context_names, cap_of(ContextConfig(), model.checkpoint), written_beside)
    wording = _Wording(lines, loaded, variables or {}, media, info, item)
    first, own = wording.of(*spans[0]), dict[str, tuple[Question, ...]]()
    decoding = decode_settings(clips, ExecutionConfig())
    how = pruning_of(pruning)
    outcomes: list[ClipOutcome] = []
    said: dict[str, str] = {}
    words = left_out = 0
    begins(len(spans))
    model.load()
    version = content_id(JOB, media.media_id, media.etag)
    for number, (start, end) in enumerate(spans):
        clip = Clip(clip_id(version, start, end), number, start, end)
        told = clip_context(written, start, end)
        said[clip.clip_id] = told.said
        decoded = decode_one(media, info, clip, decoding)
        if isinstance(decoded, ClipFailure):
            outcomes.append(decoded)
        else:
            # Without sidecars in it a question set asks every clip the same.
            asked = first if item is None else wording.of(start, end)
            own[clip.clip_id] = asked.questions
            instruction = _joined(told.text, asked.instruction)
            outcomes.append(model.answer(decoded, asked.questions, instruction, pruning=how))
            words += told.words
            left_out += told.left_out
            _raise_what_every_clip_would(outcomes[-1])
        answered(outcomes[-1])
    told_of = _told_of(written, words, left_out) if context else item.context.notes if item is not None else ()
    found = AnsweredFile(media, info, first.questions, tuple(outcomes), how, model, told_of, own)
    if not of_all:
        return found
    return replace(found, whole=ask_whole(model, of_all, outcomes, found.questions_of, said))


def _check_asked(
    lines: Sequence[Question], question_set: str | Path | None, variables: Mapping[str, Scalar] | None
) -> None:
    if bool(lines) == bool(question_set):
        raise QuestionError(
            'give questions, for example "Is a circle shown? [yes/no]", or a question set; '
            + ("not both" if lines else "neither was given")
        )
    if variables and question_set is None:
        raise QuestionError(
            f"variables ({', '.join(variables)}) are those of a question set; write the value into the text"
        )


def _pruning(retained_ratio: float | None, policy: str, settings: Mapping[str, Scalar]) -> PruningConfig:
    if retained_ratio == 1 or (retained_ratio is None and not policies.gives_rates(settings)):
        return checked(PruningConfig, {"mode": "dense_shared"})
    return checked(PruningConfig, {"retained_ratio": retained_ratio, "policy": policy, "settings": dict(settings)})


@dataclass(frozen=True)
class _Wording:
    """What the clips of a file are asked: lines, or a question set whose templates are filled from the file."""

    lines: tuple[Question, ...]
    question_set: QuestionSet | None
    variables: Mapping[str, Scalar]
    media: Media
    info: MediaInfo
    context: ItemContext | None
    """What the question set reads of sidecars."""

    def of(self, start_s: float, end_s: float) -> Asking:
        """One clip's."""
        if self.question_set is None:
            return Asking(self.lines, "")
        told = UNTOLD if self.context is None else self.context.of_clip(start_s, end_s)[0]
        return Asking(*self.question_set.resolve(self.media, self.info, self.variables, told))


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _beside_or_inside(media: Media, path: str, info: MediaInfo) -> Context:
    """What the file's sidecars say, and where they have no transcript, its own subtitles."""
    context = read_context(path)
    track, why_none = (None, "") if context.cues else chosen(info, ContextConfig())
    if track is None:
        notes = (f"the file's subtitle tracks are not read: {why_none}",) if why_none else ()
        return replace(context, notes=(*context.notes, *notes))
    name = name_of(media.key, track)
    try:
        said = words_of(subtitles(media.uri, track.index), info.start_s)
    except HoldsNothing:
        return context
    except MediaError as error:
        return replace(context, notes=(*context.notes, f"{name}: the subtitle track cannot be read: {error}"))
    return joined(context, replace(said, used=(name,)))


def _told_of(context: Context, words: int, left_out: int) -> tuple[str, ...]:
    if not context.used:
        return (*context.notes, "no context was found beside the file or in it")
    cut = f"; {left_out} words of long clips left out" if left_out else ""
    return (*context.notes, f"context of {', '.join(map(one_line, context.used))}: {words} words in the prompts{cut}")


def _raise_what_every_clip_would(outcome: ClipOutcome) -> None:
    """A ratio that cannot be reached or options that read alike are a mistake of the call, not of the clip."""
    for kind in (PolicyError, QuestionError):
        if isinstance(outcome, ClipFailure) and outcome.error_class == kind.error_class:
            raise kind(outcome.message)
