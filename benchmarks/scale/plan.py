"""Time and memory of planning: a made-up listing through the real planner and a real SQLite index, twice.

The first time nothing is known (probing and hashing answer at once) and every item is declared; the second time all
is cached, and the listing is checked against what counted before.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from benchmarks.scale.made_up import INFO, peak_rss_bytes
from pipeline.archive.probing import Probed
from pipeline.config.job import make_job
from pipeline.identity import media_id
from pipeline.index.savings_index import SavingsIndex
from pipeline.planning.listing import Listing
from pipeline.planning.media_plan import head_of
from pipeline.planning.planner import Planner
from pipeline.planning.recipe import make_recipe
from pipeline.questions.question_set import load_question_set
from workers.records import Media

CLIPS_PER_MEDIA = 4
"""Of 95 s in clips of 30 s."""
HEADS = 500
"""Items declared at once, as a run does."""


@dataclass(frozen=True)
class PlanPass:
    """One pass over the listing."""

    media: int
    clips: int
    units: int
    seconds: float
    media_per_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Planned:
    """Both passes."""

    first: PlanPass
    cached: PlanPass

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {found.media} media, {found.clips} clips in {found.seconds:.1f} s ({found.media_per_s:.0f} "
            f"media/s), peak {found.peak_rss_bytes / 2**20:.0f} MiB resident"
            for name, found in (("nothing known", self.first), ("all cached", self.cached))
        )


def listing(count: int) -> Iterator[Media]:
    """Made-up media in the order of their keys."""
    for number in range(count):
        key = f"archive/{number // 1000:05d}/recording {number:08d}.mp4"
        yield Media(media_id("scale", key), key, f"/nowhere/{key}", f"{number}-1", 50_000_000, f"{number}-1-1-1")


def answer_at_once(items: Sequence[Media]) -> Iterator[tuple[Media, Probed]]:
    """A prober that takes no time."""
    for item in items:
        yield item, Probed(INFO, content_id=sha256(item.key.encode()).hexdigest())


def measure(clips: int) -> Planned:
    """Plan so many clips twice: without and with cached probes."""
    count = max(1, clips // CLIPS_PER_MEDIA)
    with tempfile.TemporaryDirectory() as folder:
        job = make_job({"name": "scale", "archive": {"uri": "/"}, "output": folder, "question_set": "lecture"})
        question_set = load_question_set(job.question_set)
        recipe = make_recipe(job, question_set, "0" * 64)
        index = SavingsIndex(f"sqlite:///{folder}/index.sqlite")
        passes, heads = [], []
        for _ in range(2):
            planned_clips = units = 0
            started = time.perf_counter()
            decides = Listing(index, job.name, max_missing=0)
            planner = Planner(job, question_set, recipe, index, answer_at_once)
            for planned in planner.plans(decides.checked(listing(count), planner.identified)):
                planned_clips += planned.clips
                units += len(planned.units)
                decides.kept.add(planned.media.media_id)
                if not planned.is_current:
                    heads.append(head_of(planned, job.name, recipe.hash))
                if len(heads) == HEADS:
                    index.apply_heads(heads)
                    heads.clear()
            index.apply_heads(heads)
            assert not list(decides.unlisted())
            seconds = time.perf_counter() - started
            passes.append(PlanPass(count, planned_clips, units, seconds, count / seconds, peak_rss_bytes()))
        index.close()
    return Planned(*passes)
