"""A kill at every step of committing, publishing, forgetting and rebuilding, then the same command again.

Promises: every point of `pipeline.failpoints` is visited, each visit by a process that dies there; what the repeated
command leaves is compared with what an undisturbed one leaves. The units are run without Ray, since everything after a
unit is finished happens in the driver and is the same code. Knows nothing about random kills.

Four scenes on one archive. *grow*: of two items indexed before, one is changed back to what it was at first (its
units count again), one is new and one is gone; an older generation of tables is dropped. *forget*: an item is erased.
*rebuild*: index and tables are made again. *add*: the question set has one question more.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.job import load_job
from pipeline.failpoints import POINTS, VARIABLE
from tests.robustness.crash.processes import SHORT_TEXTS, Found, Runs
from tests.robustness.crash.rows import Difference, State, difference, state_of
from tests.robustness.crash.world import MORE_QUESTIONS, World

LIMIT_S = 300.0
"""A command takes about two seconds on a quiet machine."""

TWO_LEVELS = {SHORT_TEXTS: "60"}
SCENES = {
    "grow": ("index",),
    "forget": ("forget", "--media", "taken back.mp4"),
    "rebuild": ("rebuild",),
    "add": ("index", "--question-set", MORE_QUESTIONS),
}
IN_PROCESS = ("--execution-ray-address", "in-process")
_PUBLISHING = (
    *("generation_claimed", "table_file_written", "generation_written", "manifest_written", "live_file_written"),
    "object_deleted",
)
_FORGETTING = {name for name in POINTS if name.startswith("forget_")}


@dataclass(frozen=True)
class Visit:
    """Kills at points, one after the other, and what was found after the command had been repeated."""

    scene: str
    points: tuple[str, ...]
    """Where the command was killed; where it was not, and ended, it was not repeated any more."""
    is_stuck: bool
    difference: Difference
    orphans: tuple[Found, ...]


class PointRounds:
    """The archive, and the undisturbed outcomes to compare with."""

    def __init__(self, folder: Path, runs: Runs) -> None:
        self._runs = runs
        self.world = World(folder, clips_per_unit=1)
        self._prepare()
        self._should: dict[str, State] = {}
        for scene in SCENES:
            self.world.restore("before")
            self._command(scene)
            self._should[scene] = state_of(load_job(self.world.job))

    def visits(self, points: Mapping[str, tuple[str, int]]) -> Iterator[Visit]:
        """Kill at each of `points` (point: scene and which visit of it), every time on the archive as it was."""
        for point, (scene, number) in points.items():
            yield self.visit(scene, [(point, number)])

    def rows_of_kills(self, points: Mapping[str, tuple[str, int]]) -> Iterator[Visit]:
        """The same points in as few visits as there are: what is killed is repeated, and killed at the next point."""
        for scene in SCENES:
            left = [(point, number) for point, (of, number) in points.items() if of == scene]
            while left:
                visit = self.visit(scene, left)
                yield visit
                if not visit.points:
                    break
                left = left[len(visit.points) :]

    def visit(self, scene: str, points: Sequence[tuple[str, int]]) -> Visit:
        """Kill `scene`'s command at a visit of each point in turn while it is reached, then repeat the command."""
        self.world.restore("before")
        arguments = self._arguments(scene)
        killed: list[str] = []
        code: int | None = None
        for point, number in points:
            armed = {VARIABLE: f"{point}:{number}"}
            code = self._runs.finish(*arguments, environment=TWO_LEVELS | armed, limit_s=LIMIT_S)
            if code != -signal.SIGKILL:
                break
            killed.append(point)
        again = self._runs.finish(*arguments, environment=TWO_LEVELS, limit_s=LIMIT_S)
        found = difference(self._should[scene], state_of(load_job(self.world.job)))
        if again not in (0, None):
            found.lost.append(f"the repeated command ended with {again}")
        return Visit(scene, tuple(killed), None in (code, again), found, tuple(self._runs.orphans()))

    def every_visit(self, most: int = 100) -> Iterator[Visit]:
        """Each point at its first, second, ... visit, in every scene, until a command is not killed any more."""
        for scene in SCENES:
            for point in POINTS:
                for number in range(1, most):
                    visit = self.visit(scene, [(point, number)])
                    if not visit.points:
                        break
                    yield visit

    def _prepare(self) -> None:
        world = self.world
        world.put("taken back.mp4", hz=300)
        world.put("same.mp4", hz=400)
        world.put("no longer listed.mp4", hz=700, seconds=2)
        world.put_text("no video.mp4")
        self._command("grow")
        world.put("taken back.mp4", hz=500, seconds=2)
        self._command("grow")
        world.put("taken back.mp4", hz=300)
        world.put("new.mp4", hz=600)
        (world.archive / "no longer listed.mp4").unlink()
        world.keep("before")

    def _command(self, scene: str) -> None:
        code = self._runs.finish(*self._arguments(scene), environment=TWO_LEVELS, limit_s=LIMIT_S)
        assert code == 0, f"undisturbed, {scene} ended with {code}: {self._runs.said()}"

    def _arguments(self, scene: str) -> list[str]:
        command, *options = SCENES[scene]
        given = [str(self.world.folder / one) if one == MORE_QUESTIONS else one for one in options]
        return [command, str(self.world.job), *given, *(IN_PROCESS if command == "index" else ())]


def one_visit_each() -> dict[str, tuple[str, int]]:
    """Every point once, in the order in which its scene's command comes by; those of publishing in *forget*, because
    *grow* answers clips."""
    scenes = dict.fromkeys(POINTS, "grow")
    scenes |= {point: "forget" for point in POINTS if point in _FORGETTING}
    scenes |= dict.fromkeys(_PUBLISHING, "forget") | {"index_cleared": "rebuild", "kept_read": "add"}
    # The first time, an older declaration is read again; the second time, units count again and are not yet taken up.
    # What is forgotten leaves an empty bucket, of which no live file is written.
    numbers = {"heads_applied": ("grow", 2), "live_file_written": ("grow", 1)}
    visits = {point: (scene, 1) for point, scene in scenes.items()} | numbers
    last = ("run_closed", *_PUBLISHING)
    return dict(sorted(visits.items(), key=lambda visit: last.index(visit[0]) if visit[0] in last else -1))
