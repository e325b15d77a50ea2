"""How much of its time a model actor's device works: the real loop on a real Ray, with a stand-in for the device.

Promises: making a clip ready takes `READY_S` and the device `DEVICE_S`, the shares of a pruned clip on a large GPU;
`busy_share` is the device's time over all the time from its first clip to its last, `one_at_a_time` the same for clips
that are not given to an actor together (a second try). Knows nothing about models.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from benchmarks.scale import made_up
from pipeline.execution.backend import Backend, Limits
from pipeline.execution.local_ray import local_ray
from pipeline.execution.scheduler import RayExecution
from workers.ray_workers import ACTOR_OPTIONS, MAKING_READY
from workers.records import Clip, ClipResult, DecodedClip, DecodeReport, WorkUnit

DEVICE_S, READY_S = 0.1, 0.04
CLIP_BYTES = 200_000


@dataclass(frozen=True)
class Busy:
    """Two runs of the loop with one actor."""

    clips: int
    device_s: float
    ready_s: float
    busy_share: float
    one_at_a_time: float
    driver_ms_per_clip: float
    most_in_actor: int
    """Clips that one actor had at once."""
    ready_before: int
    """Clips that were ready when the device came to them."""
    ready_before_one_at_a_time: int

    def __str__(self) -> str:
        return (
            f"{self.clips} clips of {self.device_s * 1e3:g} ms, made ready in {self.ready_s * 1e3:g} ms: the device "
            f"works {self.busy_share:.1%} of the time, one at a time {self.one_at_a_time:.1%}; "
            f"{self.driver_ms_per_clip:.2f} ms of the driver's CPU a clip"
        )


@ray.remote(num_cpus=1, max_retries=0, num_returns=2)
def _decode(clip: Clip) -> tuple[DecodeReport, DecodedClip]:
    frames = np.zeros(CLIP_BYTES, np.uint8)
    return DecodeReport(None, frames.nbytes), DecodedClip(clip, frames, None, 2.0, 1.0, 0.9)


@ray.remote(num_cpus=0, **ACTOR_OPTIONS)
class _Device:
    def __init__(self) -> None:
        self._ready: set[str] = set()
        self._busy_s = 0.0
        self._first = self._last = 0.0
        self._most = self._ready_before = 0

    def load(self) -> None:
        pass

    @ray.method(concurrency_group=MAKING_READY)  # type: ignore[untyped-decorator]
    def make_ready(self, decoded: DecodedClip, asked: bytes) -> None:
        self._most = 2
        time.sleep(READY_S)
        self._ready.add(decoded.clip.clip_id)

    def answer(self, decoded: DecodedClip, asked: bytes, may_audit: bool = True) -> ClipResult:
        if decoded.clip.clip_id in self._ready:
            self._ready_before += 1
        else:
            time.sleep(READY_S)
        started = time.perf_counter()
        self._first = self._first or started
        time.sleep(DEVICE_S)
        self._last = time.perf_counter()
        self._busy_s += self._last - started
        return made_up.result(decoded.clip)

    def describe(self) -> str:
        busy_share = self._busy_s / (self._last - self._first)
        return json.dumps({"busy_share": busy_share, "most": max(1, self._most), "ready": self._ready_before})


def measure(clips: int) -> Busy:
    """So many clips, on the Ray that is there or on one started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_there = ray.is_initialized()
    with contextlib.nullcontext() if is_there else local_ray(4, logging_level="error", log_to_driver=False):
        cpu = time.process_time()
        together = _run(made_up.units(clips), clips)
        cpu = time.process_time() - cpu
        alone = _run((replace(unit, attempt=1) for unit in made_up.units(clips)), clips)
    return Busy(
        clips=clips,
        device_s=DEVICE_S,
        ready_s=READY_S,
        busy_share=together["busy_share"],
        one_at_a_time=alone["busy_share"],
        driver_ms_per_clip=cpu / clips * 1e3,
        most_in_actor=together["most"],
        ready_before=together["ready"],
        ready_before_one_at_a_time=alone["ready"],
    )


def _run(units: Iterable[WorkUnit], clips: int) -> dict[str, Any]:
    limits = Limits(
        bytes_in_flight=1 << 30,
        decode_tasks=2,
        actors=1,
        max_deaths_per_clip=2,
        max_deaths_per_worker=3,
        max_retries=2,
        stop_grace_s=20,
    )
    backend = Backend(lambda unit, clip: tuple(_decode.remote(clip)), lambda: _Device.remote(), lambda *_: CLIP_BYTES)
    execution = RayExecution(backend, limits, threading.Event())
    answered = sum(len(finished.outcomes) for finished in execution.run(units))
    assert answered == clips, "the loop lost clips"
    (said,) = execution.statistics.actors
    found: dict[str, Any] = json.loads(said)
    return found
