"""Turns media into clips and work units, streaming, with ids that follow from content alone.

Promises: the same archive and job give the same plan on any machine; nothing is held of media that have been planned,
so an archive of a million objects takes no more memory than one of a thousand; a media item that cannot be probed, cut
or asked becomes a named failure and the plan goes on. Knows nothing about Ray, models or how results are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from omnidrop.errors import QuestionError
from pipeline.archive.not_taken import NotTaken, Reason
from pipeline.archive.probing import Probed, Prober, is_named_as_media
from pipeline.batches import batches, batches_within
from pipeline.context.sidecars import ContextError
from pipeline.failure_rules import rule_of
from pipeline.identity import clip_id, failed_version_id, item_id, unit_id, unread_content, version_id
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Tombstones
from pipeline.planning.context import ContextReader, ItemContext
from pipeline.planning.cutting import TooManyClips, cut_media
from pipeline.planning.differences import changed_settings
from pipeline.planning.earlier import Earlier, earlier_name
from pipeline.planning.kept import Kept, ToldAlike
from pipeline.planning.passes import Source
from pipeline.planning.recipe import Recipe, make_recipe
from pipeline.questions.templates import UNTOLD, Told, media_context
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import CONTENTS, UnitKey, UnitObject
from workers.errors import MediaChanged, MediaError, MediaMissing
from workers.media.tracks import chosen
from workers.records import Asking, Clip, ClipFailure, Media, MediaInfo, Version, WorkUnit

if TYPE_CHECKING:
    from omnidrop.questions import Question
    from pipeline.config.job import JobConfig
    from pipeline.questions.question_set import QuestionSet


class Item(NamedTuple):
    """What is known of a media item."""

    probed: Probed
    heads: Sequence[Head]
    """What was declared of its content."""
    context: ItemContext | None
    """What its sidecars say, where the question set reads of it."""


_Items = Mapping[str, Item]
"""By media id."""
__all__ = ["ANSWER_FORMAT", "Planner", "Recipe", "make_recipe", "plan_archive", "plan_media"]

ANSWER_FORMAT = 4
"""The version of decoding and method: raised when the same clip and question may be answered otherwise than before, as
when a policy's defaults change, or a clip of the same file and span holds something else. Answers of older ones stay
and say so; `index --redo-older` asks them again. 4: coverage and merging at the decoder's entry, a part of the picture
encoded; the mean of the channels, jitter and gaps of sound in their place, joined recordings cut apart, tracks
chosen by their flags, pictures that change shape padded, BT.709 for HD that does not say."""
MOST_VERSIONS = 16
"""Of one content that are looked through for clips that were told the same."""
CONTEXT_CHANGED = "context changed (sidecars)"
READ_BATCH = 8
READ_BATCH_BYTES = 1 << 30
"""Media read and probed before any of them is planned: so many, and no more bytes."""
LOOKUP_BATCH = 64
"""Media looked up in the index at once. Small, so that the first unit does not wait for many slow probes."""


@dataclass(frozen=True)
class MediaPlan:
    """What is to be done for one media item. `units` are all its units, finished ones too."""

    media: Media
    info: MediaInfo | None
    version: Version
    units: tuple[WorkUnit, ...]
    failure: ClipFailure | None = None
    """Why nothing can be asked of it; then `units` is empty and `failed_unit_id` names the unit that says so."""
    finished: frozenset[str] = frozenset()
    """Ids of the units that are done already."""
    failed_attempt: int = 0
    """Which attempt at it this failure is."""
    is_current: bool = False
    """Whether the index has this version as the one that counts, and all else that is known of the item."""
    earlier: str = ""
    """See `Head.earlier`."""
    unread_id: str = ""
    """What its failure was called while it could not be read."""
    asked: tuple[Question, ...] = ()
    """All that is asked of it; a unit of which earlier answers are kept has only the others."""
    kept: Mapping[str, tuple[Kept, ...]] = field(default_factory=dict)
    """By unit id: where answers to what is asked now are already."""
    reason: str = ""
    """Why something is asked of it; empty where nothing is."""
    declared: Head | None = None
    """What an older version of decoding made of it, where that cut it otherwise and is finished: it stays so."""

    @property
    def version_id(self) -> str:
        """Of what its units answer, or of its failure."""
        return self.version.version_id

    @property
    def failed_unit_id(self) -> str:
        """Id of the clipless unit that stands for a failed media item."""
        return unit_id(self.version_id, ())

    @property
    def unit_ids(self) -> tuple[str, ...]:
        """Ids of all units this version has when complete."""
        return tuple(u.unit_id for u in self.units) if self.failure is None else (self.failed_unit_id,)

    @property
    def clips(self) -> int:
        """How many clips it has."""
        return sum(len(u.clips) for u in self.units)


def plan_media(
    media: Media,
    probed: Probed,
    job: JobConfig,
    question_set: QuestionSet,
    recipe: Recipe,
    version: Version | None = None,
    context: ItemContext | None = None,
) -> MediaPlan:
    """Cut one probed media item into units. Never raises for what is wrong with that item.

    `context` is what its sidecars say, where the question set reads of it.
    """
    version = version or named_versions(media, recipe)[0]
    failed = replace(version, version_id=failed_version_id(version.version_id))
    info, failure = probed.info, probed.failure
    if info is None:
        return MediaPlan(media, None, failed, (), failure or ClipFailure(None, "probe", "internal", "no probe result"))
    try:
        info = chosen(info, job.clips.audio_track, job.clips.video_track)
    except MediaError as error:
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", error.error_class, str(error)))
    if context is not None and context.failure:
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", ContextError.error_class, context.failure))
    try:
        spans = cut_media(info, job.clips, probed.scene_cuts_s or ())
    except TooManyClips as error:
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", error.error_class, str(error)))
    if not spans:
        reason = f"its duration is {info.duration_s:g} s: there is nothing to ask about"
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", "empty_media", reason))
    try:
        asking, own = _asked(media, info, job, question_set, recipe, spans, context)
    except QuestionError as error:
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", error.error_class, str(error)))
    version = replace(version, clips_per_unit=version.clips_per_unit or job.execution.clips_per_unit)
    name, size = version.version_id, version.clips_per_unit
    assert size is not None
    clips = [
        Clip(clip_id(name, start, end), i, start, end, told=own[i][1] if own else ())
        for i, (start, end) in enumerate(spans)
    ]
    by_clip = {clip.clip_id: asked for clip, (asked, _) in zip(clips, own, strict=False)}
    units = tuple(
        WorkUnit(
            *(unit_id(name, [c.clip_id for c in part]), name, media, info, tuple(part)),
            *(asking.questions, asking.instruction),
            version=version,
            own={c.clip_id: by_clip[c.clip_id] for c in part} if by_clip else {},
        )
        for part in batches(clips, size)
    )
    return MediaPlan(media, info, version, units, asked=asking.questions)


_Own = list[tuple[Asking, tuple[tuple[str, str], ...]]]


def _asked(
    media: Media,
    info: MediaInfo,
    job: JobConfig,
    question_set: QuestionSet,
    recipe: Recipe,
    spans: Sequence[tuple[float, float]],
    context: ItemContext | None,
) -> tuple[Asking, _Own]:
    """What an item's clips are asked, and where it is not the same for all, what each is, with hashes of what it is
    told; the first clip's stands for all then. Raises QuestionError."""
    groups = recipe.groups

    def asking(told: Told = UNTOLD) -> Asking:
        questions, instruction = question_set.resolve(media, info, job.variables, told)
        return Asking(tuple(replace(one, group=groups.get(one.id, "")) for one in questions), instruction)

    if context is None:
        return asking(), []
    own = [(asking(said), known_as) for said, known_as in (context.of_clip(start, end) for start, end in spans)]
    return own[0][0], own


def named_versions(media: Media, recipe: Recipe) -> list[Version]:
    """What the item's content is called under a recipe by this version of decoding and method, and by those before."""
    return versions_under(media, recipe.hash, recipe.label_fields)


def versions_under(media: Media, recipe: str, label_fields: Sequence[str]) -> list[Version]:
    """The same of a recipe that is known by its hash."""
    content = media.content_id or unread_content(media.media_id, media.etag)
    labels = labels_of(media, label_fields)
    where = (CONTENTS, item_id(content), labels)
    formats = range(ANSWER_FORMAT, 0, -1)
    return [Version(version_id(content, recipe, labels, number), *where, number) for number in formats]


def labels_of(media: Media, label_fields: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What a question set reads of the item's key, as it reads it, and of its sidecars, by hash."""
    if not label_fields:
        return ()
    given = media_context(media, MediaInfo("", 0.0)) | dict(media.told)
    return tuple((name, str(given.get(name, ""))) for name in label_fields)


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
    kept_clips: int = 0
    """Clips that keep earlier answers while they are asked what is new, or nothing."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why clips are asked."""
    _begun: set[int] = field(default_factory=set)
    """Of versions with something left to do, by the beginning of their ids."""

    def plans(self, listed: Iterable[Media]) -> Iterator[MediaPlan]:
        """Plan every media item of a listing, in its order within small batches; what was forgotten is left out."""
        for batch in batches(listed, LOOKUP_BATCH):
            # What must be read first must not keep the rest waiting, nor the model.
            is_known = len(self.index.probes(batch)) == len(batch)
            reading = batches_within(batch, READ_BATCH, READ_BATCH_BYTES, lambda media: media.size_bytes)
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
            contexts = {m.media_id: self.context.read(m, probed.info) for m, probed in kept if probed.info is not None}
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
        plans = self._with_kept(plans, finished, items) if self.sources or self.context else plans
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
            if plan.version.answer_format != ANSWER_FORMAT:
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
        older = [p for p in plans if p.version.answer_format != ANSWER_FORMAT and p.failure is None]
        there = self.index.units_of([plan.version_id for plan in older])
        made = []
        for plan in plans:
            done = there.get(plan.version_id, set())
            if done - set(plan.unit_ids):
                # Of a version that was taken back nothing is declared any more: others of its time were cut alike.
                heads = items[plan.media.media_id].heads
                own = sorted(heads, key=lambda head: head.version_id != plan.version_id)
                then = next((head for head in own if head.answer_format != ANSWER_FORMAT), None)
                if then is not None and len(done) >= then.units:
                    plan = replace(plan, declared=then)
                else:
                    plan = self._plan(plan.media, items)
            made.append(plan)
        return made

    def _reason(self, plan: MediaPlan, current: Head | None, same: Sequence[Head]) -> str:
        known = [head for head in same if head.content_id is not None]
        if any(head.version_id == plan.version_id for head in same):
            return "begun before and not finished, or failed"
        if not known:
            return "files that are new" if current is None else "files that have changed"
        head = next((head for head in known if head is current), known[0])
        fields = self.recipes.get(head.recipe_hash)
        if head.recipe_hash == self.recipe.hash or fields is None:
            if self.recipe.context_fields and (head.media_id == plan.media.media_id or not self.recipe.key_fields):
                return CONTEXT_CHANGED
            return "files that were moved or renamed" if self.recipe.label_fields else "asked again"
        return "; ".join(changed_settings(fields, self.recipe.fields))

    def _with_kept(self, plans: Sequence[MediaPlan], finished: set[str], items: _Items) -> list[MediaPlan]:
        """The plans with what is to be asked of units that have earlier answers reduced to what is new."""
        left = [plan for plan in plans if _is_left(plan, finished)]
        named = {plan.version_id: self._source_versions(plan.media) for plan in left}
        known = self.index.known_versions([v.version_id for found in named.values() for _, v in found])
        made = []
        for plan in plans:
            found = [(s, v) for s, v in named.get(plan.version_id, ()) if v.version_id in known]
            heads = items[plan.media.media_id].heads
            begun = self._told_otherwise(plan, heads) if self.context and plan.version_id in named else []
            if (found or begun) and not set(plan.unit_ids) & finished:
                plan = self._like(plan, [*(v for _, v in found), *begun], items)
            same = [(s, v) for s, v in found if v.answer_format == plan.version.answer_format]
            plan = self._reduced(plan, same, finished) if same else plan
            if self.context and plan.version_id in named:
                plan = self._reduced_by_clip(plan, [v.version_id for v in begun], finished)
            made.append(plan)
        return made

    def _told_otherwise(self, plan: MediaPlan, heads: Sequence[Head]) -> list[Version]:
        """Versions of the content that were declared with other words of sidecars, or without."""
        by_recipe = self._alike().sources
        return [
            Version(head.version_id, *head.place, answer_format=head.answer_format)
            for head in heads
            if head.content_id is not None
            and head.content_id == plan.media.content_id
            and head.version_id != plan.version_id
            and head.recipe_hash in by_recipe
            and (head.answer_format == ANSWER_FORMAT or not self.redo_older)
        ]

    def _source_versions(self, media: Media) -> list[tuple[Source, Version]]:
        if media.content_id is None:
            return []
        formats = 1 if self.redo_older else ANSWER_FORMAT
        return [
            (source, version)
            for source in self.sources
            for version in versions_under(media, source.recipe_hash, source.label_fields)[:formats]
        ]

    def _like(self, plan: MediaPlan, found: Sequence[Version], items: _Items) -> MediaPlan:
        """A plan of which nothing is finished, with the answer format and the size of units that its sources have."""
        heads = items[plan.media.media_id].heads
        sizes = {head.version_id: head.clips_per_unit for head in heads if head.clips_per_unit}
        newest = max(version.answer_format or 0 for version in found)
        size = next((sizes[v.version_id] for v in found if v.version_id in sizes), plan.version.clips_per_unit)
        (version,) = [v for v in named_versions(plan.media, self.recipe) if v.answer_format == newest]
        return self._plan(plan.media, items, replace(version, clips_per_unit=size))

    def _reduced(self, plan: MediaPlan, found: Sequence[tuple[Source, Version]], finished: set[str]) -> MediaPlan:
        there = {unit.unit_id: [(s, _key_under(v, unit)) for s, v in found] for unit in plan.units}
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
                self.kept_clips += len(unit.clips)
                unit = replace(unit, questions=tuple(q for q in unit.questions if q.id in left))
            units.append(unit)
        return replace(plan, units=tuple(units), kept=kept)

    def _reduced_by_clip(self, plan: MediaPlan, first: Sequence[str], finished: set[str]) -> MediaPlan:
        """The plan without the clips that were asked before in the same words, whatever their sidecars say elsewhere.

        Their units say what they were told. Versions in `first` are looked at first: most have all that is to be had.
        """
        content = plan.media.content_id
        if content is None or plan.failure is not None or finished.issuperset(plan.unit_ids):
            return plan
        place, looks = (CONTENTS, item_id(content)), self._alike()
        others = [name for name in self.index.versions_of(item_id(content)) if name not in (plan.version_id, *first)]
        versions = [Version(name, *place) for name in (*first, *others)[:MOST_VERSIONS]]
        keys = {unit.unit_id: [_key_under(version, unit) for version in versions] for unit in plan.units}
        attempts = self.index.attempts([key.unit_id for found in keys.values() for key in found])
        units, kept = [], dict(plan.kept)
        for unit in plan.units:
            if unit.unit_id not in finished and unit.questions:
                there = [replace(k, attempt=attempts[k.unit_id]) for k in keys[unit.unit_id] if k.unit_id in attempts]
                unit, found = looks.reduced(unit, there, plan.version.answer_format)
                clips = frozenset().union(*(one.only or () for one in found))
                self.kept_clips += 0 if unit.unit_id in kept else len(clips)
                if found:
                    kept[unit.unit_id] = (*kept.get(unit.unit_id, ()), *found)
            units.append(unit)
        return replace(plan, units=tuple(units), kept=kept)

    def _alike(self) -> ToldAlike:
        return ToldAlike(self.recipe, self.sources, self.read_unit)

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
        """With the contents that the journal knows: nothing is read again only because the index was made anew."""
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
            return [named[0], *(v for v in earlier if v.answer_format == ANSWER_FORMAT)]
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


def _is_left(plan: MediaPlan, finished: set[str]) -> bool:
    return plan.failure is None and not finished.issuperset(plan.unit_ids)


def _key_under(version: Version, unit: WorkUnit) -> UnitKey:
    """Where the unit of the same clips lies under another version."""
    clips = [clip_id(version.version_id, clip.start_s, clip.end_s) for clip in unit.clips]
    return UnitKey(version.group, version.item_id, version.version_id, unit_id(version.version_id, clips))


def _chosen(candidates: Sequence[Version], heads: Sequence[Head], known: set[str]) -> Version:
    """The version to go on with: one of which something is finished or that counts already, else the present one."""
    sizes = {head.version_id: head.clips_per_unit for head in heads}
    for version in candidates:
        name = version.version_id
        if {name, failed_version_id(name)} & (known | sizes.keys()):
            return replace(version, clips_per_unit=version.clips_per_unit or sizes.get(name))
    return candidates[0]


def head_of(plan: MediaPlan, job: str, recipe: str) -> Head:
    """The declaration that a plan's version counts."""
    media, version = plan.media, plan.version
    return Head(
        *(job, media.media_id, media.key, media.uri, media.etag, media.size_bytes),
        *(plan.version_id, recipe),
        *((len(plan.unit_ids), plan.clips) if plan.declared is None else (plan.declared.units, plan.declared.clips)),
        content_id=media.content_id,
        mark=media.mark,
        group=version.group,
        item_id=version.item_id,
        clips_per_unit=version.clips_per_unit,
        answer_format=version.answer_format,
        earlier=plan.earlier,
    )


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
        if "clip.chapter" in recipe.context_fields and probed.info is not None and probed.info.chapters is None:
            continue  # found by a version that did not look for them
        needs_cuts = job.clips.cut == "scene" and probed.info is not None and probed.info.has_video
        if needs_cuts and probed.scene_threshold != job.clips.scene_threshold:
            continue
        usable[media] = probed
    return usable
