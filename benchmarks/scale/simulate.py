"""The execution loop as discrete events, for clusters that nobody rents for a test: what is short first?

The model of a run: a driver that handles one event at a time, decode cores, and one model actor a GPU; a clip takes a
decode core, then a GPU, and the driver for a moment before each. The driver's bounds are the loop's own (as many
decoded ahead as `DECODE_AHEAD_PER_ACTOR` says, bytes in flight by the job's default for each node of 8 GPUs). Stage
times are arguments with measured defaults, and vary by a log-normal factor. Left out: network, stores and deaths.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

from pipeline.execution.scheduler import DECODE_AHEAD_PER_ACTOR

GPUS = (8, 64, 512)
DECODE_CORES_PER_GPU = 4
SPREAD = 0.3
"""Standard deviation of the logarithm of a stage's time."""


@dataclass(frozen=True)
class Stages:
    """Seconds of one clip in each stage. Decoding and model were measured on two CPU cores with the embedded model
    (clips of 8 s, lab log of 2026-11-22); the driver's are its aim, which `--part executor` measures."""

    decode_s: float = 0.21
    model_s: float = 0.14
    driver_s: float = 0.002


@dataclass(frozen=True)
class Simulated:
    """One cluster."""

    gpus: int
    decode_cores: int
    clips: int
    wall_s: float
    clips_per_s: float
    gpu_busy_share: float
    decode_busy_share: float
    driver_busy_share: float
    bottleneck: str
    """The stage that is busy for the largest share of the time: gpu, decode or driver."""


@dataclass(frozen=True)
class Simulations:
    """All clusters, with the stage times they were given."""

    stages: Stages
    clusters: tuple[Simulated, ...]

    def __str__(self) -> str:
        lines = [str(self.stages)]
        for c in self.clusters:
            lines.append(
                f"{c.gpus} GPUs, {c.decode_cores} decode cores, {c.clips} clips: {c.clips_per_s:.1f} clips/s; busy: "
                f"gpu {c.gpu_busy_share:.0%}, decode {c.decode_busy_share:.0%}, driver {c.driver_busy_share:.0%}; "
                f"first bottleneck: {c.bottleneck}"
            )
        return "\n".join(lines)


def simulate(stages: Stages, gpus: int, decode_cores: int, clips: int, seed: int = 1) -> Simulated:
    """One run, from the first clip to the last."""
    chance = random.Random(seed)
    events: list[tuple[float, int, str]] = []
    numbers = iter(range(3 * clips + 1))
    started = decoding = ready = answering = done = 0
    now = driver_free = 0.0
    busy = {"gpu": 0.0, "decode": 0.0, "driver": 0.0}
    ahead = decode_cores + DECODE_AHEAD_PER_ACTOR * gpus

    def begin(stage: str, mean_s: float, at: float) -> None:
        # A log-normal factor of mean 1.
        took = mean_s * math.exp(chance.gauss(-(SPREAD**2) / 2, SPREAD))
        busy[stage] += took
        heapq.heappush(events, (at + took, next(numbers), stage))

    while done < clips:
        while started < clips and decoding < decode_cores and decoding + ready < ahead:
            # Half of what a clip costs the driver is to start its decoding, the other half to have it answered.
            driver_free = max(driver_free, now) + stages.driver_s / 2
            busy["driver"] += stages.driver_s / 2
            begin("decode", stages.decode_s, driver_free)
            started, decoding = started + 1, decoding + 1
        now, _, ended = heapq.heappop(events)
        if ended == "decode":
            decoding, ready = decoding - 1, ready + 1
        else:
            answering, done = answering - 1, done + 1
        while ready and answering < gpus:
            driver_free = max(driver_free, now) + stages.driver_s / 2
            busy["driver"] += stages.driver_s / 2
            begin("gpu", stages.model_s, driver_free)
            ready, answering = ready - 1, answering + 1
    shares = {"gpu": busy["gpu"] / gpus / now, "decode": busy["decode"] / decode_cores / now}
    shares["driver"] = min(1.0, busy["driver"] / now)
    bottleneck = max(shares, key=lambda stage: shares[stage])
    return Simulated(
        gpus, decode_cores, clips, now, clips / now, shares["gpu"], shares["decode"], shares["driver"], bottleneck
    )


def measure(clips: int, stages: Stages | None = None) -> Simulations:
    """Every cluster of `GPUS`, with so many clips each."""
    given = stages or Stages()
    return Simulations(given, tuple(simulate(given, n, n * DECODE_CORES_PER_GPU, clips) for n in GPUS))
