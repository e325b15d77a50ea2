"""What need not be asked again, since earlier recipes of the output asked it alike, or other sidecars said the same.

Promises: what is left of a unit is what no stored unit of the same clips answers; a plan says where the rest lies.
Knows nothing about how stored answers are read and joined (`records/composed.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.identity import item_id
from pipeline.index.savings_index import SavingsIndex
from pipeline.planning import media_plan
from pipeline.planning.kept import Kept, ToldAlike
from pipeline.planning.media_plan import MediaPlan, key_under, named_versions, versions_under
from pipeline.planning.passes import Source
from pipeline.planning.recipe import Recipe
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import CONTENTS, UnitKey, UnitObject
from workers.records import Media, Version

MOST_VERSIONS = 16
"""Maximum number of earlier versions of a content searched for clips with the same context."""

Again = Callable[[Media, Version], MediaPlan]


@dataclass
class Keeping:
    """Looks for earlier answers to what a recipe asks."""

    recipe: Recipe
    sources: tuple[Source, ...]
    """Earlier recipes that asked some of the questions alike."""
    index: SavingsIndex
    redo_older: bool
    is_told: bool
    """Whether the question set reads sidecars: then units say what their clips were told."""
    read_unit: Callable[[UnitKey], UnitObject | None]
    clips: int = 0
    """Clips that keep earlier answers while they are asked what is new, or nothing."""

    def reduced(
        self, plans: Sequence[MediaPlan], finished: set[str], heads: Mapping[str, Sequence[Head]], again: Again
    ) -> list[MediaPlan]:
        """The plans with what is to be asked of units that have earlier answers reduced to what is new. `heads` are
        what was declared of their contents, by media id; `again` plans an item under another version."""
        left = [plan for plan in plans if plan.failure is None and not finished.issuperset(plan.unit_ids)]
        named = {plan.version_id: self._source_versions(plan.media) for plan in left}
        known = self.index.known_versions([v.version_id for found in named.values() for _, v in found])
        made = []
        for plan in plans:
            found = [(s, v) for s, v in named.get(plan.version_id, ()) if v.version_id in known]
            of_content = heads[plan.media.media_id]
            begun = self._told_otherwise(plan, of_content) if self.is_told and plan.version_id in named else []
            if (found or begun) and not set(plan.unit_ids) & finished:
                plan = again(plan.media, self._like(plan, [*(v for _, v in found), *begun], of_content))
            same = [(s, v) for s, v in found if v.answer_format == plan.version.answer_format]
            plan = self._by_unit(plan, same, finished) if same else plan
            if self.is_told and plan.version_id in named:
                plan = self._by_clip(plan, [v.version_id for v in begun], finished)
            made.append(plan)
        return made

    def _told_otherwise(self, plan: MediaPlan, heads: Sequence[Head]) -> list[Version]:
        """Versions of the content that were declared with other words of sidecars, or without."""
        by_recipe = self._alike.sources
        return [
            Version(head.version_id, *head.place, answer_format=head.answer_format)
            for head in heads
            if head.content_id is not None
            and head.content_id == plan.media.content_id
            and head.version_id != plan.version_id
            and head.recipe_hash in by_recipe
            and (head.answer_format == media_plan.ANSWER_FORMAT or not self.redo_older)
        ]

    def _source_versions(self, media: Media) -> list[tuple[Source, Version]]:
        if media.content_id is None:
            return []
        formats = 1 if self.redo_older else media_plan.ANSWER_FORMAT
        return [
            (source, version)
            for source in self.sources
            for version in versions_under(media, source.recipe_hash, source.label_fields)[:formats]
        ]

    def _like(self, plan: MediaPlan, found: Sequence[Version], heads: Sequence[Head]) -> Version:
        """For a plan of which nothing is finished: the answer format and the size of units that its sources have."""
        sizes = {head.version_id: head.clips_per_unit for head in heads if head.clips_per_unit}
        newest = max(version.answer_format or 0 for version in found)
        size = next((sizes[v.version_id] for v in found if v.version_id in sizes), plan.version.clips_per_unit)
        (version,) = [v for v in named_versions(plan.media, self.recipe) if v.answer_format == newest]
        return replace(version, clips_per_unit=size)

    def _by_unit(self, plan: MediaPlan, found: Sequence[tuple[Source, Version]], finished: set[str]) -> MediaPlan:
        there = {unit.unit_id: [(s, key_under(v, unit)) for s, v in found] for unit in plan.units}
        attempts = self.index.attempts([key.unit_id for keys in there.values() for _, key in keys])
        units, kept = [], {}
        for unit in plan.units:
            left = {question.id for question in unit.questions}
            has = []
            for source, key in sorted(there[unit.unit_id], key=lambda pair: -len(pair[0].ids)):
                ids = tuple((now, then) for now, then in source.ids if now in left)
                if ids and key.unit_id in attempts and unit.unit_id not in finished:
                    has.append(Kept(replace(key, attempt=attempts[key.unit_id]), ids))
                    left -= {now for now, _ in ids}
            if has:
                kept[unit.unit_id] = tuple(has)
                self.clips += len(unit.clips)
                unit = replace(unit, questions=tuple(q for q in unit.questions if q.id in left))
            units.append(unit)
        return replace(plan, units=tuple(units), kept=kept)

    def _by_clip(self, plan: MediaPlan, first: Sequence[str], finished: set[str]) -> MediaPlan:
        """The plan without the clips that were asked before in the same words, whatever their sidecars say elsewhere.

        Their units say what they were told. Versions in `first` are looked at first: most have all that is to be had.
        """
        content = plan.media.content_id
        if content is None or plan.failure is not None or finished.issuperset(plan.unit_ids):
            return plan
        place, looks = (CONTENTS, item_id(content)), self._alike
        others = [name for name in self.index.versions_of(item_id(content)) if name not in (plan.version_id, *first)]
        versions = [Version(name, *place) for name in (*first, *others)[:MOST_VERSIONS]]
        keys = {unit.unit_id: [key_under(version, unit) for version in versions] for unit in plan.units}
        attempts = self.index.attempts([key.unit_id for found in keys.values() for key in found])
        units, kept = [], dict(plan.kept)
        for unit in plan.units:
            if unit.unit_id not in finished and unit.questions:
                there = [replace(k, attempt=attempts[k.unit_id]) for k in keys[unit.unit_id] if k.unit_id in attempts]
                unit, found = looks.reduced(unit, there, plan.version.answer_format)
                clips = frozenset().union(*(one.only or () for one in found))
                self.clips += 0 if unit.unit_id in kept else len(clips)
                if found:
                    kept[unit.unit_id] = (*kept.get(unit.unit_id, ()), *found)
            units.append(unit)
        return replace(plan, units=tuple(units), kept=kept)

    @cached_property
    def _alike(self) -> ToldAlike:
        return ToldAlike(self.recipe, self.sources, self.read_unit)
