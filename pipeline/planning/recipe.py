"""A recipe: everything that changes an answer, by what it comes to rather than by how it is written down.

Promises: a default spelled out, a setting that does nothing beside the others, blanks around a text, a variable that no
template reads, the order of questions and the size of work units make no other recipe; whatever may change an answer
does. Which version of decoding and method answers is no part of it (`ANSWER_FORMAT` in
`pipeline.planning.media_plan`): new software asks nothing again by itself. Knows nothing about media.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnidrop.questions import Question
from pipeline.config.sections import GONE, ClipsConfig, ModelConfig, PruningConfig, Scalar
from pipeline.identity import recipe_hash
from pipeline.questions.question_set import QuestionSet
from pipeline.questions.templates import LABEL_FIELDS, context_names, names_read
from workers.records import DecodeSettings

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig

_NOTHING = object()
KIND = "effective"
"""Tells these fields from those of earlier versions, which were taken as written."""
NEUTRAL: Mapping[str, Any] = {"encoder_share": 1.0, "settings": {}, "still_levels": 0.0, "read_left_out": False}
"""Settings of pruning that came later, with the value that does what was done before: left out, so that outputs which
know nothing of them keep their recipes. Every further setting belongs here."""


@dataclass(frozen=True)
class Recipe:
    """Everything that changes an answer, and its hash. A version label is for people; the hash decides."""

    hash: str
    fields: dict[str, Any]
    label_fields: tuple[str, ...] = ()
    """Of `LABEL_FIELDS` and of what sidecars say, what the question set reads."""

    @property
    def key_fields(self) -> tuple[str, ...]:
        """What it reads of an item's key."""
        return tuple(name for name in self.label_fields if name in LABEL_FIELDS)

    @property
    def context_fields(self) -> tuple[str, ...]:
        """What it reads of sidecars."""
        return tuple(name for name in self.label_fields if name not in LABEL_FIELDS)

    @property
    def groups(self) -> Mapping[str, str]:
        """The pass of each question, where there are several: see `pipeline.planning.passes`."""
        return {name: str(number) for number, names in enumerate(self.fields.get("passes", ())) for name in names}


def make_recipe(job: JobConfig, question_set: QuestionSet, weights_hash: str) -> Recipe:
    """The recipe of a job: its questions, the weights, and how clips are cut, decoded and pruned.

    Where it runs (devices, addresses, retries) is not part of it. The number type is: bf16 and fp32 answers differ.
    """
    dtype = resolved_dtype(job)
    given = (job.model, job.pruning, job.clips, question_set, job.variables, weights_hash, dtype)
    return Recipe(recipe_hash(fields := effective(*given)), fields, label_fields(fields))


def effective(
    model: ModelConfig,
    pruning: PruningConfig,
    clips: ClipsConfig,
    question_set: QuestionSet,
    variables: Mapping[str, Scalar],
    weights_hash: str,
    dtype: str,
) -> dict[str, Any]:
    """The fields of a recipe, JSON values without floats."""
    questions = {q.id: _question(q.as_written, pruning) for q in question_set.questions}
    instruction = question_set.instruction.strip()
    read = names_read("vars", [instruction, *(text for one in questions.values() for text in templates_of(one))])
    return {
        "kind": KIND,
        "weights": weights_hash,
        "dtype": dtype,
        "system_prompt": model.system_prompt,
        "instruction": instruction,
        "variables": {n: _as_text(value) for n, value in question_set.values(variables).items() if n in read},
        "questions": questions,
        "pruning": _pruning(pruning),
        "clips": _clips(clips),
    }


def label_fields(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """What a recipe's templates read of an item beside its content: `LABEL_FIELDS`, and names of sidecars' words."""
    templates = [fields["instruction"], *(text for one in fields["questions"].values() for text in templates_of(one))]
    read = names_read("media", templates)
    return (*(name for name in LABEL_FIELDS if name in read), *context_names(templates))


def context_of_passes(fields: Mapping[str, Any], passes: Iterable[Iterable[str]]) -> dict[str, frozenset[str]]:
    """By question, what the templates of its pass and of the instruction read of sidecars: where one of it changes,
    all that share the pass must be asked again."""
    found: dict[str, frozenset[str]] = {}
    for names in map(tuple, passes):
        templates = [text for name in names for text in templates_of(fields["questions"][name])]
        found |= dict.fromkeys(names, frozenset(context_names([fields["instruction"], *templates])))
    return found


def templates_of(question: Mapping[str, Any]) -> list[str]:
    """The templates of one question of a recipe."""
    return [question["text"], *question["answer"].get("options", ())]


def resolved_dtype(job: JobConfig) -> str:
    """The number type that `auto` comes to where the job runs: bfloat16 on a GPU, float32 without."""
    model = job.model
    if model.dtype != "auto":
        return model.dtype
    if model.device != "auto":
        return "float32" if model.device == "cpu" else "bfloat16"
    if isinstance(model.gpus_per_actor, int | float):
        return "bfloat16" if model.gpus_per_actor else "float32"
    address = job.execution.ray_address or os.environ.get("RAY_ADDRESS")
    if address and address != "in-process":
        return "bfloat16"  # a cluster without GPUs says so: gpus_per_actor 0, or the type itself
    return "bfloat16" if _has_gpu() else "float32"


def _has_gpu() -> bool:
    # As torch would find it, without the seconds that importing torch takes.
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return hidden not in ("", "-1") and any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "nvidiactl"))


def _question(question: Question, pruning: PruningConfig) -> dict[str, Any]:
    found = question.to_dict()
    answer = found["answer"]
    if "options" in answer:
        answer = {**answer, "options": [option.strip() for option in answer["options"]]}
    asked = {"text": found["text"].strip(), "answer": _as_text(answer)}
    own = found.get("retained_ratio")
    # A ratio of its own that is the set's, or where nothing is pruned, is none.
    return asked if pruning.policy == "none" or own in (None, pruning.retained_ratio) else asked | {"ratio": repr(own)}


def _pruning(pruning: PruningConfig) -> dict[str, Any]:
    given: dict[str, Any] = _as_text(written(pruning))
    if pruning.policy == "none":
        return {name: given[name] for name in ("mode", *GONE)}
    if pruning.mode != "set_guided":
        del given["guidance"]  # only a set that is pruned together needs one importance
    if given.pop("read_left_out", False):
        given["settings"] = given.get("settings", {}) | {"read_left_out": True}  # where it was said first
    return given


def written(pruning: PruningConfig) -> dict[str, Any]:
    """What is said of pruning, without what says nothing."""
    said = {name: value for name, value in pruning.model_dump().items() if value != NEUTRAL.get(name, _NOTHING)}
    return {**GONE, **said}


def _clips(clips: ClipsConfig) -> dict[str, Any]:
    pixels = DecodeSettings.max_pixels if clips.max_pixels is None else clips.max_pixels
    given = clips.model_dump() | {"max_pixels": pixels}
    # Which items are too long to be asked at all changes no answer of the others.
    unused: tuple[str, ...] = ("max_per_media",)
    if clips.decoder != "nvdec":
        # `auto` uses a card only where it gives the CPU's pictures.
        unused += ("decoder",)
    if clips.cut == "fixed":
        unused += ("max_length_s", "scene_threshold")
    else:
        unused, given = (*unused, "length_s", "overlap_s"), given | {"max_length_s": clips.longest_s}
    return {name: _as_text(value) for name, value in given.items() if name not in unused}


def _as_text(value: Any) -> Any:
    """Floats as text, so that a recipe's hash never depends on how a number was written or rounded in JSON."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {k: _as_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(v) for v in value]
    return value
