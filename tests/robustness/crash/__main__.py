"""Kills runs, lets them resume, and compares the rows with an undisturbed run's.

    python -m tests.robustness.crash --rounds 100 --seed 1 --json crash.json
    python -m tests.robustness.crash --rounds 0 --points every       # each visit of each step, not only the first

First a kill at every step of committing, publishing, forgetting and rebuilding (`points.py`), then random rounds
(`kills.py`). The JSON file is written again after every kill: `rounds` and `kills` done, rows `lost`, `doubled` and
`mixed`, runs `stuck`, processes left as `orphans`, points not `visited`. Exit status 1 if one is not as promised.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.failpoints import POINTS
from tests.robustness.crash.kills import KINDS, RandomRounds, Round
from tests.robustness.crash.points import PointRounds, Visit, one_visit_each
from tests.robustness.crash.processes import Runs

Tell = Callable[[str, Visit | Round], None]


@dataclass
class Report:
    """What was done and found."""

    seed: int
    rounds: int = 0
    """Random rounds."""
    kills: int = 0
    lost: int = 0
    doubled: int = 0
    mixed: int = 0
    stuck: int = 0
    orphans: int = 0
    not_visited: list[str] = field(default_factory=list)
    kills_by_kind: Counter[str] = field(default_factory=Counter)
    """Random kills; a round in which no victim was left to kill counts none."""
    kills_by_point: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, what: str, done: Visit | Round) -> None:
        """Count one kill's outcome."""
        found = done.difference
        self.lost += len(found.lost)
        self.doubled += len(found.doubled)
        self.mixed += len(found.mixed)
        self.stuck += done.is_stuck
        self.orphans += len(done.orphans)
        for kind in ("lost", "doubled", "mixed"):
            self.findings += [f"{what}: {kind}: {one}" for one in getattr(found, kind)[:3]]
        self.findings += [f"{what}: orphan: {orphan.command[:200]}" for orphan in done.orphans]
        if done.is_stuck:
            self.findings.append(f"{what}: stuck: {done}"[:500])

    @property
    def is_clean(self) -> bool:
        """Whether all is as promised."""
        return not (self.lost or self.doubled or self.mixed or self.stuck or self.orphans or self.not_visited)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="random rounds (5)")
    parser.add_argument("--seed", type=int, default=1, help="of kinds and moments (1)")
    parser.add_argument(
        "--points", choices=("none", "rows", "once", "every"), default="once", help="kills at fail points (once)"
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="random kills of these kinds, in turn")
    parser.add_argument("--json", type=Path, help="where the report goes")
    given = parser.parse_args(arguments)
    report, started = Report(given.seed), time.monotonic()

    def tell(what: str, done: Visit | Round) -> None:
        report.add(what, done)
        report.seconds = round(time.monotonic() - started, 1)
        if given.json:
            given.json.write_text(json.dumps(vars(report), indent=1))
        verdict = "ok" if not (done.difference or done.is_stuck or done.orphans) else "FOUND"
        print(f"{report.seconds:8.1f} s  {what}: {verdict}", flush=True)

    # A short path: Ray puts sockets below it, and their names are limited to 107 bytes.
    made = tempfile.TemporaryDirectory(prefix="crash-", dir="/tmp", ignore_cleanup_errors=True)
    with made as name, Runs(folder := Path(name)) as runs:
        if given.points != "none":
            _points(folder, runs, report, tell, given.points)
        if given.rounds:
            _rounds(folder, runs, report, tell, given.rounds, given.kinds)
    for finding in report.findings:
        print(finding)
    print(json.dumps({name: value for name, value in vars(report).items() if name != "findings"}))
    return 0 if report.is_clean else 1


def _points(folder: Path, runs: Runs, report: Report, tell: Tell, which: str) -> None:
    points = PointRounds(folder / "points", runs)
    ways = {"every": points.every_visit, "once": lambda: points.visits(one_visit_each())}
    ways["rows"] = lambda: points.rows_of_kills(one_visit_each())
    for visit in ways[which]():
        report.kills += len(visit.points)
        report.kills_by_point.update(visit.points)
        tell(f"{visit.scene}, killed at {', '.join(visit.points) or 'no point'}", visit)
    report.not_visited = [point for point in POINTS if not report.kills_by_point[point]]


def _rounds(folder: Path, runs: Runs, report: Report, tell: Tell, count: int, kinds: Sequence[str] | None) -> None:
    with RandomRounds(folder / "rounds", runs, report.seed) as rounds:
        for number in range(count):
            done = rounds.round(kinds[number % len(kinds)] if kinds else None)
            report.rounds += 1
            report.kills += done.killed
            report.kills_by_kind[done.kind] += done.killed
            codes = ", then ".join(map(str, done.exit_codes))
            tell(f"round {report.rounds}, {done.kind} after {done.after_s:.1f} s, ended {codes}", done)


if __name__ == "__main__":
    sys.exit(main())
