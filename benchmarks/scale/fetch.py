"""Files of a store that is far away, from the first byte to the last decoded clip: what a run does, without a model.

A real S3 server (rclone over a folder) behind a proxy with 30 ms before each reply and 80 MB/s a connection; files are
a second of real video, repeated up to their size, with an index. Simulated machines have a cache and decoding threads
each; a file is looked at (fetched, hashed, probed, its first clips decoded meanwhile) ahead of decoding and its clips
are decoded on its home (`home_of`), as in a run on a cluster. `is_as_before` looks at all files on the first machine
and deals clips to the machines in turn, with one range in flight, no copy before the hash, and no stage ahead: what a
run did before there was such a stage.

`bytes_read_over_archive`: bytes that came from the store over the archive's. `decode_busy_share`: share of the time in
which decoding threads decoded, from when the first file's hash is known (before which at most one of them may decode)
to the last clip; `busy_share_from_first_clip`: the same from the first decoded clip. `first_clip_s`, `all_s`: from the
start.
`first_usable_s`: until the first decoded clip of a file whose hash is known, which may be asked. `whole_s`: the
largest file whole, hashed, into an empty cache, the least of three times.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import s3fs

from benchmarks.scale.slow_store import slow_store
from pipeline.archive.decoded_early import CLIPS, LEAST_BYTES
from pipeline.execution.homes import home_of
from tests.support.s3_server import rclone_server
from workers.media.decode import Source, decode_one, look, looked_at
from workers.media.early import Early, EarlyClip, Wish
from workers.media.fetching import CacheSettings
from workers.media.ffmpeg import find_ffmpeg
from workers.media.probing import ProbePool, probe
from workers.media.remote import bytes_fetched
from workers.media.tracks import chosen
from workers.records import Clip, ClipFailure, DecodeSettings, Media, MediaInfo

LATENCY_S, BYTES_PER_S = 0.03, 80e6
SIZES_MB = (50.0, 20.0, 20.0)
"""Quick: `--megabytes 2000 500 50 50` is the size of the lab log's table."""
CLIP_S = 10.0
PICTURES = "testsrc2=size=1280x720:rate=25:duration=1,noise=alls=20:allf=t"
DECODERS = max(1, os.cpu_count() or 1)
FILES_AHEAD = 2
WHOLE = 3
"""How often a file is fetched by itself: the least counts, since nothing but others' work makes it longer."""


@dataclass(frozen=True)
class Fetched:
    """One archive read and decoded."""

    bytes_read_over_archive: float
    decode_busy_share: float
    busy_share_from_first_clip: float
    first_clip_s: float
    first_usable_s: float
    all_s: float
    whole_s: float
    archive_bytes: int
    clips: int
    clips_early: int
    """Of these, so many were decoded while their file was fetched."""
    machines: int
    streams: int
    is_as_before: bool

    def __str__(self) -> str:
        return (
            f"{self.archive_bytes / 1e6:.0f} MB, {self.clips} clips, {self.machines} machines, {self.streams} ranges "
            f"in flight: {self.bytes_read_over_archive:.2f} times the archive read, decoding busy "
            f"{self.decode_busy_share:.0%} ({self.busy_share_from_first_clip:.0%} from the first clip), first clip "
            f"after {self.first_clip_s:.1f} s, usable after {self.first_usable_s:.1f} s, all after {self.all_s:.1f} s; "
            f"{self.clips_early} clips decoded early; the largest file whole in {self.whole_s:.1f} s"
        )


@dataclass(frozen=True)
class _Machine:
    name: str
    source: Source
    decoding: ThreadPoolExecutor


def measure(
    megabytes: Sequence[float] = (),
    machines: int = 1,
    *,
    cache_bytes: int = CacheSettings.max_bytes,
    is_as_before: bool = False,
) -> Fetched:
    """Read and decode an archive of files of so many megabytes each, with caches of so many bytes."""
    with tempfile.TemporaryDirectory(prefix="omnidrop-fetch-") as name, rclone_server("archive") as address:
        folder = Path(name)
        files = _put(folder, address, tuple(megabytes) or SIZES_MB)
        with slow_store(address, latency_s=LATENCY_S, bytes_per_s=BYTES_PER_S) as slow:
            return _measured(folder, slow, files, machines, cache_bytes, is_as_before)


def _put(folder: Path, address: str, megabytes: Sequence[float]) -> list[Media]:
    """Make the files, and put them into the store."""
    store = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
    made = [find_ffmpeg(), "-v", "error", "-y"]
    second = folder / "second.mp4"
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-b:v", "20M"]
    subprocess.run([*made, "-f", "lavfi", "-i", PICTURES, *encode, str(second)], check=True)
    files = []
    for number, size in enumerate(megabytes):
        times = max(0, round(size * 1e6 / second.stat().st_size) - 1)
        path, key = folder / "made.mp4", f"archive/{number}.mp4"
        subprocess.run([*made, "-stream_loop", str(times), "-i", str(second), "-c", "copy", str(path)], check=True)
        store.put_file(str(path), key)
        found = store.info(key)
        etag = str(found["ETag"]).strip('"')
        files.append(Media(f"{number:032x}", f"{number}.mp4", f"s3://{key}", etag, int(found["size"])))
        path.unlink()
    return files


def _measured(
    folder: Path, address: str, files: Sequence[Media], machines: int, cache_bytes: int, is_as_before: bool
) -> Fetched:
    streams = 1 if is_as_before else CacheSettings.streams
    options = {"endpoint_url": address}
    there = [
        _Machine(
            f"machine {number}",
            Source.of(options, CacheSettings(str(folder / f"cache-{number}"), cache_bytes, streams)),
            ThreadPoolExecutor(DECODERS),
        )
        for number in range(machines)
    ]
    homes = {machine.name: machine for machine in there}
    settings, fetched, began = DecodeSettings(), bytes_fetched(), time.monotonic()
    decoded: list[tuple[float, float]] = []
    """(when it ended, seconds that decoding took) of each clip."""
    usable: list[float] = []
    taken: dict[str, list[EarlyClip]] = {}
    wish = Wish(CLIP_S, CLIP_S, 0.0, "auto", "auto", settings, clips=CLIPS)

    class Noting(Early):
        """Notes when each clip is there."""

        def _keep(self, clip: EarlyClip) -> None:
            super()._keep(clip)
            decoded.append((time.monotonic(), clip.decoded.decode_s))

    def decode(machine: _Machine, media: Media, info: MediaInfo, clip: Clip) -> None:
        if any(one.is_of(info, clip) for one in taken.get(media.key, ())):
            usable.append(time.monotonic())
            return
        outcome = decode_one(media, info, clip, settings, machine.source)
        if isinstance(outcome, ClipFailure):
            raise RuntimeError(f"{media.key}: {outcome.message}")
        decoded.append((time.monotonic(), outcome.decode_s))
        usable.append(decoded[-1][0])

    def found_in(media: Media) -> MediaInfo:
        if is_as_before:
            return _as_before(media, settings, there[0].source)
        early = Noting(media, wish, pool) if media.size_bytes >= LEAST_BYTES else None
        source = homes[home_of(media, homes)].source
        looked = looked_at(media, source, lambda copy: probe(str(copy)), early)
        taken[media.key] = list(looked.early)
        found = looked.found or probe(media.uri, storage_options=options)  # it is larger than the cache
        if isinstance(found, ClipFailure):
            raise RuntimeError(f"{media.key}: {found.message}")
        return chosen(found, "auto", "auto")

    clips: list[Future[None]] = []
    with ProbePool(FILES_AHEAD) as pool, ThreadPoolExecutor(1 if is_as_before else FILES_AHEAD) as ahead:
        for media, info in zip(files, ahead.map(found_in, files), strict=True):
            home = homes[home_of(media, homes)]
            for number in range(max(1, int(info.duration_s // CLIP_S))):
                end_s = min((number + 1) * CLIP_S, info.duration_s)
                clip = Clip(f"{media.key}-{number}", number, number * CLIP_S, end_s)
                machine = there[len(clips) % machines] if is_as_before else home
                clips.append(machine.decoding.submit(decode, machine, media, info, clip))
    for one in clips:
        one.result()
    ends = sorted(end for end, _ in decoded)
    all_s, first_s = ends[-1] - began, ends[0] - began
    # The first clip of each thread began before it ended.
    busy_s = sum(seconds for _, seconds in decoded)
    span_s = all_s - first_s + decoded[0][1]
    since, threads = min(usable), DECODERS * machines
    after_s = sum(max(0.0, min(seconds, end - since)) for end, seconds in decoded)
    size = sum(media.size_bytes for media in files)
    read = (bytes_fetched() - fetched) / size
    for machine in there:
        machine.decoding.shutdown()
    return Fetched(
        bytes_read_over_archive=round(read, 3),
        decode_busy_share=round(min(1.0, after_s / (threads * max(1e-3, ends[-1] - since))), 3),
        busy_share_from_first_clip=round(min(1.0, busy_s / (threads * span_s)), 3),
        first_clip_s=round(first_s, 2),
        first_usable_s=round(min(usable) - began, 2),
        all_s=round(all_s, 2),
        whole_s=_whole_s(folder, max(files, key=lambda media: media.size_bytes), settings, there[0].source),
        archive_bytes=size,
        clips=len(clips),
        clips_early=sum(map(len, taken.values())),
        machines=machines,
        streams=streams,
        is_as_before=is_as_before,
    )


def _as_before(media: Media, settings: DecodeSettings, source: Source) -> MediaInfo:
    """Probed by ranges, then fetched and hashed."""
    info = probe(media.uri, storage_options=dict(source.storage_options))
    look(media, settings, source, lambda path: None)
    return info


def _whole_s(folder: Path, media: Media, settings: DecodeSettings, source: Source) -> float:
    took = []
    for number in range(WHOLE):
        empty = replace(source, cache=replace(source.cache, folder=str(folder / f"empty {number}")))
        began = time.monotonic()
        look(media, settings, empty, lambda path: None)
        took.append(time.monotonic() - began)
    return round(min(took), 2)
