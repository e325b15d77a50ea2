"""What a run tells Prometheus while it goes, through Ray's metrics: every name, unit, help text and tag there is.

Promises: counting costs the run microseconds a clip, and what was counted is handed to Ray at most once a second; in a
process without Ray nothing is handed to anyone. Ray puts `ray_` before the names and exports them at each machine's
metrics port, some ten seconds later. Knows nothing about dashboards; the results, not these numbers, are the truth.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from omnidrop.answers import TraceCounts
from pipeline.execution.actor_metering import Statistics
from workers.media.remote import bytes_fetched
from workers.records import ClipFailure, ClipOutcome, ClipResult, WorkUnit

if TYPE_CHECKING:
    from pipeline.config.sections import CostConfig

PUBLISH_S = 1.0
PREFIX = "ray_"
"""What Ray puts before every name."""
JOB = "job_name"
"""Every metric has this tag. Not `job`: Prometheus itself gives every series a label of that name."""


@dataclass(frozen=True)
class Metric:
    """A metric's name (with its unit), kind, help text, and the tags it has beside `JOB`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    tags: tuple[str, ...] = ()


CLIPS = Metric("omnidrop_clips_total", "counter", "Finished clips by status: answered, partial or failed.", ("status",))
VIDEOS = Metric(
    "omnidrop_videos_total", "counter", "Whole videos asked about, by status: answered or failed.", ("status",)
)
ANSWERS = Metric("omnidrop_answers_total", "counter", "Answers that could be read.")
FAILURES = Metric(
    "omnidrop_failures_total",
    "counter",
    "Quarantined media, clips and answers by stage and error class.",
    ("stage", "error_class"),
)
DEATHS = Metric(
    "omnidrop_worker_deaths_total",
    "counter",
    "Worker deaths, lost machines excluded: per clip (decode or answer), and per model actor.",
    ("stage",),
)
STAGE_S = Metric(
    "omnidrop_stage_seconds_total",
    "counter",
    "Seconds spent on answered clips: decode (one CPU), answer (in the actor), and the model's share of answer.",
    ("stage",),
)
ACTOR_S = Metric(
    "omnidrop_actor_seconds_total",
    "counter",
    "Seconds of loaded model actors: busy, or idle by cause (decode, bytes_in_flight, planning, storage, end).",
    ("state",),
)
FLOPS = Metric(
    "omnidrop_flops_total",
    "counter",
    "FLOPs of answered clips as_run, and as dense_shared would have needed; the difference is the saving.",
    ("way",),
)
RETAINED = Metric(
    "omnidrop_retained_ratio",
    "gauge",
    "Share of audio or video tokens that a decoder layer still sees, mean over layers and tokens, in this run so far.",
    ("modality",),
)
GPU_HOURS = Metric("omnidrop_gpu_hours_total", "counter", "GPU hours held by model actors, busy or idle.")
USD = Metric("omnidrop_usd_total", "counter", "Cost of these GPU hours in USD, if the job gives a price.")
BYTES_IN_FLIGHT = Metric(
    "omnidrop_in_flight_bytes", "gauge", "Bytes of clips that are decoded or being decoded, and not yet answered."
)
QUEUED = Metric("omnidrop_queued_clips", "gauge", "Clips by stage: planned, decode, ready or answer.", ("queue",))
ACTORS = Metric("omnidrop_actors", "gauge", "Model actors by state: loading, busy or idle.", ("state",))

FETCHED = Metric(
    "omnidrop_fetched_bytes_total", "counter", "Bytes read from stores by the driver and the machines that decode."
)
DUE_TIMES = Metric(
    "omnidrop_schedule_due_times",
    "gauge",
    "Scheduled times that this run covers: 1 if none was missed, 0 if the run was not scheduled.",
)

ALL = (
    *(CLIPS, VIDEOS, ANSWERS, FAILURES, DEATHS, STAGE_S, ACTOR_S, FLOPS, RETAINED, GPU_HOURS, USD),
    *(BYTES_IN_FLIGHT, QUEUED, ACTORS, FETCHED, DUE_TIMES),
)
_MODALITIES = ("audio", "video")
_Key = tuple[Metric, *tuple[str, ...]]
"""A metric and the values of its tags."""


class RunMetrics:
    """One run's numbers. Not shared between threads."""

    def __init__(self, job_name: str, cost: CostConfig, due_times: int = 0) -> None:
        self._job_name, self._cost = job_name, cost
        self._values: defaultdict[_Key, float] = defaultdict(float)
        """Of counters the totals of this run, by metric and tags."""
        self._values[DUE_TIMES,] = due_times
        self._fetched_before = bytes_fetched()
        self._published: dict[_Key, float] = {}
        self._entered = dict.fromkeys(_MODALITIES, 0)
        self._kept = dict.fromkeys(_MODALITIES, 0)
        self._due = 0.0
        self._with_ray: dict[Metric, Any] | None = None

    def finished(self, unit: WorkUnit, outcomes: Iterable[ClipOutcome]) -> None:
        """A unit came back."""
        for outcome in outcomes:
            if unit.lines:
                self._read(outcome)
            elif isinstance(outcome, ClipFailure):
                self._values[CLIPS, "failed"] += 1
                self.failed(outcome)
            else:
                self._answered(outcome)

    def failed(self, failure: ClipFailure) -> None:
        """A clip or a media item is put into quarantine."""
        self._values[FAILURES, failure.stage, failure.error_class] += 1

    def bytes_fetched(self, statistics: Statistics) -> int:
        """Bytes read from stores since the run began, by this process and by decode tasks."""
        return bytes_fetched() - self._fetched_before + statistics.bytes_fetched

    def watch(self, statistics: Statistics) -> None:
        """Hand over what is new, if it is time."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + PUBLISH_S
            self.publish(statistics)

    def publish(self, statistics: Statistics) -> None:
        """Hand over what is new; nothing where there is no Ray."""
        # A run that finds nothing to do never imports Ray, and this is no reason to.
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        self._take(statistics)
        made = self._made()
        for key, value in self._values.items():
            metric, *tags = key
            named = dict(zip((JOB, *metric.tags), (self._job_name, *tags), strict=True))
            if metric.kind == "gauge":
                # Also where nothing changed: Ray drops a gauge that is not set again within some export intervals.
                made[metric].set(value, named)
            elif (new := value - self._published.get(key, 0.0)) > 0:
                made[metric].inc(new, named)
                self._published[key] = value

    def _read(self, outcome: ClipOutcome) -> None:
        """About a whole video, of which nothing is pruned or saved."""
        self._values[VIDEOS, "failed" if isinstance(outcome, ClipFailure) else "answered"] += 1
        if isinstance(outcome, ClipFailure):
            self.failed(outcome)
        else:
            self._count_answers(outcome, "whole")

    def _count_answers(self, result: ClipResult, stage: str) -> None:
        values, answers = self._values, result.answers
        for answer in answers.answers:
            if answer.value is not None:
                values[ANSWERS,] += 1
            elif answer.error_class is not None:
                values[FAILURES, stage, answer.error_class] += 1
        values[STAGE_S, "answer"] += result.answer_s
        values[STAGE_S, "model"] += answers.cost.seconds

    def _answered(self, result: ClipResult) -> None:
        values, answers = self._values, result.answers
        values[CLIPS, "answered" if result.decoded_share >= 1 else "partial"] += 1
        self._count_answers(result, "answer")
        values[STAGE_S, "decode"] += result.decode_s
        values[FLOPS, "as_run"] += answers.cost.as_run.flops
        values[FLOPS, "dense_shared"] += answers.cost.dense_shared.flops
        self._count_tokens(answers.trace)

    def _count_tokens(self, trace: TraceCounts) -> None:
        layers = len(trace.layers)
        self._entered["audio"] += trace.audio_in * layers
        self._entered["video"] += trace.video_in * layers
        self._kept["audio"] += sum(layer.audio for layer in trace.layers)
        self._kept["video"] += sum(layer.video for layer in trace.layers)

    def _take(self, statistics: Statistics) -> None:
        """What others count."""
        values, load, actors = self._values, statistics.load, statistics.actor_time
        for stage, deaths in statistics.worker_failures.items():
            values[DEATHS, stage] = deaths
        values[ACTOR_S, "busy"] = actors.busy_s
        for reason, seconds in actors.idle_s.items():
            values[ACTOR_S, reason] = seconds
        values[GPU_HOURS,] = actors.gpu_hours
        values[USD,] = self._cost.usd(actors.gpu_hours) or 0.0
        values[FETCHED,] = self.bytes_fetched(statistics)
        values[BYTES_IN_FLIGHT,] = load.bytes_in_flight
        queues = {"planned": load.queued, "decode": load.decoding, "ready": load.ready, "answer": load.actors_busy}
        for queue, clips in queues.items():
            values[QUEUED, queue] = clips
        states = {"loading": load.actors_loading, "busy": load.actors_busy, "idle": load.actors_idle}
        for state, count in states.items():
            values[ACTORS, state] = count
        for modality in _MODALITIES:
            if self._entered[modality]:
                values[RETAINED, modality] = self._kept[modality] / self._entered[modality]

    def _made(self) -> dict[Metric, Any]:
        """Ray's own objects, made when there is a Ray to take them."""
        if self._with_ray is None:
            from ray.util.metrics import Counter, Gauge

            kinds = {"counter": Counter, "gauge": Gauge}
            self._with_ray = {one: kinds[one.kind](one.name, one.help, (JOB, *one.tags)) for one in ALL}
        return self._with_ray
