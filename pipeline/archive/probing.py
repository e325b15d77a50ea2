"""Probes media for the planner: containers and streams in confined children, scene cuts where the job asks for them,
and what the files hold, by hash.

Promises: every item asked about is yielded once, as what was found or as a named failure; a file is read whole once,
on one of the machines that decode where there are several, and an object of a bucket as it comes into that machine's
cache, from which its clips are decoded. Knows nothing about
caching (the planner's) or how a probe works (`workers.media.probing`, `workers.media.scenes`).
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from threading import BoundedSemaphore, Event
from typing import Protocol

from omnidrop.errors import OmniDropError
from pipeline.archive.decoded_early import DecodedEarly
from pipeline.config.job import JobConfig
from pipeline.config.locations import is_s3
from pipeline.config.sections import ArchiveConfig, ExecutionConfig
from pipeline.failure_rules import rule_of
from pipeline.storage.s3_client import s3_options
from workers.errors import MediaTooLarge, NotMedia, Sidecar
from workers.media.confinement import require
from workers.media.decode import Looked, Source, content_of, is_local, looked_at, opened
from workers.media.early import Early
from workers.media.fetching import CacheSettings
from workers.media.ffmpeg import with_working_ffmpeg
from workers.media.probing import ProbePool
from workers.media.scenes import find_scene_cuts
from workers.media.sidecars import suffix_of
from workers.records import ClipFailure, DecodeSettings, Media, MediaInfo, RawCue


@dataclass(frozen=True)
class Probed:
    """What is known of one media item's content: `info`, or the failure of probing it; scene cuts where asked for."""

    info: MediaInfo | None
    failure: ClipFailure | None = None
    scene_cuts_s: tuple[float, ...] | None = None
    """Seconds from the media's start, None where not looked for."""
    scene_threshold: float | None = None
    content_id: str | None = None
    """SHA-256 of the bytes, None where they could not be read, or need not be: of what is no media."""
    is_scanned: bool = False
    """Whether every packet was to be read where no index tells the timeline."""

    @property
    def is_beside_media(self) -> bool:
        """Whether name and content say that it lies beside media."""
        return self.failure is not None and self.failure.error_class == Sidecar.error_class

    @property
    def is_not_media(self) -> bool:
        """Whether it is in no container that is asked about."""
        return self.failure is not None and self.failure.error_class in (NotMedia.error_class, Sidecar.error_class)


Prober = Callable[[Sequence[Media]], Iterable[tuple[Media, Probed]]]
"""Probes media that are not in the cache, in any order."""


class Elsewhere(Protocol):
    """Looks at files and objects on other machines."""

    def machines(self) -> int:
        """How many there are; 1 where all is looked at here."""
        ...

    def __call__(self, media: Media) -> Looked | None:
        """What is in it; None where it is to be looked at here."""
        ...

    def subtitles(self, media: Media, index: int) -> tuple[RawCue, ...] | ClipFailure | None:
        """What an object's stream of text subtitles says; None where it is to be read here."""
        ...


MORE_MEDIA = frozenset(
    {
        *("mkv", "mka", "mk3d", "webm", "weba", "ts", "m2ts", "mts", "m2t", "tp", "trp", "m2p", "vob", "evo"),
        *("tod", "mp4", "m4v", "m4a", "m4b", "f4v", "mov", "qt", "3gp", "3g2", "3ga", "avi", "divx", "flv"),
        *("asf", "wmv", "wma", "mxf", "gxf", "dv", "nut", "ivf", "rm", "rmvb", "ogg", "ogv", "oga", "ogx", "spx"),
        *("opus", "wav", "wave", "w64", "rf64", "bwf", "aif", "aiff", "aifc", "caf", "au", "flac", "mp3", "aac"),
        *("ac3", "eac3", "ec3", "amr", "awb", "h264", "264", "hevc", "h265", "265"),
    }
)
"""Ends of names that say media: of every container that is read, and of some that are not. A machine's table of types
may lack one, or have it as something else."""
LOOKS = 32
"""Files and objects that are looked at at once, on a cluster."""
LOOKS_HERE = 2
"""On this machine: each holds `execution.fetch_streams` pieces of 8 MiB (16 from 512 MiB on), and two more."""
CHILDREN = max(2, min(16, os.cpu_count() or 2))
"""Probing processes: a probe waits for the disk or the network most of the time."""


@contextmanager
def prober(
    job: JobConfig, *, scans: bool = True, elsewhere: Elsewhere | None = None, early: DecodedEarly | None = None
) -> Iterator[Prober]:
    """A prober for one run; its processes end with the block.

    What waits to be read then is not read any more. With `scans`, every packet is read of files whose timeline no index
    tells. `elsewhere` is where files are looked at whose content is not known yet; `early` takes first clips that are
    decoded while a file is fetched here.
    """
    require(job.execution.confinement)
    where = source(job)
    with ExitStack() as stack:
        limit_s, options = job.execution.probe_timeout_s, dict(where.storage_options)
        below = job.archive.uri if where.is_confined else None
        pool = stack.enter_context(
            ProbePool(CHILDREN, timeout_s=limit_s, storage_options=options, scans=scans, below=below)
        )
        here, is_over = BoundedSemaphore(LOOKS_HERE), Event()
        looks = stack.enter_context(ThreadPoolExecutor(LOOKS, thread_name_prefix="looks"))
        passes = stack.enter_context(ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="scenes"))
        stack.callback(is_over.set)

        def probe(items: Sequence[Media]) -> Iterator[tuple[Media, Probed]]:
            is_whole = [_is_fetched(media) or _is_elsewheres(media, elsewhere) for media in items]
            others = [media for media, is_one in zip(items, is_whole, strict=True) if not is_one]
            # Read before it is probed: its hash, its packets and, of an object, its clips need it once.
            seen = looks.map(lambda media: (media, look_at(media)), compress(items, is_whole))
            found = ((m, _probed(r, scans)) for m, r in pool.probe_many((m, m.uri) for m in others))
            yield from passes.map(lambda pair: (pair[0], _read(pair[0], pair[1], job, where)), found)
            yield from seen

        def look_at(media: Media) -> Probed:
            looked = None if elsewhere is None else elsewhere(media)
            if looked is None:
                with here:
                    if is_over.is_set():
                        raise RuntimeError("this prober is closed")
                    looked = look_here(media)
            if looked.content_id is None:
                assert isinstance(looked.found, ClipFailure)
                return _probed(looked.found, scans)
            found = _probed(probed_here(media.uri) if looked.found is None else looked.found, scans)
            return _read(replace(media, content_id=looked.content_id), found, job, where)

        def look_here(media: Media) -> Looked:
            wish = None if early is None else early.wish(media)
            if early is None or wish is None:
                return looked_at(media, where, probed_here)
            looked = looked_at(media, where, probed_here, Early(media, wish, pool))
            early.came(media, looked.early)
            return looked

        def probed_here(path: str) -> MediaInfo | ClipFailure:
            ((_, result),) = pool.probe_many([(None, path)])
            return result

        yield probe


def _is_fetched(media: Media) -> bool:
    """Whether an object is to be read whole: it is called like media, and its content is not known."""
    is_one = not is_local(media.uri) and media.content_id is None and is_named_as_media(media.key)
    return is_one and media.size_bytes <= DecodeSettings.max_media_bytes


def _is_elsewheres(media: Media, elsewhere: Elsewhere | None) -> bool:
    """Whether a local file is to be read whole on another machine: all that decode mount the archive."""
    is_one = is_local(media.uri) and media.content_id is None and is_named_as_media(media.key)
    return is_one and elsewhere is not None and elsewhere.machines() > 1


def is_named_as_media(key: str) -> bool:
    """Whether a file is called as if it were a video or a sound: then it is named where it is none."""
    kind, _ = mimetypes.guess_type(key, strict=False)
    return suffix_of(key)[1:] in MORE_MEDIA or (kind is not None and kind.partition("/")[0] in ("video", "audio"))


def _probed(result: MediaInfo | ClipFailure, scans: bool) -> Probed:
    if isinstance(result, ClipFailure):
        return Probed(None, result, is_scanned=scans)
    return Probed(result, is_scanned=scans)


def source(job: JobConfig) -> Source:
    """How the job's files are reached from a worker."""
    return source_of(job.archive, job.execution)


def source_of(archive: ArchiveConfig, execution: ExecutionConfig | None = None) -> Source:
    """How an archive's files are reached from a worker."""
    if not is_s3(archive.uri):
        return Source(is_confined=not archive.follow_links)
    return Source.of(s3_options(archive.endpoint_url, anonymous=archive.anonymous), cache_of(execution))


def cache_of(execution: ExecutionConfig | None) -> CacheSettings:
    """Where and how a machine keeps what it fetches."""
    if execution is None:
        return CacheSettings()
    return CacheSettings(execution.cache_dir, execution.cache_bytes, execution.fetch_streams)


def _read(media: Media, probed: Probed, job: JobConfig, where: Source) -> Probed:
    """With scene cuts, and with the content where anything is to be kept of the item."""
    if job.clips.cut == "scene":
        probed = _with_cuts(media, probed, job.clips.scene_threshold, where)
    if media.content_id is not None:
        return replace(probed, content_id=media.content_id)
    is_out_of_reach = probed.failure is not None and rule_of(probed.failure.error_class).may_pass
    if is_out_of_reach or (probed.is_not_media and not is_named_as_media(media.key)):
        return probed
    try:
        return replace(probed, content_id=content_of(media, DecodeSettings(), where))
    except MediaTooLarge:
        return probed  # decoding says so, too
    except OmniDropError as error:
        if probed.failure is not None:
            return probed  # the prober said it first
        return Probed(None, ClipFailure(None, "fetch", error.error_class, str(error)))


def _with_cuts(media: Media, probed: Probed, threshold: float, where: Source) -> Probed:
    if probed.info is None:
        return probed
    try:
        with opened(media, DecodeSettings(), where) as path:
            info = probed.info
            cuts = with_working_ffmpeg(lambda: find_scene_cuts(path, info, threshold))
    except OmniDropError as error:
        return Probed(None, ClipFailure(None, "plan", error.error_class, f"scene cuts: {error}"))
    return replace(probed, scene_cuts_s=cuts, scene_threshold=threshold)
