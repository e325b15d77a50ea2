"""What Ray says when a worker is gone, and whether the clip in its hands may have been the reason.

Promises: a machine that vanished is never a clip's fault, also before Ray itself knows that it has. Knows nothing about
what is done then.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayError

Nodes = Sequence[Mapping[str, Any]]
"""What `ray.nodes()` says: asked once for each look, since it is a call to the head that all machines share."""
NODE_TIMEOUT_S = 2.0
"""A node that takes longer to accept a connection is taken for lost."""


def is_preemption(error: RayError) -> bool:
    """Whether a node went away (spot loss): not this clip's doing, not counted."""
    return isinstance(error, NodeDiedError | ObjectLostError) or bool(getattr(error, "preempted", False))


def node_name(node_id: str) -> str:
    """What to call a machine in a message."""
    names = [node["NodeManagerHostname"] for node in ray.nodes() if node["NodeID"] == node_id]
    return f"{names[0]} (node {node_id[:8]})" if names else node_id


def nodes_with(resource: str, nodes: Nodes) -> set[str]:
    """Ids of the machines that are there and have some of a resource."""
    return set(amounts_of(resource, nodes))


def amounts_of(resource: str, nodes: Nodes) -> dict[str, int]:
    """How much of a resource each machine has that has some."""
    there = {node["NodeID"]: int(node["Resources"].get(resource, 0)) for node in nodes if node["Alive"]}
    return {machine: amount for machine, amount in there.items() if amount > 0}


def slots_of(resource: str, nodes: Nodes) -> dict[str, int]:
    """How many clips each machine may decode at once. Those with GPUs are left to the model where there are others, as
    Ray leaves them."""
    with_gpu = nodes_with("GPU", nodes)
    there = amounts_of(resource, nodes)
    return {machine: amount for machine, amount in there.items() if machine not in with_gpu} or there


def beside(
    machines: Mapping[str, int], nodes: Nodes, actors: Mapping[str, int], cpus_per_actor: float
) -> dict[str, int]:
    """How many clips each of some machines may decode at once beside the model actors on it."""
    cores = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in nodes}
    left = {machine: int(cores.get(machine, 0.0) - actors.get(machine, 0) * cpus_per_actor) for machine in machines}
    return {machine: max(0, min(slots, left[machine])) for machine, slots in machines.items()}


def node_answers(node_id: str | None) -> bool:
    """Whether a node's raylet can be reached.

    Ray needs half a minute to call a vanished machine dead, and until then reports the deaths of its actors as their
    own: the clips in their hands would pay for a spot machine that was taken away.
    """
    for node in ray.nodes():
        if node["NodeID"] == node_id:
            if not node["Alive"]:
                return False
            try:
                address = (node["NodeManagerAddress"], node["NodeManagerPort"])
                socket.create_connection(address, NODE_TIMEOUT_S).close()
            except OSError:
                return False
    return True
