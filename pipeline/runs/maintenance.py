"""Rebuilding, forgetting, and choosing what to retry."""

from __future__ import annotations

from omnidrop.errors import UserError
from pipeline.config.job import JobConfig
from pipeline.identity import media_id
from pipeline.index import sync
from pipeline.planning.open_job import open_output
from pipeline.planning.retry import Retry, Selected, Selection
from pipeline.tables import iceberg, manifest, publish


def select_failures(job: JobConfig, selection: Selection) -> Selected:
    """What `run_job` would do again with this selection. Raises UserError."""
    _, journal, index = open_output(job)
    try:
        sync.catch_up(journal, index)
        return Retry(index, job.name, selection).selected()
    finally:
        index.close()


def rebuild_results(job: JobConfig) -> manifest.Published:
    """Make index and tables again from the journal alone."""
    store, journal, index = open_output(job)
    try:
        sync.rebuild(journal, index)
        return publish.publish(store, journal, index, keeps_before=False, anew=True)
    finally:
        index.close()


def forget_media(job: JobConfig, key_or_id: str) -> int:
    """Erase a media item from journal, index and tables for good; returns how many work units went.

    Safe to repeat, also where it was interrupted. Raises UserError where no media item has that key or id.
    """
    store, journal, index = open_output(job)
    try:
        sync.catch_up(journal, index)
        found = {found_id for found_id, _ in index.find_media(key_or_id)}
        # Where forgetting was interrupted, the index may know the item no more, and a tombstone holds no key.
        found |= {key_or_id, media_id(job.archive.identity, key_or_id)} & journal.tombstones()
        if not found:
            raise UserError(
                f"there is no media item with the key or media_id {key_or_id!r} in {store.uri}; "
                '`omnidrop query "SELECT media_key, media_id FROM media"` lists them'
            )
        erased = sum(sync.forget(journal, index, found_id) for found_id in sorted(found))
        publish.publish(store, journal, index, keeps_before=False)
        iceberg.erase(store, job.resolved_index_url())
        return erased
    finally:
        index.close()
