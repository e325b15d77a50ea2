"""Results that no model made, in a second: what `verify` and `sign` are tried on."""

from __future__ import annotations

from pipeline.index import sync
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal, check_output_is_ours
from pipeline.journal.output_id import claim_output
from pipeline.records.run_record import RunRecord
from pipeline.tables import publish
from tests.support import rows
from tests.support.rows import commit, first


def make_results(store, index_url):
    """Three videos, one clip that failed, one that was done again, one video that was forgotten; all published."""
    check_output_is_ours(store)
    journal, index = Journal(store), SavingsIndex(index_url, claim_output(store))
    for number in range(4):
        commit(journal, index, rows.unit(rows.media(number)), fail=number % 2)
    commit(journal, index, first(rows.unit(rows.media(1)), 1), run_id="run-2", attempt=1)
    sync.forget(journal, index, rows.media(3).media_id)
    for number in (1, 2):
        run = RunRecord(f"run-{number}", "job", "recipe-1", {"a": 0.5}, f"2026-01-0{number}", status="complete")
        journal.write_run(run)
        index.write_run(run)
    publish.publish(store, journal, index)
    index.close()
