"""Units run on Ray: what the execution loop starts, decode tasks and model actors, and the Ray that it starts them on.

Promises: a Ray that was started here is ended here, one that was found is left running; signal handlers stay as they
were. Knows nothing about archives or results.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray

from omnidrop.errors import OmniDropError, first_line
from pipeline.archive.probing import source
from pipeline.config.job import JobConfig
from pipeline.config.locations import is_s3
from pipeline.config.worker_settings import answerer_settings, decode_settings
from pipeline.execution.actor_metering import Statistics, Watch, gpus_counted
from pipeline.execution.backend import Backend, Limits
from pipeline.execution.clip_state import UnitResult
from pipeline.execution.cluster_room import ClusterRoom
from pipeline.execution.homes import LOOK_S
from pipeline.execution.kept_signals import kept_signals
from pipeline.execution.local_ray import RayUnavailable, local_ray
from pipeline.execution.run_context import RunContext
from pipeline.execution.scheduler import RayExecution
from pipeline.execution.worker_failures import Nodes, amounts_of, beside, nodes_with, slots_of
from workers import ray_workers
from workers.media.clip_reader import decoded_shape
from workers.records import Clip, DecodeSettings, WorkUnit

KNOCK_S = 10.0
_connecting = threading.Lock()
"""The thread that plans and the one that executes may both be first."""


def estimate_bytes(unit: WorkUnit, clip: Clip, settings: DecodeSettings) -> int:
    """Bytes of one decoded clip: uint8 RGB frames and 16 kHz float32 sound."""
    frames, height, width, samples = decoded_shape(unit.info, clip.length_s, settings)
    return frames * height * width * 3 + samples * 4


class OnRay:
    """Decode tasks and model actors on a Ray cluster."""

    def __init__(self, run: RunContext, watch: Watch) -> None:
        self._run, self._job, self._watch = run, run.job, watch
        self.statistics = Statistics()

    def run(self, units: Iterable[WorkUnit | None]) -> Iterator[UnitResult]:
        with _connected(self._job) as started_here:
            # Once for the run: where the last machine with a GPU goes, the model does not go on without one.
            gpus = _gpus_per_actor(self._job)
            if started_here:
                self._check_gpus(gpus)
            given = self._backend(gpus), self._limits(gpus), self._run.stop, self._run.patience, self._watch
            execution = RayExecution(*given)
            self.statistics = execution.statistics
            self.statistics.actor_time.gpus = gpus_counted(gpus)
            yield from execution.run(units)

    def _check_gpus(self, wanted: float) -> None:
        """A cluster may grow a GPU; this machine will not."""
        there = ray.cluster_resources().get("GPU", 0)
        if wanted > there:
            raise RayUnavailable(
                f"model.gpus_per_actor: each model actor needs {wanted:g} GPUs, but Ray finds {there:g} on this "
                "machine; leave it out to answer on the CPU, or name a cluster with --execution-ray-address"
            )

    def _limits(self, gpus: float) -> Limits:
        given, resources = self._job.execution, ray.cluster_resources()
        cpus = self._job.model.cpus_per_actor
        wanted = self._job.model.actors
        most = max(1, int(resources.get("GPU", 0) / gpus)) if gpus else 1
        actors = most if wanted == "auto" else wanted
        free = resources.get(ray_workers.DECODE_RESOURCE) or resources.get("CPU", 1) - actors * cpus
        return Limits(
            bytes_in_flight=given.bytes_in_flight,
            decode_tasks=given.decode_tasks or max(1, int(free)),
            actors=actors,
            max_deaths_per_clip=given.max_deaths_per_clip,
            max_deaths_per_worker=given.max_deaths_per_worker,
            max_retries=given.max_retries,
            stop_grace_s=given.stop_grace_s,
            # auto where nothing was measured
            clips_per_pass=1 if self._job.model.clips_per_pass == "auto" else self._job.model.clips_per_pass,
            actor_idle_s=given.actor_idle_s,
        )

    def _backend(self, gpus: float) -> Backend:
        job = self._job
        settings, where = decode_settings(job.clips, job.execution), source(job)
        decodes = _decode_resource()
        is_placed = decodes == ray_workers.DECODE_RESOURCE
        starter = ray_workers.DecodeStarter(settings, where, is_placed=is_placed, early=self._run.early.take)
        return Backend(
            start_decode=starter,
            # What lies on a disk that all machines mount is read as well by any of them.
            start_decode_at=starter.at if is_s3(job.archive.uri) else None,
            slots=partial(_beside, slots_of, decodes, job.model.cpus_per_actor),
            room=partial(_beside, amounts_of, decodes, job.model.cpus_per_actor),
            start_decode_on=starter.on,
            leave_out=starter.leave_out,
            machines=lambda: nodes_with(decodes, ray.nodes()),
            no_actor_room=partial(_no_actor_room, job.model.cpus_per_actor, gpus),
            start_actor=lambda: _start_actor(job, gpus, job.audit.share, self._run.weights_hash),
            estimate_bytes=lambda unit, clip: estimate_bytes(unit, clip, settings),
            held_bytes=lambda: self._run.early.nbytes,
            health=self._run.health,
        )


def _decode_resource() -> str:
    """What machines that decode have."""
    is_there = ray.cluster_resources().get(ray_workers.DECODE_RESOURCE, 0) > 0
    return ray_workers.DECODE_RESOURCE if is_there else "CPU"


def _beside(
    count: Callable[[str, Nodes], dict[str, int]], resource: str, cpus_per_actor: float, actors: Mapping[str, int]
) -> dict[str, int]:
    """Clips that each machine may decode at once beside its actors, by one look at the cluster."""
    nodes = ray.nodes()
    return beside(count(resource, nodes), nodes, actors, cpus_per_actor)


def _no_actor_room(cpus: float, gpus: float) -> str:
    """Why no machine of the cluster can hold a model actor; nothing where one can, whatever it holds now."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = {(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in resources}
    if any(has_cpus >= cpus and has_gpus >= gpus for has_cpus, has_gpus in there):
        return ""
    named = "; ".join(f"{has_cpus:g} and {has_gpus:g}" for has_cpus, has_gpus in sorted(there, reverse=True))
    return (
        f"no machine of the cluster can hold a model actor (CPU cores: {cpus:g}, model.cpus_per_actor; GPUs: {gpus:g}, "
        f"model.gpus_per_actor); the machines have {named or 'none'}. Start one that has both, or run again with less"
    )


def decoding_machines(job: JobConfig) -> tuple[str, ...]:
    """Ids of the cluster's machines that decode. Connects to the cluster if needed. Raises RayUnavailable."""
    with contextlib.ExitStack() as stack, _connecting:
        if not ray.is_initialized():
            _connect(job, stack)
    return tuple(slots_of(_decode_resource(), ray.nodes()))


def _gpus_per_actor(job: JobConfig) -> float:
    given = job.model.gpus_per_actor
    if given is not None and given != "auto":
        return given
    wants_gpu = job.model.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    return 1.0 if wants_gpu else 0.0


def _start_actor(job: JobConfig, gpus: float, audit_share: float, weights_hash: str | None = None) -> Any:
    cpus = job.model.cpus_per_actor
    settings = answerer_settings(
        job.model,
        job.pruning,
        # One thread per core that Ray gives the actor: more would take them from decoding.
        torch_threads=max(1, int(cpus)),
        audit_share=audit_share,
        weights_hash=weights_hash,
    )
    return ray_workers.start_actor(settings, num_gpus=gpus, num_cpus=cpus)


@contextmanager
def one_actor(job: JobConfig) -> Iterator[ray_workers.RemoteAnswerer]:
    """One of the job's model actors, placed as a run's would be, which is gone afterwards. Raises RayUnavailable,
    and ExecutionError where no machine can hold it for long."""
    with _connected(job):
        actor = None
        try:
            gpus = _gpus_per_actor(job)
            actor = _start_actor(job, gpus, audit_share=0.0)
            _wait_for_room(actor, partial(_no_actor_room, job.model.cpus_per_actor, gpus))
            yield ray_workers.RemoteAnswerer(actor)
        except ray.exceptions.RayError as error:
            # Ray's last line is the actor's own error, those before it are its traceback.
            said = first_line(error) if not str(error).strip() else str(error).strip().splitlines()[-1]
            raise RayUnavailable(f"the model actor failed: {said}") from error
        finally:
            if actor is not None:
                ray.kill(actor)


def _wait_for_room(actor: Any, no_actor_room: Callable[[], str]) -> None:
    """Until the actor is there, in a cluster that may have to grow first."""
    there, room = actor.load.remote(), ClusterRoom(dict, no_actor_room)
    while not ray.wait([there], timeout=LOOK_S)[0]:
        room.look({}, is_decoding=False, is_loading=True)


@contextmanager
def _connected(job: JobConfig) -> Iterator[bool]:
    """Connect to the job's cluster, or have a Ray on this machine for as long as the block lasts; yields whether it was
    started here. Raises RayUnavailable."""
    with contextlib.ExitStack() as stack:
        with _connecting:
            is_started = not ray.is_initialized() and _connect(job, stack)
        yield is_started


@kept_signals()
def _connect(job: JobConfig, stack: contextlib.ExitStack) -> bool:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # It warns that a token it found is used, in the middle of the progress bar. A token that is missing is an error.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    is_main = threading.current_thread() is threading.main_thread()
    address = job.execution.ray_address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            # In another thread it warns that it leaves SIGTERM alone, as it should.
            ray.init(address=address, logging_level=logging.WARNING if is_main else logging.ERROR)
            return False
        # An actor and a decode task must fit side by side even on one core.
        cpus = max(math.ceil(job.model.cpus_per_actor) + 1, os.cpu_count() or 1)
        stack.enter_context(local_ray(cpus, logging_level=logging.WARNING))
        return True
    except OmniDropError:
        raise
    except Exception as error:  # that a node does not come up in time is a plain Exception of Ray's
        if not address:
            raise RayUnavailable(
                f"Ray did not start on this machine: {first_line(error)}; run again when the machine is less busy, or "
                "set --execution-ray-address to a running cluster, or to in-process, which needs no Ray"
            ) from error
        raise RayUnavailable(
            f"cannot use Ray at {address}: {first_line(error)}; start one with `ray start --head`, name another with "
            "--execution-ray-address, or leave it out to have one started here (in-process does without)"
        ) from error


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
