"""A job on a simulated cluster that loses machines: `python -m tests.support.simulated_nodes JOB.yaml`.

Prints what happened.

A process of its own, because the machines are Ray's own processes and it must not share them with other tests. The head
has no cores, three nodes are meant for decoding, of which one has no ffmpeg, and one node has a (pretended) GPU for the
model actor. One decode node goes down while clips are decoded, and the GPU node goes down under the actor; the second
comes back, as spot machines do.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import ray
from ray._private.state import available_resources_per_node
from ray.cluster_utils import Cluster

from pipeline.config.job import load_job
from pipeline.runs.run import run_job
from tests.support.small_jobs import Silent

LAME = {"OMNIDROP_FFMPEG": "/no/ffmpeg"}
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
WITH_GPU = {**NODE, "num_cpus": 2, "num_gpus": 1}
# A machine counts as lost after about 5 s instead of 30, and what lay there after 1 s instead of 10: nothing else
# depends on it.
QUICK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
    "object_manager_pull_timeout_ms": 1000,
}


class Losing(Silent):
    """Takes a machine away after the second unit and another after the fifth."""

    def __init__(self, cluster, decoding, with_gpu):
        super().__init__()
        self.cluster, self.decoding, self.with_gpu = cluster, decoding, with_gpu

    def unit_done(self, result):
        super().unit_done(result)
        if self.units == 2:
            self.cluster.remove_node(self.decoding, allow_graceful=False)
        if self.units == 5:
            self.cluster.remove_node(self.with_gpu, allow_graceful=False)
            self.with_gpu = self.cluster.add_node(**WITH_GPU)


def watch_gpu_node(decoded_there, over):
    """Note when more than the actor's own core of the node with a GPU was taken."""
    (node,) = [n["NodeID"] for n in ray.nodes() if n["Resources"].get("GPU")]
    while not over.wait(0.1):
        free = available_resources_per_node().get(node)
        if free is not None and free.get("CPU", 0) < 1:
            decoded_there.append(time.monotonic())


def main():
    job = load_job(Path(sys.argv[1]), {"execution.ray_address": "auto"})
    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    decoding = [cluster.add_node(resources={"decode": 2}, **NODE) for _ in range(2)]
    with_gpu = cluster.add_node(**WITH_GPU)
    cluster.add_node(resources={"decode": 2}, env_vars=LAME, **NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    decoded_there, over = [], threading.Event()
    watcher = threading.Thread(target=watch_gpu_node, args=(decoded_there, over))
    watcher.start()
    try:
        losing = Losing(cluster, decoding[0], with_gpu)
        summary = run_job(job, losing, threading.Event())
        out = summary.run.resources.machines_out
        lost = sum(not node["Alive"] for node in ray.nodes())
        print(
            json.dumps(
                {"status": summary.run.status, "lost": lost, "decoded_on_gpu_node": len(decoded_there), "out": out}
            )
        )
    finally:
        over.set()
        watcher.join()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
