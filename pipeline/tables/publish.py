"""Publishes what counts: as a new generation of the tables, of which only what changed is written, and as live files.

Promises: readers of the manifest see a whole generation or the one before it; readers of `tables/live` see each row
that counts once, at any moment; publishing what is published already does nothing; a deleted `tables/` is made again
equal from the journal; fewer rows than the journal has are never published. Knows nothing about Ray, or how answers
are made.

A generation is made of buckets: media items by the hash of their content, one file for each table that has rows. A
bucket whose items are all as they were keeps its files; of the others, rows of items that have not changed are taken
from the files of before. When the manifest names the new generation, the live files that differ are replaced, each by
one write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from omnidrop.errors import UserError
from pipeline.batches import batches
from pipeline.failpoints import reached
from pipeline.identity import bucket_of
from pipeline.index import sync
from pipeline.index.savings_index import Counted, SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.journal.whole_questions import WholeByRecipe
from pipeline.records.checksummed_parquet import JournalError
from pipeline.records.checksummed_parquet import digest as content_hash
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import UnitObject, utc_now
from pipeline.storage.errors import StorageError
from pipeline.tables import live
from pipeline.tables.manifest import MANIFEST, NAMES, SCHEMAS, FileMark, Published, bucket_name, current, generation_of
from pipeline.tables.writer import BUCKETED, BucketRows, bucket_files, item_rows, read_bucket, runs_file

if TYPE_CHECKING:
    from pipeline.storage.store import Store

READERS = 8
"""Journal objects read at once: hides a store's latency, and bounds what is held in memory."""
MOST_CLAIMED = 1000
"""Generations beyond the published one that runs may have begun: each that died leaves one, until the next is there."""
TRIES = 3
"""Of a generation while others change what counts."""

_DIGEST_BYTES = 16
_SAID = ("job", "media_id", "media_key", "content_id", "uri", "etag", "size_bytes", "version_id", "recipe_hash")
_COLUMNS = content_hash("\n".join(f"{name}: {SCHEMAS[name]}" for name in BUCKETED).encode())
"""A version with other columns rewrites every row."""


class PublishRefused(UserError):
    """What would be published is less than what the journal has."""

    error_class = "publish"


def item_digest(item: Counted) -> str:
    """Changes when any row of the item would."""
    head = item.head
    said = [getattr(head, name) for name in (*_SAID, "units", "clips", "answer_format")]
    state = [_COLUMNS, *said, item.jobs, item.is_copy, *(key.name for key in item.units)]
    state += [] if item.video is None else [item.video.name]
    return blake2b(json.dumps(state).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def publish(
    store: Store,
    journal: Journal,
    index: SavingsIndex,
    *,
    keeps_before: bool = True,
    anew: bool = False,
    advance: Callable[[int], None] = lambda units: None,
) -> Published:
    """Publish what counts. A no-op where the published generation holds the same.

    The files of the generation before stay for those who read it, unless `keeps_before` is false. `anew` writes every
    row again. `advance` is called with the number of units read. Raises PublishRefused.
    """
    for _ in range(TRIES):
        published, is_alone = _publish(store, journal, index, keeps_before=keeps_before, anew=anew, advance=advance)
        if is_alone:
            break
        # Another run was at it, too. Whichever wrote the manifest last may know less than the other: it looks again.
    return published


def _publish(
    store: Store,
    journal: Journal,
    index: SavingsIndex,
    *,
    keeps_before: bool,
    anew: bool,
    advance: Callable[[int], None],
) -> tuple[Published, bool]:
    """What counts as it is known now, and whether no other process seemed to be publishing."""
    before = _readable(store)
    for _ in range(TRIES):
        runs = _runs(journal, index)
        expected = index.counts()
        made = _Generation(store, journal, index, None if anew else before, advance)
        digest = made.write(runs, must_be_new=anew or not keeps_before)
        if digest is None:
            assert before is not None
            live.bring_up(store, before)
            return before, True
        if made.items >= expected[0] and made.units >= expected[1] and not sync.catch_up(journal, index):
            break
        # Others have changed what counts meanwhile, or their units were not all known here.
        _drop(store, made.generation.__eq__)
    else:
        raise PublishRefused(
            f"the tables were not published: {made.units} of {expected[1]} finished work units of {expected[0]} media "
            "items could be read while other commands change them; what is published stays. Run again when they have "
            "ended"
        )
    published = Published(
        *(made.generation, digest, made.tables(), made.rows(), utc_now()), files=made.files, buckets=made.buckets
    )
    reached("generation_written")
    now = _readable(store)
    if now is not None and now.generation > made.generation:
        # Another run published a newer snapshot while this one was being written.
        _drop(store, made.generation.__eq__)
        return now, False
    store.write(MANIFEST, json.dumps(asdict(published), indent=1).encode())
    reached("manifest_written")
    live.bring_up(store, published, anew=anew)
    kept = [published, before] if keeps_before and before is not None else [published]
    _drop(store, lambda found: found < made.generation - keeps_before, keep=kept)
    return published, made.is_first and max(_generations(store)) == made.generation


def generation_now(store: Store) -> int:
    """The generation that readers see, 0 where there is none."""
    published = _readable(store)
    return 0 if published is None else published.generation


def state_digest(store: Store, journal: Journal, index: SavingsIndex) -> str:
    """Changes when any row would change. Runs that finished nothing are no reason to publish."""
    buckets = {bucket: _bucket_digest(items) for bucket, items in what_counts(store, journal, index)}
    return _state_digest(buckets, _runs(journal, index))


@dataclass
class _Generation:
    """One generation while it is written."""

    store: Store
    journal: Journal
    index: SavingsIndex
    before: Published | None
    advance: Callable[[int], None]
    generation: int = 0
    is_first: bool = True
    """Whether no other process has claimed a number since the previous generation."""
    files: dict[str, FileMark] = field(default_factory=dict)
    """By path below `tables/`."""
    buckets: dict[str, str] = field(default_factory=dict)
    """Digests of what is in them."""
    items: int = 0
    units: int = 0
    """Without those of copies, which have none of their own."""

    def write(self, runs: list[RunRecord], *, must_be_new: bool) -> str | None:
        """Write what has changed; returns the digest of all, None where nothing has and nothing must be new."""
        before = self.before
        there = {path.removeprefix("tables/"): size for path, size in self.store.list("tables/generation=")}
        changed = must_be_new or before is None
        with ThreadPoolExecutor(READERS) as readers:
            for bucket, items in what_counts(self.store, self.journal, self.index):
                digest = self.buckets[bucket_name(bucket)] = _bucket_digest(items)
                self.items += len(items)
                self.units += sum(len(item.units) for item in items if not item.is_copy)
                kept = self._kept(bucket, digest, there)
                if kept is None:
                    self._write_bucket(bucket, items, readers)
                    changed = True
                else:
                    self.files |= kept
        changed |= before is not None and before.buckets.keys() != self.buckets.keys()
        digest = _state_digest({int(name[-3:]): found for name, found in self.buckets.items()}, runs)
        if not changed and before is not None and before.digest == digest:
            return None
        missing = [name for name in BUCKETED if not any(path.split("/")[1] == name for path in self.files)]
        if missing:  # some readers cannot read no file
            self._store_files(0, {n: f for n, f in bucket_files([], even_empty=True).items() if n in missing})
        self._store_files(1, {"runs": runs_file(runs)})
        return digest

    def tables(self) -> dict[str, list[str]]:
        """The files of each table."""
        return {name: sorted((p for p in self.files if p.split("/")[1] == name), key=_bucket_in) for name in NAMES}

    def rows(self) -> dict[str, int]:
        """The rows of each table."""
        return {name: sum(self.files[path].rows or 0 for path in paths) for name, paths in self.tables().items()}

    def _kept(self, bucket: int, digest: str, there: dict[str, int]) -> dict[str, FileMark] | None:
        """The files of a bucket that has not changed; None where it has, or where they are not all there."""
        if self.before is None or self.before.buckets.get(bucket_name(bucket)) != digest:
            return None
        files = self._files_of(self.before, bucket)
        return files if all(there.get(path) == mark.bytes for path, mark in files.items()) else None

    @staticmethod
    def _files_of(published: Published, bucket: int) -> dict[str, FileMark]:
        end = f"/{bucket_name(bucket)}.parquet"
        return {p: m for p, m in published.files.items() if p.endswith(end) and p.split("/")[1] != "runs"}

    def _write_bucket(self, bucket: int, items: list[Counted], readers: Executor) -> None:
        old = self._old(bucket)
        made = []
        todo = (
            (item, digest, key)
            for item, digest in _digested(items)
            if not (old and old.has(digest))
            for key in item.units
        )
        reading: dict[str, list[UnitObject | None]] = {}
        for some in batches(todo, 4 * READERS):
            units = readers.map(lambda one: self.journal.read_if_kept(one[2]), some)
            for (_, digest, _), unit in zip(some, units, strict=True):
                reading.setdefault(digest, []).append(unit)
                self.advance(1)
        for item, digest in _digested(items):
            if old is not None and old.has(digest):
                made.append(old.of(digest))
            else:
                video = None if item.video is None else self.journal.read_video_if_kept(item.video)
                made.append(item_rows(item, digest, (u for u in reading.pop(digest, []) if u is not None), video))
        self._store_files(bucket, bucket_files(made, even_empty=False))

    def _old(self, bucket: int) -> BucketRows | None:
        """The bucket as it was published, None where that cannot be read."""
        if self.before is None or bucket_name(bucket) not in self.before.buckets:
            return None
        paths = {path.split("/")[1]: path for path in self._files_of(self.before, bucket)}
        try:
            files = {name: self.store.read_bytes(f"tables/{path}") for name, path in paths.items()}
            if any(content_hash(data) != self.before.files[paths[name]].blake2b for name, data in files.items()):
                return None
            return read_bucket(files)
        except (KeyError, OSError, pa.ArrowException, TypeError, ValueError):
            return None

    def _store_files(self, bucket: int, files: dict[str, tuple[bytes, int]]) -> None:
        if not self.generation:
            self.generation, self.is_first = _claim(self.store, self.before or _readable(self.store))
            reached("generation_claimed")
        for name, (data, rows) in files.items():
            path = f"generation={self.generation:06d}/{name}/{bucket_name(bucket)}.parquet"
            self.files[path] = FileMark(len(data), content_hash(data), rows)
            self.store.write(f"tables/{path}", data)
            reached("table_file_written")


# -- what counts ------------------------------------------------------------------------------------------------------


def what_counts(store: Store, journal: Journal, index: SavingsIndex) -> Iterator[tuple[int, list[Counted]]]:
    """What counts, by bucket, with what was answered about each item as a whole."""
    # A run under way while media are forgotten may still have them in the index.
    forgotten, asked = journal.tombstones(), WholeByRecipe(store)
    for bucket, items in groupby(index.counted(), key=lambda item: bucket_of(item.head.place[1])):
        if left := [item for item in items if not forgotten.has(item.head)]:
            yield bucket, _with_videos(left, index, asked)


def _with_videos(items: list[Counted], index: SavingsIndex, asked: WholeByRecipe) -> list[Counted]:
    """The items with the records that their present units and questions name, as far as they are there."""
    named = {
        n: of.key(item.head, item.units) for n, item in enumerate(items) if (of := asked.of(item.head.recipe_hash))
    }
    if not named:
        return items
    there = index.videos_of(sorted({key.version_id for key in named.values()}))
    found = {n: known.key for n, key in named.items() if (known := there.get((key.version_id, key.inputs)))}
    return [replace(item, video=found.get(n)) for n, item in enumerate(items)]


def _digested(items: Iterable[Counted]) -> Iterator[tuple[Counted, str]]:
    return ((item, item_digest(item)) for item in items)


def _bucket_digest(items: Iterable[Counted]) -> str:
    state = blake2b(digest_size=_DIGEST_BYTES)
    for _, digest in _digested(items):
        state.update(bytes.fromhex(digest))
    return state.hexdigest()


def _state_digest(buckets: dict[int, str], runs: Iterable[RunRecord]) -> str:
    state = blake2b(json.dumps(sorted(buckets.items())).encode(), digest_size=_DIGEST_BYTES)
    for run in runs:
        if run.counts.units_finished:
            state.update(f"{run.run_id}/{run.status}\n".encode())
    return state.hexdigest()


def _runs(journal: Journal, index: SavingsIndex) -> list[RunRecord]:
    """The journal's runs in their order there."""
    listed = sync.sync_runs(journal, index)
    known = {run.run_id: run for run in index.runs()}
    return [known[run_id] for run_id in listed if run_id in known]


# -- generations ------------------------------------------------------------------------------------------------------


def _bucket_in(path: str) -> str:
    return path.rsplit("/", 1)[1]


def _readable(store: Store) -> Published | None:
    """A damaged manifest is as good as none: publishing is how it is mended."""
    try:
        return current(store)
    except JournalError:
        return None


def _claim(store: Store, before: Published | None) -> tuple[int, bool]:
    """A generation number of our own, and whether it was the next one: two runs that publish at once must not write
    into one folder. Raises StorageError for a store that has them all."""
    # Without a manifest there may be generations all the same: of a run that died, or whose manifest was damaged.
    first = (before.generation if before else max(_generations(store), default=0)) + 1
    for generation in range(first, first + MOST_CLAIMED):
        if store.write_once(f"tables/generation={generation:06d}/_claimed", utc_now().encode()):
            return generation, generation == first
    raise StorageError(
        f"{store.uri}/tables: generations {first} to {generation} are all taken, as the store says of each; check the "
        "server, and what lies between"
    )


def _drop(store: Store, is_old: Callable[[int], bool], keep: Iterable[Published] = ()) -> None:
    """Delete what generations that are old left, but for the files that the generations to keep name."""
    for generation in filter(is_old, _generations(store)):
        store.sweep(f"tables/generation={generation:06d}/")
    named = {f"tables/{path}" for one in keep for paths in one.tables.values() for path in paths}
    listed = (path for path, _ in store.list("tables/generation=") if path not in named)
    store.delete([path for path in listed if (found := generation_of(path)) is not None and is_old(found)])


def _generations(store: Store) -> set[int]:
    return {found for path, _ in store.list("tables/generation=") if (found := generation_of(path)) is not None}
