"""The truth: one Parquet object per finished work unit, at a key that follows from the unit's content.

Promises: a unit is there whole or not at all; a second attempt at the same unit changes nothing; what was forgotten
stays forgotten. Everything else (tables, index) is derived from here and may be deleted. Knows nothing about Ray, SQL
or how answers are made.

    journal/units/_/<item_id[:2]>/<item_id>/<version_id>-<unit_id>.parquet   clips with nested answers
    journal/units/.../<version_id>-<unit_id>-001.parquet   the same unit, done again: its newest attempt counts
    journal/videos/<item_id[:2]>/<item_id>/<version_id>-<inputs>.parquet     answers about a whole video
    journal/heads/<sequence>-<run_id>.parquet      which version of each media item counts, and which items are listed
    journal/tombstones/<item_id>.content.json      a content erased for good
    journal/tombstones/<media_id>.json             the same in earlier formats, which know no content: by label
    journal/output.json                            whose journal this is (`pipeline/journal/output_id.py`)
    journal/defaults.json                          what a job means that says nothing (`pipeline/journal/defaults.py`)
    journal/runs/<run_id>.json                     what each run was and did that found something to do
    journal/idle_runs/<job>.json                   the last run that found nothing to do
    journal/recipes/<recipe_hash>.json             what was asked (`pipeline/journal/recipes.py`)
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from omnidrop.answers import Answer
from omnidrop.errors import UserError, first_line
from omnidrop.json_text import parse_json
from omnidrop.questions import Question
from pipeline.failpoints import reached
from pipeline.identity import item_id as contents_item
from pipeline.journal import defaults
from pipeline.records.checksummed_parquet import FORMAT_VERSION, JournalError, seal
from pipeline.records.composed import Held
from pipeline.records.heads_and_runs import HEAD_SCHEMA, Head, StoredRun, decode_heads, decode_run
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import (
    NONE,
    UnitKey,
    UnitMeta,
    UnitObject,
    decode_unit,
    encode_unit,
    item_prefix,
    utc_now,
)
from pipeline.records.video import FOLDER as VIDEOS
from pipeline.records.video import VideoKey, VideoMeta, VideoObject, decode_video, encode_video, video_prefix
from workers.records import ClipOutcome

if TYPE_CHECKING:
    from pipeline.storage.store import Store

Key = TypeVar("Key", UnitKey, VideoKey)

FORMAT_PATH = "journal/format.json"
HEADS = "journal/heads/"
NEWEST = 5
"""The newest format that an output may be marked with. 5 is `FORMAT_VERSION` with answers about whole videos: an output
that has some is refused by versions whose `forget` would leave them behind, one that has none is not."""


@dataclass(frozen=True)
class Tombstones:
    """What was forgotten."""

    contents: frozenset[str]
    """Item ids."""
    labels: frozenset[str]
    """Media ids that earlier formats forgot: whatever lies there is taken for what was forgotten, until it is known."""

    def has(self, head: Head) -> bool:
        """Whether what a head declares was forgotten."""
        content = head.content_id and contents_item(head.content_id)
        return head.place[1] in self or (content in self.contents) or (not content and head.media_id in self)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.contents or item_id in self.labels

    @property
    def all(self) -> frozenset[str]:
        """Item ids, of either kind."""
        return self.contents | self.labels


class Journal:
    """All finished units of one output folder or bucket prefix."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_marked = False
        """Whether the output is known to be marked as one with answers about whole videos."""

    def commit(
        self,
        meta: UnitMeta,
        outcomes: Sequence[ClipOutcome],
        questions: Sequence[Question],
        held: Held | None = None,
        own: Mapping[str, Sequence[Question]] = NONE,
    ) -> UnitObject | None:
        """Store a finished unit and return what is now the truth about it.

        That is this attempt, or the one that was there first (another run's, or one whose writer died before it could
        say so), or None where the media item was forgotten: then nothing is left behind.
        """
        before = None
        if meta.attempt:
            before = self.read_if_kept(replace(meta.key, attempt=meta.attempt - 1))
            if before is None:
                return None
        data = encode_unit(meta, outcomes, questions, before, held, own)
        path = meta.key.path
        reached("unit_encoded")
        is_first = self._store.write_once(path, data)
        reached("unit_written")
        # The order matters: forgetting writes its tombstone before it deletes, so a late attempt either is deleted
        # there or sees the tombstone here.
        if self.is_forgotten(meta.key.item_id):
            self._store.delete([path])
            return None
        return decode_unit(data, where=path) if is_first else self.read_if_kept(meta.key)

    def read(self, key: UnitKey) -> UnitObject:
        """One finished unit. Raises JournalError for damage."""
        return decode_unit(self._store.read_bytes(key.path), where=key.path)

    def read_if_kept(self, key: UnitKey) -> UnitObject | None:
        """The same, None where it was deleted since it was listed. Raises JournalError for damage."""
        try:
            return self.read(key)
        except FileNotFoundError:
            return None

    def units(self) -> Iterator[UnitKey]:
        """All finished units by their newest attempts, superseded versions too, streamed from the store's listing."""
        keys = filter(None, (UnitKey.parse(path) for path, _ in self._store.list("journal/units/")))
        yield from _newest(keys)

    def drop(self, keys: Sequence[UnitKey] | Sequence[VideoKey]) -> None:
        """Delete finished units, or records of whole videos, with all their attempts: those of forgotten media."""
        self._store.delete([attempt.path for key in keys for attempt in key.up_to()])

    def commit_video(
        self, meta: VideoMeta, answers: Sequence[Answer], questions: Sequence[Question]
    ) -> VideoObject | None:
        """Store what was answered about a whole video, and return what is now the truth about it, as `commit` does."""
        self._mark_videos()
        data = encode_video(meta, answers, questions)
        path = meta.key.path
        is_first = self._store.write_once(path, data)
        reached("video_written")
        # In this order, as in `commit`.
        if self.is_forgotten(meta.item_id):
            self._store.delete([path])
            return None
        return decode_video(data, where=path) if is_first else self.read_video_if_kept(meta.key)

    def _mark_videos(self) -> None:
        if not self._is_marked and (format_of(self._store) or 0) < NEWEST:
            self._store.write(FORMAT_PATH, json.dumps({"format_version": NEWEST}).encode())
        self._is_marked = True

    def read_video_if_kept(self, key: VideoKey) -> VideoObject | None:
        """What was answered about a whole video, None where it was deleted since it was listed. Raises JournalError for
        damage."""
        try:
            return decode_video(self._store.read_bytes(key.path), where=key.path)
        except FileNotFoundError:
            return None

    def videos(self) -> Iterator[VideoKey]:
        """Everything that was answered about whole videos, by its newest attempts, streamed as `units`."""
        keys = filter(None, (VideoKey.parse(path) for path, _ in self._store.list(VIDEOS)))
        yield from _newest(keys)

    def write_heads(self, heads: Sequence[Head], run_id: str) -> list[Head]:
        """Declare which versions count from now on: a later object wins over an earlier one, media item by media item.

        Returns those that do: a media item that was forgotten meanwhile is left out. The sequence number orders runs
        without trusting clocks; two runs that plan at the same moment are ordered by their run ids.
        """
        if not heads:
            return []
        last = max(map(head_number, self.head_paths()), default=0)
        path = f"{HEADS}{last + 1:012d}-{run_id}.parquet"
        self._write_head_object(path, heads)
        # As in `commit`: first written, then looked for tombstones.
        forgotten = self.tombstones()
        kept = [head for head in heads if not forgotten.has(head)]
        if len(kept) < len(heads):
            self._write_head_object(path, kept)
        reached("heads_written")
        return kept

    def heads_after(self, path: str | None) -> Iterator[tuple[str, list[Head]]]:
        """Head objects in the order they count, from the one after `path` on (all with None): (path, heads). Those that
        are deleted meanwhile are passed over: an earlier version forgets so."""
        for found in self.head_paths():
            if path is None or found > path:
                try:
                    data = self._store.read_bytes(found)
                except FileNotFoundError:
                    continue
                yield found, decode_heads(data, where=found)

    def head_paths(self) -> list[str]:
        """Head objects in the order they count. Their numbers follow each other from 1 on, also where two runs took the
        same one: one that is missing was deleted. What has no number is a copy that someone made, and declares
        nothing: it would count after all others."""
        return sorted(path for path, _ in self._store.list(HEADS) if path.endswith(".parquet") and head_number(path))

    def mark_lost(self, numbers: Iterable[int]) -> None:
        """Put an empty head object in the place of each that is lost: so it is noticed once."""
        for number in numbers:
            self._write_head_object(f"{HEADS}{number:012d}-lost.parquet", ())

    def write_run(self, run: RunRecord) -> None:
        """Store or replace a run's record."""
        self._store.write(_run_path(run.run_id), StoredRun.of(run).text.encode())

    def run_sizes(self) -> Iterator[tuple[str, int]]:
        """(run id, bytes of its record) of all runs, by one listing."""
        for path, size in self._store.list("journal/runs/"):
            if path.endswith(".json"):
                yield path.rsplit("/", 1)[1].removesuffix(".json"), size

    def read_run(self, run_id: str) -> StoredRun | None:
        """A run's record, None where it was deleted since it was listed. Raises JournalError for damage."""
        return self._run_at(_run_path(run_id))

    def write_idle_run(self, run: RunRecord) -> None:
        """Store a run that found nothing to do, in place of the one before it: they must not add up."""
        self._store.write(_idle_run_path(run.job), StoredRun.of(run).text.encode())

    def last_idle_run(self, job: str) -> RunRecord | None:
        """The last run of a job that found nothing to do. Raises JournalError for damage."""
        stored = self._run_at(_idle_run_path(job))
        return None if stored is None else stored.run

    def _run_at(self, path: str) -> StoredRun | None:
        try:
            return decode_run(self._store.read_bytes(path), where=path)
        except FileNotFoundError:
            return None

    def tombstones(self) -> Tombstones:
        """What was forgotten."""
        names = [path.rsplit("/", 1)[1] for path, _ in self._store.list("journal/tombstones/")]
        contents = frozenset(n.removesuffix(_CONTENT) for n in names if n.endswith(_CONTENT))
        labels = (n.removesuffix(".json") for n in names if n.endswith(".json") and not n.endswith(_CONTENT))
        return Tombstones(contents, frozenset(labels))

    def only_under(self, labels: Collection[str]) -> set[str]:
        """Item ids of contents that were declared of these labels (media ids) at some time, and of no other."""

        def declared(*, of_these: bool) -> Iterator[str]:
            for _, heads in self.heads_after(None):
                for head in heads:
                    if (head.media_id in labels) is of_these:
                        yield from head.items

        return set(declared(of_these=True)).difference(declared(of_these=False)) if labels else set()

    def forget(
        self, item_id: str, groups: Iterable[str], labels: Iterable[str] = (), once_under: Iterable[str] = ()
    ) -> int:
        """Erase a content from the journal for good; returns how many units went. Safe to repeat.

        `groups` are the first folders of its units, `labels` the media ids under which it counted, `once_under` those
        under which it did before something else.
        """
        self.bury(item_id, {*labels, *once_under})
        reached("forget_tombstone")
        prefixes = [*(item_prefix(group, item_id) for group in groups), video_prefix(item_id)]
        for prefix in (*prefixes, HEADS):
            self._store.sweep(prefix)
        paths = [path for prefix in prefixes for path, _ in self._store.list(prefix)]
        self._store.delete(paths)
        reached("forget_units")
        # What a label had before it had this is not to count again in its place: the next run declares what it has now.
        last = {
            (h.job, h.media_id): path for path, heads in self.heads_after(None) for h in heads if item_id in h.items
        }
        for path, heads in self.heads_after(None):
            kept = [h for h in heads if item_id not in h.items and path > last.get((h.job, h.media_id), "")]
            if len(kept) < len(heads):
                # An empty one stays: a number that is missing is an object that was lost.
                self._write_head_object(path, kept)
                reached("forget_head")
        reached("forget_journal")
        return sum(not path.startswith(VIDEOS) for path in paths)

    def bury(self, item_id: str, labels: Iterable[str] = ()) -> None:
        """Write a content's tombstone: nothing of it is kept from now on. `labels` are media ids: they hold no name."""
        stone = {"forgotten_at": utc_now(), "labels": sorted(set(labels) | self._labels_of(item_id))}
        self._store.write(_tombstone_path(item_id), json.dumps(stone).encode())

    def buried_as(self, media_id: str) -> set[str]:
        """Item ids of contents that were forgotten under this label."""
        return {found for found in self.tombstones().contents if media_id in self._labels_of(found)}

    def _labels_of(self, item_id: str) -> set[str]:
        try:
            return _labels_in(self._store.read_bytes(_tombstone_path(item_id)))
        except (FileNotFoundError, AttributeError, TypeError, ValueError):
            return set()

    def check_tombstone(self, path: str) -> None:
        """Raises JournalError where what lies there is no tombstone, so that it does not say under which keys a content
        was forgotten."""
        try:
            _labels_in(self._store.read_bytes(path))
        except (AttributeError, TypeError, ValueError) as error:
            raise JournalError(f"{path} is damaged ({first_line(error)}); forget the item again") from error

    def unbury(self, *item_ids: str, labels: Sequence[str] = ()) -> None:
        """Remove tombstones: of contents, and of labels where the content is known by now or is to be asked again."""
        earlier = [f"journal/tombstones/{label}.json" for label in labels]
        self._store.delete([*map(_tombstone_path, item_ids), *earlier])

    def is_forgotten(self, item_id: str) -> bool:
        """Whether a content (in earlier formats: a label) was erased for good."""
        return self._store.exists(_tombstone_path(item_id)) or self._store.exists(f"journal/tombstones/{item_id}.json")

    def _write_head_object(self, path: str, heads: Sequence[Head]) -> None:
        self._store.write(path, seal(pa.Table.from_pylist([asdict(h) for h in heads], schema=HEAD_SCHEMA), {}))


def head_number(path: str) -> int:
    """The place of a head object in their order; 0 of what is none."""
    number = path.removeprefix(HEADS).split("-")[0]
    return int(number) if number.isdecimal() else 0


def _run_path(run_id: str) -> str:
    return f"journal/runs/{run_id}.json"


def _idle_run_path(job: str) -> str:
    return f"journal/idle_runs/{job}.json"


_CONTENT = ".content.json"


def _labels_in(tombstone: bytes) -> set[str]:
    return set(parse_json(tombstone).get("labels", ()))


def _tombstone_path(item_id: str) -> str:
    return f"journal/tombstones/{item_id}{_CONTENT}"


def _newest(keys: Iterable[Key]) -> Iterator[Key]:
    """The newest attempts of what was listed: attempts at one thing follow each other in a listing."""
    for _, attempts in groupby(keys, key=lambda key: replace(key, attempt=0)):
        yield max(attempts, key=lambda key: key.attempt)


def check_output_is_ours(store: Store) -> None:
    """Mark the output with this version's format; what older versions wrote is read as it is.

    Raises UserError where a newer version wrote here.
    """
    found = format_of(store)
    if found is not None and found > NEWEST:
        raise UserError(
            f"{store.uri} holds a journal of format {found}, this version of omnidrop knows formats up to "
            f"{NEWEST}; upgrade omnidrop (`pip install --upgrade omnidrop`), or use another output folder"
        )
    mark = json.dumps({"format_version": FORMAT_VERSION}).encode()
    if found is None:
        store.write_once(FORMAT_PATH, mark)
    elif found < FORMAT_VERSION:
        defaults.keep(store, of_earlier=True)
        # From here on older versions refuse the output: they would take attempts for units of their own.
        store.write(FORMAT_PATH, mark)


def format_of(store: Store) -> int | None:
    """The format that the output is marked with, None where it is not. Raises UserError where the mark is damaged."""
    if not store.exists(FORMAT_PATH):
        return None
    try:
        return int(parse_json(store.read_bytes(FORMAT_PATH))["format_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{store.uri}/{FORMAT_PATH} is damaged; delete it, the next command writes it again") from error
