"""What the execution loop costs its driver: real Ray, real tasks and actors, and a model that only waits.

Decode tasks return a small array at once, through the object store as a real clip does; actors wait for `MODEL_S` and
return the answers of one clip; both are sent what real ones are. `driver_ms_per_clip` is CPU time of the driver's
process, all its threads (Ray's own are among them), without committing and publishing. `floor_ms_per_clip` is the same
for as many tasks and actor calls with nothing but the clip's array between them, waited for one at a time: what Ray
itself takes. Memory is the driver's resident set at every tenth of the way.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import ray

from benchmarks.scale import made_up
from pipeline.execution.backend import Backend, Limits
from pipeline.execution.local_ray import local_ray
from pipeline.execution.scheduler import DECODE_AHEAD_PER_ACTOR, RayExecution
from workers.media.decode import Source
from workers.ray_workers import ACTOR_OPTIONS, MAKING_READY, DecodeStarter
from workers.records import (
    Clip,
    ClipResult,
    DecodedClip,
    DecodeReport,
    DecodeSettings,
    Loaded,
)

MODEL_S = 0.002
"""How long a stand-in model takes: short, so that the loop is what is measured."""
ACTORS = 2
DECODE_TASKS = 4
CLIP_BYTES = 200_000
"""Above 100 KB a result goes through the object store, as all real clips do."""


@dataclass(frozen=True)
class Executed:
    """One run of the loop."""

    clips: int
    actors: int
    model_s: float
    wall_s: float
    driver_cpu_s: float
    driver_ms_per_clip: float
    floor_ms_per_clip: float
    wall_ms_per_clip: float
    peak_bytes_in_flight: int
    rss_bytes: tuple[int, ...]
    """Of the driver, when 10 %, 20 %, ... 100 % of the clips were answered."""

    def __str__(self) -> str:
        rss = [round(b / 2**20) for b in self.rss_bytes]
        return (
            f"{self.clips} clips on {self.actors} actors in {self.wall_s:.1f} s: {self.driver_ms_per_clip:.2f} ms of "
            f"the driver's CPU a clip (Ray alone {self.floor_ms_per_clip:.2f}), {self.wall_ms_per_clip:.2f} ms wall\n"
            f"resident, by tenths: {rss} MiB"
        )


@ray.remote(num_cpus=1, max_retries=0, num_returns=2)
def _decode(shared: bytes, clip: Clip) -> tuple[DecodeReport, DecodedClip]:
    frames = np.zeros(CLIP_BYTES, np.uint8)
    return DecodeReport(None, frames.nbytes), DecodedClip(clip, frames, None, 2.0, 1.0, 0.9)


@ray.remote(num_cpus=1, max_retries=0, num_returns=2)
def _decode_nothing() -> tuple[None, npt.NDArray[np.uint8]]:
    return None, np.zeros(CLIP_BYTES, np.uint8)


@ray.remote(num_cpus=0, **ACTOR_OPTIONS)
class _Actor:
    def load(self) -> Loaded:
        return Loaded(str(ray.get_runtime_context().get_node_id()), 0.0)

    def answer(self, decoded: DecodedClip, asked: bytes) -> ClipResult:
        time.sleep(MODEL_S)
        return made_up.result(decoded.clip)

    @ray.method(concurrency_group=MAKING_READY)  # type: ignore[untyped-decorator]
    def make_ready(self, decoded: DecodedClip, asked: bytes) -> None:
        pass

    def answer_nothing(self, decoded: npt.NDArray[np.uint8]) -> None:
        time.sleep(MODEL_S)

    def describe(self) -> str:
        return "a stand-in that waits"


def _start_actor() -> Any:
    return _Actor.remote()


def measure(clips: int) -> Executed:
    """Run so many clips through the loop, on the Ray that is there or on one started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_there = ray.is_initialized()
    with contextlib.nullcontext() if is_there else local_ray(4, logging_level="error", log_to_driver=False):
        return _run(clips, _floor(clips))


def _floor(clips: int) -> float:
    """Milliseconds of the driver's CPU a clip without a loop of ours."""
    free = [_Actor.remote() for _ in range(ACTORS)]
    ray.get([actor.load.remote() for actor in free])
    decoding: dict[ray.ObjectRef, ray.ObjectRef] = {}
    answering: dict[ray.ObjectRef, Any] = {}
    ready: list[ray.ObjectRef] = []
    begun = answered = 0
    cpu = time.process_time()
    while answered < clips:
        while begun < clips and len(decoding) < DECODE_TASKS and len(ready) < DECODE_AHEAD_PER_ACTOR * ACTORS:
            report, decoded = _decode_nothing.remote()
            decoding[report] = decoded
            begun += 1
        while free and ready:
            actor = free.pop()
            answering[actor.answer_nothing.remote(ready.pop())] = actor
        (done,), _ = ray.wait([*decoding, *answering], fetch_local=False)
        ray.get(done)
        if done in decoding:
            ready.append(decoding.pop(done))
        else:
            free.append(answering.pop(done))
            answered += 1
    cpu = time.process_time() - cpu
    for actor in free:
        ray.kill(actor)
    return cpu / clips * 1e3


def _run(clips: int, floor_ms_per_clip: float) -> Executed:
    limits = Limits(
        bytes_in_flight=1 << 30,
        decode_tasks=DECODE_TASKS,
        actors=ACTORS,
        max_deaths_per_clip=2,
        max_deaths_per_worker=3,
        max_retries=2,
        stop_grace_s=20,
    )
    start_decode = DecodeStarter(DecodeSettings(), Source(), task=_decode)
    execution = RayExecution(Backend(start_decode, _start_actor, lambda *_: CLIP_BYTES), limits, threading.Event())
    process, rss, answered = psutil.Process(), [], 0
    wall, cpu = time.perf_counter(), time.process_time()
    for finished in execution.run(made_up.units(clips)):
        assert all(isinstance(outcome, ClipResult) for outcome in finished.outcomes)
        answered += len(finished.outcomes)
        while len(rss) < 10 and answered * 10 >= clips * (len(rss) + 1):
            rss.append(process.memory_info().rss)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert answered == clips, "the loop lost clips"
    return Executed(
        clips=clips,
        actors=ACTORS,
        model_s=MODEL_S,
        wall_s=wall,
        driver_cpu_s=cpu,
        driver_ms_per_clip=cpu / clips * 1e3,
        floor_ms_per_clip=floor_ms_per_clip,
        wall_ms_per_clip=wall / clips * 1e3,
        peak_bytes_in_flight=execution.statistics.peak_bytes_in_flight,
        rss_bytes=tuple(rss),
    )
