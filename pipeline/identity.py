"""How everything is named: media, versions, clips and work units get ids from content, never from position or date.

Promises: the same archive, job and recipe give the same ids on any machine, and anything that changes an answer changes
the id. Knows nothing about where ids are used.

The chain is `media_id -> version_id -> clip_id -> unit_id`: a media item is an archive's name and a key, a version is
one content of it (etag) under one job and one recipe, a clip is a span of a version, a work unit is its clips.
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
        raise UserError(f"the run id {given!r} must be 1 to 128 letters, digits, - and _, beginning with no - or _")
    return given


def content_id(*parts: object) -> str:
    """Hash of the parts' canonical JSON, `ID_HEX` characters. Parts are JSON values; floats must be avoided."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=ID_HEX // 2).hexdigest()


def recipe_hash(fields: Mapping[str, object]) -> str:
    """Hash of everything that changes an answer (see `planning.make_recipe`)."""
    return content_id("recipe", dict(fields))


def version_id(job: str, media_id: str, etag: str, recipe: str) -> str:
    """One content of a media item, under one job and recipe."""
    return content_id("version", job, media_id, etag, recipe)


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
    """A media item's identity: 32 hex digits over the archive's name and the key."""
    return hashlib.blake2b(f"{len(archive)}:{archive}{key}".encode(), digest_size=16).hexdigest()
