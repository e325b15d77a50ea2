"""One media item as clips and work units, with ids that follow from content alone.

Promises: the same item and job give the same plan on any machine; an item that cannot be cut or asked becomes a named
failure. Knows nothing about listings, what was asked before, Ray or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from omnidrop.errors import QuestionError
from pipeline.archive.probing import Probed
from pipeline.batches import batches
from pipeline.identity import clip_id, failed_version_id, item_id, unit_id, unread_content, version_id
from pipeline.planning.context import ItemContext
from pipeline.planning.cutting import TooManyClips, cut_media
from pipeline.planning.kept import Kept
from pipeline.planning.recipe import Recipe
from pipeline.questions.templates import UNTOLD, Told, media_context
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import CONTENTS, UnitKey
from workers.errors import MediaError
from workers.media.tracks import chosen
from workers.records import Asking, Clip, ClipFailure, Media, MediaInfo, Version, WorkUnit

if TYPE_CHECKING:
    from omnidrop.questions import Question
    from pipeline.config.job import JobConfig
    from pipeline.questions.question_set import QuestionSet

ANSWER_FORMAT = 5
"""The version of decoding and method: raised when the same clip and question may be answered otherwise than before, as
when a policy's defaults change, or a clip of the same file and span holds something else. Answers of older ones stay
and say so; `index --redo-older` asks them again. 4: coverage and merging at the decoder's entry, a part of the picture
encoded; the mean of the channels, jitter and gaps of sound in their place, joined recordings cut apart, tracks
chosen by their flags, pictures that change shape padded, BT.709 for HD that does not say. 5: more of the sound where
few tokens enter."""


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
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", context.error_class, context.failure))
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


def key_under(version: Version, unit: WorkUnit) -> UnitKey:
    """Where the unit of the same clips lies under another version."""
    clips = [clip_id(version.version_id, clip.start_s, clip.end_s) for clip in unit.clips]
    return UnitKey(version.group, version.item_id, version.version_id, unit_id(version.version_id, clips))


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
