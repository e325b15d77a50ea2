"""Sums over clips are kept with the clips, on SQLite and on PostgreSQL: whatever comes and goes, they are the sums."""

from __future__ import annotations

import threading
from dataclasses import asdict, replace

import pytest
import sqlalchemy as sa

from pipeline.index import sync
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.savings_queries import QUERIES
from pipeline.records.run_record import RunRecord
from tests.support import rows
from tests.support.rows import commit


def check_sums(index):
    """Every named query finds in the sums what it finds in the clips."""
    for name in QUERIES:
        kept, counted = (index.savings(name, from_clips=from_clips) for from_clips in (False, True))
        assert [saved.group for saved in kept] == [saved.group for saved in counted], name
        for one, other in zip(kept, counted, strict=True):
            assert numbers(one) == pytest.approx(numbers(other), rel=1e-6), name


def numbers(saved):
    return {name: value for name, value in asdict(saved).items() if name != "group"}


def in_folder(number, folder, **changed):
    item = replace(rows.media(number, **changed), key=f"{folder}video {number}.mp4")
    return rows.unit(item, clips=3)


def test_sums_follow_what_comes_is_replaced_and_goes(journal, index):
    for run, started in (("run-1", "2026-01-01T10:00:00+00:00"), ("run-2", "2026-01-02T10:00:00+00:00")):
        record = RunRecord(run, "job", "recipe-1", {}, started)
        journal.write_run(record)
        index.write_run(record)
    kept, replaced = in_folder(0, "lectures/2026/"), in_folder(1, "")
    forgotten = in_folder(2, "talks/")
    other = replace(rows.ASKED, retained_ratio_target=None, policy="dense")
    commit(journal, index, kept, fail=1)
    commit(journal, index, replaced)
    commit(journal, index, forgotten, run_id="run-2", asked=other)
    check_sums(index)
    assert [(saved.group, saved.clips) for saved in index.savings("by_day")] == [
        (("2026-01-01",), 5),
        (("2026-01-02",), 3),
    ]
    assert [saved.group for saved in index.savings("by_collection")] == [("",), ("lectures",), ("talks",)]

    commit(journal, index, replace(kept, clips=kept.clips[1:2]), run_id="run-2", attempt=1)  # a retry
    commit(journal, index, in_folder(1, "", etag="e2"), run_id="run-2", fail=0)  # a new version
    sync.forget(journal, index, forgotten.media.media_id)
    check_sums(index)
    assert [saved.group for saved in index.savings("by_collection")] == [("",), ("lectures",)]
    assert index.savings("total", "another job") == []

    contents = index.contents()
    assert len(contents["savings"]) == 3
    sync.rebuild(journal, index)
    assert index.contents() == contents


def test_writers_at_once_count_every_clip_once(journal, index, index_url):
    stored = [commit(journal, index, in_folder(n, f"{n % 3}/")) for n in range(12)]
    contents = index.contents()
    index.clear()
    for n in range(12):
        index.apply_heads([rows.head(in_folder(n, f"{n % 3}/"))])
    indexes = [SavingsIndex(index_url) for _ in range(3)]

    def write(index, number):
        given = stored[::-1] if number % 2 else stored
        for start in range(0, 12, 4):
            index.apply_units(given[start : start + 4])

    threads = [threading.Thread(target=write, args=(index, n)) for n, index in enumerate(indexes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.contents() == contents
    for opened in indexes:
        opened.close()


def test_a_large_archive_is_no_overflow(index_url):
    """The FLOPs of 100,000 clips of a 7B model do not fit in 64 bits."""
    index = SavingsIndex(index_url)
    engine = sa.create_engine(index_url)
    savings = index.tables.savings
    row = {c.name: 1 if isinstance(c.type, sa.BigInteger) else None for c in savings.c}
    row |= {"job": "job", "run_id": "run-1", "collection": "", "question_set": "set", "dense_gflop": 5 * 10**15}
    with engine.begin() as connection:
        connection.execute(sa.insert(savings), [row | {"savings_id": str(n)} for n in range(2)])
    engine.dispose()
    assert index.totals("job").dense_flops == 10**25 + 2
    index.close()
