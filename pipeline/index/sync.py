"""Brings the savings index to what the journal says, and erases what was forgotten from both.

Promises: after `catch_up` the index knows every finished unit and every declared version, whoever wrote them and
wherever that writer died; after `rebuild` it holds nothing else. Knows nothing about media, models or Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.batches import batches
from pipeline.failpoints import reached
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import HEADS, Journal, head_number
from pipeline.records.heads_and_runs import Head
from pipeline.records.unit import CONTENTS, UnitKey

log = logging.getLogger(__name__)

LISTING_BATCH = 2_000
"""Units compared with the index at once."""
READERS = 8


def catch_up(journal: Journal, index: SavingsIndex, advance: Callable[[int], None] = lambda units: None) -> int:
    """Apply what the index has not seen; returns how many units and records of whole videos it took up. `advance` is
    called with the number of units.

    Costs one listing of the journal and one more of its pointers, and no read where nothing has changed, however many
    runs there were before. Where the journal lost units that the index knows, or pointers (someone deleted objects), it
    is rebuilt. What was forgotten leaves both, also where forgetting was interrupted.
    """
    return rebuild(journal, index, advance) if lost_heads(journal, index) else _catch_up(journal, index, advance)


def lost_heads(journal: Journal, index: SavingsIndex | None = None) -> list[int]:
    """Numbers of pointer objects that the journal had, as those after them say, or the index, and has no more."""
    mark = None if index is None else index.heads_mark()
    known = set() if mark is None else {head_number(mark)}

    def missing() -> set[int]:
        there = set(map(head_number, journal.head_paths()))
        last = max(there | known, default=0)
        return set(range(1, last + 1)) - there

    # What is written during a listing may be missing from it, what is lost is missing from the next one, too.
    return sorted(missing() and missing())


def _catch_up(journal: Journal, index: SavingsIndex, advance: Callable[[int], None]) -> int:
    forgotten = journal.tombstones()
    index.forget(sorted(forgotten.all))
    for path, heads in journal.heads_after(index.heads_mark()):
        declare(journal, index, [h for h in heads if not forgotten.has(h)], path)
    taken, listed, lost = 0, 0, 0
    for batch in batches(journal.units(), LISTING_BATCH):
        listed += len(batch)
        known = index.attempts([key.unit_id for key in batch])
        missing = [key for key in batch if known.get(key.unit_id, -1) < key.attempt]
        lost += sum(known.get(key.unit_id, -1) > key.attempt for key in batch)
        late = [key for key in missing if key.item_id in forgotten]
        if late:
            journal.drop(late)
        taken += _take_up(journal, index, [key for key in missing if key.item_id not in forgotten], advance)
    new, videos = _catch_up_videos(journal, index, forgotten.all)
    taken += new
    sync_runs(journal, index)
    if lost or index.count(index.tables.units) > listed or index.count(index.tables.videos) > videos:
        log.warning("the index has work that is missing from the journal; rebuilding the index")
        return rebuild(journal, index, advance)
    return taken


def _catch_up_videos(journal: Journal, index: SavingsIndex, forgotten: Collection[str]) -> tuple[int, int]:
    """Apply what was answered about whole videos; returns how much was new, and how much there is."""
    taken = listed = 0
    for batch in batches(journal.videos(), LISTING_BATCH):
        listed += len(batch)
        known = index.videos_of(sorted({key.version_id for key in batch}))
        late = [key for key in batch if key.item_id in forgotten]
        if late:
            journal.drop(late)
        missing = [
            key
            for key in batch
            if key.item_id not in forgotten
            and ((there := known.get((key.version_id, key.inputs))) is None or there.key.attempt < key.attempt)
        ]
        with ThreadPoolExecutor(READERS) as pool:
            index.apply_videos([v for v in pool.map(journal.read_video_if_kept, missing) if v is not None])
        taken += len(missing)
    return taken, listed


def sync_runs(journal: Journal, index: SavingsIndex) -> list[str]:
    """Bring the records of runs in the index up to the journal's, and return the ids of the journal's runs, in order.

    Costs one listing, and reads of what is new or has changed. A record is replaced once, when its run ends, and then
    is longer: what has the size known is what is known.
    """
    known = index.run_sizes()
    listed = dict(journal.run_sizes())
    changed = [run_id for run_id, size in listed.items() if known.get(run_id) != size]
    if changed:
        with ThreadPoolExecutor(READERS) as pool:
            index.write_runs(stored for stored in pool.map(journal.read_run, changed) if stored is not None)
    return list(listed)


def declare(journal: Journal, index: SavingsIndex, heads: Sequence[Head], mark: str | None = None) -> None:
    """Make versions count in the index; units that count again (a change was taken back) are read from the journal."""
    again = index.apply_heads(heads, mark)
    reached("heads_applied")
    _take_up(journal, index, again, lambda units: None)


def rebuild(journal: Journal, index: SavingsIndex, advance: Callable[[int], None] = lambda units: None) -> int:
    """Empty the index (the probe cache stays) and fill it from the journal alone; returns the number of units.

    Where pointers are lost, that is said, once.
    """
    lost = lost_heads(journal, index)
    index.clear()
    reached("index_cleared")
    if lost:
        log.warning(
            "%d current-version pointer objects are missing (the first: %s%012d-*.parquet): someone deleted them, or "
            "`forget` of an earlier version did. The index is rebuilt from what is there: until `omnidrop index` has "
            "run for each job of this output, media items may be missing, or count as they were before. Finished "
            "answers are kept and not asked again",
            *(len(lost), HEADS, lost[0]),
        )
        journal.mark_lost(lost)
    return _catch_up(journal, index, advance)


def forget(journal: Journal, index: SavingsIndex, item_id: str, once_under: Collection[str] = ()) -> int:
    """Erase a content from journal and index for good; returns how many units went. The tables must be published.

    `once_under` are media ids under which it counted before something else did.
    """
    groups = {CONTENTS, *index.jobs(), *(group for group, _ in index.groups_of([item_id]))}
    labels = {head.media_id for head in index.find_media(item_id)}
    erased = journal.forget(item_id, sorted(groups), labels, once_under)
    index.forget([item_id])
    reached("forget_index")
    return erased


def _take_up(journal: Journal, index: SavingsIndex, keys: list[UnitKey], advance: Callable[[int], None]) -> int:
    with ThreadPoolExecutor(READERS) as pool:
        for batch in batches(keys, 200):
            objects = [unit for unit in pool.map(journal.read_if_kept, batch) if unit is not None]
            index.apply_units(objects)
            advance(len(objects))
    return len(keys)
