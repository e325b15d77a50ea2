"""Checks results against themselves: journal, published tables and savings index, and says how to fix each problem.

Promises: nothing is changed; every byte of the journal and of the published files is read; everything that the journal
says is derived once more, into an index of its own in a temporary folder, and compared with what is there; memory does
not grow with the results. Knows nothing about jobs, media or models.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from omnidrop.errors import UserError
from pipeline.checks.findings import Findings, Report
from pipeline.checks.index_check import IndexCheck
from pipeline.checks.journal_check import JournalCheck
from pipeline.checks.tables_check import TablesCheck
from pipeline.config.locations import sqlite_url
from pipeline.index.database import IndexFull
from pipeline.index.savings_index import SavingsIndex
from pipeline.memory_bound import bounded_memory

if TYPE_CHECKING:
    from pipeline.storage.store import Store


def verify(
    store: Store,
    index_url: str | None,
    *,
    job: str = "JOB.yaml",
    public_key: str | None = None,
    advance: Callable[[str, int], None] = lambda *_: None,
) -> Report:
    """Check the results in `store`, and the index at `index_url` where it is given.

    `job` is how the job is named in the commands that mend. With `public_key` (a file, or the key itself) the tables
    must be signed with its secret key. `advance` is told what is being read, and how much of it.
    Raises UserError where the results are of a newer format or there are none.
    """
    say = Findings(store, job, advance)
    journal = JournalCheck(store, say)
    journal.check_format()
    # The results may be somebody else's, and everything is derived once more from them.
    with bounded_memory(), tempfile.TemporaryDirectory(prefix="omnidrop-verify-") as folder:
        try:
            with closing(SavingsIndex(sqlite_url(f"{folder}/index.sqlite"))) as truth:
                journal.check(truth)
                IndexCheck(store, say, index_url).check(truth)
                TablesCheck(store, say, journal.rows, public_key).check(truth)
        except IndexFull as error:
            raise UserError(
                f"the disk of {tempfile.gettempdir()} is full, where everything is derived once more (about 1 kB a "
                "clip); make room there, or set TMPDIR to another folder"
            ) from error
    return say.report()
