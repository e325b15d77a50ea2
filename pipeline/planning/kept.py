"""Where answers to what is asked now are already, clip by clip, when sidecars have changed.

Promises: a clip that was asked the same questions in the same words keeps their answers, whatever else its file's
sidecars said then; where questions guide each other, those of a pass are kept together or not at all. What was said is
told by the hashes in the rows of units. Knows nothing about sidecars, or where units lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.planning.passes import Source, is_guided, passes_of
from pipeline.planning.recipe import Recipe, context_of_passes
from pipeline.records.composed import microseconds
from pipeline.records.unit import UnitKey, UnitObject
from workers.records import WorkUnit


@dataclass(frozen=True)
class Kept:
    """Where an earlier recipe's unit of the same clips has answers to what is asked now."""

    key: UnitKey
    ids: tuple[tuple[str, str], ...]
    """(id of a question now, its id there)."""
    only: Mapping[str, frozenset[str]] | None = None
    """By clip id, the present questions that are answered there; None where it is `ids` for all clips."""


@dataclass(frozen=True)
class ToldAlike:
    """Searches earlier units of a content for clips that had the same context as now."""

    recipe: Recipe
    others: tuple[Source, ...]
    """Earlier recipes that asked some of the questions alike."""
    read: Callable[[UnitKey], UnitObject | None]

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """Those and this one, by their hashes."""
        recipe = self.recipe
        own = Source(recipe.hash, recipe.label_fields, tuple((q, q) for q in sorted(recipe.fields["questions"])))
        return {source.recipe_hash: source for source in (*self.others, own)}

    @cached_property
    def _reads(self) -> Mapping[str, frozenset[str]]:
        fields = self.recipe.fields
        return context_of_passes(fields, passes_of(fields) if is_guided(fields) else [[q] for q in fields["questions"]])

    def reduced(
        self, unit: WorkUnit, keys: Sequence[UnitKey], answer_format: int | None
    ) -> tuple[WorkUnit, list[Kept]]:
        """A unit without what the units at `keys`, of the same clips, have, and where that is."""
        asked = {question.id for question in unit.questions}
        left = {clip.clip_id: set(asked) for clip in unit.clips}
        found = []
        for key in keys:
            stored = self.read(key) if any(left.values()) else None
            if stored is None or stored.meta.version is None or stored.meta.version.answer_format != answer_format:
                continue
            source = self.sources.get(stored.meta.asked.recipe_hash)
            if source is not None and (only := self._only(unit, left, stored, source)):
                found.append(Kept(key, source.ids, only))
                left = {name: of_clip - only.get(name, frozenset()) for name, of_clip in left.items()}
        if not found:
            return unit, []
        still = {name for of_clip in left.values() for name in of_clip}
        questions = tuple(question for question in unit.questions if question.id in still)
        return replace(unit, questions=questions, kept={n: frozenset(asked - of) for n, of in left.items()}), found

    def _only(
        self, unit: WorkUnit, left: Mapping[str, set[str]], stored: UnitObject, source: Source
    ) -> dict[str, frozenset[str]]:
        """By clip, what a unit has of what is left to ask of it."""
        there, only = dict(source.ids), {}
        for clip in unit.clips:
            then, now = stored.told.get(microseconds(clip.start_s, clip.end_s)), dict(clip.told)
            if then is None:
                continue
            same = {q for q in left[clip.clip_id] if q in there and _is_alike(then, now, self._reads[q])}
            if same:
                only[clip.clip_id] = frozenset(same)
        return only


def _is_alike(then: Mapping[str, str], now: Mapping[str, str], names: Iterable[str]) -> bool:
    return all(then.get(name) == now[name] for name in names)
