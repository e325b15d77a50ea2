"""Publishes what counts as a new generation of the tables, writing only what changed since the one before.

Promises: readers see a whole generation or the one before it (the manifest is written last), with only rows that count,
each once; publishing what is published already does nothing; a deleted `tables/` is made again equal from the journal.
Knows nothing about Ray, or how answers are made.

A generation is made of slices: media items with all their rows, one file per table of about `FILE_BYTES` at most,
sorted by job, media key and unit. A slice whose items are all as they were stays where it is; the others' items, and
new ones, are written into slices of the new generation. Small slices are merged before they are many.
"""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.failpoints import reached
from pipeline.index import sync
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.records.checksummed_parquet import JournalError
from pipeline.records.checksummed_parquet import digest as content_hash
from pipeline.records.heads_and_runs import Head
from pipeline.records.run_record import RunRecord
from pipeline.records.unit import UnitKey, UnitObject, utc_now
from pipeline.tables.manifest import MANIFEST, SCHEMAS, Published, current, generation_of
from pipeline.tables.writer import FILE_BYTES, SLICED, GenerationWriter

if TYPE_CHECKING:
    from pipeline.storage.store import Store

SMALL_SLICES = 8
"""More slices than this below half of `FILE_BYTES` are merged: a month of nightly runs leaves no thirty files."""
READERS = 8
"""Journal objects read at once: hides a store's latency, and bounds what is held in memory."""
TRIES = 3
"""Of a generation while other runs change the index; then one is written without looking at what there is."""

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class _Item:
    """A media item as it counts now: its version, and the finished units of it."""

    head: Head
    units: tuple[UnitKey, ...]

    @cached_property
    def digest(self) -> bytes:
        """Changes when any row of the item would."""
        state = [_COLUMNS, *vars(self.head).values(), *(key.name for key in self.units)]
        return blake2b(json.dumps(state).encode(), digest_size=_DIGEST_BYTES).digest()


_COLUMNS = content_hash("\n".join(f"{name}: {SCHEMAS[name]}" for name in SLICED).encode())
"""A version with other columns writes every row anew."""


@dataclass(frozen=True)
class _Slice:
    """Media items whose rows are in the same files: table -> path below `tables/`."""

    paths: tuple[tuple[str, str], ...]


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
    row again. `advance` is called with the number of units read.
    """
    before = _readable(store)
    runs = _runs(journal, index)
    forgotten = journal.tombstones()
    for number in range(TRIES + 1):
        live = b"".join(item.digest for item in _items(index, forgotten))
        digest = _state_digest(live, runs)
        if before is not None and before.digest == digest and keeps_before and not anew:
            return before
        slices = {} if before is None or anew or number == TRIES else _unchanged(store, before, live)
        generation = _claim(store, before)
        reached("generation_claimed")
        writer = GenerationWriter(store, generation)
        seen = blake2b()
        read = _read_ahead(journal, _noted(_items(index, forgotten), seen.update), slices)
        for item, group in groupby(read, key=lambda pair: pair[0]):
            writer.add(item.head, item.digest.hex(), (unit for _, unit in group if unit is not None), advance)
        if not slices or seen.digest() == blake2b(live).digest():
            break
        # Another run changed the index meanwhile: an item could be in two slices, or in none.
        _drop(store, generation.__eq__)
    for name, path in sorted(pair for one in set(slices.values()) for pair in one.paths):
        assert before is not None
        writer.keep(name, path, before.files[path])
    made = writer.close(digest, runs)
    reached("generation_written")
    now = _readable(store)
    if now is not None and now.generation > generation:
        # Another run published a newer snapshot while this one was being written.
        _drop(store, generation.__eq__)
        return now
    store.write(MANIFEST, json.dumps(asdict(made), indent=1).encode())
    reached("manifest_written")
    kept = [made, before] if keeps_before and before is not None else [made]
    _drop(store, lambda found: found < generation - keeps_before, keep=kept)
    return made


def state_digest(journal: Journal, index: SavingsIndex, forgotten: frozenset[str]) -> str:
    """Changes when any row would change. Runs that finished nothing are no reason to publish."""
    live = b"".join(item.digest for item in _items(index, forgotten))
    return _state_digest(live, _runs(journal, index))


def _state_digest(live: bytes, runs: Iterable[RunRecord]) -> str:
    state = blake2b(live, digest_size=_DIGEST_BYTES)
    for run in runs:
        if run.counts.units_finished:
            state.update(f"{run.run_id}/{run.status}\n".encode())
    return state.hexdigest()


def _runs(journal: Journal, index: SavingsIndex) -> list[RunRecord]:
    """The journal's runs in their order there; an index may hold those of other outputs, too."""
    listed = sync.sync_runs(journal, index)
    known = {run.run_id: run for run in index.runs()}
    return [known[run_id] for run_id in listed if run_id in known]


# -- what counts, and where it is already -----------------------------------------------------------------------------


def _items(index: SavingsIndex, forgotten: frozenset[str]) -> Iterator[_Item]:
    """What counts, by job and media key. A run under way while media are forgotten may still have them in the index."""
    for head, group in groupby(index.live_media(), key=lambda pair: pair[0]):
        if head.media_id not in forgotten:
            yield _Item(head, tuple(key for _, key in group if key is not None))


def _noted(items: Iterable[_Item], note: Callable[[bytes], None]) -> Iterator[_Item]:
    for item in items:
        note(item.digest)
        yield item


def _unchanged(store: Store, before: Published, live: bytes) -> dict[bytes, _Slice]:
    """The slices that stay, by the digests of their items: none of them changed, and no file is missing or small."""
    where: dict[bytes, _Slice] = {}
    sizes: Counter[_Slice] = Counter()
    for one in _whole_slices(store, before):
        digests = _digests(store, one)
        sizes[one] += len(digests)
        where |= dict.fromkeys(digests, one)
    there = (live[at : at + _DIGEST_BYTES] for at in range(0, len(live), _DIGEST_BYTES))
    found = Counter(where[one] for one in there if one in where)
    return {one: where[one] for one in where if found[where[one]] == sizes[where[one]]}


def _whole_slices(store: Store, before: Published) -> list[_Slice]:
    parts: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in SLICED:
        for path in before.tables.get(name, ()):
            generation, _, part = PurePosixPath(path).parts
            parts[generation, part].append((name, path))
    listed = {path.removeprefix("tables/"): size for path, size in store.list("tables/generation=")}
    large: list[_Slice] = []
    small: list[_Slice] = []
    for paths in parts.values():
        marks = [before.files.get(path) for _, path in paths]
        if "media" not in dict(paths):
            continue  # empty files of tables without rows
        if any(mark is None or mark.rows is None for mark in marks):
            continue  # an older format published it
        if any(mark and listed.get(path) != mark.bytes for mark, (_, path) in zip(marks, paths, strict=True)):
            continue  # a file is missing or was changed: its items are written again
        largest = max(mark.bytes for mark in marks if mark is not None)
        (small if 2 * largest < FILE_BYTES else large).append(_Slice(tuple(paths)))
    return large if len(small) > SMALL_SLICES else [*large, *small]


def _digests(store: Store, one: _Slice) -> list[bytes]:
    """Of the slice's items; none where that cannot be read."""
    try:
        data = store.read_bytes(f"tables/{dict(one.paths)['media']}")
        return [bytes.fromhex(row) for row in pq.read_table(io.BytesIO(data), columns=["rows_digest"])[0].to_pylist()]
    except (KeyError, OSError, pa.ArrowException, TypeError, ValueError):
        return []


def _read_ahead(
    journal: Journal, items: Iterable[_Item], known: Mapping[bytes, object]
) -> Iterator[tuple[_Item, UnitObject | None]]:
    """The units of items that are not `known` (None where there is none), in order: `READERS` of them read at once, at
    most four times as many ahead."""
    wanted = ((item, key) for item in items if item.digest not in known for key in item.units or (None,))

    def submit(count: int) -> list[tuple[_Item, Future[UnitObject | None] | None]]:
        return [(item, pool.submit(journal.read_if_kept, key) if key else None) for item, key in islice(wanted, count)]

    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque(submit(4 * READERS))
        while waiting:
            item, reading = waiting.popleft()
            yield item, reading.result() if reading else None
            waiting.extend(submit(1))


# -- generations ------------------------------------------------------------------------------------------------------


def _readable(store: Store) -> Published | None:
    """A damaged manifest is as good as none: publishing is how it is mended."""
    try:
        return current(store)
    except JournalError:
        return None


def _claim(store: Store, before: Published | None) -> int:
    """A generation number of our own: two runs that publish at once must not write into one folder."""
    # Without a manifest there may be generations all the same: of a run that died, or whose manifest was damaged.
    generation = (before.generation if before else max(_generations(store), default=0)) + 1
    while not store.write_once(f"tables/generation={generation:06d}/_claimed", utc_now().encode()):
        generation += 1
    return generation


def _drop(store: Store, is_old: Callable[[int], bool], keep: Iterable[Published] = ()) -> None:
    """Delete what generations that are old left, but for the files that the generations to keep name."""
    for generation in filter(is_old, _generations(store)):
        store.sweep(f"tables/generation={generation:06d}/")
    named = {f"tables/{path}" for one in keep for paths in one.tables.values() for path in paths}
    listed = (path for path, _ in store.list("tables/") if path not in named)
    store.delete([path for path in listed if (found := generation_of(path)) is not None and is_old(found)])


def _generations(store: Store) -> set[int]:
    return {found for path, _ in store.list("tables/") if (found := generation_of(path)) is not None}
