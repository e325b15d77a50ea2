"""Measures how fast a job's model answers where it will: made clips of growing size, as the job prunes and unpruned.

Promises: every size is run once unmeasured, then in turn forwards and backwards, so that warming up and drifting clocks
favour none; the fit is judged on sizes that it was not fitted to. Knows nothing about archives' contents or money:
what is in a made clip changes no count of tokens or FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from omnidrop.models.checkpoints import configuration_of
from omnidrop.models.quantised import stored
from omnidrop.pruning import Pruning
from pipeline.archive.health import ArchiveHealth, patient_prober
from pipeline.archive.listing import list_media
from pipeline.archive.probing import prober
from pipeline.config.job import JobConfig
from pipeline.config.sections import IN_PROCESS
from pipeline.config.worker_settings import answerer_settings, decode_settings, pruning_of
from pipeline.cost import calibration
from pipeline.cost.calibration import Calibration, CalibrationError
from pipeline.cost.throughput import MeasuredPass, fit
from pipeline.execution.backends import one_actor
from pipeline.planning.open_job import Opened, open_job
from pipeline.planning.planner import plan_archive
from pipeline.records.unit import utc_now
from pipeline.storage.outage import Patience
from workers.media.clip_reader import decoded_shape
from workers.model.answerer import Answerer
from workers.ray_workers import RemoteAnswerer
from workers.records import Clip, ClipFailure, ClipResult, DecodedClip, WorkUnit

Tried = TypeVar("Tried")

LENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the job's clip length."""
PIXELS = (0.5, 1.0)
"""Shares of a frame's pixels."""
ROUNDS = 2
"""Measured passes of each size."""
TOGETHER = (1, 2, 4, 8)
"""Clips in a pass that are tried where the job leaves the number open."""


@dataclass(frozen=True)
class _Size:
    """One kind of pass: shape (frames, height, width, samples) and how it is pruned; `half` it belongs to."""

    shape: tuple[int, int, int, int]
    pruning: Pruning
    half: int


def calibrate(job: JobConfig, advance: Callable[[int, int], None] = lambda done, of: None) -> Calibration:
    """Measure on the job's device, and keep the record with the job's results: in this process, or where the job names
    a Ray cluster by one of its actors there.

    Clips are made in the size of the archive's first media item that can be asked, and asked its questions. `advance`
    is called with passes done and their number. Raises CalibrationError where no clip of an archive can be asked or
    the model fails, RayUnavailable for a cluster that is not there.
    """
    parts = open_job(job)
    try:
        unit = _first_unit(parts)
    finally:
        parts.index.close()
    is_open = job.model.clips_per_pass == "auto"
    with _answerer(job) as answerer:
        sizes = _sizes(job, unit)
        count = _Count(advance, (len(sizes) + is_open * sum(TOGETHER)) * (1 + ROUNDS))
        halves = _measure(job, unit, answerer, sizes, count)
        together = _measure_together(job, unit, answerer, max(size.shape for size in sizes), count) if is_open else ()
        what = answerer.describe()
    if not all(halves):
        raise CalibrationError(
            "no pass could be measured: these clips are too short for the retained ratio; raise either"
        )
    judged = calibration.judge(halves)
    found = Calibration(
        model=job.model.path,
        weights_hash=parts.asked.weights_hash,
        device=what.device,
        dtype=what.dtype,
        measured_at=utc_now(),
        throughput=fit([*halves[0], *halves[1]]),
        passes=len(halves[0]) + len(halves[1]),
        lowest_ratio=judged.lowest_ratio,
        highest_ratio=judged.highest_ratio,
        mean_relative_error=judged.mean_relative_error,
        load_s=what.load_s,
        together=together,
        peak_device_bytes=what.peak_device_bytes,
        device_bytes=what.device_bytes,
        weights=stored(configuration_of(parts.job.model.checkpoint)),
    )
    calibration.keep(parts.store, found)
    return found


def _answerer(job: JobConfig) -> AbstractContextManager[Answerer | RemoteAnswerer]:
    if job.execution.is_on_a_cluster:
        return one_actor(job)
    # As an actor would: with the cores that Ray gives it.
    threads = None if job.execution.ray_address == IN_PROCESS else max(1, int(job.model.cpus_per_actor))
    return nullcontext(Answerer(answerer_settings(job.model, job.pruning, torch_threads=threads)))


def _first_unit(parts: Opened) -> WorkUnit:
    job = parts.job
    health = ArchiveHealth(job)
    with prober(job) as prober_here:
        # What it finds is remembered for runs: a machine's trouble must not be.
        probe = patient_prober(prober_here, health, Patience(job.storage.patience_s))
        listed = health.listed(list_media(job.archive, leave_out=job.output))
        for plan in plan_archive(listed, job, parts.question_set, parts.recipe, parts.index, probe):
            if plan.units:
                return plan.units[0]
    raise CalibrationError(f"{job.archive.uri} has no usable media item; `omnidrop plan` says why")


def _sizes(job: JobConfig, unit: WorkUnit) -> list[_Size]:
    """Neighbouring sizes are in different halves, so that each half spans all of it."""
    settings, longest_s = decode_settings(job.clips, job.execution), min(job.clips.longest_s, unit.info.duration_s)
    _, height, width, _ = decoded_shape(unit.info, longest_s, settings)
    as_job, unpruned = pruning_of(job.pruning), Pruning.off("dense_shared")
    found: dict[tuple[tuple[int, int, int, int], Pruning], _Size] = {}
    for i, length in enumerate(LENGTHS):
        for j, pixels in enumerate(PIXELS):
            scaled = replace(settings, max_pixels=max(1, int(pixels * height * width)))
            shape = decoded_shape(unit.info, length * longest_s, scaled if pixels < 1 else settings)
            for k, pruning in enumerate((as_job, unpruned)):
                found.setdefault((shape, pruning), _Size(shape, pruning, (i + j + k) % 2))
    return list(found.values())


class _Count:
    """Reports passes done to an observer."""

    def __init__(self, advance: Callable[[int, int], None], of: int) -> None:
        self._advance, self._of = advance, of
        self.done = 0

    def next(self, clips: int = 1) -> None:
        """Before so many more."""
        self._advance(self.done, self._of)
        self.done += clips


def _measure(
    job: JobConfig, unit: WorkUnit, answerer: Answerer | RemoteAnswerer, sizes: list[_Size], count: _Count
) -> tuple[list[MeasuredPass], list[MeasuredPass]]:
    halves: tuple[list[MeasuredPass], list[MeasuredPass]] = ([], [])
    for size, is_measured in _rounds(sizes):
        count.next()
        clip = _made(size.shape, job.clips.fps, count.done)
        outcome = answerer.answer(clip, unit.questions, unit.instruction, pruning=size.pruning)
        if isinstance(outcome, ClipFailure):
            # A clip may be too short for the ratio; anything else would befall a run, too.
            if outcome.error_class == "policy":
                continue
            raise CalibrationError(f"the model failed on a generated clip of {size.shape[0]} frames: {outcome.message}")
        if is_measured:
            halves[size.half].append(MeasuredPass(outcome.answers.cost.as_run, outcome.answer_s))
    return halves


def _measure_together(
    job: JobConfig,
    unit: WorkUnit,
    answerer: Answerer | RemoteAnswerer,
    shape: tuple[int, int, int, int],
    count: _Count,
) -> tuple[tuple[int, float], ...]:
    """Seconds a clip of this shape, by clips in a pass: the minimum of the rounds."""
    best = dict.fromkeys(TOGETHER, math.inf)
    for size, is_measured in _rounds(list(TOGETHER)):
        count.next(size)
        clips = [_made(shape, job.clips.fps, count.done + number) for number in range(size)]
        outcomes = answerer.answer_batch(clips, unit.questions, unit.instruction)
        if is_measured and not any(isinstance(outcome, ClipFailure) for outcome in outcomes):
            seconds = sum(outcome.answer_s for outcome in outcomes if isinstance(outcome, ClipResult)) / size
            best[size] = min(best[size], seconds)
    return tuple((size, seconds) for size, seconds in best.items() if seconds < math.inf)


def _rounds(sizes: list[Tried]) -> Iterator[tuple[Tried, bool]]:
    for number in range(1 + ROUNDS):
        for size in sizes[:: -1 if number % 2 else 1]:
            yield size, number > 0


def _made(shape: tuple[int, int, int, int], fps: float, seed: int) -> DecodedClip:
    """A clip of noise: no two frames alike, also of different clips, so that nothing is reused that a real clip would
    not reuse."""
    frames, height, width, samples = shape
    random = np.random.default_rng(seed)
    return DecodedClip(
        clip=Clip(f"made {seed}", 0, 0.0, max(frames / fps, samples / 16_000)),
        frames=random.integers(0, 256, (frames, height, width, 3), np.uint8) if frames else None,
        audio=random.normal(0, 0.1, samples).astype(np.float32) if samples else None,
        fps=fps,
        decoded_share=1.0,
        decode_s=0.0,
    )
