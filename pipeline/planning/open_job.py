"""A job opened: its store, journal, index and question set.

Promises: what is opened belongs to the same output. Knows nothing about running.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from omnidrop.errors import UserError
from omnidrop.models.checkpoints import describe_checkpoint
from pipeline.config.idle_settings import idle_settings
from pipeline.config.job import JobConfig
from pipeline.index import sync
from pipeline.index.patient_index import PatientIndex
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal import defaults
from pipeline.journal.journal import FORMAT_PATH, Journal, check_output_is_ours
from pipeline.journal.output_id import claim_output
from pipeline.planning import passes
from pipeline.planning.earlier import Earlier, find_earlier
from pipeline.planning.passes import Source
from pipeline.planning.recipe import Recipe, make_recipe
from pipeline.questions.question_set import QuestionSet, load_question_set
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import Asked
from pipeline.storage.errors import StorageError
from pipeline.storage.outage import Patience
from pipeline.storage.store import PatientStore, Store, caveats, open_store


@dataclass(frozen=True)
class Opened:
    """A job's parts, opened and brought up to date."""

    job: JobConfig
    question_set: QuestionSet
    store: Store
    journal: Journal
    index: SavingsIndex
    recipe: Recipe
    earlier: Earlier
    asked: Asked
    caveats: tuple[str, ...]
    """What the store of the output does not do, what of the question set may be meant otherwise, and which settings do
    nothing, in sentences."""
    sources: tuple[Source, ...]
    """Earlier recipes that asked some of the questions alike."""
    recipes: Mapping[str, Mapping[str, Any]]
    """All recipes of the output by their hashes."""


def open_job(job: JobConfig, patience: Patience | None = None, *, ask_together: bool = False) -> Opened:
    """Open question set, output, journal and index, and bring the index up to the journal. Raises UserError.

    With `patience` the parts that are returned wait for an output or an index that fails later on; opening itself waits
    for an index that is locked and for nothing else: what fails at once is a wrong address more often than an outage.
    With `ask_together` all questions share one pass, whatever was asked before.
    """
    store, given = _own_store(job), job
    job = defaults.with_kept(job, store)
    question_set = load_question_set(job.question_set)
    question_set.values(job.variables)
    checkpoint = describe_checkpoint(job.model.checkpoint)
    weights_hash = checkpoint.weights_hash
    if checkpoint.revision is not None:
        # The machines that answer load what was described here, whatever the hub gives by then.
        job = job.model_copy(update={"model": job.model.model_copy(update={"revision": checkpoint.revision})})
    journal, index = Journal(store), _open_index(job, store, patience)
    sync.catch_up(journal, index)
    idle = idle_settings(given, reads_context=bool(question_set.context_names))
    warnings = (*question_set.warnings, *idle, *(caveats(store, FORMAT_PATH) if patience is not None else ()))
    if patience is not None:
        store = PatientStore(store, patience)
        journal = Journal(store)
    recipe = make_recipe(job, question_set, weights_hash)
    runs = index.runs()
    earlier = find_earlier(store, runs, job, question_set, weights_hash, recipe)
    newest: dict[str, RunRecord] = {}  # of each recipe, the job's own first
    for run in sorted(runs, key=lambda run: run.job != job.name):
        newest.setdefault(run.recipe_hash, run)
    if not ask_together and not earlier:
        recipe = passes.in_passes(recipe, newest.values(), index.recipes)
    asked = Asked(
        job=job.name,
        recipe_hash=recipe.hash,
        question_set=question_set.name,
        question_set_version=question_set.version,
        model=job.model.path,
        weights_hash=weights_hash,
        mode=job.pruning.mode,
        policy=job.pruning.policy,
        retained_ratio_target=job.pruning.retained_ratio,
    )
    sources = () if ask_together else passes.sources(recipe, newest.values())
    recipes = {name: run.recipe for name, run in newest.items()}
    return Opened(job, question_set, store, journal, index, recipe, earlier, asked, warnings, sources, recipes)


def open_output(job: JobConfig, patience: Patience | None = None) -> tuple[Store, Journal, SavingsIndex]:
    """The job's output alone: store, journal and index, without its question set or model."""
    store = _own_store(job)
    return store, Journal(store), _open_index(job, store, patience)


def _own_store(job: JobConfig) -> Store:
    store = open_store(job.output, job.storage)
    _refuse_part_of_another(job, store)
    check_output_is_ours(store)
    return store


def _refuse_part_of_another(job: JobConfig, store: Store) -> None:
    """New results among another's journal or tables, whose address a run's summary shows: its `verify` would take them
    for strangers' files. Raises UserError."""
    for found in re.finditer(r"/(journal|tables)(?=/|$)", job.output):
        outer = job.output[: found.start()]
        with suppress(StorageError):  # of somebody else's bucket, perhaps
            if open_store(outer, job.storage).exists(FORMAT_PATH) and not store.exists(FORMAT_PATH):
                raise UserError(
                    f"output {job.output} is a part of the results in {outer}; give {outer}, or another place"
                )


def _open_index(job: JobConfig, store: Store, patience: Patience | None) -> SavingsIndex:
    url, output_id = job.resolved_index_url(), claim_output(store)
    return SavingsIndex(url, output_id) if patience is None else PatientIndex(url, output_id, patience)
