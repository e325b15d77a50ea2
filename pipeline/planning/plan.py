"""Turns media into clips and work units, streaming, with ids that follow from content alone.

Promises: the same archive and job give the same plan on any machine; nothing is held of media that have been planned,
so an archive of a million objects takes no more memory than one of a thousand; a media item that cannot be probed, cut
or asked becomes a named failure and the plan goes on. Knows nothing about Ray, models or how results are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omnidrop.errors import QuestionError
from pipeline.archive.not_taken import NotTaken, Reason
from pipeline.archive.probing import Probed, Prober
from pipeline.batches import batches
from pipeline.failure_rules import rule_of
from pipeline.identity import clip_id, failed_version_id, recipe_hash, unit_id, version_id
from pipeline.index.savings_index import SavingsIndex
from pipeline.planning.cutting import TooManyClips, cut_media
from workers.errors import MediaError, Sidecar
from workers.media.tracks import chosen
from workers.records import Clip, ClipFailure, DecodeSettings, Media, MediaInfo, WorkUnit

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig
    from pipeline.questions.question_set import QuestionSet

ANSWER_FORMAT = 3
"""Raised when answers stored before would have to be asked again, as when a policy's defaults change; not with every
new journal format."""
DECODING_VERSION = 2
"""Raised when a clip of the same file and span holds something else than before. 2: the mean of the channels, jitter
and gaps of sound in their place, joined recordings cut apart, tracks chosen by their flags, pictures that change shape
padded, BT.709 for HD that does not say."""
LOOKUP_BATCH = 64
"""Media looked up in the index at once. Small, so that the first unit does not wait for many slow probes."""


@dataclass(frozen=True)
class Recipe:
    """Everything that changes an answer, and its hash. A version label is for people; the hash decides."""

    hash: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class MediaPlan:
    """What is to be done for one media item. `units` are all its units, finished ones too."""

    media: Media
    info: MediaInfo | None
    version_id: str
    units: tuple[WorkUnit, ...]
    failure: ClipFailure | None = None
    """Why nothing can be asked of it; then `units` is empty and `failed_unit_id` names the unit that says so."""
    finished: frozenset[str] = frozenset()
    """Ids of the units that are done already."""
    failed_attempt: int = 0
    """Which attempt at it this failure is."""
    is_current: bool = False
    """Whether the index has this version as the one that counts."""

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


def make_recipe(job: JobConfig, question_set: QuestionSet, weights_hash: str) -> Recipe:
    """The recipe of a job: the resolved question set, the weights, and how clips are cut, decoded and pruned.

    Where it runs (devices, addresses, retries) is not part of it. The number type is: bf16 and fp32 answers differ.
    """
    pruning = job.pruning.model_dump()
    if pruning["encoder_share"] == 1:
        # The whole picture, as before there was a choice: the answers are the same, and so is the recipe.
        del pruning["encoder_share"]
    fields: dict[str, Any] = {
        "format_version": ANSWER_FORMAT,
        "questions": question_set.fingerprint(job.variables),
        "weights": weights_hash,
        "dtype": job.model.dtype,
        "system_prompt": job.model.system_prompt,
        "pruning": _as_text({key: value for key, value in pruning.items() if value != {}}),
        # Which items are too long to be asked at all changes no answer of the others.
        "clips": _as_text(job.clips.model_dump(exclude={"max_per_media"})),
        # No answer depends on it, but units of two sizes over the same clips would count them twice.
        "clips_per_unit": job.execution.clips_per_unit,
        "decoding": {"min_share": str(DecodeSettings.min_share), "version": DECODING_VERSION},
    }
    return Recipe(recipe_hash(fields), fields)


def plan_media(media: Media, probed: Probed, job: JobConfig, question_set: QuestionSet, recipe: Recipe) -> MediaPlan:
    """Cut one probed media item into units. Never raises for what is wrong with that item."""
    version = version_id(job.name, media.media_id, media.etag, recipe.hash)
    failed = failed_version_id(version)
    info, failure = probed.info, probed.failure
    if info is None:
        return MediaPlan(media, None, failed, (), failure or ClipFailure(None, "probe", "internal", "no probe result"))
    try:
        info = chosen(info, job.clips.audio_track, job.clips.video_track)
    except MediaError as error:
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", error.error_class, str(error)))
    try:
        questions, instruction = question_set.resolve(media, info, job.variables)
    except QuestionError as error:
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", error.error_class, str(error)))
    try:
        spans = cut_media(info, job.clips, probed.scene_cuts_s or ())
    except TooManyClips as error:
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", error.error_class, str(error)))
    if not spans:
        reason = f"its duration is {info.duration_s:g} s: there is nothing to ask about"
        return MediaPlan(media, info, failed, (), ClipFailure(None, "plan", "empty_media", reason))
    clips = [Clip(clip_id(version, start, end), i, start, end) for i, (start, end) in enumerate(spans)]
    units = tuple(
        WorkUnit(unit_id(version, [c.clip_id for c in part]), version, media, info, tuple(part), questions, instruction)
        for part in batches(clips, job.execution.clips_per_unit)
    )
    return MediaPlan(media, info, version, units)


def plan_archive(
    listed: Iterable[Media],
    job: JobConfig,
    question_set: QuestionSet,
    recipe: Recipe,
    index: SavingsIndex,
    probe: Prober,
    *,
    forgotten: frozenset[str] = frozenset(),
    is_exact: bool = True,
    not_taken: NotTaken | None = None,
) -> Iterator[MediaPlan]:
    """Plan every media item of a listing, in its order within small batches; forgotten items are left out, and so are
    files that turn out to lie beside media, which `not_taken` counts.

    Without `is_exact` what is known of an item need not come from a scan of its packets: `probe` does not scan, either.
    """
    for batch in batches((m for m in listed if m.media_id not in forgotten), LOOKUP_BATCH):
        known = {m.media_id: p for m, p in _cached(batch, job, index, is_exact).items()}
        missing = [m for m in batch if m.media_id not in known]
        found = list(probe(missing)) if missing else []
        # What may have passed by the next run is looked at again then.
        index.put_probes((m, p) for m, p in found if p.failure is None or not rule_of(p.failure.error_class).may_pass)
        known |= {m.media_id: p for m, p in found}
        for media in (m for m in batch if _is_beside_media(known[m.media_id])):
            if not_taken is not None:
                not_taken.look_into(media.key, Reason.SIDECAR)
        batch = [m for m in batch if not _is_beside_media(known[m.media_id])]
        plans = [plan_media(m, known[m.media_id], job, question_set, recipe) for m in batch]
        finished = index.known_units([u for plan in plans for u in plan.unit_ids])
        current = index.current_versions(job.name, [m.media_id for m in batch])
        for plan in plans:
            mine = frozenset(plan.unit_ids) & finished
            is_current = current.get(plan.media.media_id) == plan.version_id
            yield replace(plan, finished=mine, is_current=is_current)


def _is_beside_media(probed: Probed) -> bool:
    return probed.failure is not None and probed.failure.error_class == Sidecar.error_class


def _cached(batch: Sequence[Media], job: JobConfig, index: SavingsIndex, is_exact: bool) -> dict[Media, Probed]:
    probes = index.probes(batch)
    usable = {}
    for media in batch:
        probed = probes.get(media.media_id)
        if probed is None or (is_exact and not probed.is_scanned):
            continue
        needs_cuts = job.clips.cut == "scene" and probed.info is not None and probed.info.has_video
        if needs_cuts and probed.scene_threshold != job.clips.scene_threshold:
            continue
        usable[media] = probed
    return usable


def _as_text(value: Any) -> Any:
    """Floats as text, so that a recipe's hash never depends on how a number was written or rounded in JSON."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {k: _as_text(v) for k, v in value.items()}
    return value
