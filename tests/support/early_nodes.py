"""A job over a slow bucket on a simulated cluster whose machines decode first clips while they fetch:
`python -m tests.support.early_nodes JOB.yaml FOLDER keep|lose`.

Prints what happened. A process of its own, as `simulated_nodes`. Two machines decode, each with a cache of its own in
FOLDER; another has a (pretended) GPU for the model actor. With `lose`, the first machine that has decoded clips early
goes down as soon as the driver knows of them.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.experimental import get_object_locations

from pipeline.archive.decoded_early import DecodedEarly
from pipeline.config.job import load_job
from pipeline.runs.run import run_job
from tests.support.simulated_nodes import NODE, QUICK, WITH_GPU
from tests.support.small_jobs import Silent

STORE = {**NODE, "object_store_memory": 300 << 20}


def watched(came, machines, cluster, loses):
    """`DecodedEarly.came` that counts, and takes away the machine of the first clips."""

    def counted(self, media, clips=()):
        clips = list(clips)
        came[media.key] = len(clips)
        if clips and loses and not lost:
            ((place,),) = [found["node_ids"] for found in get_object_locations([clips[0].decoded]).values()]
            lost.append(place)
            cluster.remove_node(machines[place], allow_graceful=False)
        real(self, media, clips)

    lost = []
    real, DecodedEarly.came = DecodedEarly.came, counted


def main():
    job, folder, loses = load_job(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3] == "lose"
    head = {**STORE, "num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    machines = {}
    for name in ("one", "two"):
        (folder / name).mkdir()
        node = cluster.add_node(resources={"decode": 1}, env_vars={"TMPDIR": str(folder / name)}, **STORE)
        machines[node.node_id] = node
    cluster.add_node(**{**STORE, **WITH_GPU, "object_store_memory": 300 << 20})
    ray.init(address=cluster.address, log_to_driver=False)
    came, taken, take = {}, [], DecodedEarly.take

    def counted_take(self, *of):
        found = take(self, *of)
        taken.append(found is not None)
        return found

    DecodedEarly.take = counted_take
    watched(came, machines, cluster, loses)
    try:
        summary = run_job(job, Silent(), threading.Event())
        print(
            json.dumps(
                {
                    "status": summary.run.status,
                    "lost": sum(not node["Alive"] for node in ray.nodes()),
                    "decoded_early": sum(came.values()),
                    "taken": sum(taken),
                    "bytes_fetched": summary.run.resources.bytes_fetched,
                }
            )
        )
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
