"""Random kills of what a run consists of: its driver, the model actor, a decode task, an ffmpeg child, a whole node.

Promises: the moment is uniform over the time in which the victim lives in an undisturbed run; a run that can go on must
end well by itself, one that was killed is started again; then the rows are compared. Knows nothing about fail points.

One simulated cluster (a head without cores, one node with a core for the actor and one for decoding) serves all rounds
but those of `driver_with_ray`, where the run starts a Ray of its own, which must not outlive it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from benchmarks.crash.processes import Found, Runs
from benchmarks.crash.rows import Difference, difference, state_of
from benchmarks.crash.world import World
from pipeline.job import load_job

LIMIT_S = 300.0
"""A round takes about ten seconds on a quiet machine."""

VICTIMS = {"actor": "ray::_Actor", "decode": "ray::_decode", "ffmpeg": "/ffmpeg"}
WEIGHTS = {"driver": 5, "driver_with_ray": 1, "actor": 4, "decode": 4, "ffmpeg": 4, "node": 3}
"""How often each kind is drawn; a Ray of its own costs six seconds to start, twice."""

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
# A machine counts as lost after about 10 s instead of 30: what happens then is the same.
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}


@dataclass(frozen=True)
class Round:
    """One disturbed run, resumed to its end."""

    kind: str
    after_s: float
    """When the kill was to happen, from the run's start (driver, node) or from the victim's first sight."""
    killed: int
    """0 where no victim was left at that time."""
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
        self._cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "_system_config": QUICK})
        self._nodes = [self._add_node(), self._add_node()]
        self.world = World(folder, backend=self._cluster.address, clips_per_unit=2)
        for number in range(4):
            self.world.put(f"video {number}.mp4", hz=300 + 100 * number)
        self.world.put_text("no video.mp4")
        self._know()

    def __enter__(self) -> RandomRounds:
        self._measure()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    def round(self, kind: str | None = None) -> Round:
        """One round of a kind, drawn by chance where not given."""
        kind = kind or self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.world.restore(None)
        options = ["--execution-ray-address", "local"] if kind == "driver_with_ray" else []
        arguments = ["index", self.world.job, *options]
        after_s = self._random.uniform(0, self._lives_s[VICTIMS.get(kind, "driver")])
        started = time.monotonic()
        run = self._runs.start(*arguments)
        killed = self._disturb(kind, run, after_s)
        run.join(LIMIT_S)
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

    def _disturb(self, kind: str, run: ForkServerProcess, after_s: float) -> int:
        if kind in ("driver", "driver_with_ray"):
            run.join(after_s)
            is_there = run.exitcode is None
            run.kill()
            return int(is_there)
        if kind == "node":
            run.join(after_s)
            lost = self._nodes.pop(self._random.randrange(len(self._nodes)))
            self._cluster.remove_node(lost, allow_graceful=False)
            self._nodes.append(self._add_node())
            self._know()
            return 1
        first_seen = None
        while run.exitcode is None:
            victims = self._runs.processes(VICTIMS[kind])
            first_seen = first_seen or (time.monotonic() if victims else None)
            if victims and first_seen is not None and time.monotonic() - first_seen >= after_s:
                return int(self._random.choice(victims).kill())
            time.sleep(0.005)
        return 0

    def _add_node(self, tries: int = 5) -> Any:
        for number in range(tries):
            try:
                return self._cluster.add_node(**NODE)
            except Exception:  # Ray gives a node 30 s to start and raises nothing more precise
                if number == tries - 1:
                    raise
        raise AssertionError("the loop returns or raises")

    def _measure(self) -> None:
        """The undisturbed run: its rows, and for how long each kind of victim lives in it."""
        for _ in range(2):
            # The first run warms the machine's caches.
            self.world.restore(None)
            started = time.monotonic()
            seen: dict[str, tuple[float, float]] = {}
            run = self._runs.start("index", self.world.job)
            while run.exitcode is None:
                for word in VICTIMS.values():
                    if self._runs.processes(word):
                        now = time.monotonic()
                        seen[word] = (seen.get(word, (now, now))[0], now)
                time.sleep(0.02)
            assert run.exitcode == 0, f"undisturbed, the run ended with {run.exitcode}: {self._runs.said()}"
        self._lives_s: Mapping[str, float] = {word: last - first for word, (first, last) in seen.items()} | {
            "driver": time.monotonic() - started
        }
        assert set(VICTIMS.values()) <= set(self._lives_s), f"never seen alive: {seen}"
        self._should = state_of(load_job(self.world.job))

    def _know(self) -> None:
        """What runs on the standing cluster now is not left behind by a run."""
        self._standing = {found.pid for found in self._runs.processes()}

    @property
    def _is_known(self) -> Callable[[Found], bool]:
        return lambda found: found.pid in self._standing or "ray::IDLE" in found.command
