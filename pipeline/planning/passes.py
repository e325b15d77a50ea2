"""A question set in passes, and what earlier recipes of the output have asked alike.

Promises: a question that was asked before, with everything else alike, is known by what it asks, whatever its id, its
place or the questions beside it; where questions share a pass that is guided by all of them, those that were asked
together stay together, and new ones form a pass of their own. Knows nothing about media or how answers are stored.

A **pass** is what is pruned together. Where questions do not influence each other (`is_guided` is false) there is no
grouping to keep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.identity import recipe_hash
from pipeline.planning.recipe import KIND, Recipe, label_fields, templates_of
from pipeline.questions.templates import names_read
from pipeline.records.run_record import RunRecord

_OF_QUESTIONS = ("questions", "passes", "variables")
"""Fields of a recipe that belong to its questions one by one."""


@dataclass(frozen=True)
class Source:
    """An earlier recipe that differs from the present one in its questions alone, and asked some of them alike."""

    recipe_hash: str
    label_fields: tuple[str, ...]
    """What its templates read of an item's key."""
    ids: tuple[tuple[str, str], ...]
    """(id of a present question, its id there)."""


def is_guided(fields: Mapping[str, Any]) -> bool:
    """Whether what is kept of a clip depends on which questions share its pass."""
    pruning = fields["pruning"]
    return bool(pruning["mode"] == "set_guided") and pruning.get("policy", "none") != "none"


def in_passes(recipe: Recipe, runs: Iterable[RunRecord], counting: Callable[[], Collection[str]]) -> Recipe:
    """The recipe with its questions in the passes in which the first of `runs`, one a recipe, that asked just them did,
    or else the first that asked with everything else alike and of which something counts (hashes of recipes).

    What that one did not ask, or asked otherwise, forms one further pass.
    """
    fields = recipe.fields
    if not is_guided(fields):
        return recipe
    alike = [run for run in runs if _is_alike(run.recipe, fields)]
    same = (
        run
        for run in alike
        if len(_same(fields, run.recipe)) == len(fields["questions"]) == len(run.recipe["questions"])
    )
    recorded = next(same, None)
    if recorded is None and alike:
        counts = counting()
        recorded = next((run for run in alike if run.recipe_hash in counts), None)
    if recorded is None:
        return recipe
    there = {theirs: mine for mine, theirs in _same(fields, recorded.recipe).items()}
    groups = [sorted(there[name] for name in group if name in there) for group in passes_of(recorded.recipe)]
    old = set(there.values())
    groups.append(sorted(name for name in fields["questions"] if name not in old))
    groups = sorted(group for group in groups if group)
    if len(groups) < 2:
        return recipe
    made = {**fields, "passes": groups}
    return replace(recipe, hash=recipe_hash(made), fields=made)


def passes_of(fields: Mapping[str, Any]) -> list[list[str]]:
    """The questions of each pass, by their ids."""
    return fields.get("passes") or [sorted(fields["questions"])]


def sources(recipe: Recipe, runs: Iterable[RunRecord]) -> tuple[Source, ...]:
    """The recipes of `runs`, one a recipe, that asked some of the recipe's questions alike, in the runs' order."""
    alike = (run for run in runs if run.recipe_hash != recipe.hash and _is_alike(run.recipe, recipe.fields))
    found = ((run, _same(recipe.fields, run.recipe)) for run in alike)
    return tuple(
        Source(run.recipe_hash, label_fields(run.recipe), tuple(sorted(same.items()))) for run, same in found if same
    )


def _is_alike(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    return theirs.get("kind") == KIND and _rest(theirs) == _rest(mine)


def _rest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What all questions have in common."""
    rest = {name: value for name, value in fields.items() if name not in _OF_QUESTIONS}
    return rest | {"read_by_instruction": _variables(fields, [fields["instruction"]])}


def _same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, str]:
    """Present ids of what was asked alike, with their ids there."""
    there = {_asked(theirs, name): name for name in sorted(theirs["questions"], reverse=True)}
    found = {}
    for name in mine["questions"]:
        asked = _asked(mine, name)
        # Two questions that ask the same are both answered there; each has its own where the ids tell.
        is_own = name in theirs["questions"] and _asked(theirs, name) == asked
        if is_own or asked in there:
            found[name] = name if is_own else there[asked]
    return found


def _asked(fields: Mapping[str, Any], name: str) -> str:
    """All that a question's answer depends on, but for the questions beside it."""
    question = fields["questions"][name]
    return json.dumps([question, _variables(fields, templates_of(question))], sort_keys=True)


def _variables(fields: Mapping[str, Any], templates: Iterable[str]) -> dict[str, Any]:
    read = names_read("vars", templates)
    return {name: value for name, value in fields["variables"].items() if name in read}
