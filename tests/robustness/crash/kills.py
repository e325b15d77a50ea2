"""Random kills of what a run consists of: its driver, the model actor, a decode task, an ffmpeg child, a whole node.
And a rival: a second run over the same archive and output, begun while the first is under way; nothing is killed.

Promises: the moment is uniform over the time in which the victim lives in an undisturbed run; a run that can go on must
end well by itself, one that was killed is started again; then the rows are compared. Knows nothing about fail points.

Kinds on the left run without Ray, which costs a third. One simulated cluster (a head without cores, a node with a core
for the actor, a node with one for decoding) serves the others, but for `driver_with_ray`: there the run starts a Ray of
its own, which must not outlive it.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from pipeline.config.job import load_job
from tests.robustness.crash.processes import Found, Runs
from tests.robustness.crash.rows import Difference, State, difference, state_of
from tests.robustness.crash.world import World

LIMIT_S = 300.0
"""A run takes seconds on a quiet machine, minutes on a very busy one."""
TRIES = 4
"""Runs of a round until one had a victim left when its time came."""

DRIVER = "driver"


@dataclass(frozen=True)
class Kind:
    """What is killed, and where the run finds Ray."""

    victim: str
    """A word of the victim's command line, or DRIVER, or NODE_VICTIM, or RIVAL: none."""
    ray: str
    """in-process, cluster or local (started by the run)."""
    weight: int
    """How often it is drawn."""


NODE_VICTIM = "node"
RIVAL = "rival"
KINDS = {
    "driver": Kind(DRIVER, "in-process", 6),
    "ffmpeg": Kind("/ffmpeg", "in-process", 3),
    "rival": Kind(RIVAL, "in-process", 2),
    "cluster_driver": Kind(DRIVER, "cluster", 2),
    "cluster_ffmpeg": Kind("/ffmpeg", "cluster", 2),
    "actor": Kind("ray::_Actor", "cluster", 2),
    "decode": Kind("ray::_decode", "cluster", 2),
    "node": Kind(NODE_VICTIM, "cluster", 2),
    "driver_with_ray": Kind(DRIVER, "local", 1),
}

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
# A machine counts as lost after about 10 s instead of 30: what happens then is the same.
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}


RAY_ITSELF = "raylet", "gcs_server", "Agent"


@dataclass(frozen=True)
class Round:
    """One disturbed run, resumed to its end."""

    kind: str
    after_s: float
    """When the kill was to happen, from the run's start (driver, node) or from the victim's first sight."""
    killed: int
    """0 where no victim was left at that time, in any of the tries."""
    exit_codes: tuple[int | None, ...]
    """Of the disturbed run and, where that did not end well, of the next."""
    seconds: float
    difference: Difference
    orphans: tuple[Found, ...]

    @property
    def is_stuck(self) -> bool:
        """Whether a run did not end within its limit, or the last one not well."""
        return None in self.exit_codes or self.exit_codes[-1] != 0


class RandomRounds:
    """The archive, the cluster, and the undisturbed run to compare with. Use as a context manager."""

    def __init__(self, folder: Path, runs: Runs, seed: int) -> None:
        self._runs, self._random = runs, random.Random(seed)
        self.world = World(folder, clips_per_unit=2)
        for number in range(3):
            self.world.put(f"video {number}.mp4", hz=300 + 100 * number)
        self.world.put_text("no video.mp4")
        self._cluster: Cluster | None = None
        self._nodes: list[Any] = []
        self._standing: set[int] = set()
        self._lives_s: dict[tuple[str, str], float] = {}
        self._should = self._measure("in-process")

    def __enter__(self) -> RandomRounds:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.shutdown()

    def round(self, kind: str | None = None) -> Round:
        """One round of a kind, drawn by chance where not given."""
        kind = kind or self._random.choices(list(KINDS), [k.weight for k in KINDS.values()])[0]
        drawn = KINDS[kind]
        if (DRIVER, drawn.ray) not in self._lives_s:
            if drawn.ray == "cluster":
                self._start_cluster()
            self._measure(drawn.ray)
        arguments = self._arguments(drawn.ray)
        victim = (DRIVER if drawn.victim in (NODE_VICTIM, RIVAL) else drawn.victim, drawn.ray)
        started = time.monotonic()
        for _ in range(TRIES):
            self.world.restore(None)
            after_s = self._random.uniform(0, self._lives_s[victim])
            run = self._runs.start(*arguments)
            killed = self._disturb(drawn.victim, run, after_s)
            run.join(LIMIT_S)
            if killed or run.exitcode != 0 or drawn.victim == RIVAL:
                break
            # The victim was gone by then: it does not live as long as it did in a busier hour.
            self._lives_s[victim] = after_s
        codes = [run.exitcode]
        if run.exitcode != 0:
            if run.exitcode is None:
                run.kill()
                run.join()
            codes.append(self._runs.finish(*arguments, limit_s=LIMIT_S))
        found = difference(self._should, state_of(load_job(self.world.job)))
        orphans = tuple(self._runs.orphans(self._is_known))
        seconds = time.monotonic() - started
        return Round(kind, after_s, killed, tuple(codes), seconds, found, orphans)

    def _arguments(self, where: str) -> list[str]:
        command = ["index", str(self.world.job)]
        if where == "local":
            return command
        address = self._cluster.address if where == "cluster" and self._cluster is not None else where
        return [*command, "--execution-ray-address", address]

    def _disturb(self, victim: str, run: ForkServerProcess, after_s: float) -> int:
        if victim == DRIVER:
            run.join(after_s)
            is_there = run.exitcode is None
            run.kill()
            return int(is_there)
        if victim == NODE_VICTIM:
            run.join(after_s)
            self._lose_a_node()
            return 1
        if victim == RIVAL:
            run.join(after_s)
            rival = self._runs.finish(*self._arguments("in-process"), limit_s=LIMIT_S)
            assert rival == 0, f"beside another, the run ended with {rival}: {self._runs.said()}"
            return 0
        first_seen = None
        while run.exitcode is None:
            victims = self._runs.processes(victim)
            first_seen = first_seen or (time.monotonic() if victims else None)
            if victims and first_seen is not None and time.monotonic() - first_seen >= after_s:
                return int(self._random.choice(victims).kill())
            time.sleep(0.005)
        return 0

    def _measure(self, where: str) -> State:
        """The undisturbed run: its rows, and for how long each kind of victim lives in it."""
        words = {kind.victim for kind in KINDS.values() if kind.ray == where} - {DRIVER, NODE_VICTIM, RIVAL}
        # On a loaded machine a task can come and go between two looks.
        for _ in range(5):
            if words <= (seen := self._watch(where, words)).keys():
                break
        else:
            raise AssertionError(f"never seen alive: {words - seen.keys()}")
        self._lives_s |= {(word, where): last - first for word, (first, last) in seen.items()}
        return state_of(load_job(self.world.job))

    def _watch(self, where: str, words: set[str]) -> dict[str, tuple[float, float]]:
        """One undisturbed run: when each of `words` was first and last seen in a process's command line."""
        self.world.restore(None)
        started = time.monotonic()
        seen: dict[str, tuple[float, float]] = {}
        run = self._runs.start(*self._arguments(where))
        while run.exitcode is None:
            for word in words:
                if self._runs.processes(word):
                    now = time.monotonic()
                    seen[word] = (seen.get(word, (now, now))[0], now)
            time.sleep(0.01)
        assert run.exitcode == 0, f"undisturbed, the run ended with {run.exitcode}: {self._runs.said()}"
        self._lives_s[DRIVER, where] = time.monotonic() - started
        return seen

    def _start_cluster(self) -> None:
        head = {**NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._add_node(), self._add_node()]
        self._know()

    def _lose_a_node(self) -> None:
        assert self._cluster is not None
        lost = self._nodes.pop(self._random.randrange(len(self._nodes)))
        self._cluster.remove_node(lost, allow_graceful=False)
        self._nodes.append(self._add_node())
        self._know()

    def _add_node(self) -> Any:
        assert self._cluster is not None
        deadline = time.monotonic() + 2 * LIMIT_S
        while True:
            before = {found.pid for found in self._runs.processes(*RAY_ITSELF)}
            try:
                return self._cluster.add_node(**NODE)
            except Exception:  # Ray gives a node 30 s to start, whatever the load, and raises nothing more precise
                for found in self._runs.processes(*RAY_ITSELF):
                    if found.pid not in before:
                        found.kill()
                if time.monotonic() > deadline:
                    raise

    def _know(self) -> None:
        """What runs on the standing cluster now is not left behind by a run."""
        self._standing = {found.pid for found in self._runs.processes(*RAY_ITSELF)}

    def _is_known(self, found: Found) -> bool:
        return found.pid in self._standing or "ray::IDLE" in found.command or "Agent" in found.command
