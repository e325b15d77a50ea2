"""Rebuilding, forgetting, and choosing what to retry."""

from __future__ import annotations

from dataclasses import dataclass

from omnidrop.errors import OmniDropError, UserError
from pipeline.archive.listing import list_media
from pipeline.archive.probing import source
from pipeline.config.job import JobConfig
from pipeline.config.locations import as_typed
from pipeline.identity import ID_HEX, item_id, media_id
from pipeline.index import sync
from pipeline.journal.journal import Journal
from pipeline.normal_forms import normal_forms
from pipeline.planning.open_job import open_output
from pipeline.planning.retry import Retry, Selected, Selection
from pipeline.tables import iceberg, manifest, publish
from workers.media.decode import content_of
from workers.records import DecodeSettings


def select_failures(job: JobConfig, selection: Selection) -> Selected:
    """What `run_job` would do again with this selection. Raises UserError."""
    store, journal, index = open_output(job)
    try:
        sync.catch_up(journal, index)
        return Retry(store, index, job.name, selection).selected()
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


@dataclass(frozen=True)
class Forgotten:
    """What `forget` erased."""

    keys: tuple[str, ...]
    """All keys of the content, of all jobs."""
    units: int


def find_content(job: JobConfig, name: str) -> tuple[str, ...]:
    """All keys under which a content counts that has this key, media id or content id: what `forget_media` erases."""
    _, journal, index = open_output(job)
    try:
        sync.catch_up(journal, index)
        return tuple(dict.fromkeys(head.media_key for head in index.find_media(name)))
    finally:
        index.close()


def forget_media(job: JobConfig, name: str) -> Forgotten:
    """Erase a content from journal, index and tables for good, whatever it is called, by a key or id of it, and what
    was there before it and nowhere else.

    Safe to repeat, also where it was interrupted. Raises UserError where no media item has that key or id.
    """
    store, journal, index = open_output(job)
    try:
        sync.catch_up(journal, index)
        heads = index.find_media(name)
        found = {head.place[1] for head in heads} | {item_id(h.content_id) for h in heads if h.content_id is not None}
        # Where forgetting was interrupted, the index may know the item no more, and a tombstone holds no key.
        found |= _buried(job, journal, name)
        if not found:
            place = as_typed(job.output, job.storage.endpoint_url)
            raise UserError(
                f"{store.uri} holds no media item with the key, media_id or content_id {name!r}; "
                f'`omnidrop query {place} "SELECT media_key, media_id, content_id FROM media"` lists them'
            )
        labels = {head.media_id for head in heads}
        before = journal.only_under(labels) - found
        # What counts goes last: until then a repetition finds it.
        erased = sum(sync.forget(journal, index, one, labels) for one in sorted(before))
        erased += sum(sync.forget(journal, index, one) for one in sorted(found))
        publish.publish(store, journal, index, keeps_before=False)
        iceberg.erase(store, job.resolved_index_url())
        return Forgotten(tuple(dict.fromkeys(head.media_key for head in heads)), erased)
    finally:
        index.close()


def unforget_media(job: JobConfig, name: str) -> int:
    """Lift the ban on a forgotten content, by a key or id of it; the next run asks again what was erased.

    Returns how many tombstones went. Raises UserError where nothing of that name was forgotten, and what the archive
    raises where it had to be looked at for that and cannot be.
    """
    store, journal, index = open_output(job)
    try:
        found = _buried(job, journal, name)
        try:
            found |= {item_id(content) for content in _contents_at(job, name)} & journal.tombstones().contents
        except OmniDropError:
            if not found:
                raise
        if not found:
            raise UserError(
                f"nothing with the key, media_id or content_id {name!r} was forgotten in {store.uri}; a run lists the "
                "forgotten files that it skipped"
            )
        journal.unbury(*found, labels=sorted(found))
        return len(found)
    finally:
        index.close()


def _buried(job: JobConfig, journal: Journal, name: str) -> set[str]:
    labels = [media_id(job.archive.identity, form) for form in normal_forms(name)]
    stones = journal.tombstones()
    named = {one for one in (name, name[:ID_HEX], *labels) if one in stones}
    return named.union(*map(journal.buried_as, (*labels, name)))


def _contents_at(job: JobConfig, key: str) -> list[str]:
    """What lies at a key of the archive now."""
    media = [media for media in list_media(job.archive, leave_out=job.output) if media.key in normal_forms(key)]
    return [content_of(one, DecodeSettings(), source(job)) for one in media]
