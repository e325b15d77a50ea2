"""Checks results against themselves: journal, published tables and savings index, and says how to fix each problem.

Promises: nothing is changed; every byte of the journal and of the published files is read; everything that the journal
says is derived once more, into an index of its own in a temporary folder, and compared with what is there; memory does
not grow with the results. Knows nothing about jobs, media or models.
"""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from omnidrop.errors import UserError, first_line
from pipeline.batches import batches
from pipeline.checks.table_diff import differences
from pipeline.identity import (
    clip_id,
    earlier_version_id,
    failed_version_id,
    unit_id,
    unread_content,
    version_id,
)
from pipeline.index.database import IndexFull, IndexMissing, IndexOutdated, IndexUnreadable
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.schema import DERIVED
from pipeline.index.sync import lost_heads
from pipeline.journal import defaults, output_id, recipes
from pipeline.journal.journal import FORMAT_PATH, HEADS, NEWEST, Journal, Tombstones, format_of, head_number
from pipeline.records.checksummed_parquet import FORMAT_VERSION, JournalError, digest
from pipeline.records.heads_and_runs import decode_heads, decode_run
from pipeline.records.legacy import formats as legacy
from pipeline.records.rows import quarantine_rows
from pipeline.records.unit import CONTENTS, UnitKey, UnitMeta, UnitObject, decode_unit
from pipeline.records.video import VideoKey, decode_video, inputs_of
from pipeline.tables import live, manifest, publish, signing
from pipeline.tables.memory_bound import bounded_memory
from pipeline.tables.writer import empty_file

if TYPE_CHECKING:
    from pipeline.storage.store import Store

Part = Literal["journal", "index", "tables"]

SUMMED = ("answers", "audits", "clips", "quarantine", "whole_answers")
SHOWN = 20
"""Problems of one kind that are named; the rest is counted."""
BATCH = 200
READERS = 8


@dataclass(frozen=True)
class Problem:
    """One fault."""

    part: Part
    kind: str
    """damaged, misplaced, foreign, missing, surplus, differs, stale, undeclared, forgotten, doubled, format or
    unsigned."""
    where: str
    """An object's key, or a table and a row's key."""
    what: str
    mend: str
    """The commands that fix it."""


@dataclass(frozen=True)
class Report:
    """What was found."""

    problems: tuple[Problem, ...]
    """At most `SHOWN` of each part and kind."""
    counts: tuple[tuple[Part, str, int], ...]
    """All of them, counted."""
    checked: dict[str, int]
    """How much was looked at: objects, units, rows, files."""
    notes: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts


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
    with bounded_memory():  # the results may be somebody else's
        return _Verification(store, index_url, job, public_key, advance).run()


class _Verification:
    def __init__(
        self,
        store: Store,
        index_url: str | None,
        job: str,
        public_key: str | None,
        advance: Callable[[str, int], None],
    ) -> None:
        self._store, self._journal, self._index_url = store, Journal(store), index_url
        self._advance, self._public_key = advance, public_key
        self._rebuild = f"omnidrop rebuild {job}"
        self._index = f"omnidrop index {job}"
        self._job = job
        self._counts: Counter[tuple[Part, str]] = Counter()
        self._problems: list[Problem] = []
        self._checked: Counter[str] = Counter()
        self._notes: list[str] = []
        self._rows: Counter[str] = Counter()
        """Rows that tables must have."""
        self._declared: set[str] = set()
        """Versions that some head ever declared."""
        self._recipes: set[str] = set()
        """Recipes that are there, damaged or not."""
        self._copies: Counter[str] | None = None
        """Of versions, further items that have the same content: their rows are published for each."""

    def run(self) -> Report:
        self._check_format()
        with tempfile.TemporaryDirectory(prefix="omnidrop-verify-") as folder:
            try:
                with closing(SavingsIndex(f"sqlite:///{folder}/index.sqlite")) as truth:
                    self._check_journal(truth)
                    self._check_index(truth)
                    self._check_tables(truth)
            except IndexFull as error:
                raise UserError(
                    f"the disk of {tempfile.gettempdir()} is full, where everything is derived once more (about 1 kB a "
                    "clip); make room there, or set TMPDIR to another folder"
                ) from error
        if any(part == "journal" for part, _ in self._counts) and len({part for part, _ in self._counts}) > 1:
            self._notes.append(
                "problems of the index and the tables may be caused by the journal; fix the journal first"
            )
        counts = tuple((part, kind, count) for (part, kind), count in self._counts.items())
        return Report(tuple(self._problems), counts, dict(self._checked), tuple(self._notes))

    def _found(self, part: Part, kind: str, where: str, what: str, mend: str) -> None:
        self._counts[part, kind] += 1
        if self._counts[part, kind] <= SHOWN:
            self._problems.append(Problem(part, kind, where, what, mend))

    def _without(self, path: str, *then: str) -> str:
        """Commands that delete an object, and what is to follow."""
        is_s3 = self._store.uri.startswith("s3://")
        delete = ("aws s3 rm" if is_s3 else "rm") + f" {shlex.quote(f'{self._store.uri}/{path}')}"
        return " && ".join((delete, *then))

    # -- journal ------------------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        try:
            found = format_of(self._store)
        except UserError as error:
            self._found("journal", "damaged", FORMAT_PATH, str(error), self._without(FORMAT_PATH, self._index))
            return
        if found is None and next(self._store.list("journal/"), None) is None:
            raise UserError(f"{self._store.uri}: there is no journal here; give the output of a job, or its job file")
        if found is None:
            what = "the journal does not state its format"
            self._found("journal", "format", FORMAT_PATH, what, self._index)
        elif found > NEWEST:
            raise UserError(
                f"{self._store.uri} holds a journal of format {found}; this version reads up to {NEWEST}; "
                "upgrade omnidrop"
            )
        elif found < FORMAT_VERSION:
            self._notes.append(
                f"the journal has format {found}, this version writes {FORMAT_VERSION}: the next `{self._index}` "
                "upgrades it. Objects of format 1 have no checksum, so damage in them may go unnoticed"
            )

    def _check_journal(self, truth: SavingsIndex) -> None:
        forgotten = self._journal.tombstones()
        for number in lost_heads(self._journal):
            what = "a current-version pointer object is missing: what it declared counts as before, or not at all"
            self._found("journal", "missing", f"{HEADS}{number:012d}-*.parquet", what, self._index)
        # One listing: heads come before units, as they must, and a unit's attempts follow each other.
        listed = (path for path, _ in self._store.list("journal/"))
        for batch in batches((list(group) for _, group in groupby(listed, key=_same_unit)), BATCH):
            attempts: list[UnitKey] = []
            for path in chain.from_iterable(batch):
                key = UnitKey.parse(path)
                if key is None:
                    self._check_other(path, truth, forgotten)
                elif key.item_id in forgotten:
                    mend = f"omnidrop forget {self._job} --media {key.item_id}"
                    self._found("journal", "forgotten", path, "a forgotten media item still has answers", mend)
                else:
                    attempts.append(key)
            self._check_units(attempts, truth)
        for key, count in truth.unit_counts():
            if key.version_id in self._declared:
                continue
            what = f"{count} work units are finished but do not count: no current-version pointer names their version"
            self._found(
                "journal", "undeclared", f"{key.group}/{key.item_id}", what, f"{self._rebuild} && {self._index}"
            )
        self._check_kept(truth)

    def _check_kept(self, truth: SavingsIndex) -> None:
        """What was asked of what counts, and what settings meant that the jobs left out: not kept by all formats."""
        counted = (item.head for item in truth.counted() if item.head.place[0] == CONTENTS)
        asked = Counter(head.recipe_hash for head in counted)
        for recipe_hash, count in sorted(asked.items()):
            if recipe_hash not in self._recipes:
                what = (
                    f"what was asked of {count} media items is lost, and answers about whole videos with it; a run of "
                    "the job that asked it writes it again"
                )
                self._found("journal", "missing", recipes.path_of(recipe_hash), what, self._index)
        if asked and not self._store.exists(defaults.PATH):
            what = "what settings mean in this output that a job leaves out is lost"
            self._found("journal", "missing", defaults.PATH, what, self._index)

    def _check_other(self, path: str, truth: SavingsIndex, forgotten: Tombstones) -> None:
        folder, name = path.split("/")[1], path.rsplit("/", 1)[1].removesuffix(".json")
        try:
            if folder == "heads" and path.endswith(".parquet") and head_number(path):
                self._checked["heads"] += 1
                heads = decode_heads(self._store.read_bytes(path), where=path)
                truth.apply_heads([head for head in heads if not forgotten.has(head)])
                self._declared.update(head.version_id for head in heads)
                for head in heads:
                    if forgotten.has(head):
                        mend = f"omnidrop forget {self._job} --media {head.place[1]}"
                        self._found("journal", "forgotten", path, "it points to a forgotten media item", mend)
            elif folder == "runs" and path.endswith(".json"):
                self._checked["runs"] += 1
                stored = decode_run(self._store.read_bytes(path), where=path)
                if stored.run.run_id != name:
                    wrong = f"it is the record of run {stored.run.run_id}"
                    self._found("journal", "misplaced", path, wrong, self._without(path, self._rebuild))
                    return
                truth.write_runs([stored])
                if stored.run.status == "running":
                    self._notes.append(
                        f"run {stored.run.run_id} was killed, or is still running and adding rows during the check"
                    )
            elif (video := VideoKey.parse(path)) is not None:
                self._check_video(video, truth, forgotten)
            elif folder == "idle_runs" and path.endswith(".json"):
                decode_run(self._store.read_bytes(path), where=path)
            elif folder == "recipes" and path.endswith(".json"):
                self._recipes.add(name)
                # Not deleted first: the next run of the job that asked it replaces it, and tables made before lack it.
                self._damaged(
                    path, self._index, lambda: recipes.decode_recipe(self._store.read_bytes(path), where=path)
                )
            elif folder == "tombstones" and path.endswith(".json"):
                mend = f"omnidrop forget {self._job} --media {name.removesuffix('.content')}"
                self._damaged(path, mend, lambda: self._journal.check_tombstone(path))
            elif path == defaults.PATH:
                mend = self._without(path, f"omnidrop plan {self._job}", self._index)
                self._damaged(path, mend, lambda: defaults.decode(self._store.read_bytes(path)))
            elif path == output_id.PATH:
                mend = self._without(path, self._rebuild)
                self._damaged(path, mend, lambda: output_id.read_output_id(self._store))
            elif path != FORMAT_PATH:
                what = "not part of the journal; nothing reads it"
                self._found("journal", "foreign", path, what, self._without(path))
        except JournalError as error:
            mend = self._without(path, self._rebuild, self._index)
            self._found("journal", "damaged", path, _reason(error, path), mend)

    def _damaged(self, path: str, mend: str, read: Callable[[], object]) -> None:
        """Name an object that cannot be read, which has a mend of its own."""
        try:
            read()
        except (JournalError, UserError) as error:
            self._found("journal", "damaged", path, _reason(error, path), mend)

    def _check_video(self, key: VideoKey, truth: SavingsIndex, forgotten: Tombstones) -> None:
        """What was answered about a whole video. Raises JournalError for damage."""
        self._checked["video_objects"] += 1
        if key.item_id in forgotten:
            mend = f"omnidrop forget {self._job} --media {key.item_id}"
            self._found("journal", "forgotten", key.path, "a forgotten media item still has answers", mend)
            return
        video = decode_video(self._store.read_bytes(key.path), where=key.path)
        meta = video.meta
        made_from = [UnitKey(CONTENTS, key.item_id, key.version_id, *_unit_name(name)) for name in meta.units]
        if meta.key != key:
            wrong = f"its content belongs to {meta.key.path}"
        elif key.inputs != inputs_of(meta.fingerprint, meta.labels, made_from):
            wrong = "its name does not match the work units and questions it was made from"
        else:
            truth.apply_videos([video])
            return
        self._found("journal", "misplaced", key.path, wrong, self._without(key.path, self._index))

    def _count_videos(self, truth: SavingsIndex) -> None:
        """Rows that tables must have of those that count."""
        for _, items in publish.what_counts(self._store, self._journal, truth):
            for item in items:
                video = None if item.video is None else self._journal.read_video_if_kept(item.video)
                if video is not None:
                    self._rows["whole_answers"] += video.rows.num_rows
                    self._rows["quarantine"] += len(video.error_classes)

    def _check_units(self, keys: list[UnitKey], truth: SavingsIndex) -> None:
        with ThreadPoolExecutor(READERS) as pool:
            read = zip(keys, pool.map(self._read, keys), strict=True)
            whole = [unit for key, unit in read if unit is not None and self._is_itself(key, unit)]
        newest = {unit.meta.unit_id: unit for unit in sorted(whole, key=lambda unit: unit.meta.attempt)}
        if self._copies is None:  # heads come before units in a listing
            self._copies = Counter(item.head.version_id for item in truth.counted() if item.is_copy)
        for unit in truth.apply_units(list(newest.values())):
            times = 1 + self._copies[unit.meta.version_id]
            self._rows["audits"] += pc.sum(pc.is_valid(unit.rows["audit"])).as_py() or 0
            self._rows["answers"] += times * (pc.sum(pc.list_value_length(unit.rows["answers"])).as_py() or 0)
            self._rows["clips"] += times * unit.answered.num_rows
            self._rows["quarantine"] += times * len(quarantine_rows(unit))
        self._advance("work units", len(keys))
        self._checked["unit_objects"] += len(keys)

    def _read(self, key: UnitKey) -> UnitObject | None:
        try:
            return decode_unit(self._store.read_bytes(key.path), where=key.path)
        except FileNotFoundError:
            return None  # deleted since it was listed
        except JournalError as error:
            self._found("journal", "damaged", key.path, _reason(error, key.path), self._without(key.path, self._index))
            return None

    def _is_itself(self, key: UnitKey, unit: UnitObject) -> bool:
        """Whether an object is what its name says: ids follow from content."""
        version = _version_of(unit.meta)
        names = unit.rows.select(["clip_id", "start_s", "end_s"]).to_pylist()
        spans = [row for row in names if row["clip_id"] is not None]
        wrong = None
        if unit.meta.key != key:
            wrong = f"it contains the work unit {unit.meta.key.path}"
        elif version is not None and key.version_id not in (version, failed_version_id(version)):
            wrong = "its version id does not match its content and recipe"
        elif any(row["clip_id"] != clip_id(key.version_id, row["start_s"], row["end_s"]) for row in spans):
            wrong = "a clip's id does not match its time span"
        elif key.unit_id != unit_id(key.version_id, [row["clip_id"] for row in spans]):
            wrong = "its id does not match its clips: one is missing, duplicated or from another unit"
        if wrong is not None:
            self._found("journal", "misplaced", key.path, wrong, self._without(key.path, self._index))
        return wrong is None

    # -- index --------------------------------------------------------------------------------------------------------

    def _check_index(self, truth: SavingsIndex) -> None:
        if self._index_url is None:
            self._notes.append("the index was not checked; give the job file, which says where it is")
            return
        try:
            whose = output_id.read_output_id(self._store)
        except UserError:
            self._notes.append(f"the index was not checked: {output_id.PATH} does not say whose it is")
            return
        try:
            if whose is None:
                raise IndexMissing("no command has used an index with this output yet")
            index = SavingsIndex(self._index_url, whose, is_read_only=True)
        except IndexUnreadable as error:
            self._notes.append(f"the index was not checked: {error}")
            return
        except IndexMissing as error:
            self._found("index", "missing", "index", str(error), self._rebuild)
            return
        except IndexOutdated as error:
            self._found("index", "format", "index", str(error), f"{self._index} (any command that uses it migrates it)")
            return
        except UserError as error:
            self._unusable_index(error)
            return
        with closing(index):
            if not self._unsound(index):
                self._compare(index, truth)
        self._checked["index_rows"] = sum(map(truth.count, truth.tables.derived))

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
                for kind, row_key, what in differences(table, have, truth.rows(table), self._advance):
                    mend = f"{self._rebuild} && {self._index}" if kind == "surplus" else self._rebuild
                    self._found("index", kind, f"{name} {row_key}", what, mend)
        except sa.exc.DatabaseError as error:
            self._unusable_index(UserError(f"the index cannot be read: {first_line(error)}"))

    def _unusable_index(self, error: UserError) -> None:
        """A damaged file is a fault of the results; a server that is not there is the caller's."""
        given = self._index_url or ""
        if not given.startswith("sqlite"):
            raise error
        mend = f"rm {shlex.quote(str(sa.make_url(given).database))} && {self._rebuild}"
        self._found("index", "damaged", "index", _reason(error), mend)

    # -- tables -------------------------------------------------------------------------------------------------------

    def _check_tables(self, truth: SavingsIndex) -> None:
        try:
            published = manifest.current(self._store)
        except JournalError as error:
            self._found("tables", "damaged", manifest.MANIFEST, _reason(error), self._rebuild)
            return
        if published is None:
            self._found("tables", "missing", manifest.MANIFEST, "nothing is published", self._rebuild)
            return
        self._check_listing(published)
        self._check_signature()
        for name in manifest.NAMES:
            rows = sum(self._rows_of(name, path, published) for path in published.tables.get(name, ()))
            # An older version published no such table: no files, and no rows in the manifest.
            if rows != published.rows.get(name, 0) and not self._counts["tables", "damaged"]:
                what = f"its files have {rows} rows; the manifest states {published.rows.get(name)}"
                self._found("tables", "differs", name, what, self._rebuild)
        if self._counts["journal", "damaged"]:
            return  # what the tables should hold is not known
        digest_now = publish.state_digest(self._store, self._journal, truth)
        if not legacy.has_other_digest(published.format_version) and published.digest != digest_now:
            what = "the journal has changed since the tables were published"
            self._found("tables", "stale", f"generation {published.generation}", what, self._index)
            return
        self._count_videos(truth)
        items, _ = truth.counts()
        for name, count in ({name: self._rows[name] for name in SUMMED} | {"media": items}).items():
            if published.rows.get(name, 0) != count:
                what = f"{published.rows.get(name)} rows are published; the journal has {count}"
                self._found("tables", "differs", name, what, self._rebuild)
        self._check_live(published)

    def _check_live(self, published: manifest.Published) -> None:
        """The live files are copies of those that the manifest names; what has no twin there is empty."""
        sizes = dict(self._store.list(live.FOLDER))
        twins = {f"tables/{live.live_path(path)}": mark for path, mark in published.files.items()}
        for path, mark in twins.items():
            if path not in sizes:
                self._found(
                    "tables", "missing", path, "a live file that readers of the folder need is missing", self._rebuild
                )
            elif digest(self._store.read_bytes(path)) != mark.blake2b:
                self._found("tables", "differs", path, "it is not the file that the manifest names", self._rebuild)
        for path in sizes.keys() - twins.keys():
            name = path.removeprefix(live.FOLDER).split("/")[0]
            is_empty = name in manifest.NAMES and digest(self._store.read_bytes(path)) == digest(empty_file(name))
            if not is_empty:
                what = "not part of the published tables, but readers of the folder would read it"
                self._found("tables", "foreign", path, what, self._without(path, self._rebuild))

    def _check_signature(self) -> None:
        if self._public_key is None:
            if self._store.exists(signing.SIGNATURE):
                self._notes.append("the tables are signed; check the signer with --public-key FILE")
            return
        checked = signing.check(self._store, self._public_key)
        if checked.state == "good":
            self._notes.append(checked.what)
        else:
            mend = f"omnidrop sign {self._job} --key FILE, if you vouch for what is published now"
            self._found("tables", "unsigned", signing.SIGNATURE, checked.what, mend)

    def _check_listing(self, published: manifest.Published) -> None:
        known = {f"tables/{path}" for paths in published.tables.values() for path in paths}
        for path, _ in self._store.list("tables/"):
            generation = manifest.generation_of(path)
            is_part = (
                path in known
                or path in (manifest.MANIFEST, signing.SIGNATURE, live.STATE)
                or path.endswith("/_claimed")
            )
            if path.startswith(live.FOLDER):
                continue
            if generation is None and not is_part:
                self._found("tables", "foreign", path, "no part of the published tables", self._without(path))
            elif generation == published.generation and not is_part:
                what = "the manifest does not name it, but readers of the folder would read it"
                self._found("tables", "foreign", path, what, self._without(path))
            elif generation is not None and generation > published.generation and path.endswith("/_claimed"):
                self._notes.append(f"generation {generation} was not finished; `{self._rebuild}` removes it")

    def _rows_of(self, name: str, path: str, published: manifest.Published) -> int:
        """How many rows a published file has, after its bytes were compared with the manifest's mark."""
        key = f"tables/{path}"
        try:
            data = self._store.read_bytes(key)
        except FileNotFoundError:
            self._found("tables", "missing", key, "the manifest names it", self._rebuild)
            return 0
        self._checked["table_files"] += 1
        self._advance("table files", 1)
        mark = published.files.get(path)
        if mark is not None and (len(data), digest(data)) != (mark.bytes, mark.blake2b):
            what = f"{len(data)} bytes, not the {mark.bytes} bytes that were written"
            self._found("tables", "damaged", key, what, self._rebuild)
            return 0
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as error:
            self._found("tables", "damaged", key, f"not a valid Parquet file ({first_line(error)})", self._rebuild)
            return 0
        if missing := [n for n in manifest.SCHEMAS[name].names if n not in file.schema_arrow.names]:
            self._notes.append(f"{key} lacks columns of this version, read as NULL: {', '.join(missing)}")
        return int(file.metadata.num_rows)


def _version_of(meta: UnitMeta) -> str | None:
    """What a unit's version must be called; None where its object does not hold all that the name was made of."""
    asked, item, version = meta.asked, meta.media, meta.version
    if version is None:
        return earlier_version_id(asked.job, item.media_id, item.etag, asked.recipe_hash)
    if version.group != CONTENTS:
        return None  # begun by an earlier format, under the settings as they were written then
    content = item.content_id or unread_content(item.media_id, item.etag)
    return version_id(content, asked.recipe_hash, version.labels, version.answer_format or 0)


def _unit_name(name: str) -> tuple[str, int]:
    unit, _, attempt = name.partition("-")
    return unit, int(attempt or 0)


def _same_unit(path: str) -> UnitKey | str:
    key = UnitKey.parse(path)
    return path if key is None else replace(key, attempt=0)


def _reason(error: Exception, path: str = "") -> str:
    """What our own errors say before a semicolon; what they advise after it, `mend` does here."""
    return str(error).split("; ")[0].removeprefix(f"{path} ")
