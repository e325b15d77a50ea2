"""The thin Ray side of the workers: a decode task and a model actor around the plain functions.

Promises: nothing is retried or restarted by Ray itself (a clip that kills its worker must be seen by the driver, which
counts), and only references to decoded clips travel through the driver. Knows nothing about decoding or models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray

from omnidrop.questions import Question
from workers.decoding import Source, decode_one
from workers.records import (
    Clip,
    ClipFailure,
    ClipOutcome,
    DecodedClip,
    DecodeReport,
    DecodeSettings,
    Loaded,
    Media,
    MediaInfo,
    WorkUnit,
)

DECODE_RESOURCE = "decode"
"""Custom resource of machines that are meant for decoding, one per core. Ray by itself only tends to keep tasks without
GPU off machines with one; where a cluster has this resource, decode tasks run nowhere else."""

if TYPE_CHECKING:
    # Decode workers import this module too, and must not hold torch: 0.4 GB and seconds in each of them.
    from workers.answering import AnswererDescription, AnswererSettings


def _decode(
    media: Media, info: MediaInfo, clip: Clip, settings: DecodeSettings, source: Source
) -> tuple[DecodeReport, DecodedClip | None]:
    outcome = decode_one(media, info, clip, settings, source)
    if isinstance(outcome, ClipFailure):
        return DecodeReport(outcome, 0), None
    return DecodeReport(None, outcome.nbytes), outcome


class _Actor:
    def __init__(self, settings: AnswererSettings) -> None:
        from workers.answering import Answerer

        self._answerer = Answerer(settings)

    def load(self) -> Loaded:
        """Load the model; says on which node, by which the driver tells a lost machine from a crash."""
        started = time.monotonic()
        self._answerer.load()
        return Loaded(str(ray.get_runtime_context().get_node_id()), time.monotonic() - started)

    def answer(
        self, decoded: DecodedClip, questions: Sequence[Question], instruction: str, may_audit: bool = True
    ) -> ClipOutcome:
        from workers.answering import DeviceBroken

        try:
            return self._answerer.answer(decoded, questions, instruction, may_audit=may_audit)
        except DeviceBroken:
            # The driver sees a death, starts another actor and gives this clip a second chance, counted.
            os._exit(1)

    def describe(self) -> AnswererDescription:
        return self._answerer.describe()


_decode_task = ray.remote(num_cpus=1, max_retries=0, num_returns=2)(_decode)
_ActorClass = ray.remote(max_restarts=0, max_task_retries=0)(_Actor)


def start_decode(
    unit: WorkUnit, clip: Clip, settings: DecodeSettings, source: Source, *, is_placed: bool = False
) -> tuple[ray.ObjectRef, ray.ObjectRef]:
    """Start decoding one clip (one CPU). Returns references to its DecodeReport and to the DecodedClip or None.

    `is_placed`: on machines with the custom resource `DECODE_RESOURCE` only.
    """
    task = _decode_task.options(resources={DECODE_RESOURCE: 1}) if is_placed else _decode_task
    report, decoded = task.remote(unit.media, unit.info, clip, settings, source)
    return report, decoded


def start_actor(settings: AnswererSettings, *, num_gpus: float, num_cpus: float = 1) -> Any:
    """Start an actor with `load()`, `answer(decoded, questions, instruction)` and `describe()`, all to be called with
    `.remote`. `num_gpus` 0 where there is no GPU."""
    return _ActorClass.options(num_gpus=num_gpus, num_cpus=num_cpus).remote(settings)
