"""How everything is named: versions, clips and work units get ids from content, never from a name, a place or a date.

Promises: the same content and recipe give the same ids on any machine, under any key and in any job, and anything that
changes an answer changes the id. Knows nothing about where ids are used.

The chain is `content_id -> version_id -> clip_id -> unit_id`: a content is the SHA-256 of a file's bytes, a version is
a content under one recipe, a clip is a span of a version, a work unit is its clips. A `media_id` is a label: an
archive's name and a key. Journals before format 4 named versions after label, etag and job (`earlier_version_id`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from omnidrop.errors import UserError

ID_HEX = 32
"""Ids are 128 bits in hexadecimal: among 10^9 clips a collision has probability 1.5e-21."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def checked_run_id(given: str) -> str:
    """A run's name as a scheduler gives it; it becomes part of object names. Raises UserError."""
    if not _RUN_ID.fullmatch(given):
        raise UserError(
            f"the run id {given!r} must be 1 to 128 letters, digits, - and _, and must not begin with - or _"
        )
    return given


def content_id(*parts: object) -> str:
    """Hash of the parts' canonical JSON, `ID_HEX` characters. Parts are JSON values; floats must be avoided."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=ID_HEX // 2).hexdigest()


def recipe_hash(fields: Mapping[str, object]) -> str:
    """Hash of everything that changes an answer (see `planning.make_recipe`)."""
    return content_id("recipe", dict(fields))


def version_id(content: str, recipe: str, labels: Iterable[tuple[str, str]] = (), answer_format: int = 0) -> str:
    """One content under one recipe, answered by one version of decoding and method.

    `labels` are what the question set's templates read of the item's key: where they read nothing, a name is no part.
    """
    return content_id("content", content, recipe, sorted(labels), answer_format)


def earlier_version_id(job: str, media_id: str, etag: str, recipe: str) -> str:
    """What journals before format 4 called it: one etag of a labelled item, under one job and recipe."""
    return content_id("version", job, media_id, etag, recipe)


def item_id(content: str) -> str:
    """A content's short name, in the journal's paths: the first half of its SHA-256."""
    return content[:ID_HEX]


BUCKETS = 64
"""Files of a published table. Never changed: a row must not move from one file to another."""


def bucket_of(item_id: str) -> int:
    """Which file of each published table has a content's rows, from 1: by its hash, for ever."""
    return 1 + int(item_id[:8], 16) % BUCKETS


def unread_content(media_id: str, etag: str) -> str:
    """What stands for the content of an item that cannot be read: nothing else is known of it."""
    return content_id("unread", media_id, etag)


def failed_version_id(version: str) -> str:
    """What a version is called while nothing can be asked of it: when that passes, the failure stops counting."""
    return content_id("failed", version)


def clip_id(version: str, start_s: float, end_s: float) -> str:
    """A span of a version; times are hashed as whole microseconds."""
    return content_id("clip", version, round(start_s * 1e6), round(end_s * 1e6))


def unit_id(version: str, clip_ids: Iterable[str]) -> str:
    """A work unit: its clips. A version that cannot be cut (its media failed) has one unit without clips."""
    return content_id("unit", version, list(clip_ids))


def media_id(archive: str, key: str) -> str:
    """A media item's label: 32 hex digits over the archive's name and the key."""
    return hashlib.blake2b(f"{len(archive)}:{archive}{key}".encode(), digest_size=16).hexdigest()
