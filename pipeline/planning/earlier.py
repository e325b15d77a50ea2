"""Takes over what a journal before format 4 holds: versions named after label, etag, job and the settings as written.

Promises: what was answered then under the same effective recipe counts as answered, also where the archive has been
moved since, or the job renamed; nothing is taken over on a resemblance of settings. That an item has the content it had
then is believed where the earlier version would have believed it: by its key, size and time (or ETag). Knows nothing
about how units are stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnidrop.json_text import parse_json
from pipeline.identity import earlier_version_id
from pipeline.journal import recipes
from pipeline.planning.recipe import KIND, Recipe, effective, resolved_dtype, written
from pipeline.records.checksummed_parquet import JournalError
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import CONTENTS
from workers.records import Media, Version

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.questions.question_set import QuestionSet
    from pipeline.records.run_record import RunRecord
    from pipeline.storage.store import Store


@dataclass(frozen=True)
class EarlierRecipe:
    """One recipe of an earlier format that comes to the same as the job's."""

    job: str
    hash: str
    answer_format: int
    clips_per_unit: int


class Earlier:
    """What an output's earlier runs asked that is the same as what is asked now."""

    def __init__(self, found: Iterable[EarlierRecipe]) -> None:
        self._recipes = tuple(dict.fromkeys(found))

    def __bool__(self) -> bool:
        return bool(self._recipes)

    def versions(self, media: Media, heads: Iterable[Head]) -> list[Version]:
        """What the item's content may be called in the journal. `heads`: what is known of its label, key or content."""
        names = [parse_json(head.earlier) for head in heads if head.earlier]
        names += [
            [head.job, head.media_id, head.etag]
            for head in heads
            if head.content_id is None
            and head.group != CONTENTS
            and (head.media_key, head.etag) == (media.key, media.etag)
        ]
        return [
            Version(
                earlier_version_id(job, media_id, etag, recipe.hash),
                *(job, media_id),
                answer_format=recipe.answer_format,
                clips_per_unit=recipe.clips_per_unit,
            )
            for job, media_id, etag in dict.fromkeys(map(tuple, names))
            for recipe in self._recipes
            if recipe.job == job
        ]


def earlier_name(media: Media, heads: Iterable[Head]) -> str:
    """What a head remembers, so that other versions of the content are found later on: see `Head.earlier`."""
    for head in heads:
        if head.earlier:
            return head.earlier
    for head in heads:
        if (
            head.content_id is None
            and head.group != CONTENTS
            and (head.media_key, head.etag) == (media.key, media.etag)
        ):
            return json.dumps([head.job, head.media_id, head.etag])
    return ""


def find_earlier(
    store: Store,
    runs: Iterable[RunRecord],
    job: JobConfig,
    question_set: QuestionSet,
    weights_hash: str,
    recipe: Recipe,
) -> Earlier:
    """Look through the recipes of `runs` for those of earlier formats that come to `recipe`."""
    found = []
    seen = set()
    for run in runs:
        given = run.recipe
        key = (run.job, run.recipe_hash)
        if key in seen or given.get("kind") == KIND or "clips_per_unit" not in given:
            continue
        seen.add(key)
        if _is_same(given, run.recipe_hash, store, job, question_set, weights_hash, recipe):
            size, answer_format = int(given["clips_per_unit"]), int(given.get("format_version", 1))
            found.append(EarlierRecipe(run.job, run.recipe_hash, answer_format, size))
    return Earlier(found)


def _is_same(
    given: Mapping[str, Any],
    hash_then: str,
    store: Store,
    job: JobConfig,
    question_set: QuestionSet,
    weights_hash: str,
    recipe: Recipe,
) -> bool:
    dtype = given["dtype"] if given["dtype"] != "auto" else resolved_dtype(job)
    if given["weights"] != weights_hash:
        return False
    try:
        kept = recipes.recall(store, hash_then)
    except JournalError:
        kept = None
    if kept is not None:
        parts = (kept.model, kept.pruning, kept.clips, kept.question_set, kept.variables)
        return effective(*parts, weights_hash, dtype) == recipe.fields
    # Older than that record: then only what is written alike is known to be the same.
    pruning = {name: _as_written(value) for name, value in written(job.pruning).items()}
    now = {
        "questions": question_set.fingerprint(job.variables),
        "system_prompt": job.model.system_prompt,
        "pruning": pruning,
        "clips": {name: _as_written(value) for name, value in job.clips.model_dump().items()},
    }
    return dtype == recipe.fields["dtype"] and all(given.get(name) == value for name, value in now.items())


def _as_written(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
