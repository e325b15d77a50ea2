"""What each recipe asked, kept in the journal beside its results, so that a clip can be asked again as it was then.

Promises: results alone, without the job file or the question set they were made with, say what was asked of every clip
and how. Holds no credentials: a job has none. Knows nothing about how anything is answered.

    journal/recipes/<recipe_hash>.json      written before the recipe's first unit
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omnidrop.errors import QuestionError
from omnidrop.json_text import parse_json
from omnidrop.questions import Question, question_from_dict
from pipeline.config.sections import (
    GONE,
    ArchiveConfig,
    ClipsConfig,
    ContextConfig,
    ModelConfig,
    PruningConfig,
    Scalar,
)
from pipeline.questions.question_set import QuestionSet, QuestionTemplate
from pipeline.records.checksummed_parquet import JournalError

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.storage.store import Store


@dataclass(frozen=True)
class Kept:
    """The parts of a job that change an answer, and where its archive was."""

    archive: ArchiveConfig
    model: ModelConfig
    pruning: PruningConfig
    clips: ClipsConfig
    variables: Mapping[str, Scalar]
    question_set: QuestionSet
    context: ContextConfig
    """Where the sidecars were that the question set may read."""
    passes: tuple[tuple[str, ...], ...] = ()
    """The questions that share a pass, where there are several."""

    @classmethod
    def of(cls, job: JobConfig, question_set: QuestionSet, passes: Iterable[Iterable[str]] = ()) -> Kept:
        """Of a job as it is now."""
        parts = (job.archive, job.model, job.pruning, job.clips, job.variables, question_set, job.context)
        return cls(*parts, tuple(map(tuple, passes)))

    def grouped(self, questions: Iterable[Question]) -> tuple[Question, ...]:
        """Resolved questions, each with its pass."""
        groups = {name: str(number) for number, names in enumerate(self.passes) for name in names}
        return tuple(replace(one, group=groups.get(one.id, "")) for one in questions)

    def variables_of(self, question: QuestionTemplate) -> tuple[tuple[str, Scalar | None], ...]:
        """The variables that a question's templates may name, with their values."""
        texts = " ".join((question.text, *question.answer.templates))
        given = dict(self.question_set.variables) | dict(self.variables)
        return tuple((name, value) for name, value in sorted(given.items()) if name in texts)


def path_of(recipe_hash: str) -> str:
    """Key in the store."""
    return f"journal/recipes/{recipe_hash}.json"


def keep(store: Store, recipe_hash: str, kept: Kept) -> None:
    """Store what a recipe asks, and what is made of its answers for whole videos, unless that is there."""
    path, data = path_of(recipe_hash), _encoded(kept)
    # `video`, `whole` and what only they read are no part of the recipe, so they may have changed.
    if not store.write_once(path, data) and store.read_bytes(path) != data:
        store.write(path, data)


def renew(store: Store, recipe_hash: str, kept: Kept, *, was_asked: bool) -> None:
    """Replace what is stored of a recipe where other things are to be made of its answers for whole videos, or where it
    is damaged or, if it `was_asked` by an earlier run, lost: without it, answers about whole videos would stop
    counting."""
    try:
        before = recall(store, recipe_hash)
        is_same = not was_asked if before is None else _of_videos(before) == _of_videos(kept)
    except JournalError:
        is_same = False
    if not is_same:
        store.write(path_of(recipe_hash), _encoded(kept))


def _of_videos(kept: Kept) -> tuple[object, ...]:
    rules = {one.id: one.video for one in kept.question_set.questions if one.video is not None}
    return rules, kept.question_set.whole, kept.question_set.values(kept.variables) if kept.question_set.whole else {}


def _encoded(kept: Kept) -> bytes:
    asked = kept.question_set
    given = {
        **{name: getattr(kept, name).model_dump(mode="json") for name in ("archive", "model", "pruning", "clips")},
        "variables": dict(kept.variables),
        "question_set": {
            "name": asked.name,
            "version": asked.version,
            "instruction": asked.instruction,
            "variables": dict(asked.variables),
            # As written: texts and options may be templates.
            "questions": [q.as_written.to_dict() for q in asked.questions],
            "video": {q.id: q.video for q in asked.questions if q.video is not None},
            # No part of the recipe either, see `pipeline.journal.whole_questions`.
            **({"whole": [q.as_written.to_dict() for q in asked.whole]} if asked.whole else {}),
            "source": asked.source,
        },
    }
    if asked.context_names:
        given["context"] = kept.context.model_dump(mode="json")
    if kept.passes:
        given["passes"] = kept.passes
    return json.dumps(given, indent=1).encode()


def recall(store: Store, recipe_hash: str) -> Kept | None:
    """What a recipe asked; None where results are older than this record. Raises JournalError for damage."""
    path = path_of(recipe_hash)
    return decode_recipe(store.read_bytes(path), where=path) if store.exists(path) else None


def _pruning(given: Mapping[str, Any], where: str) -> PruningConfig:
    known = {name: value for name, value in given.items() if name not in GONE}
    if lost := [f"{name} {given[name]}" for name in GONE if given.get(name, GONE[name]) != GONE[name]]:
        raise JournalError(f"{where} was asked with {', '.join(lost)}, which only earlier versions know")
    # Recipes that say none of these encoded everything, each cell as it was, and read nothing that was left out, unless
    # the policy's settings say so.
    reads = known.get("settings", {}).get("read_left_out", False)
    before = {"encoder_share": 1.0, "still_levels": 0.0, "read_left_out": reads}
    return PruningConfig.model_validate(before | known)


def decode_recipe(data: bytes, *, where: str) -> Kept:
    """The inverse of what `keep` stores. Raises JournalError, naming `where`."""
    try:
        given = parse_json(data)
        asked = given["question_set"]
        questions, whole = (
            tuple(
                QuestionTemplate(q.id, q.text, q.answer, q.retained_ratio, asked.get("video", {}).get(q.id))
                for q in map(question_from_dict, part)
            )
            for part in (asked["questions"], asked.get("whole", ()))
        )
        return Kept(
            archive=ArchiveConfig.model_validate(given["archive"]),
            model=ModelConfig.model_validate(given["model"]),
            pruning=_pruning(given["pruning"], where),
            clips=ClipsConfig.model_validate(given["clips"]),
            variables=dict(given["variables"]),
            question_set=QuestionSet(
                name=asked["name"],
                version=asked["version"],
                instruction=asked["instruction"],
                variables=tuple(asked["variables"].items()),
                questions=questions,
                whole=whole,
                source=asked["source"],
            ),
            context=ContextConfig.model_validate(given.get("context", {})),
            passes=tuple(map(tuple, given.get("passes", ()))),
        )
    except (ValueError, KeyError, TypeError, AttributeError, QuestionError) as error:
        raise JournalError(
            f"{where} is damaged ({type(error).__name__}); run `omnidrop index` with the job that asked it, which "
            "writes it again. If there is none any more, delete it: then what it asked of whole videos stops counting"
        ) from error
