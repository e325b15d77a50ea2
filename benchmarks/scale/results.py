"""Answers on their way to readers: journal, savings index, published tables, and DuckDB over them.

Every unit is encoded and committed, taken up by the index and published as in a run, one night's work more is added and
published again; then DuckDB reads all answers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.scale import made_up
from pipeline.batches import batches
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.storage.store import open_store
from pipeline.tables import publish
from pipeline.tables.query import open_results, query
from workers.records import WorkUnit

BATCH_UNITS = 100
NIGHT = 0.005
"""Share of the clips that comes after the first publishing."""
QUERIES = {
    "answers": "SELECT question_id, answer, count(*), avg(probability) FROM answers GROUP BY 1, 2",
    "one_media": "SELECT * FROM answers WHERE media_key LIKE '%recording 00000000.mp4'",
    "savings": "SELECT run_id, sum(as_run_flops), sum(dense_shared_flops) FROM clips GROUP BY 1",
}


@dataclass(frozen=True)
class Written:
    """How long writing and reading took."""

    clips: int
    answers: int
    commit_s: float
    """Encoding and storing units, and their rows in the index."""
    publish_s: float
    """All but the last night's, for the first time."""
    publish_night_s: float
    """The last night's, beside what was published before."""
    table_bytes: int
    files: int
    query_s: dict[str, float]
    """One reading each, the first of the process."""
    peak_rss_bytes: int

    def __str__(self) -> str:
        queries = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.query_s.items())
        return (
            f"{self.clips} clips, {self.answers} answers: committed in {self.commit_s:.1f} s, published in "
            f"{self.publish_s:.1f} s, the last {NIGHT:.1%} in {self.publish_night_s:.1f} s, as {self.files} files of "
            f"{self.table_bytes / 2**20:.1f} MiB; DuckDB: {queries}; "
            f"peak {self.peak_rss_bytes / 2**20:.0f} MiB resident"
        )


def _commit(journal: Journal, index: SavingsIndex, units: Iterable[WorkUnit]) -> float:
    """Seconds of committing."""
    started = time.perf_counter()
    for batch in batches(units, BATCH_UNITS):
        heads = [made_up.head(unit) for unit in batch]
        committed = [
            journal.commit(made_up.meta(unit, "run-1"), tuple(map(made_up.result, unit.clips)), unit.questions)
            for unit in batch
        ]
        journal.write_heads(heads, "run-1")
        index.apply_heads(heads)
        index.apply_units([unit for unit in committed if unit is not None])
    return time.perf_counter() - started


def measure(clips: int) -> Written:
    """Write and read the answers of so many clips."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/results")
        journal, index = Journal(store), SavingsIndex(f"sqlite:///{folder}/index.sqlite")
        units = made_up.units(clips)
        before = -(-clips // made_up.CLIPS_PER_UNIT) - max(1, round(clips * NIGHT / made_up.CLIPS_PER_UNIT))
        commit_s = _commit(journal, index, islice(units, before))
        started = time.perf_counter()
        publish.publish(store, journal, index)
        publish_s = time.perf_counter() - started
        commit_s += _commit(journal, index, units)
        started = time.perf_counter()
        published = publish.publish(store, journal, index)
        publish_night_s = time.perf_counter() - started
        index.close()
        query_s = {}
        with open_results(str(Path(folder) / "results")) as connection:
            for name, sql in QUERIES.items():
                started = time.perf_counter()
                rows = list(query(connection, sql).rows)
                query_s[name] = time.perf_counter() - started
                assert rows, f"{name} found nothing"
    assert published.rows["answers"] == clips * len(made_up.QUESTIONS), "answers were lost"
    return Written(
        clips=clips,
        answers=published.rows["answers"],
        commit_s=commit_s,
        publish_s=publish_s,
        publish_night_s=publish_night_s,
        table_bytes=sum(mark.bytes for mark in published.files.values()),
        files=len(published.files),
        query_s=query_s,
        peak_rss_bytes=made_up.peak_rss_bytes(),
    )
