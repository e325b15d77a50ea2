"""Every object of a journal, read and taken up once more: damaged, misplaced, missing, or what nothing reads.

Promises: every byte is read; what is sound is in the index it was given afterwards. Knows nothing about the published
tables, but for how many rows they must have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, groupby
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from omnidrop.errors import UserError
from pipeline.batches import batches
from pipeline.checks.findings import Check, Findings, reason_of
from pipeline.identity import (
    clip_id,
    earlier_version_id,
    failed_version_id,
    unit_id,
    unread_content,
    version_id,
)
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.sync import lost_heads
from pipeline.journal import defaults, output_id, recipes
from pipeline.journal.journal import FORMAT_PATH, HEADS, NEWEST, Tombstones, format_of, head_number
from pipeline.records.audited import count_audits
from pipeline.records.checksummed_parquet import FORMAT_VERSION, JournalError
from pipeline.records.heads_and_runs import decode_heads, decode_run
from pipeline.records.rows import quarantine_rows
from pipeline.records.unit import CONTENTS, UnitKey, UnitMeta, UnitObject, decode_unit
from pipeline.records.video import VideoKey, decode_video, inputs_of
from pipeline.tables.written import unwritten_column

if TYPE_CHECKING:
    from pipeline.storage.store import Store

BATCH = 200
READERS = 8


class JournalCheck(Check):
    """The journal of one output."""

    part = "journal"

    def __init__(self, store: Store, say: Findings) -> None:
        super().__init__(store, say)
        self.rows: Counter[str] = Counter()
        """Rows that tables must have, by table, of units that count."""
        self._declared: set[str] = set()
        """Versions that some head ever declared."""
        self._recipes: set[str] = set()
        """Recipes that are there, damaged or not."""
        self._copies: Counter[str] | None = None
        """Of versions, further items that have the same content: their rows are published for each."""

    def check_format(self) -> None:
        """The journal's format. Raises UserError where it is newer than this version, or where there is no journal."""
        try:
            found = format_of(self.store)
        except UserError as error:
            self._found("damaged", FORMAT_PATH, str(error), self.say.without(FORMAT_PATH, self.say.index))
            return
        if found is None and next(self.store.list("journal/"), None) is None:
            raise UserError(f"{self.store.uri}: there is no journal here; give the output of a job, or its job file")
        if found is None:
            what = "the journal does not state its format"
            self._found("format", FORMAT_PATH, what, self.say.index)
        elif found > NEWEST:
            raise UserError(
                f"{self.store.uri} holds a journal of format {found}; this version reads up to {NEWEST}; "
                "upgrade omnidrop"
            )
        elif found < FORMAT_VERSION:
            self.say.notes.append(
                f"the journal has format {found}, this version writes {FORMAT_VERSION}: the next `{self.say.index}` "
                "upgrades it. Objects of format 1 have no checksum, so damage in them may go unnoticed"
            )

    def check(self, truth: SavingsIndex) -> None:
        """Every object, each taken up by `truth` as a run would."""
        forgotten = self.journal.tombstones()
        for number in lost_heads(self.journal):
            what = "a current-version pointer object is missing: what it declared counts as before, or not at all"
            self._found("missing", f"{HEADS}{number:012d}-*.parquet", what, self.say.index)
        # One listing: heads come before units, as they must, and a unit's attempts follow each other.
        listed = (path for path, _ in self.store.list("journal/"))
        for batch in batches((list(group) for _, group in groupby(listed, key=_same_unit)), BATCH):
            attempts: list[UnitKey] = []
            for path in chain.from_iterable(batch):
                key = UnitKey.parse(path)
                if key is None:
                    self._check_other(path, truth, forgotten)
                elif key.item_id in forgotten:
                    mend = f"{self.say.forget} {key.item_id}"
                    self._found("forgotten", path, "a forgotten media item still has answers", mend)
                else:
                    attempts.append(key)
            self._check_units(attempts, truth)
        for key, count in truth.unit_counts():
            if key.version_id in self._declared:
                continue
            what = f"{count} work units are finished but do not count: no current-version pointer names their version"
            self._found("undeclared", f"{key.group}/{key.item_id}", what, f"{self.say.rebuild} && {self.say.index}")
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
                self._found("missing", recipes.path_of(recipe_hash), what, self.say.index)
        if asked and not self.store.exists(defaults.PATH):
            what = "what settings mean in this output that a job leaves out is lost"
            self._found("missing", defaults.PATH, what, self.say.index)

    def _check_other(self, path: str, truth: SavingsIndex, forgotten: Tombstones) -> None:
        folder, name = path.split("/")[1], path.rsplit("/", 1)[1].removesuffix(".json")
        try:
            if folder == "heads" and path.endswith(".parquet") and head_number(path):
                self.say.checked["heads"] += 1
                heads = decode_heads(self.store.read_bytes(path), where=path)
                truth.apply_heads([head for head in heads if not forgotten.has(head)])
                self._declared.update(head.version_id for head in heads)
                for head in heads:
                    if forgotten.has(head):
                        mend = f"{self.say.forget} {head.place[1]}"
                        self._found("forgotten", path, "it points to a forgotten media item", mend)
            elif folder == "runs" and path.endswith(".json"):
                self.say.checked["runs"] += 1
                stored = decode_run(self.store.read_bytes(path), where=path)
                if stored.run.run_id != name:
                    wrong = f"it is the record of run {stored.run.run_id}"
                    self._found("misplaced", path, wrong, self.say.without(path, self.say.rebuild))
                    return
                truth.write_runs([stored])
                if stored.run.status == "running":
                    self.say.notes.append(
                        f"run {stored.run.run_id} was killed, or is still running and adding rows during the check"
                    )
            elif (video := VideoKey.parse(path)) is not None:
                self._check_video(video, truth, forgotten)
            elif folder == "idle_runs" and path.endswith(".json"):
                decode_run(self.store.read_bytes(path), where=path)
            elif folder == "recipes" and path.endswith(".json"):
                self._recipes.add(name)
                # Not deleted first: the next run of the job that asked it replaces it, and tables made before lack it.
                self._damaged(
                    path, self.say.index, lambda: recipes.decode_recipe(self.store.read_bytes(path), where=path)
                )
            elif folder == "tombstones" and path.endswith(".json"):
                mend = f"{self.say.forget} {name.removesuffix('.content')}"
                self._damaged(path, mend, lambda: self.journal.check_tombstone(path))
            elif path == defaults.PATH:
                mend = self.say.without(path, f"omnidrop plan {self.say.job}", self.say.index)
                self._damaged(path, mend, lambda: defaults.decode(self.store.read_bytes(path)))
            elif path == output_id.PATH:
                mend = self.say.without(path, self.say.rebuild)
                self._damaged(path, mend, lambda: output_id.read_output_id(self.store))
            elif path != FORMAT_PATH:
                what = "not part of the journal; nothing reads it"
                self._found("foreign", path, what, self.say.without(path))
        except JournalError as error:
            mend = self.say.without(path, self.say.rebuild, self.say.index)
            self._found("damaged", path, reason_of(error, path), mend)

    def _damaged(self, path: str, mend: str, read: Callable[[], object]) -> None:
        """Name an object that cannot be read, which has a mend of its own."""
        try:
            read()
        except (JournalError, UserError) as error:
            self._found("damaged", path, reason_of(error, path), mend)

    def _check_video(self, key: VideoKey, truth: SavingsIndex, forgotten: Tombstones) -> None:
        """What was answered about a whole video. Raises JournalError for damage."""
        self.say.checked["video_objects"] += 1
        if key.item_id in forgotten:
            mend = f"{self.say.forget} {key.item_id}"
            self._found("forgotten", key.path, "a forgotten media item still has answers", mend)
            return
        video = decode_video(self.store.read_bytes(key.path), where=key.path)
        meta = video.meta
        made_from = [UnitKey(CONTENTS, key.item_id, key.version_id, *_unit_name(name)) for name in meta.units]
        if meta.key != key:
            wrong = f"its content belongs to {meta.key.path}"
        elif key.inputs != inputs_of(meta.fingerprint, meta.labels, made_from):
            wrong = "its name does not match the work units and questions it was made from"
        else:
            truth.apply_videos([video])
            return
        self._found("misplaced", key.path, wrong, self.say.without(key.path, self.say.index))

    def _check_units(self, keys: list[UnitKey], truth: SavingsIndex) -> None:
        whole: list[UnitObject] = []
        with ThreadPoolExecutor(READERS) as pool:
            for key, read in zip(keys, pool.map(self._read, keys), strict=True):
                if isinstance(read, JournalError):
                    mend = self.say.without(key.path, self.say.index)
                    self._found("damaged", key.path, reason_of(read, key.path), mend)
                elif read is not None and self._is_itself(key, read):
                    whole.append(read)
        newest = {unit.meta.unit_id: unit for unit in sorted(whole, key=lambda unit: unit.meta.attempt)}
        if self._copies is None:  # heads come before units in a listing
            self._copies = Counter(item.head.version_id for item in truth.counted() if item.is_copy)
        for unit in truth.apply_units(list(newest.values())):
            times = 1 + self._copies[unit.meta.version_id]
            self.rows["audits"] += count_audits(unit.rows)
            self.rows["answers"] += times * (pc.sum(pc.list_value_length(unit.rows["answers"])).as_py() or 0)
            self.rows["clips"] += times * unit.answered.num_rows
            self.rows["quarantine"] += times * len(quarantine_rows(unit))
        self.say.advance("work units", len(keys))
        self.say.checked["unit_objects"] += len(keys)

    def _read(self, key: UnitKey) -> UnitObject | JournalError | None:
        """What a reader's thread gives back: damage, too, which is counted by nobody else; None where it is gone."""
        try:
            return decode_unit(self.store.read_bytes(key.path), where=key.path)
        except FileNotFoundError:
            return None  # deleted since it was listed
        except JournalError as error:
            return error

    def _is_itself(self, key: UnitKey, unit: UnitObject) -> bool:
        """Whether an object holds what a run writes, and is what its name says: ids follow from content."""
        # Rows without a status are none of a clip that was answered.
        column = "status" if unit.rows["status"].null_count else unwritten_column(unit.answered, "units")
        if column is not None:
            what = f"column {column} holds NULL, NaN or infinity, which no run writes"
            self._found("damaged", key.path, what, self.say.without(key.path, self.say.index))
            return False
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
            self._found("misplaced", key.path, wrong, self.say.without(key.path, self.say.index))
        return wrong is None


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
