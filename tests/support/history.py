"""Results with a long history, and what a command then asks of their store."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from pipeline.planning.open_job import open_output
from pipeline.records.heads_and_runs import StoredRun
from pipeline.records.run_record import RunCounts
from pipeline.storage.local_store import LocalStore
from pipeline.storage.s3_store import S3Store


def add_runs(job, count, *, is_synced=False):
    """Leave the records of `count` earlier runs that each finished something; `is_synced`: the index has them, too."""
    store, journal, index = open_output(job)
    pattern = index.runs(job.name)[0]

    def earlier(number):
        name, at = f"20250101T000000Z-{number:06x}", f"2025-01-01T00:00:{number / 100:09.6f}+00:00"
        return replace(pattern, run_id=name, started_at=at, counts=RunCounts(units_finished=1))

    records = [earlier(number) for number in range(count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(journal.write_run, records))
    if is_synced:
        index.write_runs(map(StoredRun.of, records))
    index.close()
    return store


@contextmanager
def counted_calls():
    """While it lasts, calls of stores are counted by name. (A listing of up to 1,000 objects is one.)"""
    calls = Counter()

    def counting(kind, name):
        real = getattr(kind, name)

        def call(self, *given):
            calls[name] += 1
            return real(self, *given)

        return mock.patch.object(kind, name, call)

    names = ("exists", "read_bytes", "open", "write", "write_once", "list", "delete", "sweep")
    patches = [counting(kind, name) for kind in (LocalStore, S3Store) for name in names]
    for patch in patches:
        patch.start()
    try:
        yield calls
    finally:
        for patch in patches:
            patch.stop()
