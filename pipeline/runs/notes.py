"""What a person should know of a run when it is done, beside its figures.

Promises: each note says what was noticed and what can be done. Knows the job and the run's record alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from omnidrop.models.checkpoints import EMBEDDED, TOY_NOTE
from pipeline.config.job import JobConfig, ModelConfig
from pipeline.config.sections import IN_PROCESS
from pipeline.records.run_record import RunRecord, RunResources
from workers.media import confinement

PASSED = " instead of "
"""What a tool's description says where another was passed over."""

LONG_S = 60.0
"""Seconds of the model from which more cores are worth a word."""


def run_notes(
    job: JobConfig, run: RunRecord, caveats: Sequence[str], *, given_id: str | None, is_pinned: bool
) -> tuple[str, ...]:
    """All of them; `caveats` are those of opening the job, `given_id` is the run's id as it was asked for."""
    return (
        *((TOY_NOTE,) if job.model.path in EMBEDDED else ()),
        *_weakly_confined(job, run),
        *caveats,
        *_machines(run.resources, job.clips.decoder),
        *idle_cores(job, run, os.cpu_count() or 1),
        *_numbered(given_id, run),
        *(_unpinned(job.model) if not is_pinned else ()),
    )


def idle_cores(job: JobConfig, run: RunRecord, cores: int) -> tuple[str, ...]:
    """A model that answered on the CPU of this machine, was waited for, and had a small part of its `cores`."""
    on_cpu = any(" on cpu (" in actor for actor in run.resources.actors)
    is_here = not job.execution.is_on_a_cluster and job.execution.ray_address != IN_PROCESS
    was_waited_for = run.time.bottleneck == "model" and run.time.model_s > LONG_S
    each = cores // (2 * (1 if job.model.actors == "auto" else job.model.actors))
    given = job.model.cpus_per_actor
    if not (on_cpu and is_here and was_waited_for) or each <= given:
        return ()
    return (
        f"the model answered on {given:g} of {cores} CPU cores, and was what took longest; "
        f"--model-cpus-per-actor {each} gives it more",
    )


def _machines(resources: RunResources, decoder: str) -> tuple[str, ...]:
    """What a person should know of the machines that decoded."""
    replaced = [
        f"a different ffmpeg than the first one found decoded some clips: {tool}"
        for tool in resources.tools
        if PASSED in tool
    ]
    decoders = [f"clips.decoder is {decoder}: {tool}" for tool in resources.tools if decoder != "cpu"]
    return (
        *replaced,
        *decoders,
        *(f"a machine could no longer decode and got no more clips: {one}" for one in resources.machines_out),
    )


def _weakly_confined(job: JobConfig, run: RunRecord) -> tuple[str, ...]:
    granted = run.resources.confinement or ""
    if job.execution.confinement != "auto" or all(map(confinement.is_full, granted.split(", "))):
        return ()
    return (
        f"media were opened under {granted}, which is less than landlock+seccomp: a program that a hostile file takes "
        "over could read what this user can (execution.confinement)",
    )


def _numbered(given: str | None, run: RunRecord) -> tuple[str, ...]:
    return () if given in (None, run.run_id) else (f"the id {given} is an earlier run's; this run is {run.run_id}",)


def _unpinned(model: ModelConfig) -> tuple[str, ...]:
    if model.revision is None:
        return ()
    return (
        f"the hub's {model.path} may change at any time; to keep this run's weights, set "
        f"model.revision: {model.revision}",
    )
