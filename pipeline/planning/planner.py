"""Plans a whole archive, streaming: what is known of each item, and what is left to do.

Promises: nothing is held of media that have been planned, so an archive of a million objects takes no more memory than
one of a thousand; a media item that cannot be probed, cut or asked becomes a named failure and the plan goes on. Knows
nothing about Ray, models or how results are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.archive.not_taken import NotTaken, Reason
from pipeline.archive.probing import Probed, Prober, is_named_as_media
from pipeline.batches import batches, batches_within
from pipeline.failure_rules import rule_of
from pipeline.identity import failed_version_id, item_id
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Tombstones
from pipeline.planning import media_plan
from pipeline.planning.context import ContextReader, ItemContext
from pipeline.planning.differences import changed_settings
from pipeline.planning.earlier import Earlier, earlier_name
from pipeline.planning.keeping import Keeping
from pipeline.planning.media_plan import MediaPlan, head_of, named_versions, plan_media
from pipeline.planning.passes import Source
from pipeline.planning.recipe import Recipe
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import UnitKey, UnitObject
from workers.errors import MediaChanged, MediaMissing
from workers.records import ClipFailure, Media, MediaInfo, Version, WorkUnit

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.questions.question_set import QuestionSet


class Item(NamedTuple):
    """What is known of a media item."""

    probed: Probed
    heads: Sequence[Head]
    """What was declared of its content."""
    context: ItemContext | None
    """What its sidecars and subtitles say, where the question set reads of it."""


_Items = Mapping[str, Item]
"""By media id."""
CONTEXT_CHANGED = "context changed (sidecars)"
FAILED_BEFORE = "unfinished or failed before"
READ_BATCH = 8
READ_BATCH_BYTES = 1 << 30
"""Media read and probed before any of them is planned: so many, and no more bytes."""
LOOKUP_BATCH = 64
"""Media looked up in the index at once. Small, so that the first unit does not wait for many slow probes."""


@dataclass
class Planner:
    """One pass over an archive: what is known of its items, and what is left to do."""

    job: JobConfig
    question_set: QuestionSet
    recipe: Recipe
    index: SavingsIndex
    probe: Prober
    forgotten: Tombstones = field(default_factory=lambda: Tombstones(frozenset(), frozenset()))
    earlier: Earlier = field(default_factory=lambda: Earlier(()))
    redo_older: bool = False
    """Ask again what an older version of decoding or method answered."""
    forgotten_here: list[Media] = field(default_factory=list)
    """Files whose content was forgotten and that are there (again): left out."""
    older: int = 0
    """Clips whose answers are an older version's, and stay."""
    copies: int = 0
    """Items of which an exact copy is asked."""
    relabelled: int = 0
    """Clips to ask because their questions read the item's key, and that has changed."""
    is_exact: bool = True
    """Without it what is known of an item need not come from a scan of its packets: `probe` does not scan, either."""
    not_taken: NotTaken = field(default_factory=NotTaken)
    """Files that are no media, and are not called as if they were: subtitles, pictures, lists."""
    sources: tuple[Source, ...] = ()
    """Earlier recipes that asked some of the questions alike."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """All recipes of the output by their hashes."""
    context: ContextReader | None = None
    """Reads sidecars, where the question set reads of them."""
    read_unit: Callable[[UnitKey], UnitObject | None] = lambda key: None
    """Reads a finished unit: its rows say what its clips were told."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why clips are asked."""
    at_once: Callable[[], int] = lambda: 1
    """How many machines look at media: so many batches are one."""
    _begun: set[int] = field(default_factory=set)
    """Of versions with something left to do, by the beginning of their ids."""

    def __post_init__(self) -> None:
        of_recipe = (self.recipe, self.sources, self.index, self.redo_older, self.context is not None)
        self._keeping = Keeping(*of_recipe, self.read_unit)

    @property
    def kept_clips(self) -> int:
        """Clips that keep earlier answers while they are asked what is new, or nothing."""
        return self._keeping.clips

    def plans(self, listed: Iterable[Media]) -> Iterator[MediaPlan]:
        """Plan every media item of a listing, in its order within small batches; what was forgotten is left out."""
        for batch in batches(listed, LOOKUP_BATCH):
            # What must be read first must not keep the rest waiting, nor the model.
            is_known = len(self.index.probes(batch)) == len(batch)
            many = 1 if is_known else self.at_once()
            reading = batches_within(batch, many * READ_BATCH, many * READ_BATCH_BYTES, lambda media: media.size_bytes)
            for some in [batch] if is_known else reading:
                yield from self._batch(some)

    def identified(self, listed: Iterable[Media]) -> Iterator[Media]:
        """The items of a listing with their contents, as far as they can be read; those that are no media are left
        out."""
        # What is left out is counted when it is planned.
        looking = replace(self, not_taken=NotTaken())
        for batch in batches(listed, LOOKUP_BATCH):
            yield from (media for media, _ in looking._known(batch))

    def _batch(self, batch: Sequence[Media]) -> Iterator[MediaPlan]:
        index = self.index
        kept = [(media, probed) for media, probed in self._known(batch) if not self._is_forgotten(media)]
        contexts: dict[str, ItemContext] = {}
        if self.context is not None:
            contexts = self.context.read_all([(m, probed.info) for m, probed in kept if probed.info is not None])
            kept = [(contexts[m.media_id].of_item(m) if m.media_id in contexts else m, p) for m, p in kept]
        heads = _Heads(index, [media for media, _ in kept], self.earlier)
        candidates = {media.media_id: self._candidates(media, heads) for media, _ in kept}
        named = [version.version_id for found in candidates.values() for version in found]
        known = index.known_versions([*named, *map(failed_version_id, named)])
        items = {media.media_id: Item(probed, heads.of(media), contexts.get(media.media_id)) for media, probed in kept}
        plans = [
            self._plan(media, items, _chosen(candidates[media.media_id], items[media.media_id].heads, known))
            for media, _ in kept
        ]
        plans = self._as_cut_then(plans, items)
        finished = index.known_units([u for plan in plans for u in plan.unit_ids])
        if self.sources or self.context:
            declared = {name: item.heads for name, item in items.items()}
            plans = self._keeping.reduced(plans, finished, declared, lambda m, version: self._plan(m, items, version))
        for plan in plans:
            mine = frozenset(plan.unit_ids) & finished if plan.declared is None else frozenset(plan.unit_ids)
            todo = len(plan.unit_ids) - len(mine)
            number = int(plan.version_id[:15], 16)
            if todo and number in self._begun:
                # Exact copies are asked once, and answered under each of their keys.
                self.copies += 1
                mine, todo = frozenset(plan.unit_ids), 0
            elif todo:
                self._begun.add(number)
            of_media = items[plan.media.media_id].heads
            if todo and any(self._is_other_name(plan, head) for head in of_media):
                self.relabelled += plan.clips
            if plan.version.answer_format != media_plan.ANSWER_FORMAT:
                self.older += sum(len(unit.clips) for unit in plan.units if unit.unit_id in mine)
            current = heads.current(self.job.name, plan.media.media_id)
            is_current = current is not None and current == head_of(plan, self.job.name, self.recipe.hash)
            left = sum(map(_left, (u for u in plan.units if u.unit_id not in mine))) if todo else 0
            reason = self._reason(plan, current, of_media) if left else ""
            self.reasons.update({reason: left} if left else ())
            if self.context is not None and (told := items[plan.media.media_id].context) is not None:
                self.context.note(told)
            yield replace(plan, finished=mine, is_current=is_current, reason=reason)

    def _plan(self, media: Media, items: _Items, version: Version | None = None) -> MediaPlan:
        """One item's plan under a version, or as the present one names it."""
        probed, heads, context = items[media.media_id]
        plan = plan_media(media, probed, self.job, self.question_set, self.recipe, version, context)
        unread = failed_version_id(named_versions(replace(media, content_id=None), self.recipe)[0].version_id)
        return replace(plan, earlier=earlier_name(media, heads), unread_id=unread)

    def _as_cut_then(self, plans: Sequence[MediaPlan], items: _Items) -> list[MediaPlan]:
        """The plans, where an older version of decoding cut an item into other clips: as it stands where that was
        finished, since its answers stay, else as the present version cuts it. Units of both would count some seconds
        twice."""
        older = [p for p in plans if p.version.answer_format != media_plan.ANSWER_FORMAT and p.failure is None]
        there = self.index.units_of([plan.version_id for plan in older])
        made = []
        for plan in plans:
            done = there.get(plan.version_id, set())
            if done - set(plan.unit_ids):
                # Of a version that was taken back nothing is declared any more: others of its time were cut alike.
                heads = items[plan.media.media_id].heads
                own = sorted(heads, key=lambda head: head.version_id != plan.version_id)
                then = next((head for head in own if head.answer_format != media_plan.ANSWER_FORMAT), None)
                if then is not None and len(done) >= then.units:
                    plan = replace(plan, declared=then)
                else:
                    plan = self._plan(plan.media, items)
            made.append(plan)
        return made

    def _reason(self, plan: MediaPlan, current: Head | None, same: Sequence[Head]) -> str:
        known = [head for head in same if head.content_id is not None]
        if any(head.version_id == plan.version_id for head in same):
            return FAILED_BEFORE
        if not known:
            if current is None:
                return "new files"
            # What could not be read has no content to know it by.
            is_same = current.clips == 0 and (current.etag, current.size_bytes) == (
                plan.media.etag,
                plan.media.size_bytes,
            )
            return FAILED_BEFORE if is_same else "changed files"
        head = next((head for head in known if head is current), known[0])
        fields = self.recipes.get(head.recipe_hash)
        if head.recipe_hash == self.recipe.hash or fields is None:
            if self.recipe.context_fields and (head.media_id == plan.media.media_id or not self.recipe.key_fields):
                return CONTEXT_CHANGED
            return "moved or renamed files" if self.recipe.label_fields else "asked again"
        return "; ".join(changed_settings(fields, self.recipe.fields))

    def _known(self, batch: Sequence[Media]) -> list[tuple[Media, Probed]]:
        """The items of a batch that are media, with what is in them; who has not been looked at since is probed and
        read."""
        batch = self._with_contents(batch)
        known = {m.media_id: p for m, p in _cached(batch, self.job, self.index, self.is_exact, self.recipe).items()}
        missing = [m for m in batch if m.media_id not in known]
        found = list(self.probe(missing)) if missing else []
        # What may have passed by the next run is looked at again then.
        self.index.put_probes((m, p) for m, p in found if p.failure is None or not _may_pass(p.failure))
        known |= {m.media_id: p for m, p in found}
        there = []
        for media in batch:
            probed = known[media.media_id]
            if probed.is_not_media and not is_named_as_media(media.key):
                self.not_taken.look_into(media.key, Reason.SIDECAR if probed.is_beside_media else Reason.UNREAD)
                continue
            there.append((replace(media, content_id=probed.content_id or media.content_id), probed))
        return there

    def _with_contents(self, batch: Sequence[Media]) -> list[Media]:
        """With the contents that the journal knows: nothing is read again just because the index was rebuilt."""
        heads = self.index.heads_of(media_ids=[m.media_id for m in batch])
        known = {(h.media_id, h.mark): h.content_id for h in heads if h.mark and h.content_id}
        return [replace(m, content_id=known.get((m.media_id, m.mark))) for m in batch]

    def _is_forgotten(self, media: Media) -> bool:
        content = None if media.content_id is None else item_id(media.content_id)
        is_gone = content in self.forgotten.contents or media.media_id in self.forgotten
        if is_gone:
            self.forgotten_here.append(media)
        return is_gone

    def _is_other_name(self, plan: MediaPlan, head: Head) -> bool:
        is_same_content = head.content_id is not None and head.content_id == plan.media.content_id
        is_moved = bool(self.recipe.key_fields) and head.media_id != plan.media.media_id
        is_same_recipe = head.recipe_hash == self.recipe.hash
        return is_moved and is_same_content and is_same_recipe and head.version_id != plan.version_id

    def _candidates(self, media: Media, heads: _Heads) -> list[Version]:
        """What the item's content may be called, best first."""
        named = named_versions(media, self.recipe)
        earlier = self.earlier.versions(media, heads.of(media)) if self.earlier else []
        if self.redo_older:
            return [named[0], *(v for v in earlier if v.answer_format == media_plan.ANSWER_FORMAT)]
        return sorted([*named, *earlier], key=lambda version: -(version.answer_format or 0))


class _Heads:
    """What was declared of a batch's labels, contents and, in earlier formats, keys."""

    def __init__(self, index: SavingsIndex, batch: Sequence[Media], earlier: Earlier) -> None:
        contents = [m.content_id for m in batch if m.content_id is not None]
        keys = [m.key for m in batch] if earlier else []
        found = index.heads_of(media_ids=[m.media_id for m in batch], contents=contents, keys=keys)
        self._heads = list(dict.fromkeys(found))
        self._current = {(h.job, h.media_id): h for h in self._heads}

    def current(self, job: str, media_id: str) -> Head | None:
        return self._current.get((job, media_id))

    def of(self, media: Media) -> list[Head]:
        """What is known of the item's content, or may be."""
        return [
            head
            for head in self._heads
            if (head.content_id is not None and head.content_id == media.content_id)
            or (head.content_id is None and (head.media_id == media.media_id or head.media_key == media.key))
        ]


def _left(unit: WorkUnit) -> int:
    """How many clips of a unit are asked something."""
    return sum(bool(unit.asked_of(clip).questions) for clip in unit.clips)


def _chosen(candidates: Sequence[Version], heads: Sequence[Head], known: set[str]) -> Version:
    """The version to go on with: one of which something is finished or that counts already, else the present one."""
    sizes = {head.version_id: head.clips_per_unit for head in heads}
    for version in candidates:
        name = version.version_id
        if {name, failed_version_id(name)} & (known | sizes.keys()):
            return replace(version, clips_per_unit=version.clips_per_unit or sizes.get(name))
    return candidates[0]


def plan_archive(
    listed: Iterable[Media],
    job: JobConfig,
    question_set: QuestionSet,
    recipe: Recipe,
    index: SavingsIndex,
    probe: Prober,
    is_exact: bool = True,
) -> Iterator[MediaPlan]:
    """Plan every media item of a listing, of an output where nothing was forgotten and nothing is taken over."""
    return Planner(job, question_set, recipe, index, probe, is_exact=is_exact).plans(listed)


def _lacks_context(info: MediaInfo, job: JobConfig, recipe: Recipe) -> bool:
    """Whether chapters or subtitle tracks that are to be read were not looked for."""
    reads_tracks = "clip.transcript" in recipe.context_fields and job.context.subtitle_track != "none"
    return ("clip.chapter" in recipe.context_fields and info.chapters is None) or (
        reads_tracks and info.subtitles is None
    )


def _may_pass(failure: ClipFailure) -> bool:
    """Whether it says nothing about a file that has the same mark at the next run."""
    gone = (MediaMissing.error_class, MediaChanged.error_class)
    return rule_of(failure.error_class).may_pass or failure.error_class in gone


def _cached(
    batch: Sequence[Media], job: JobConfig, index: SavingsIndex, is_exact: bool, recipe: Recipe
) -> dict[Media, Probed]:
    probes = index.probes(batch)
    usable = {}
    for media in batch:
        probed = probes.get(media.media_id)
        if probed is None or (is_exact and not probed.is_scanned):
            continue
        if probed.info is not None and _lacks_context(probed.info, job, recipe):
            continue  # found by a version that did not look for it
        needs_cuts = job.clips.cut == "scene" and probed.info is not None and probed.info.has_video
        if needs_cuts and probed.scene_threshold != job.clips.scene_threshold:
            continue
        usable[media] = probed
    return usable
