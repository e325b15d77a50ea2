"""The published tables against their manifest, the journal and the signature.

Promises: every byte and every value of every published file is read. Knows nothing about the index that jobs use.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from omnidrop.errors import first_line
from pipeline.checks.findings import Check, Findings, reason_of
from pipeline.index.savings_index import SavingsIndex
from pipeline.records.checksummed_parquet import JournalError, digest
from pipeline.records.legacy import formats as legacy
from pipeline.tables import live, manifest, publish, signing
from pipeline.tables.writer import empty_file
from pipeline.tables.written import unwritten_column

if TYPE_CHECKING:
    from pipeline.storage.store import Store

SUMMED = ("answers", "audits", "clips", "quarantine", "whole_answers")


class TablesCheck(Check):
    """The tables of one output."""

    part = "tables"

    def __init__(self, store: Store, say: Findings, rows: Counter[str], public_key: str | None) -> None:
        """`rows` that tables must have, by table; those of answers about whole videos are added."""
        super().__init__(store, say)
        self._rows, self._public_key = rows, public_key

    def check(self, truth: SavingsIndex) -> None:
        """Bytes and rows of every file, and their numbers against `truth`."""
        try:
            published = manifest.current(self.store)
        except JournalError as error:
            self._found("damaged", manifest.MANIFEST, reason_of(error), self.say.rebuild)
            return
        if published is None:
            self._found("missing", manifest.MANIFEST, "nothing is published", self.say.rebuild)
            return
        self._check_listing(published)
        self._check_signature()
        for name in manifest.NAMES:
            rows = sum(self._rows_of(name, path, published) for path in published.tables.get(name, ()))
            # An older version published no such table: no files, and no rows in the manifest.
            if rows != published.rows.get(name, 0) and not self.say.counts["tables", "damaged"]:
                what = f"its files have {rows} rows; the manifest states {published.rows.get(name)}"
                self._found("differs", name, what, self.say.rebuild)
        if self.say.counts["journal", "damaged"]:
            return  # what the tables should hold is not known
        digest_now = publish.state_digest(self.store, self.journal, truth)
        if not legacy.has_other_digest(published.format_version) and published.digest != digest_now:
            what = "the journal has changed since the tables were published"
            self._found("stale", f"generation {published.generation}", what, self.say.index)
            return
        self._count_videos(truth)
        items, _ = truth.counts()
        for name, count in ({name: self._rows[name] for name in SUMMED} | {"media": items}).items():
            if published.rows.get(name, 0) != count:
                what = f"{published.rows.get(name)} rows are published; the journal has {count}"
                self._found("differs", name, what, self.say.rebuild)
        self._check_live(published)

    def _count_videos(self, truth: SavingsIndex) -> None:
        """Rows that tables must have of those that count."""
        for _, items in publish.what_counts(self.store, self.journal, truth):
            for item in items:
                video = None if item.video is None else self.journal.read_video_if_kept(item.video)
                if video is not None:
                    self._rows["whole_answers"] += video.rows.num_rows
                    self._rows["quarantine"] += len(video.error_classes)

    def _check_live(self, published: manifest.Published) -> None:
        """The live files are copies of those that the manifest names; what has no twin there is empty."""
        sizes = dict(self.store.list(live.FOLDER))
        twins = {f"tables/{live.live_path(path)}": mark for path, mark in published.files.items()}
        for path, mark in twins.items():
            if path not in sizes:
                self._found("missing", path, "a live file that readers of the folder need is missing", self.say.rebuild)
            elif digest(self.store.read_bytes(path)) != mark.blake2b:
                self._found("differs", path, "it is not the file that the manifest names", self.say.rebuild)
        for path in sizes.keys() - twins.keys():
            name = path.removeprefix(live.FOLDER).split("/")[0]
            is_empty = name in manifest.NAMES and digest(self.store.read_bytes(path)) == digest(empty_file(name))
            if not is_empty:
                what = "not part of the published tables, but readers of the folder would read it"
                self._found("foreign", path, what, self.say.without(path, self.say.rebuild))

    def _check_signature(self) -> None:
        if self._public_key is None:
            if self.store.exists(signing.SIGNATURE):
                self.say.notes.append("the tables are signed; check the signer with --public-key FILE")
            return
        checked = signing.check(self.store, self._public_key)
        if checked.state == "good":
            self.say.notes.append(checked.what)
        else:
            mend = f"omnidrop sign {self.say.job} --key FILE, if you vouch for what is published now"
            self._found("unsigned", signing.SIGNATURE, checked.what, mend)

    def _check_listing(self, published: manifest.Published) -> None:
        known = {f"tables/{path}" for paths in published.tables.values() for path in paths}
        for path, _ in self.store.list("tables/"):
            generation = manifest.generation_of(path)
            is_part = (
                path in known
                or path in (manifest.MANIFEST, signing.SIGNATURE, live.STATE)
                or path.endswith("/_claimed")
            )
            if path.startswith(live.FOLDER):
                continue
            if generation is None and not is_part:
                self._found("foreign", path, "no part of the published tables", self.say.without(path))
            elif generation == published.generation and not is_part:
                what = "the manifest does not name it, but readers of the folder would read it"
                self._found("foreign", path, what, self.say.without(path))
            elif generation is not None and generation > published.generation and path.endswith("/_claimed"):
                self.say.notes.append(f"generation {generation} was not finished; `{self.say.rebuild}` removes it")

    def _rows_of(self, name: str, path: str, published: manifest.Published) -> int:
        """How many rows a published file has, after its bytes were compared with the manifest's mark."""
        key = f"tables/{path}"
        try:
            data = self.store.read_bytes(key)
        except FileNotFoundError:
            self._found("missing", key, "the manifest names it", self.say.rebuild)
            return 0
        self.say.checked["table_files"] += 1
        self.say.advance("table files", 1)
        mark = published.files.get(path)
        if mark is not None and (len(data), digest(data)) != (mark.bytes, mark.blake2b):
            what = f"{len(data)} bytes, not the {mark.bytes} bytes that were written"
            self._found("damaged", key, what, self.say.rebuild)
            return 0
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            batches = (pa.Table.from_batches([batch]) for batch in file.iter_batches())
            unwritten = next((found for batch in batches if (found := unwritten_column(batch, name))), None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._found("damaged", key, f"not a valid Parquet file ({first_line(error)})", self.say.rebuild)
            return 0
        if unwritten is not None:
            what = f"column {unwritten} holds NULL, NaN or infinity, which no run writes"
            self._found("differs", key, what, self.say.rebuild)
        if missing := [n for n in manifest.SCHEMAS[name].names if n not in file.schema_arrow.names]:
            self.say.notes.append(f"{key} lacks columns of this version, read as NULL: {', '.join(missing)}")
        return int(file.metadata.num_rows)
