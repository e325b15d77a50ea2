"""One stored clip decoded and asked once more, pruned as it was and dense, recording what was kept and looked at.

Promises: the same decode and the same answering as in a job; where an answer, the weights or the file are not what they
were, it says so. Knows nothing about pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omnidrop.answers import Answer
from omnidrop.errors import ModelOutOfMemory, OmniDropError, UserError
from omnidrop.pruning import DENSE_MODES, Pruning
from omnidrop.questions import Question
from pipeline.archive.probing import source_of
from pipeline.config.job import JobConfig
from pipeline.config.sections import ExecutionConfig
from pipeline.config.worker_settings import answerer_settings, decode_settings
from pipeline.explain.find_clip import StoredClip
from pipeline.journal.recipes import Kept, recall
from pipeline.planning.context import ContextReader
from pipeline.questions.question_set import load_question_set
from pipeline.questions.templates import UNTOLD, Told
from pipeline.records.unit import answer_text
from workers.media.decode import decode_one
from workers.model.answerer import Answerer
from workers.records import ClipFailure, ClipResult, DecodedClip

SAME_PROBABILITY = 0.01
"""Another machine, number of threads or library rounds differently by less."""


class CannotExplain(UserError):
    """The clip cannot be asked again."""

    error_class = "explain"


@dataclass(frozen=True, eq=False)
class AskedAgain:
    """A clip, what was asked of it, and what came out now."""

    stored: StoredClip
    decoded: DecodedClip
    questions: tuple[Question, ...]
    pruning: Pruning
    pruned: ClipResult
    dense: ClipResult | None
    """Nothing pruned; None where that does not fit into memory. The same as `pruned` where the job pruned nothing."""
    changes: tuple[str, ...]
    """What is not as it was stored, in sentences; empty where every answer came out the same."""


def ask_again(
    stored: StoredClip, job: JobConfig | None = None, *, device: str | None = None, endpoint_url: str | None = None
) -> AskedAgain:
    """Decode and ask a stored clip again, as its results' journal says it was asked; `job` is for results without such
    a record, `device` in place of the one it was asked on. An S3 server other than AWS is asked for the clip only if
    the job or `endpoint_url` names it.

    Raises CannotExplain where neither says what was asked, and where the file is gone or is another one now.
    """
    kept = recall(stored.store, stored.meta.asked.recipe_hash) or _from_job(job)
    _check_server(kept.archive.endpoint_url, {endpoint_url, job.archive.endpoint_url if job else None})
    info, media = stored.meta.info, stored.meta.media
    assert info is not None  # a clip with answers was probed
    questions, instruction = kept.question_set.resolve(media, info, kept.variables, _told(stored, kept))
    questions = kept.grouped(questions)
    settings = decode_settings(kept.clips, ExecutionConfig())
    decoded = decode_one(media, info, stored.clip, settings, source_of(kept.archive))
    if isinstance(decoded, ClipFailure):
        raise CannotExplain(f"{media.key} cannot be decoded again: {decoded.error_class}: {decoded.message}")
    model = kept.model if device is None else kept.model.model_copy(update={"device": device})
    loading = answerer_settings(model, kept.pruning)
    answerer = Answerer(loading)
    answerer.load()
    outcome = answerer.answer(decoded, questions, instruction, positions=True)
    if isinstance(outcome, ClipFailure):
        raise CannotExplain(f"the clip cannot be answered again: {outcome.error_class}: {outcome.message}")
    dense: ClipResult | None = outcome
    if loading.pruning.mode not in DENSE_MODES:
        again = answerer.answer(decoded, questions, instruction, pruning=Pruning.off(), positions=True)
        dense = again if isinstance(again, ClipResult) else None
        if isinstance(again, ClipFailure) and again.error_class != ModelOutOfMemory.error_class:
            raise OmniDropError(f"the dense pass failed: {again.message}")
    changes = tuple(_changes(stored, questions, outcome, answerer.describe().weights_hash))
    return AskedAgain(stored, decoded, questions, loading.pruning, outcome, dense, changes)


def _check_server(named: str | None, trusted: set[str | None]) -> None:
    """Results may be a stranger's: the server that they name would get requests signed with this user's credentials."""
    if named not in {None, *trusted}:
        raise CannotExplain(
            f"these results say that their archive is on the S3 server {named}; if you trust it with your credentials, "
            f"add --endpoint-url {named}, or give the job file in place of the results"
        )


def _told(stored: StoredClip, kept: Kept) -> Told:
    """What sidecars say in the clip. Raises CannotExplain where that is not what it was told then."""
    names, clip = kept.question_set.context_names, stored.clip
    if not names:
        return UNTOLD
    item = ContextReader(kept.archive, kept.context, kept.model, names).read(stored.meta.media, stored.meta.info)
    told, hashes = item.of_clip(clip.start_s, clip.end_s)
    then = dict(clip.told)
    changed = [name for name, said in hashes if then.get(name, "") != said]
    if item.failure or changed:
        why = item.failure or f"its sidecars say something else in this clip now ({', '.join(changed)})"
        raise CannotExplain(f"{stored.meta.media.key}: what the clip was told cannot be repeated: {why}")
    return told


def _from_job(job: JobConfig | None) -> Kept:
    if job is None:
        raise CannotExplain(
            "these results do not say what was asked (they were made by an earlier version); give the job file in "
            "place of the results: omnidrop explain CLIP_ID JOB.yaml"
        )
    return Kept.of(job, load_question_set(job.question_set))


def _changes(stored: StoredClip, questions: tuple[Question, ...], now: ClipResult, weights_hash: str) -> Iterator[str]:
    if weights_hash != stored.meta.asked.weights_hash:
        yield f"the weights of {stored.meta.asked.model} are not those that answered then"
    answers = dict(zip((q.id for q in questions), now.answers.answers, strict=True))
    for question in questions:
        then = stored.answers.get(question.id)
        if then is None:
            yield f"{question.id} was not asked then"
        elif then["question"] != question.text:
            yield f"{question.id} was asked as {then['question']!r} then"
        elif (change := _change(then, answers[question.id])) is not None:
            yield f"{question.id}: {change}"
    for name in stored.answers:
        if name not in answers:
            yield f"{name} was asked then, and is not now"


def _change(then: Any, now: Answer) -> str | None:
    before, after = (then["answer"], then["error_class"]), (answer_text(now), now.error_class)
    if before != after:
        return f"the stored answer is {before[0] or before[1]}, now it is {after[0] or after[1]}"
    if then["probability"] is not None and now.probability is not None:
        moved = abs(then["probability"] - now.probability)
        if moved > SAME_PROBABILITY:
            return f"its probability was {then['probability']:.2f} and is {now.probability:.2f} now"
    return None
