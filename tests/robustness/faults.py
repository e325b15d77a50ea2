"""Whole jobs from bucket to bucket through a proxy that spoils requests: do the rows stay the same, and at what price?

    python -m tests.robustness.faults --seed 1 --json faults.json

Each round indexes a fresh copy of the archive (its own prefix, so that no file comes from the node's cache) into an
output of its own; its rows, measured times aside, are compared with those of an undisturbed run: `lost`, `doubled`
(one clip and question twice) and `different`. A round may end in quarantine with the class `storage`: then its rows are
compared after a second, undisturbed run, which tries that again of itself. With `--early` the first clips of each file
are decoded while it arrives, which files so small are spared otherwise, in all rounds but the undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import s3fs

from pipeline.archive import decoded_early
from pipeline.archive.decoded_early import DecodedEarly
from pipeline.config.job import JobConfig, make_job
from pipeline.runs.run import run_job
from pipeline.storage import s3_client
from pipeline.tables.query import open_results, query
from tests.support.fault_proxy import FaultProxy
from tests.support.media_files import clip_file
from tests.support.s3_server import rclone_server, s3_server
from tests.support.small_jobs import QUESTIONS, Silent
from workers.media.arriving import Arriving
from workers.media.early import EarlyClip
from workers.records import Clip, Media, MediaInfo

SERVERS = {"moto": s3_server, "rclone": rclone_server}
READ_TIMEOUT_S = 4.0
"""Shorter than the proxy's hangs. A real server gets more."""
ROWS = (
    "SELECT media_key, clip_id, question_id, question, answer, text, error_class FROM answers ORDER BY ALL",
    "SELECT media_key, clip_id, start_s, end_s, status, frames, samples, as_run_flops FROM clips ORDER BY ALL",
)


@dataclass(frozen=True)
class Round:
    """One job through the proxy."""

    server: str
    executor: str
    rate: float
    status: str
    requests: int
    faults: dict[str, int]
    quarantined: dict[str, int]
    """By error class, before what may pass is done again."""
    rows: int
    lost: int
    doubled: int
    different: int
    early: int
    """Clips that were answered as they had been decoded while their file arrived."""
    wall_s: float


@contextmanager
def decoded_on_arrival(wanted: bool) -> Iterator[list[str]]:
    """While the block lasts, small files count as large, if `wanted`; the ids of clips decoded early that were used."""
    taken: list[str] = []
    take = DecodedEarly.take

    def taking(held: DecodedEarly, media: Media, info: MediaInfo, clip: Clip) -> EarlyClip | None:
        found = take(held, media, info, clip)
        taken.extend([clip.clip_id] * (found is not None))
        return found

    with ExitStack() as stack:
        stack.enter_context(patch.object(DecodedEarly, "take", taking))
        if wanted:
            stack.enter_context(patch.object(decoded_early, "LEAST_BYTES", 0))
            stack.enter_context(patch.object(Arriving, "is_whole", False))
        yield taken


class Bench:
    """One archive and its undisturbed rows, on one server."""

    def __init__(self, server: str, folder: Path, copies: int, stack: ExitStack) -> None:
        self.server, self._folder, self._stack = server, folder, stack
        self._videos = videos(folder / "videos", copies)
        (folder / "questions.yaml").write_text(QUESTIONS)
        self.address = stack.enter_context(SERVERS[server]("media", "results"))
        self._rounds = 0
        self._expected: list[list[tuple[Any, ...]]] | None = None

    def round(self, rate: float, seed: int, *, executor: str = "in-process", early: bool = False) -> Round:
        """Index everything with `rate` of all requests spoiled; the first is what the others are compared with."""
        name = f"round-{self._rounds}"
        self._rounds += 1
        files = s3fs.S3FileSystem(endpoint_url=self.address, skip_instance_cache=True)
        for path in self._videos:
            files.put_file(str(path), f"media/{name}/{path.name}")
        with FaultProxy(self.address, seed=seed, rate=rate) as proxy, decoded_on_arrival(early) as taken:
            job = self._job(name, proxy.address, executor)
            started = time.monotonic()
            summary = run_job(job, Silent(), threading.Event())
            wall_s = time.monotonic() - started
        found = dict(summary.error_classes)
        if "storage" in found:
            calm = self._job(name, self.address, executor)
            run_job(calm, Silent(), threading.Event())
        got = self._rows(name)
        if self._expected is None:
            assert rate == 0, "the first round is the undisturbed one"
            self._expected = got
        lost = doubled = different = 0
        for wanted, rows in zip(self._expected, got, strict=True):
            lost += sum((Counter(r[:3] for r in wanted) - Counter(r[:3] for r in rows)).values())
            doubled += sum(n - 1 for n in Counter(r[:3] for r in rows).values())
            different += len(set(rows) - set(wanted))
        return Round(
            server=self.server,
            executor=executor,
            rate=rate,
            status=summary.run.status,
            requests=proxy.requests,
            faults=dict(proxy.faults),
            quarantined=found,
            rows=sum(map(len, got)),
            lost=lost,
            doubled=doubled,
            different=different,
            early=len(taken),
            wall_s=round(wall_s, 1),
        )

    def _job(self, name: str, address: str, executor: str) -> JobConfig:
        return make_job(
            {
                "name": "faults",
                "archive": {"uri": f"s3://media/{name}", "name": "faults", "endpoint_url": address},
                "output": f"s3://results/{name}",
                "question_set": str(self._folder / "questions.yaml"),
                "index_url": f"sqlite:///{self._folder}/{name}.sqlite",
                "clips": {"length_s": 2, "fps": 1},
                "storage": {"endpoint_url": address, "patience_s": 60},
                "execution": {"ray_address": None if executor == "ray" else "in-process", "clips_per_unit": 2},
            }
        )

    def _rows(self, name: str) -> list[list[tuple[Any, ...]]]:
        job = self._job(name, self.address, "in-process")
        with open_results(job.output, job.storage) as connection:
            return [list(query(connection, sql).rows) for sql in ROWS]


def videos(folder: Path, copies: int) -> list[Path]:
    """`copies` small videos, each of another content."""
    folder.mkdir(exist_ok=True)
    lengths = [2 + n % 5 for n in range(copies)]
    return [clip_file(folder / f"{n:03d}.mkv", s, size="64x48", rate=5 + n) for n, s in enumerate(lengths)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=int, default=12, help="videos in the archive")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.2, 0.4])
    parser.add_argument("--servers", nargs="*", choices=list(SERVERS), default=list(SERVERS))
    parser.add_argument("--early", action="store_true", help="decode first clips while their file arrives")
    parser.add_argument("--ray", action="store_true", help="one more round on a local Ray, at the middle rate")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    s3_client.READ_TIMEOUT_S = READ_TIMEOUT_S
    rounds: list[Round] = []

    def note(done: Round) -> None:
        rounds.append(done)
        print(
            f"{done.server:7}{done.executor:11}{done.rate:5.0%}  {done.status}  {sum(done.faults.values()):5} faults "
            f"in {done.requests} requests, {done.wall_s} s; {done.rows} rows, {done.lost} lost, {done.doubled} "
            f"doubled, {done.different} different; {done.early} clips decoded early; in quarantine {done.quarantined}",
            flush=True,
        )

    for server in given.servers:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omnidrop-faults-")))
            bench = Bench(server, folder, given.copies, stack)
            note(bench.round(0, given.seed))
            for rate in given.rates:
                note(bench.round(rate, given.seed, early=given.early))
            if given.ray:
                note(bench.round(given.rates[len(given.rates) // 2], given.seed, executor="ray", early=given.early))
    faults: Counter[str] = Counter()
    for done in rounds:
        faults.update(done.faults)
    total = {
        "machine": f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}",
        "seed": given.seed,
        "faults": dict(sorted(faults.items())),
        "survived": sum(faults.values()),
        **{name: sum(getattr(done, name) for done in rounds) for name in ("requests", "lost", "doubled", "different")},
        "rounds": [asdict(done) for done in rounds],
    }
    print(f"{total['survived']} faults: {total['faults']}")
    if given.json is not None:
        given.json.write_text(json.dumps(total, indent=1))


if __name__ == "__main__":
    main()
