"""What a job will cost, before anything runs: media, clips, tokens, FLOPs, KV bytes and hours, dense and pruned.

Promises: tokens are exact for what the planner sees; FLOPs are an upper bound, because texts are priced at their
longest and a frame that repeats as if it were encoded again; no weights are loaded and nothing is decoded. Hours and
money need a calibration (`omnidrop calibrate`), and have ranges. Knows nothing about how any of it is shown.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from omnidrop.answers import PassCost
from omnidrop.errors import QuestionError
from omnidrop.estimate import Estimate
from omnidrop.models.checkpoints import configuration_of
from omnidrop.models.quantised import stored
from omnidrop.questions import Question
from pipeline.archive.health import ArchiveHealth, patient_prober
from pipeline.archive.listing import list_media
from pipeline.archive.not_taken import NotTaken
from pipeline.archive.probing import prober
from pipeline.config.job import JobConfig
from pipeline.cost import calibration
from pipeline.cost.calibration import Calibration, GpuHours
from pipeline.cost.clip_prices import UNASKABLE, ClipPrices, WholePrices, asked_of, in_one_pass
from pipeline.execution.actor_metering import gpus_counted
from pipeline.index.database import BATCH
from pipeline.planning.context import context_reader
from pipeline.planning.listing import Labels, gone_note
from pipeline.planning.media_plan import MediaPlan
from pipeline.planning.notes import planner_notes
from pipeline.planning.open_job import Opened, open_job
from pipeline.planning.planner import Planner
from pipeline.planning.recipe import resolved_dtype
from pipeline.planning.whole_videos import Candidate, WholeVideos, is_left_over
from pipeline.storage.outage import Patience

MOST_NAMED = 10
"""Media named one by one that cannot be asked, or that have very many clips."""
OUTLIER, MANY_CLIPS = 20, 200
"""An item is named where it has more than so many times the median of clips, and more than so many."""


@dataclass
class Reason:
    """What is asked for one reason."""

    clips: int = 0
    as_run_flops: int = 0
    gpu_hours: GpuHours | None = None
    """None without a calibration."""


@dataclass
class Price:
    """Sums over an archive. Costs are of the clips still to be done."""

    weights: str = ""
    """Bytes and form of the model's weights as they are stored."""
    dtype: str = ""
    """Of the KV cache, where the job runs."""
    media: int = 0
    copies: int = 0
    """Media that are exact copies of others: their units and clips are counted as done."""
    media_failed: Counter[str] = field(default_factory=Counter)
    """By error class."""
    failed_keys: list[tuple[str, str]] = field(default_factory=list)
    """(media_key, error class) of the first `MOST_NAMED` of them."""
    not_taken: NotTaken = field(default_factory=NotTaken)
    """Files of the archive that are not asked about."""
    video_s: float = 0.0
    unchecked: int = 0
    """Media whose timeline no index tells and no scan has read: priced by the length they declare."""
    segmented: int = 0
    """Media of several continuous parts."""
    segments: int = 0
    """Those parts."""
    with_unused_tracks: int = 0
    unused_tracks: int = 0
    """Tracks of pictures or sound that are not decoded, and the media that have some."""
    with_notes: int = 0
    """Media of which something else is noted."""
    longest: list[tuple[int, str, int]] = field(default_factory=list)
    """(clips, media_key, bytes) of the `MOST_NAMED` items with the most clips, fewest first."""
    clips_per_media: Counter[int] = field(default_factory=Counter)
    """How many media have so many clips."""
    units: int = 0
    units_finished: int = 0
    clips: int = 0
    clips_finished: int = 0
    unaskable: Counter[str] = field(default_factory=Counter)
    """Clips that will fail, by error class: too short to hold anything, or to be pruned so far."""
    first_unaskable: str = ""
    """Which the first one is, and why."""
    questions: int = 0
    """Answers to be given."""
    audio_tokens: int = 0
    video_tokens: int = 0
    video_encoded: int = 0
    """Cells of the picture that are encoded, of `video_tokens`."""
    retained_tokens: float = 0.0
    """Mean over layers of the tokens that stay, summed over clips."""
    as_run_flops: int = 0
    dense_flops: int = 0
    dense_shared_flops: int = 0
    largest_clip_kv_bytes: int = 0
    largest_clip_kv_bytes_dense_shared: int = 0
    as_run_gpu_hours: GpuHours | None = None
    """Of answering; None without a calibration, as the next two."""
    dense_gpu_hours: GpuHours | None = None
    dense_shared_gpu_hours: GpuHours | None = None
    calibration: Calibration | None = None
    media_counted: int = 0
    """Items that count for the job now."""
    media_unlisted: int = 0
    """Of these, how many the archive does not list any more."""
    notes: tuple[str, ...] = ()
    """What was left out or taken over, in sentences."""
    reasons: dict[str, Reason] = field(default_factory=dict)
    """Why clips are asked, and what each of it costs."""
    whole_videos: int = 0
    """To be asked about as wholes, once their clips are done."""
    whole_texts: int = 0
    whole_flops: int = 0
    """What is read for it at most: beside the sums of clips, and a part of the hours."""
    passes_flops: int = 0
    """Of clips that are asked in several passes, since questions were added to the set ..."""
    one_pass_flops: int = 0
    """... and what all their questions in one pass would take."""

    @property
    def outliers(self) -> list[tuple[str, int, int]]:
        """(media_key, clips, bytes) of items with far more clips than others: a length may be made up, or a mistake."""
        half, median = self.clips_per_media.total() / 2, 0
        for median in sorted(self.clips_per_media):
            half -= self.clips_per_media[median]
            if half <= 0:
                break
        many = max(MANY_CLIPS, OUTLIER * median)
        return [(key, clips, size) for clips, key, size in sorted(self.longest, reverse=True) if clips > many]

    @property
    def retained_ratio(self) -> float | None:
        """Of audio and video tokens, mean over decoder layers."""
        tokens = self.audio_tokens + self.video_tokens
        return self.retained_tokens / tokens if tokens else None


def price_job(
    job: JobConfig,
    advance: Callable[[Price], None] = lambda price: None,
    *,
    redo_older: bool = False,
    ask_together: bool = False,
    is_exact: bool = False,
) -> Price:
    """Plan the whole archive and price it. `advance` is called after every media item. Raises UserError.

    With `redo_older`, what an older version of decoding or method answered is priced as to be asked again; with
    `ask_together` all questions in one pass. With `is_exact` every packet is read of files whose timeline no index
    tells; otherwise such files are priced by the length they declare, and counted.
    """
    parts = open_job(job, ask_together=ask_together)
    job = parts.job
    price = Price(weights=stored(configuration_of(job.model.checkpoint)), dtype=resolved_dtype(job))
    try:
        price.calibration = calibration.find(parts.store, parts.asked.weights_hash, job.model)
        prices, hours = ClipPrices(job), _Hours(job, price.calibration)
        health = ArchiveHealth(job)
        with prober(job, scans=is_exact) as prober_here:
            # What it finds is remembered for runs: a machine's trouble must not be.
            probe = patient_prober(prober_here, health, Patience(job.storage.patience_s))
            of_job = (job, parts.question_set, parts.recipe, parts.index, probe)
            planner = Planner(
                *of_job,
                parts.journal.tombstones(),
                parts.earlier,
                redo_older,
                is_exact=is_exact,
                not_taken=price.not_taken,
                sources=parts.sources,
                recipes=parts.recipes,
                context=context_reader(job, parts.recipe.context_fields, index=parts.index),
                read_unit=parts.journal.read_if_kept,
            )
            labels, contents, versions = Labels(), Labels(), Labels()
            whole = _Whole(parts, price, hours, prices)
            listed = list_media(job.archive, leave_out=job.output, not_taken=price.not_taken)
            for plan in planner.plans(health.listed(listed)):
                labels.add(plan.media.media_id)
                versions.add(plan.version_id)
                if plan.media.content_id is not None:
                    contents.add(plan.media.content_id)
                _add(price, plan, prices, hours)
                whole.take(plan)
                advance(price)
            whole.close()
        price.copies = versions.repeated
        # What only has another key now, as in an archive that was moved, is not gone.
        of_before = labels.missing(parts.index.listed(job.name))
        gone = [head.media_key for head in contents.missing(of_before, of=lambda head: head.content_id)]
        price.media_counted = sum(1 for _ in parts.index.listed(job.name))
        notes = [*parts.caveats, *planner_notes(planner)]
        if price.calibration is not None and price.calibration.doubt is not None:
            notes.append(price.calibration.doubt)
        if price.unaskable:
            classes = ", ".join(f"{name} {count}" for name, count in price.unaskable.most_common())
            notes.append(
                f"clips that cannot be asked and will be quarantined: {price.unaskable.total()} ({classes}), the first "
                f"is {price.first_unaskable}"
            )
        if gone and job.archive.sample is None:
            price.media_unlisted = len(gone)
            notes.append(gone_note(len(gone), price.media_counted, gone, job.archive.max_missing))
        price.notes = tuple(notes)
        hours.set(price)
    finally:
        parts.index.close()
    return price


class _Hours:
    """Clips by reason and price: hours are told of their sums."""

    def __init__(self, job: JobConfig, known: Calibration | None) -> None:
        self._job, self._calibration = job, known
        self._count: Counter[tuple[str, Estimate]] = Counter()

    def take(self, price: Price, reason: str, estimate: Estimate) -> None:
        """One clip more, that is asked for this reason."""
        self._count[reason, estimate] += 1
        of_reason = price.reasons.setdefault(reason, Reason())
        of_reason.clips += 1
        of_reason.as_run_flops += estimate.as_run.flops

    def take_text(self, estimate: Estimate) -> None:
        """One text more about a whole video."""
        self._count["", estimate] += 1

    def set(self, price: Price) -> None:
        """Hours of all clips that were asked for."""
        if (known := self._calibration) is None:
            return
        gpus = gpus_counted(calibration.resolved(self._job, known).model.gpus_per_actor)

        def of(cost: Callable[[Estimate], PassCost], reason: str | None = None) -> GpuHours:
            counted = ((c, number) for (why, c), number in self._count.items() if reason in (None, why))
            seconds = sum(number * known.throughput.seconds(cost(clip)) for clip, number in counted)
            return known.gpu_hours(seconds, gpus)

        for reason, of_reason in price.reasons.items():
            of_reason.gpu_hours = of(lambda clip: clip.as_run, reason)

        price.as_run_gpu_hours = of(lambda clip: clip.as_run)
        price.dense_gpu_hours = of(lambda clip: clip.dense)
        price.dense_shared_gpu_hours = of(lambda clip: clip.dense_shared)


class _Whole:
    """Questions about whole videos: which of the planned items are to be asked, and what that costs at most."""

    def __init__(self, parts: Opened, price: Price, hours: _Hours, prices: ClipPrices) -> None:
        self._question_set, self._variables = parts.question_set, parts.job.variables
        of_job = (self._question_set, self._variables, parts.index, parts.journal.read_if_kept, parts.asked)
        self._videos, self._price, self._hours = WholeVideos(*of_job, "", is_left_over), price, hours
        asked = parts.question_set
        self._prices = WholePrices(parts.job, asked, prices.estimator) if asked.whole else None
        self._looked_up: dict[str, tuple[Candidate, tuple[Question, ...]]] = {}
        """With what their clips are asked, by version."""
        self._seen: set[int] = set()
        """Versions, by the beginning of their ids: exact copies are asked once."""

    def take(self, plan: MediaPlan) -> None:
        """One planned item more."""
        number = int(plan.version_id[:15], 16)
        if (one := self._videos.candidate(plan)) is not None and number not in self._seen:
            self._seen.add(number)
            self._looked_up[plan.version_id] = one, plan.asked
            if len(self._looked_up) >= BATCH:
                self.close()

    def close(self) -> None:
        """Price what was taken."""
        looked_up, self._looked_up = self._looked_up, {}
        for found in self._videos.unasked([one for one, _ in looked_up.values()]) if looked_up else ():
            one, asked = looked_up[found.candidate.head.version_id]
            assert self._prices is not None
            try:
                questions = self._question_set.resolve_whole(one.media, one.info, self._variables)
            except QuestionError:
                continue  # it fails without being asked
            texts = self._prices.of(one.head.clips, asked, questions)
            self._price.whole_videos += 1
            self._price.whole_texts += len(texts)
            self._price.whole_flops += sum(text.as_run.flops for text in texts)
            for text in texts:
                self._hours.take_text(text)


def _add(price: Price, plan: MediaPlan, prices: ClipPrices, hours: _Hours) -> None:
    price.media += 1
    price.units += len(plan.unit_ids)
    price.units_finished += len(plan.finished)
    if plan.failure is not None:
        price.media_failed[plan.failure.error_class] += 1
        if len(price.failed_keys) < MOST_NAMED:
            price.failed_keys.append((plan.media.key, plan.failure.error_class))
        return
    assert plan.info is not None
    price.video_s += plan.info.duration_s
    price.unchecked += not plan.info.is_checked
    if len(plan.info.parts) > 1:
        price.segmented += 1
        price.segments += len(plan.info.parts)
    price.with_unused_tracks += bool(plan.info.unused_tracks)
    price.unused_tracks += plan.info.unused_tracks
    price.with_notes += bool(plan.info.notes)
    price.clips_per_media[plan.clips] += 1
    heapq.heappush(price.longest, (plan.clips, plan.media.key, plan.media.size_bytes))
    if len(price.longest) > MOST_NAMED:
        heapq.heappop(price.longest)
    for unit in plan.units:
        price.clips += len(unit.clips)
        if unit.unit_id in plan.finished or not unit.questions:  # all its answers are there
            price.clips_finished += len(unit.clips)
            continue
        for clip in unit.clips:
            asking = unit.asked_of(clip)
            if not asking.questions:  # all its answers are there
                price.clips_finished += 1
                continue
            asked = asked_of(plan, asking, clip.length_s, prices.decoding)
            prices.check(plan)
            try:
                estimate = prices.of(asked)
            except UNASKABLE as error:
                price.unaskable[error.error_class] += 1
                where = f"{plan.media.key}, {clip.start_s:g} s to {clip.end_s:g} s"
                price.first_unaskable = price.first_unaskable or f"{where}: {error}"
                continue
            price.questions += len(asking.questions)
            hours.take(price, plan.reason, estimate)
            _add_clip(price, estimate)
            if asked.is_in_passes:
                price.passes_flops += estimate.as_run.flops
                price.one_pass_flops += prices.of(in_one_pass(asked)).as_run.flops


def _add_clip(price: Price, estimate: Estimate) -> None:
    tokens = estimate.audio_tokens + estimate.video_tokens
    price.audio_tokens += estimate.audio_tokens
    price.video_tokens += estimate.video_tokens
    price.video_encoded += estimate.video_encoded
    price.retained_tokens += estimate.retained_ratio * tokens
    ran: PassCost = estimate.as_run
    price.as_run_flops += ran.flops
    price.dense_flops += estimate.dense.flops
    price.dense_shared_flops += estimate.dense_shared.flops
    price.largest_clip_kv_bytes = max(price.largest_clip_kv_bytes, ran.kv_bytes)
    dense = estimate.dense_shared.kv_bytes
    price.largest_clip_kv_bytes_dense_shared = max(price.largest_clip_kv_bytes_dense_shared, dense)
