"""Decodes a unit's clips one after the other, from local files or from the node's cache of a bucket's files.

Promises: every clip of a unit comes back, in order, as a `DecodedClip` or as a `ClipFailure` with a stable class; only
one decoded clip is held at a time; a file that differs from the planned one gives no answers, by its etag before and
after, and by its bytes where a local file was changed and has its old size and time. Knows nothing about Ray, ffmpeg's
arguments or its callers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omnidrop.errors import OmniDropError
from workers.errors import CacheFull, MediaChanged, MediaMissing, MediaTooLarge
from workers.media import nvdec
from workers.media.arriving import Arriving
from workers.media.blocks import InBlocks
from workers.media.clip_reader import decode_clip
from workers.media.confinement import require
from workers.media.early import Early, EarlyClip
from workers.media.fetching import CacheSettings, fetched, is_here
from workers.media.ffmpeg import tool_here, with_working_ffmpeg
from workers.media.opening import CheckedPath, Copy, changed_since, etag_of, local_path, mark_of, opened_below
from workers.media.remote import bytes_fetched
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings, Media, MediaInfo, Stage, WorkUnit

Found = TypeVar("Found")


@dataclass(frozen=True)
class Source:
    """How media are opened: store options, cache, and what this machine may open."""

    storage_options: tuple[tuple[str, Any], ...] = ()
    """Options of `fsspec.filesystem`, by name: `endpoint_url`, `anon`, ... Never credentials: these come from the
    environment or the standard files of the machine that decodes."""
    cache: CacheSettings = field(default_factory=CacheSettings)
    is_confined: bool = False
    """Whether local files are opened only below the folder that their keys are relative to."""
    is_helping: bool = False
    """Whether another machine has the whole file: this one then reads it in blocks."""

    @classmethod
    def of(cls, options: Mapping[str, Any], cache: CacheSettings | None = None) -> Source:
        """Make one from a dictionary of options."""
        return cls(tuple(sorted(options.items())), cache or CacheSettings())


def local_etag(path: str | int) -> str:
    """The etag of a local file, as in an archive listing. Raises MediaMissing."""
    try:
        return etag_of(os.stat(path))
    except OSError as error:
        raise MediaMissing(f"cannot open {path!r}: {error.strerror}") from error


def decode_unit(
    unit: WorkUnit, settings: DecodeSettings, source: Source | None = None
) -> Iterator[DecodedClip | ClipFailure]:
    """Yield one outcome for each of the unit's clips, in order; an object in a bucket is fetched once for all of them.

    Never raises for faults of the media, the store or a clip.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(opened(unit.media, settings, source or Source()))
        except Exception as error:  # noqa: BLE001 - a generator that raises would lose the other clips
            yield from (_failure(clip, "fetch", error) for clip in unit.clips)
            return
        for clip in unit.clips:
            yield _decoded(path, unit.media, unit.info, clip, settings)


def decode_one(
    media: Media, info: MediaInfo, clip: Clip, settings: DecodeSettings, source: Source | None = None
) -> DecodedClip | ClipFailure:
    """The same for a single clip: the body of a decode task. Never raises for faults of the media or the store."""
    try:
        with opened(media, settings, source or Source()) as path:
            return _decoded(path, media, info, clip, settings)
    except Exception as error:  # noqa: BLE001 - named in quarantine instead
        return _failure(clip, "fetch", error)


def opened(media: Media, settings: DecodeSettings, source: Source) -> AbstractContextManager[str | InBlocks]:
    """Open a media item for decoding inside the `with` block: the local file, its copy in the node's cache, or, if the
    item is larger than the cache, its blocks.

    Raises MediaTooLarge, MediaMissing, MediaChanged, StorageFailed, CacheFull or ConfinementMissing.
    """
    _admit(media, settings)
    if is_local(media.uri):
        return _opened_here(media, source)
    options = dict(source.storage_options)
    is_elsewhere = source.is_helping and not is_here(media, source.cache)
    if is_elsewhere or media.size_bytes > source.cache.max_bytes:
        return contextlib.nullcontext(InBlocks(media, options, source.cache))
    return fetched(media, options, source.cache)


def decoder_here(settings: DecodeSettings) -> str:
    """This machine's name and ffmpeg, and its video decoder if a GPU was considered."""
    return "; ".join(said for said in (tool_here(), nvdec.said(settings)) if said)


def content_of(media: Media, settings: DecodeSettings, source: Source) -> str:
    """SHA-256 of a media item's bytes, 64 hex digits; objects of a bucket are read through the node's cache.

    Raises what `opened` raises, and MediaChanged where the file changes while it is read.
    """
    return look(media, settings, source, lambda path: None)[0]


def look(
    media: Media,
    settings: DecodeSettings,
    source: Source,
    find: Callable[[str], Found],
    meanwhile: Callable[[Arriving], None] | None = None,
) -> tuple[str, Found | None]:
    """SHA-256 of a file or object and the result of `find` on it (for an object: its cached copy), in one read from
    the store, which also serves its clips. None instead of the result if the cache has no room: the object was then
    read for its hash alone. `meanwhile` gets an object as it enters the cache, in a thread of its own.

    Raises what `opened` and `find` raise, and MediaChanged if the file changes during the read.
    """
    if is_local(media.uri):
        with opened(media, settings, source) as path:
            assert isinstance(path, str)
            return _hash(media, path), find(path)
    _admit(media, settings)
    options, cache = dict(source.storage_options), source.cache
    if media.size_bytes > cache.max_bytes:
        return InBlocks(media, options, cache).sha256(), None
    came, whole = 0, hashlib.sha256()

    def seen(piece: memoryview) -> None:
        nonlocal came
        came += len(piece)
        whole.update(piece)

    try:
        with fetched(media, options, cache, seen, meanwhile) as path:
            if came != media.size_bytes:
                with open(path, "rb") as file:
                    whole = hashlib.file_digest(file, "sha256")
            return whole.hexdigest(), find(path)
    except CacheFull:
        return InBlocks(media, options, cache).sha256(), None


def _hash(media: Media, path: str) -> str:
    try:
        # The file that was opened and checked, whatever is at its path by now.
        with open(os.dup(path.fd) if isinstance(path, CheckedPath) else path, "rb") as file:
            before = mark_of(os.fstat(file.fileno()))
            found = hashlib.file_digest(file, "sha256").hexdigest()
            is_torn = changed_since(before, os.fstat(file.fileno()))
    except OSError as error:
        raise MediaMissing(f"cannot read {media.key!r}: {error.strerror}") from error
    if isinstance(path, CheckedPath):
        _check_unchanged(media, path.fd)
        if is_torn:
            raise MediaChanged(f"{media.key}: changed while it was read; run again")
    return found


def _admit(media: Media, settings: DecodeSettings) -> None:
    """Raise ConfinementMissing if this machine may not open media, DecoderMissing if it lacks the required decoder,
    MediaTooLarge if the item exceeds the limit."""
    require(settings.confinement)
    nvdec.require(settings)
    if media.size_bytes > settings.max_media_bytes:
        raise MediaTooLarge(f"{media.size_bytes} bytes; max_media_bytes is {settings.max_media_bytes}")


@dataclass(frozen=True)
class Looked:
    """The result of looking at a file or object on the machine that stores it."""

    content_id: str | None
    """None if it could not be read: `found` says why."""
    found: MediaInfo | ClipFailure | None
    """None if it was not cached and must be probed in its store."""
    bytes_fetched: int
    early: tuple[EarlyClip, ...] = ()
    """Clips of it that were decoded while it was fetched."""


def looked_at(
    media: Media, source: Source, probed: Callable[[Copy], MediaInfo | ClipFailure], early: Early | None = None
) -> Looked:
    """`look` with a prober that does not raise. Never raises for faults of the object or its store."""
    before = bytes_fetched()

    def find(path: str) -> MediaInfo | ClipFailure:
        return early.info if early is not None and early.info is not None else probed(Copy.of(path, media.key))

    try:
        content, found = look(media, DecodeSettings(), source, find, early)
    except OmniDropError as error:
        failure = ClipFailure(None, "probe", error.error_class, str(error))
        return Looked(None, failure, bytes_fetched() - before)
    return Looked(content, found, bytes_fetched() - before, tuple(early.clips) if early is not None else ())


@contextlib.contextmanager
def opened_for_words(media: Media, settings: DecodeSettings, source: Source) -> Iterator[str]:
    """Path or address of a file for who reads its subtitles: where it is kept, if it is.

    Raises what `opened` raises, and MediaChanged where a local file changes meanwhile.
    """
    with opened(media, settings, source) as path:
        yield path if isinstance(path, str) else media.uri
        if isinstance(path, CheckedPath):
            _check_unchanged(media, path.fd)


def folder_of(media: Media, source: Source) -> str | None:
    """The folder that a local file must be in, None if it may be anywhere."""
    # The archive's own folder: strip as many path components as the key has.
    return local_path(media.uri).rsplit("/", media.key.count("/") + 1)[0] if source.is_confined else None


@contextlib.contextmanager
def _opened_here(media: Media, source: Source) -> Iterator[str]:
    with opened_below(media.uri, folder_of(media, source)) as path:
        _check_unchanged(media, path.fd)
        yield path


def is_local(uri: str) -> bool:
    """Whether a URI names a file on this machine."""
    return local_path(uri).startswith("/")


def _decoded(
    path: str | InBlocks, media: Media, info: MediaInfo, clip: Clip, settings: DecodeSettings
) -> DecodedClip | ClipFailure:
    try:
        decoded = with_working_ffmpeg(lambda: decode_clip(path, info, clip, settings))
        if is_local(media.uri):
            # Half of the old file and half of the new one must not make an answer.
            _check_unchanged(media)
    except Exception as error:  # noqa: BLE001 - one bad clip costs that clip
        return _failure(clip, "decode", error)
    return decoded


def _check_unchanged(media: Media, fd: int | None = None) -> None:
    where = local_path(media.uri) if fd is None else fd
    found = local_etag(where)
    if found != media.etag:
        raise MediaChanged(
            f"{media.key}: planned with etag {media.etag}, now {found}; the file was replaced; run again"
        )
    now = os.stat(where)
    # A link, a permission, or other bytes under the same size and time: only the bytes tell.
    may_differ = media.mark and media.content_id and changed_since(media.mark, now)
    if may_differ and _content_at(media.uri, mark_of(now)) != media.content_id:
        raise MediaChanged(f"{media.key}: other bytes than planned, of the same size and time; run again")


@functools.lru_cache(maxsize=1024)
def _content_at(uri: str, mark: str) -> str | None:
    """SHA-256 of a local file that has this mark before and after it is read, else None."""
    with opened_below(uri) as path, open(os.dup(path.fd), "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return found if mark_of(os.fstat(path.fd)) == mark else None


def _failure(clip: Clip, stage: Stage, error: Exception) -> ClipFailure:
    if isinstance(error, OmniDropError):
        return ClipFailure(clip, stage, error.error_class, str(error))
    return ClipFailure(clip, stage, "internal", f"{type(error).__name__}: {error}"[:1000])
