"""How the archive job behaves at sizes no test can hold: time and memory of planning a million videos.

    python -m benchmarks.scale --part plan --media 1000000 --json plan.json

`plan`: a listing of so many made-up media goes through the real planner and a real SQLite index twice: the first time
nothing is known (probing answers at once), the second time everything is cached. Reports seconds, media per second and
this process's peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.archive import media_id
from pipeline.job import make_job
from pipeline.planning import make_recipe, plan_archive
from pipeline.questions import load_question_set
from pipeline.savings_index import Probed, SavingsIndex
from workers.records import Media, MediaInfo

INFO = MediaInfo("mov,mp4", 95.0, video_codec="h264", width=1280, height=720, frame_rate=25.0, audio_codec="aac")


@dataclass(frozen=True)
class PlanPass:
    """One pass over the listing."""

    media: int
    clips: int
    units: int
    seconds: float
    media_per_s: float
    peak_rss_bytes: int


def listing(count: int) -> Iterator[Media]:
    """Made-up media in the order of their keys."""
    for number in range(count):
        key = f"archive/{number // 1000:05d}/recording {number:08d}.mp4"
        yield Media(media_id("scale", key), key, f"/nowhere/{key}", f"{number}-1", 50_000_000)


def answer_at_once(items: Sequence[Media]) -> Iterator[tuple[Media, Probed]]:
    """A prober that takes no time."""
    for item in items:
        yield item, Probed(INFO)


def plan(count: int, folder: Path) -> list[PlanPass]:
    """Plan `count` media twice: without and with cached probes."""
    job = make_job({"name": "scale", "archive": {"uri": "/"}, "output": str(folder), "question_set": "lecture"})
    question_set = load_question_set(job.question_set)
    recipe = make_recipe(job, question_set, "0" * 64)
    index = SavingsIndex(f"sqlite:///{folder}/index.sqlite")
    passes = []
    for _ in range(2):
        clips = units = 0
        started = time.perf_counter()
        for planned in plan_archive(listing(count), job, question_set, recipe, index, answer_at_once):
            clips += planned.clips
            units += len(planned.units)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        passes.append(PlanPass(count, clips, units, seconds, count / seconds, peak))
    index.close()
    return passes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["plan"], default="plan")
    parser.add_argument("--media", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, cached = plan(given.media, Path(folder))
    for name, found in (("nothing known", first), ("all cached", cached)):
        print(
            f"{name}: {found.media} media, {found.clips} clips in {found.seconds:.1f} s "
            f"({found.media_per_s:.0f} media/s), "
            f"peak {found.peak_rss_bytes / 2**20:.0f} MiB resident"
        )
    if given.json:
        given.json.write_text(json.dumps({"plan": {"first": asdict(first), "cached": asdict(cached)}}, indent=1))


if __name__ == "__main__":
    main()
