"""The savings index against one that was derived from the journal once more.

Promises: nothing is migrated or written. Knows nothing about the journal's objects.
"""

from __future__ import annotations

import shlex
from contextlib import closing
from typing import TYPE_CHECKING

import sqlalchemy as sa

from omnidrop.errors import UserError, first_line
from pipeline.checks.findings import Check, Findings, reason_of
from pipeline.checks.table_diff import differences
from pipeline.index.database import IndexMissing, IndexOutdated, IndexUnreadable
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.schema import DERIVED
from pipeline.journal import output_id

if TYPE_CHECKING:
    from pipeline.storage.store import Store


class IndexCheck(Check):
    """The index of one output."""

    part = "index"

    def __init__(self, store: Store, say: Findings, url: str | None) -> None:
        super().__init__(store, say)
        self._url = url

    def check(self, truth: SavingsIndex) -> None:
        """Row by row against `truth`."""
        if self._url is None:
            self.say.notes.append("the index was not checked; give the job file, which says where it is")
            return
        try:
            whose = output_id.read_output_id(self.store)
        except UserError:
            self.say.notes.append(f"the index was not checked: {output_id.PATH} does not say whose it is")
            return
        try:
            if whose is None:
                raise IndexMissing("no command has used an index with this output yet")
            index = SavingsIndex(self._url, whose, is_read_only=True)
        except IndexUnreadable as error:
            self.say.notes.append(f"the index was not checked: {error}")
            return
        except IndexMissing as error:
            self._found("missing", "index", str(error), self.say.rebuild)
            return
        except IndexOutdated as error:
            self._found("format", "index", str(error), f"{self.say.index} (any command that uses it migrates it)")
            return
        except UserError as error:
            self._unusable_index(error)
            return
        with closing(index):
            if not self._unsound(index):
                self._compare(index, truth)
        self.say.checked["index_rows"] = sum(map(truth.count, truth.tables.derived))

    def _unsound(self, index: SavingsIndex) -> bool:
        """Whether the database's own structure is damaged: its rows may read well and be missed by look-ups."""
        try:
            faults = index.faults()
        except (UserError, sa.exc.DatabaseError) as error:
            faults = [f"the index cannot be read: {first_line(error)}"]
        for what in faults:
            self._unusable_index(UserError(what))
        return bool(faults)

    def _compare(self, index: SavingsIndex, truth: SavingsIndex) -> None:
        try:
            for name in DERIVED:
                table = getattr(truth.tables, name)
                have = index.rows(getattr(index.tables, name))
                for kind, row_key, what in differences(table, have, truth.rows(table), self.say.advance):
                    mend = f"{self.say.rebuild} && {self.say.index}" if kind == "surplus" else self.say.rebuild
                    self._found(kind, f"{name} {row_key}", what, mend)
        except sa.exc.DatabaseError as error:
            self._unusable_index(UserError(f"the index cannot be read: {first_line(error)}"))

    def _unusable_index(self, error: UserError) -> None:
        """A damaged file is a fault of the results; a server that is not there is the caller's."""
        given = self._url or ""
        if not given.startswith("sqlite"):
            raise error
        mend = f"rm {shlex.quote(str(sa.make_url(given).database))} && {self.say.rebuild}"
        self._found("damaged", "index", reason_of(error), mend)
