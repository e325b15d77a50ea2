"""Units through a Ray whose object store is full, and whose disk is, too: `python -m tests.support.full_object_store`.

A process of its own, because the Ray must be one: its store takes three clips at once, and it spills to disk only while
less than a thousandth of the disk is in use, which is never. Prints what the run ended with.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace

import numpy as np
import ray

from pipeline.execution.backend import Backend
from pipeline.execution.scheduler import RayExecution
from pipeline.storage import outage
from pipeline.storage.errors import Unavailable
from pipeline.storage.outage import Patience
from tests.pipeline.test_execution import LIMITS, Actor
from tests.support import rows
from workers.records import DecodedClip, DecodeReport

CLIP_BYTES = 25 << 20
STORE_BYTES = 80 << 20


@ray.remote(num_cpus=1, max_retries=0, num_returns=2)
def decode(clip, clip_bytes):
    frames = np.full((clip_bytes,), clip.index, np.uint8)
    return DecodeReport(None, frames.nbytes), DecodedClip(clip, frames, None, 2.0, 1.0, 0.1)


def run(folder, clip_bytes, clips_in_flight):
    """Eight clips of so many bytes."""
    backend = Backend(
        start_decode=lambda unit, clip: tuple(decode.remote(clip, clip_bytes)),
        start_actor=lambda: Actor.remote(folder),
        estimate_bytes=lambda unit, clip: clip_bytes,
    )
    limits = replace(LIMITS, actors=1, decode_tasks=2, bytes_in_flight=clips_in_flight * clip_bytes)
    execution = RayExecution(backend, limits, threading.Event(), Patience(1.5))
    units = [rows.unit(rows.media(n), first=10 * n, clips=4) for n in range(2)]
    try:
        finished = list(execution.run(units))
        answered = sum(o.answers.answers[0].value == str(o.clip.index) for r in finished for o in r.outcomes)
        print(f"answered {answered}, peak {execution.statistics.peak_bytes_in_flight // clip_bytes} clips", flush=True)
    except Unavailable as error:
        print(f"{type(error).__name__}: {error}", flush=True)


def main():
    outage.FIRST_PAUSE_S = 0.25
    full = {"local_fs_capacity_threshold": 0.001}
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        _system_config=full,
        logging_level="error",
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory(prefix="full-") as folder:
        run(folder, CLIP_BYTES, clips_in_flight=2)
        run(folder, CLIP_BYTES, clips_in_flight=8)  # more than the store holds: those in flight make room
        run(folder, 2 * STORE_BYTES, clips_in_flight=1)  # nobody makes room for this
    ray.shutdown()


if __name__ == "__main__":
    main()
