"""Units become decoded clips, decoded clips become answers; from local files, from a bucket, and through Ray."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import s3fs
import torch

from omnidrop.errors import CheckpointError
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Choice, Question
from tests.support.fault_proxy import FaultProxy
from tests.support.media_files import children, clip_file, cut, make, picture, times_of
from tests.support.s3_server import s3_server
from workers import ray_workers
from workers.errors import CacheFull, DeviceBroken, MediaChanged, MediaMissing, StorageFailed
from workers.media import arriving, blocks, clip_reader, extraction, fetching
from workers.media.arriving import Arriving
from workers.media.blocks import InBlocks, run_over
from workers.media.clip_reader import decode_clip
from workers.media.decode import Source, content_of, decode_one, decode_unit, local_etag, looked_at
from workers.media.early import Early, Wish
from workers.media.fetching import CacheSettings, fetched
from workers.media.ffmpeg import Limits, anonymous_file, find_ffmpeg
from workers.media.opening import mark_of
from workers.media.probing import ProbePool, probe
from workers.media.remote import RemoteFile, bytes_fetched
from workers.model.answerer import Answerer
from workers.model.settings import AnswererSettings
from workers.model.token_budget import shrink
from workers.records import (
    Clip,
    ClipFailure,
    ClipResult,
    DecodedClip,
    DecodeSettings,
    Media,
    MediaInfo,
    WorkUnit,
)

SETTINGS = DecodeSettings(max_pixels=112 * 112)
QUESTIONS = (
    Question("colour", "What colour is the circle?", Choice(("red", "green", "blue"))),
    Question("heard", "Is a rising sweep heard?", Boolean()),
)


def unit_of(path: Path, clips: int = 3, length_s: float = 2.0, **media) -> WorkUnit:
    found = Media(f"id-{path.name}", path.name, str(path), local_etag(str(path)), path.stat().st_size)
    spans = tuple(Clip(f"{path.name}-{n}", n, n * length_s, (n + 1) * length_s) for n in range(clips))
    return WorkUnit("unit", "version", replace(found, **media), probe(path), spans, QUESTIONS, "")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return clip_file(tmp_path_factory.mktemp("workers") / "plain.mkv", 6)


# Decoding a unit


def test_a_units_clips_come_in_order_one_at_a_time(plain):
    unit = unit_of(plain)
    found = decode_unit(unit, SETTINGS)
    assert isinstance(found, Iterator)
    for clip in unit.clips:
        decoded = next(found)
        assert decoded.clip == clip
        np.testing.assert_allclose(times_of(decoded.frames), clip.start_s + np.arange(4) / 2, atol=0.15)
    assert next(found, None) is None


def test_one_bad_clip_costs_that_clip(plain, tmp_path):
    path = cut(plain, tmp_path / "cut.mkv", 0.6)
    first, second, third = decode_unit(unit_of(path), replace(SETTINGS, min_share=0.9))
    assert first.decoded_share == 1
    assert (second.clip.index, second.stage, second.error_class) == (1, "decode", "decode_incomplete")
    assert (third.clip.index, third.error_class) == (2, "decode_failed")


def test_a_file_that_changed_or_went_gives_no_answers(plain, tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(plain.read_bytes())
    unit = unit_of(path)
    os.utime(path, ns=(1, 1))
    assert {f.error_class for f in decode_unit(unit, SETTINGS)} == {"media_changed"}
    assert [f.clip for f in decode_unit(unit, SETTINGS)] == list(unit.clips)
    path.unlink()
    assert {f.error_class for f in decode_unit(unit, SETTINGS)} == {"media_missing"}


def test_a_file_that_changes_while_it_is_decoded_gives_no_answers(plain, tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(plain.read_bytes())
    unit = unit_of(path)
    found = decode_unit(unit, SETTINGS)
    assert isinstance(next(found), DecodedClip)
    path.write_bytes(plain.read_bytes() + b"more")
    assert [f.error_class for f in found] == ["media_changed", "media_changed"]


def test_other_bytes_under_the_same_size_and_time_give_no_answers_and_a_new_permission_does(plain, tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(plain.read_bytes())
    content, status = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat()
    unit = unit_of(path, clips=2, content_id=content, mark=mark_of(status))
    path.chmod(0o600)
    found = decode_unit(unit, SETTINGS)
    assert isinstance(next(found), DecodedClip)
    path.write_bytes(plain.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [f.error_class for f in found] == ["media_changed"]
    assert {f.error_class for f in decode_unit(unit, SETTINGS)} == {"media_changed"}


def test_a_file_larger_than_the_limit_is_not_opened(plain):
    found = decode_unit(unit_of(plain), replace(SETTINGS, max_media_bytes=100))
    assert {(f.stage, f.error_class) for f in found} == {("fetch", "too_large")}


# A bucket, through the node's cache


@pytest.fixture(scope="module")
def bucket(plain) -> Iterator[tuple[s3fs.S3FileSystem, dict[str, str]]]:
    with s3_server("archive") as address:
        filesystem = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
        filesystem.put_file(str(plain), "archive/plain.mkv")
        yield filesystem, {"endpoint_url": address}


def listed(bucket, key: str) -> Media:
    filesystem, _ = bucket
    found = filesystem.info(f"archive/{key}", refresh=True)
    return Media(f"id-{key}", key, f"s3://archive/{key}", found["ETag"].strip('"'), found["size"])


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix == "")


@pytest.mark.cluster
def test_an_object_is_probed_where_it_lies(bucket, plain, tmp_path):
    """The same findings as from the file, from a few blocks of it, in a child without credentials."""
    filesystem, options = bucket
    filesystem.pipe_file("archive/text.mp4", b"no media at all, only words " * 100)
    filesystem.put_file(str(cut(plain, tmp_path / "cut.mkv", 0.6)), "archive/cut.mkv")
    keys = ["plain.mkv", "text.mp4", "cut.mkv", "missing.mkv"]
    with ProbePool(2, timeout_s=30, storage_options=options) as pool:
        found = dict(pool.probe_many((key, f"s3://archive/{key}") for key in keys))
    assert found["plain.mkv"] == probe(plain)
    assert found["cut.mkv"] == probe(tmp_path / "cut.mkv")
    assert found["text.mp4"].error_class == "not_media"
    assert found["missing.mkv"].error_class == "media_missing"
    unreachable = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(StorageFailed):
        probe("s3://archive/plain.mkv", storage_options=unreachable)


@pytest.mark.cluster
def test_a_child_that_hangs_over_an_object_is_replaced(bucket):
    """It is ended on time and replaced, as for files on disk."""
    with ProbePool(1, timeout_s=6, storage_options=bucket[1]) as pool:
        pool.start()  # before there is anything to probe
        while not (started := children()):
            time.sleep(0.01)
        assert isinstance(dict(pool.probe_many([(0, "s3://archive/plain.mkv")]))[0], MediaInfo)
        (child,) = started
        child.suspend()
        assert dict(pool.probe_many([(1, "s3://archive/plain.mkv")]))[1].error_class == "probe_timeout"
        assert isinstance(dict(pool.probe_many([(2, "s3://archive/plain.mkv")]))[2], MediaInfo)


@pytest.mark.cluster
def test_an_object_is_fetched_once_for_all_its_clips_and_units(bucket, plain, tmp_path):
    unit = replace(unit_of(plain), media=listed(bucket, "plain.mkv"))
    source = Source.of(bucket[1], CacheSettings(str(tmp_path / "cache")))
    assert [d.decoded_share for d in decode_unit(unit, SETTINGS, source)] == [1, 1, 1]
    (entry,) = entries(tmp_path / "cache")
    assert entry.read_bytes() == plain.read_bytes()
    inode = entry.stat().st_ino
    # The second unit needs no store at all.
    elsewhere = Source.of({"endpoint_url": "http://127.0.0.1:9"}, source.cache)
    assert isinstance(decode_one(unit.media, unit.info, unit.clips[1], SETTINGS, elsewhere), DecodedClip)
    assert [p.stat().st_ino for p in entries(tmp_path / "cache")] == [inode]


@pytest.mark.cluster
def test_an_object_that_changed_or_went_is_named(bucket, tmp_path):
    filesystem, options = bucket
    cache = CacheSettings(str(tmp_path / "cache"))
    filesystem.pipe_file("archive/changing", b"first")
    media = listed(bucket, "changing")
    filesystem.pipe_file("archive/changing", b"secon")
    with pytest.raises(MediaChanged, match=media.etag), fetched(media, options, cache):
        pass
    filesystem.rm_file("archive/changing")
    with pytest.raises((MediaMissing, MediaChanged)), fetched(media, options, cache):
        pass
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["room.lock"]


@pytest.mark.cluster
def test_a_store_that_cannot_be_reached_is_worth_a_retry(bucket, plain, tmp_path):
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    unit = replace(unit_of(plain), media=listed(bucket, "plain.mkv"))
    found = list(decode_unit(unit, SETTINGS, Source.of(options, CacheSettings(str(tmp_path / "cache")))))
    assert {(f.stage, f.error_class) for f in found} == {("fetch", StorageFailed.error_class)}
    assert [f.clip for f in found] == list(unit.clips)
    assert entries(tmp_path / "cache") == []


@pytest.mark.cluster
def test_the_cache_is_bounded_and_the_least_recently_used_goes(bucket, tmp_path):
    filesystem, options = bucket
    cache = CacheSettings(str(tmp_path / "cache"), max_bytes=2500)
    media = {}
    for name in "abc":
        filesystem.pipe_file(f"archive/{name}", name.encode() * 1000)
        media[name] = listed(bucket, name)

    def holds() -> set[str]:
        return {p.read_text()[0] for p in entries(tmp_path / "cache")}

    for name in "aba":
        with fetched(media[name], options, cache) as path:
            assert Path(path).read_text() == name * 1000
        time.sleep(0.02)
    with fetched(media["c"], options, cache):
        assert holds() == {"a", "c"}
        # What is in use stays, so there is no room for b beside c and a.
        with fetched(media["a"], options, cache), pytest.raises(CacheFull), fetched(media["b"], options, cache):
            pass
        assert holds() == {"a", "c"}
    with (
        pytest.raises(CacheFull, match=r"raise execution\.cache_bytes"),
        fetched(replace(media["a"], size_bytes=9999), options, cache),
    ):
        pass


class Restless(type(Path())):
    """A cache in which other processes go on while it is looked at: one gives up, and one has all of its file."""

    def iterdir(self):
        names = list(super().iterdir())
        (self / "01.part").unlink(missing_ok=True)
        if (self / "02.part").exists():
            os.rename(self / "02.part", self / "02")
        return iter(names)


def test_others_may_end_fetching_while_room_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(CacheSettings, "path", Restless(tmp_path))
    for name in ("01.part", "02.part"):
        (tmp_path / name).write_bytes(bytes(60))
    tmp_path.chmod(0o700)
    with fetching.kept(
        "a", "a.mp4", 60, CacheSettings(max_bytes=100), lambda _: (memoryview(bytes(60)) for _ in range(1))
    ) as path:
        assert path.stat().st_size == 60
        assert entries(tmp_path) == [path]  # the other one was counted, and went
    assert fetching.room_in(CacheSettings()) > 0


@pytest.mark.cluster
def test_what_a_crash_left_is_not_taken_for_whole(bucket, plain, tmp_path):
    _, options = bucket
    media = listed(bucket, "plain.mkv")
    cache = CacheSettings(str(tmp_path / "cache"), max_bytes=media.size_bytes + 100)
    with fetched(media, options, cache) as path:
        whole = Path(path)
    whole.with_suffix(".part").write_bytes(whole.read_bytes()[:1000])
    whole.unlink()
    with fetched(media, options, cache) as path:
        assert Path(path).read_bytes() == plain.read_bytes()
    # A part of another object, whose fetcher is gone, makes room.
    whole.unlink()
    (tmp_path / "cache" / "0123.part").write_bytes(bytes(5000))
    with fetched(media, options, cache) as path:
        assert Path(path).read_bytes() == plain.read_bytes()
    assert not (tmp_path / "cache" / "0123.part").exists()


@pytest.mark.cluster
def test_a_file_larger_than_the_cache_is_decoded_from_its_blocks(bucket, plain, tmp_path):
    media, unit = listed(bucket, "plain.mkv"), unit_of(plain)
    source = Source.of(bucket[1], CacheSettings(str(tmp_path / "cache"), max_bytes=media.size_bytes // 3, streams=2))
    for lost in (0, 0, 1):  # its first blocks and the last stay, and are read again only where they are lost
        for path in entries(tmp_path / "cache")[:lost]:
            path.unlink()
        kept, before = sum(path.stat().st_size for path in entries(tmp_path / "cache")), bytes_fetched()
        assert content_of(media, SETTINGS, source) == hashlib.sha256(plain.read_bytes()).hexdigest()
        assert bytes_fetched() - before == media.size_bytes - kept
    assert 5000 < sum(path.stat().st_size for path in entries(tmp_path / "cache")) <= source.cache.max_bytes
    before = bytes_fetched()
    found = list(decode_unit(replace(unit, media=media), SETTINGS, source))
    for here, there in zip(decode_unit(unit, SETTINGS), found, strict=True):
        assert (there.clip, there.decoded_share, there.noticed) == (here.clip, 1, here.noticed)
        assert np.array_equal(there.frames, here.frames)
    assert 0 < bytes_fetched() - before < 3 * media.size_bytes
    assert 0 < sum(path.stat().st_size for path in entries(tmp_path / "cache")) <= source.cache.max_bytes
    # One that is replaced meanwhile gives no answers, whatever of it is here.
    bucket[0].pipe_file("archive/other.mkv", plain.read_bytes() + b"more")
    changed = replace(media, uri="s3://archive/other.mkv")
    (failed,) = decode_unit(replace(unit, media=changed, clips=unit.clips[:1]), SETTINGS, source)
    assert failed.error_class == "media_changed"


@pytest.mark.cluster
def test_what_was_made_of_a_hole_is_thrown_away(bucket, tmp_path):
    content = os.urandom(1_000_000)
    bucket[0].pipe_file("archive/bytes", content)
    source = InBlocks(listed(bucket, "bytes"), bucket[1], CacheSettings(str(tmp_path / "cache"), max_bytes=500_000))
    runs = []

    def arguments(opened):
        """Copies it all, whatever it is; a hole would be zeros."""
        runs.append(opened)
        copied = ["-f", "data", "-i", opened, "-map", "0", "-c", "copy", "-f", "data", f"pipe:{made}"]
        return [find_ffmpeg(), "-loglevel", "error", "-protocol_whitelist", "file,concat,pipe", *copied]

    with anonymous_file("made") as made:
        done = run_over(source, arguments, limits=Limits(30, 1 << 30), pass_fds=(made,), about=(0.05, 0.95))
        assert (done.returncode, os.pread(made, 1 << 30, 0)) == (0, content)
    assert len(runs) > 2


def test_a_clip_that_reads_more_than_the_cache_holds_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "SPARE_BYTES", 0)
    media = Media("id", "long.mov", "s3://archive/long.mov", "etag", 1_000_000)
    source = InBlocks(media, {}, CacheSettings(str(tmp_path), max_bytes=100_000))
    with source.view(0, 0.5) as view, pytest.raises(CacheFull, match=r"long.mov: .* execution.cache_bytes"):
        view.opened()


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


FETCH = """
import os, pickle, sys
from workers.media.fetching import fetched
media, options, cache = pickle.load(sys.stdin.buffer)
with fetched(media, options, cache) as path:
    print(os.stat(path).st_ino, os.stat(path).st_size)
"""
EARLY_FETCH = """
import pickle, sys
from workers.media import arriving, decode, early, fetching
from workers.media.probing import ProbePool
media, options, cache = pickle.load(sys.stdin.buffer)
fetching.READ_BYTES, arriving.CELL_BYTES = 1 << 18, 1 << 16
wish = early.Wish(1.0, 1.0, 0.5, "auto", "auto", decode.DecodeSettings(), clips=12)
with ProbePool(1) as pool:
    decode.looked_at(media, decode.Source.of(options, cache), None, early.Early(media, wish, pool))
"""


def killed(script, given, when):
    """A process is given something, and killed when it is at it: what it printed."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(pickle.dumps(given))
    process.stdin.close()
    deadline = time.monotonic() + 60
    try:
        while not when(process):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    return process.stdout.read()


def decodes(process) -> bool:
    found = False
    for child in psutil.Process(process.pid).children(True):
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            found = found or "ffmpeg" in "".join(child.cmdline()[:1])
    return found


@pytest.mark.cluster
@pytest.mark.parametrize("script", [FETCH, EARLY_FETCH], ids=["fetching", "decoding early"])
def test_a_process_killed_while_it_fetches_leaves_nothing_that_counts_and_no_lock(bucket, dense, tmp_path, script):
    bucket[0].put_file(str(dense), "archive/killed.mkv")
    media, cache = listed(bucket, "killed.mkv"), CacheSettings(str(tmp_path / "cache"), streams=2)
    with FaultProxy(bucket[1]["endpoint_url"], rate=1.0, kinds=["hang"]) as proxy:

        def hangs(request) -> bool:
            """All ranges, or where clips are decoded early those behind the first ones, not the last, which probing
            reads."""
            first = int(request.headers.get("Range", "=-1-").partition("=")[2].rpartition("-")[0])
            return first >= 0 and (script == FETCH or 0.4 < first / media.size_bytes < 0.7)

        proxy.spoils = hangs
        given = media, {"endpoint_url": proxy.address}, cache
        assert killed(script, given, (lambda _: proxy.faults) if script == FETCH else decodes) == b""
    assert [path.suffix for path in (tmp_path / "cache").glob("*.part")] == [".part"]
    assert entries(tmp_path / "cache") == []
    with fetched(media, bucket[1], cache) as path:
        assert Path(path).read_bytes() == dense.read_bytes()
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.cluster
def test_ranges_in_flight_come_whole_and_in_order_through_faults(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "READ_BYTES", 100_000)
    monkeypatch.setattr(arriving, "CELL_BYTES", 100_000)
    content = os.urandom(2_050_000)
    bucket[0].pipe_file("archive/ranges", content)
    media, read = listed(bucket, "ranges"), bytes_fetched()
    faults = ["internal_error", "reset_in_body", "truncated", "reset_before"]
    with FaultProxy(bucket[1]["endpoint_url"], seed=3, rate=0.3, kinds=faults) as proxy:
        proxy.spoils = lambda request: "Range" in request.headers
        options, seen = {"endpoint_url": proxy.address}, []
        cache = CacheSettings(str(tmp_path / "cache"), streams=6)
        with fetched(media, options, cache, lambda piece: seen.append(bytes(piece))) as path:
            assert Path(path).read_bytes() == b"".join(seen) == content
        assert sum(proxy.faults.values()) > 3
    # What broke off is read again, and counted.
    assert len(content) <= bytes_fetched() - read < 1.5 * len(content)


EARLY = Wish(1.0, 1.0, 0.5, "auto", "auto", SETTINGS, clips=2)


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """Some MB: probing alone reads 128 kB at a time."""
    folder = tmp_path_factory.mktemp("dense")
    pictures = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=12:duration=2,noise=alls=20:allf=t"]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:duration=2"]
    make(*pictures, *sound, "-c:v", "libx264", "-preset", "ultrafast", "-b:v", "4M", "-g", 12, folder / "two.mkv")
    make("-stream_loop", 5, "-i", folder / "two.mkv", "-c", "copy", folder / "dense.mkv")
    return folder / "dense.mkv"


@pytest.fixture
def in_small_pieces(monkeypatch):
    """So that a small file arrives in many."""
    monkeypatch.setattr(fetching, "READ_BYTES", 1 << 18)
    monkeypatch.setattr(arriving, "CELL_BYTES", 1 << 16)
    monkeypatch.setattr(arriving, "MORE_BYTES", 1 << 18)


def held_back(monkeypatch, share, until):
    """What comes in order stops after a share of the file, as long as `until` says so."""
    read_each = RemoteFile.read_each

    def stopping(remote, *given, **options):
        for first, piece in read_each(remote, *given, **options):
            deadline = time.monotonic() + 60
            is_sooner = "most" not in options
            while first > share * remote.size and not is_sooner and not until():
                assert time.monotonic() < deadline, "it waited for the whole file"
                time.sleep(0.01)
            yield first, piece

    monkeypatch.setattr(RemoteFile, "read_each", stopping)


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["end.mp4", "front.mp4", "cues.mkv"])
def test_first_clips_are_decoded_while_the_file_is_fetched_and_nothing_is_read_twice(
    bucket, dense, tmp_path, monkeypatch, in_small_pieces, name
):
    options = ["-movflags", "+faststart"] if name == "front.mp4" else []
    make("-i", dense, "-c", "copy", *options, tmp_path / name)
    bucket[0].put_file(str(tmp_path / name), f"archive/{name}")
    media, source = listed(bucket, name), Source.of(bucket[1], CacheSettings(str(tmp_path / "cache"), streams=2))
    with ProbePool(1) as pool:
        early, before = Early(media, EARLY, pool), bytes_fetched()
        # Of 12 s two clips of 1 s, and what is read around them.
        held_back(monkeypatch, 0.5, lambda: len(early.clips) == 2)
        looked = looked_at(media, source, lambda path: next(pool.probe_many([(None, path)]))[1], early)
    assert (looked.content_id, looked.bytes_fetched) == (sha256_of(tmp_path / name), media.size_bytes)
    assert bytes_fetched() - before == media.size_bytes
    assert [(one.start_s, one.end_s) for one in looked.early] == [(0, 1), (1, 2)]
    assert looked.found == probe(tmp_path / name)
    for number, one in enumerate(looked.early):
        clip = Clip(f"clip-{number}", number, one.start_s, one.end_s)
        assert one.is_of(looked.found, clip)
        assert not one.is_of(replace(looked.found, audio_mix=(1, 2)), clip)
        later = decode_one(media, looked.found, clip, SETTINGS, source)
        assert (one.of(clip).clip, one.decoded.noticed, one.decoded.notes) == (clip, later.noticed, later.notes)
        assert np.array_equal(one.decoded.frames, later.frames)
        assert np.array_equal(one.decoded.audio, later.audio)
    assert bytes_fetched() - before == media.size_bytes


@pytest.mark.cluster
def test_what_comes_in_order_gives_way_and_what_is_read_on_comes_ahead(bucket, tmp_path, monkeypatch, in_small_pieces):
    cell, content = arriving.CELL_BYTES, os.urandom(40 * arriving.CELL_BYTES + 1)
    bucket[0].pipe_file("archive/order", content)
    monkeypatch.setattr(arriving, "AHEAD_BYTES", 8 * cell)
    monkeypatch.setattr(arriving, "HELD_S", 60.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    get, read_on = RemoteFile._get, RemoteFile.read_on
    now, most, sooner = [0], [0], []

    async def counted(remote, *given):
        now[0] += 1
        most[0] = max(most[0], now[0])
        try:
            return await get(remote, *given)
        finally:
            now[0] -= 1

    monkeypatch.setattr(RemoteFile, "_get", counted)
    monkeypatch.setattr(RemoteFile, "read_on", lambda *given, **how: sooner.append(given[1:]) or read_on(*given, **how))
    path, before = tmp_path / "order", bytes_fetched()
    path.write_bytes(bytes(len(content)))
    remote = RemoteFile("s3://archive/order", bucket[1], time.monotonic() + 60)
    coming = Arriving(remote, str(path), streams=4, step=2 * cell, gives_way=True)
    with contextlib.closing(coming), coming, open(path, "r+b", buffering=0) as file:
        pieces = coming.pieces()
        assert [file.write(next(pieces)) for _ in range(4)] == [cell, *3 * [2 * cell]]
        assert most[0] == 2  # of two cores one probes, and one receives
        reader = coming.by(time.monotonic() + 60)
        first = 20 * cell
        assert b"".join(reader.read(first + n * cell, cell) for n in range(10)) == content[first : first + 10 * cell]
        assert sooner == [(first, first + cell), (first + cell, first + 10 * cell)]
        coming.go_on()
        file.writelines(pieces)
        assert most[0] in (4, 5)  # what is read on ahead of the order may still be on its way
    assert path.read_bytes() == content
    assert bytes_fetched() - before == len(content)


def test_damage_in_a_clip_that_two_threads_decode_is_judged_with_one(dense, tmp_path, monkeypatch):
    damaged = bytearray(dense.read_bytes())
    for place in range(len(damaged) // 20, len(damaged) // 4, 5_000):
        damaged[place] ^= 0xFF
    (tmp_path / "damaged.mkv").write_bytes(damaged)
    span_of, run, threads = clip_reader._span, extraction._run, []
    monkeypatch.setattr(clip_reader, "_span", lambda *given: replace(span_of(*given), threads=2))
    monkeypatch.setattr(extraction, "_run", lambda *given: threads.append(given[2].threads) or run(*given))
    info = probe(dense)
    assert not decode_clip(dense, info, Clip("", 0, 0.0, 2.0), SETTINGS).notes
    assert threads == [2]
    found = decode_clip(tmp_path / "damaged.mkv", info, Clip("", 0, 0.0, 2.0), SETTINGS)
    assert any(note.startswith("damaged: ") for note in found.notes)
    assert threads[1:3] == [2, 1]


@pytest.mark.cluster
def test_a_file_that_is_replaced_while_clips_are_decoded_early_gives_none(
    bucket, dense, tmp_path, monkeypatch, in_small_pieces
):
    bucket[0].pipe_file("archive/replaced.mkv", dense.read_bytes())
    media, source = listed(bucket, "replaced.mkv"), Source.of(bucket[1], CacheSettings(str(tmp_path), streams=1))
    with ProbePool(1) as pool:
        early = Early(media, EARLY, pool)

        def replaced():
            if early.clips:
                bucket[0].pipe_file("archive/replaced.mkv", dense.read_bytes()[::-1])
            return bool(early.clips)

        held_back(monkeypatch, 0.6, replaced)
        looked = looked_at(media, source, lambda path: pytest.fail("it is not here"), early)
    assert early.clips
    assert (looked.content_id, looked.found.error_class, looked.early) == (None, "media_changed", ())
    assert entries(tmp_path) == []


@pytest.mark.cluster
def test_processes_share_one_fetch(bucket, tmp_path):
    media = listed(bucket, "plain.mkv")
    given = pickle.dumps((media, bucket[1], CacheSettings(str(tmp_path / "cache"))))
    command = [sys.executable, "-c", FETCH]
    root = Path(__file__).parents[2]
    several = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False) for _ in range(3)
    ]
    for process in several:
        process.stdin.write(given)
        process.stdin.close()
    found = {process.stdout.read() for process in several}
    assert [process.wait(60) for process in several] == [0, 0, 0]
    assert len(found) == 1
    assert found.pop().split()[1] == str(media.size_bytes).encode()


# Answering


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    loaded = Answerer(AnswererSettings("tiny", device="cpu", torch_threads=1))
    loaded.load()
    return loaded


@pytest.fixture(scope="module")
def decoded(plain) -> DecodedClip:
    (clip,) = decode_unit(unit_of(plain, clips=1, length_s=4), SETTINGS)
    return clip


def test_a_clip_is_answered_with_its_own_id_and_cost(answerer, decoded):
    result = answerer.answer(decoded, QUESTIONS)
    assert isinstance(result, ClipResult)
    assert result.clip == decoded.clip
    assert [a.question_id for a in result.answers.answers] == ["colour", "heard"]
    assert result.answers.answers[0].value in ("red", "green", "blue")
    assert isinstance(result.answers.answers[1].value, bool)
    assert (result.frames, result.samples, result.fps, result.decoded_share) == (8, 64_000, 2.0, 1.0)
    assert result.answers.cost.as_run.tokens > 0
    assert 0 < result.answers.cost.seconds <= result.answer_s


def test_a_clip_that_was_made_ready_is_answered_without_doing_it_again(answerer, decoded, monkeypatch):
    expected = answerer.answer(decoded, QUESTIONS, "Look closely.")
    answerer._model.adapter.memory.clear()
    answerer.make_ready(decoded, QUESTIONS, "Look closely.")
    processor = answerer._model.adapter.processor
    with monkeypatch.context() as patched:
        for work in ("inputs", "resized"):
            patched.setattr(processor, work, lambda *_, **__: pytest.fail("done already"))
        # As it comes through Ray a second time: equal arrays that are others.
        again = replace(decoded, frames=decoded.frames.copy(), audio=decoded.audio.copy())
        result = answerer.answer(again, QUESTIONS, "Look closely.")
    assert result.answers.answers == expected.answers.answers
    assert result.answers.trace == expected.answers.trace
    assert (result.clip, result.frames, result.samples) == (decoded.clip, 8, 64_000)
    # Another instruction is another prompt, whatever was made ready.
    answerer.make_ready(decoded, QUESTIONS, "Look away.")
    assert answerer.answer(decoded, QUESTIONS, "Look closely.").answers.answers == expected.answers.answers
    # What cannot be made ready says so when it is answered.
    answerer.make_ready(replace(decoded, frames=None, audio=None), QUESTIONS)
    assert isinstance(answerer.answer(replace(decoded, frames=None, audio=None), QUESTIONS), ClipFailure)


@pytest.mark.parametrize("lacking", ["frames", "audio"])
def test_pictures_alone_and_sound_alone_are_answered(answerer, decoded, lacking):
    result = answerer.answer(replace(decoded, **{lacking: None}), QUESTIONS)
    assert isinstance(result, ClipResult)
    assert (result.frames == 0) == (lacking == "frames")
    assert (result.samples == 0) == (lacking == "audio")


def test_what_the_model_refuses_is_a_failure_of_that_clip_only(answerer, decoded):
    refused = answerer.answer(decoded, (QUESTIONS[0], QUESTIONS[0]))
    assert isinstance(refused, ClipFailure)
    assert (refused.clip, refused.stage, refused.error_class) == (decoded.clip, "answer", "question")
    neither = answerer.answer(replace(decoded, frames=None, audio=None), QUESTIONS)
    assert isinstance(neither, ClipFailure)
    assert isinstance(answerer.answer(decoded, QUESTIONS), ClipResult)


class Limited:
    """The real model on a device that holds at most so many bytes of pictures."""

    def __init__(self, model, most_bytes: int, error: Exception) -> None:
        self.model, self.most_bytes, self.error = model, most_bytes, error
        self.adapter = model.adapter

    def answer(self, frames, audio, request):
        if frames is None or frames.nbytes > self.most_bytes:
            raise self.error
        return self.model.answer(frames, audio, request)


def cpu_memory_error() -> RuntimeError:
    try:
        torch.empty(1 << 60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("an exabyte was allocated")


@pytest.mark.parametrize(
    ("share", "frames", "said"), [(1.0, 8, None), (0.5, 4, "4 of 8 frames"), (0.3, 2, "2 of 8 frames")]
)
def test_memory_trouble_shrinks_the_clip_and_says_so(answerer, decoded, monkeypatch, share, frames, said):
    error = torch.OutOfMemoryError("CUDA out of memory") if share == 0.5 else cpu_memory_error()
    monkeypatch.setattr(answerer, "_model", Limited(answerer._model, int(share * decoded.frames.nbytes) + 999, error))
    result = answerer.answer(decoded, QUESTIONS)
    assert isinstance(result, ClipResult)
    assert (result.frames, result.fps) == (frames, 2.0 * frames / 8)
    assert [said in note for note in result.notes if "memory" in note] == ([True] if said else [])


def test_a_clip_that_never_fits_is_a_failure(answerer, decoded, monkeypatch):
    monkeypatch.setattr(answerer, "_model", Limited(answerer._model, 0, cpu_memory_error()))
    result = answerer.answer(decoded, QUESTIONS)
    assert isinstance(result, ClipFailure)
    assert result.error_class == "model_out_of_memory"


def test_a_broken_device_is_not_kept(answerer, decoded, monkeypatch):
    broken = torch.AcceleratorError("CUDA error: device-side assert triggered")
    monkeypatch.setattr(answerer, "_model", Limited(answerer._model, 0, broken))
    with pytest.raises(DeviceBroken, match="device-side assert"):
        answerer.answer(decoded, QUESTIONS)


class Crowded:
    """The real model, which holds at most so many clips together and chokes on those whose sound is `poison`."""

    def __init__(self, model, most: int, poison) -> None:
        self.model, self.most, self.poison, self.batches = model, most, poison, []
        self.adapter = model.adapter

    def answer(self, frames, audio, request):
        if audio is self.poison:
            raise ValueError("choked")
        return self.model.answer(frames, audio, request)

    def answer_batch(self, clips, request):
        self.batches.append(len(clips))
        if len(clips) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if any(audio is self.poison for _, audio in clips):
            raise ValueError("choked")
        return self.model.answer_batch(clips, request)


def test_clips_of_one_shape_are_answered_together_and_fail_apart(answerer, decoded, monkeypatch):
    def clip(number, **changes):
        return replace(decoded, clip=replace(decoded.clip, clip_id=f"clip-{number}"), **changes)

    poison = decoded.audio.copy()
    given = [clip(n, frames=np.roll(decoded.frames, n, axis=2)) for n in range(4)]
    given[2:2] = [clip("shorter", frames=decoded.frames[:6]), clip("poison", audio=poison)]
    model = Crowded(answerer._model, 3, poison)
    monkeypatch.setattr(answerer, "_model", model)
    outcomes = answerer.answer_batch(given, QUESTIONS)
    assert [outcome.clip for outcome in outcomes] == [one.clip for one in given]
    assert [o.error_class for o in outcomes if isinstance(o, ClipFailure)] == ["model_error"]
    assert outcomes[3].clip.clip_id == "clip-poison"
    # Five of one shape are too many; halves of what is left, down to the one that chokes.
    assert model.batches == [5, 2, 2]
    for one, outcome in zip(given, outcomes, strict=True):
        if isinstance(outcome, ClipResult):
            alone = answerer.answer(one, QUESTIONS)
            assert [a.value for a in outcome.answers.answers] == [a.value for a in alone.answers.answers]
            assert outcome.answers.trace == alone.answers.trace
            assert 0 < outcome.answers.cost.seconds <= outcome.answer_s
    answerer.answer_batch(given, QUESTIONS)
    assert max(model.batches[3:]) == 2


def test_shrinking_keeps_time_and_never_goes_below_the_smallest_side(decoded):
    half = shrink(decoded, 0.5, 1)
    height, width = decoded.frames.shape[1:3]
    assert half.frames.shape[0] == len(decoded.frames)
    assert half.frames[0].size == pytest.approx(decoded.frames[0].size / 2, rel=0.05)
    np.testing.assert_allclose(times_of(half.frames), times_of(decoded.frames), atol=0.05)
    fewer = shrink(decoded, 1.0, 4)
    assert (len(fewer.frames), fewer.fps) == (2, 0.5)
    np.testing.assert_array_equal(fewer.frames, decoded.frames[::4])
    assert min(shrink(decoded, 0.0001, 1).frames.shape[1:3]) == min(56, height, width)


def test_what_answered_is_described(answerer):
    described = answerer.describe()
    assert described.family == "qwen2_5_omni"
    assert len(described.weights_hash) >= 32
    assert dict(described.versions)["torch"] == torch.__version__
    assert described.peak_rss_bytes > 50 << 20
    assert "tiny" in str(described)
    # A driver reads it, and would import torch for a value of torch's own.
    assert {type(version) for _, version in described.versions} == {str}
    assert type(described).__module__ == "workers.model.description"


def test_a_model_that_does_not_exist_is_named():
    with pytest.raises(CheckpointError, match="no-such-model"):
        Answerer(AnswererSettings("/nowhere/no-such-model")).load()


# Through Ray


def test_decode_workers_import_neither_torch_nor_what_reads_buckets():
    unwanted = "{'torch', 'aiobotocore'} & {*sys.modules}"
    code = f"import sys, workers.ray_workers, workers.media.decode; sys.exit(bool({unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_clips_are_decoded_and_answered_through_ray(plain, tmp_path):
    import ray

    from workers.ray_workers import DecodeStarter, packed, start_actor

    make(*picture(4), "-c:v", "mpeg4", tmp_path / "silent.avi")
    units = [unit_of(plain), unit_of(tmp_path / "silent.avi", clips=3)]
    start_decode = DecodeStarter(SETTINGS, Source())
    started = {(unit.media.key, clip.index): start_decode(unit, clip) for unit in units for clip in unit.clips}
    reports = {key: ray.get(report) for key, (report, _) in started.items()}
    assert {key for key, report in reports.items() if report.failure} == {("silent.avi", 2)}
    assert reports["silent.avi", 2].failure.error_class == "decode_incomplete"
    settings = AnswererSettings("tiny", device="cpu", torch_threads=1, pruning=Pruning.off())
    actor = start_actor(settings, num_gpus=0)
    try:
        ray.get(actor.load.remote())
        for key, (_, payload) in started.items():
            if reports[key].failure is None:
                decoded = ray.get(payload)
                assert reports[key].nbytes == decoded.nbytes
                result = ray.get(actor.answer.remote(payload, packed(QUESTIONS, "")))
                assert result.clip.clip_id == f"{key[0]}-{key[1]}"
                assert result.frames == len(decoded.frames)
        both = [key for key in started if key[0] != "silent.avi"][:2]
        together = ray.get(actor.answer_batch.remote(packed(QUESTIONS, ""), *(started[key][1] for key in both)))
        assert [result.clip.clip_id for result in together] == [f"{name}-{index}" for name, index in both]
        assert ray.get(actor.describe.remote()).clips == 5 + len(both)
    finally:
        ray.kill(actor)


@pytest.fixture(autouse=True)
def no_prober_stays():
    yield
    ray_workers.end_probers()


def test_a_process_keeps_the_probers_of_few_folders(plain, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        file = shutil.copy(plain, tmp_path / name)
        media = unit_of(Path(file)).media
        looked = ray_workers._look(ray_workers.packed(Source(is_confined=True), 60.0), media, None)
        assert isinstance(looked.found, MediaInfo)
    assert len(children()) == ray_workers.PROBERS


@pytest.mark.cluster
def test_a_look_hands_over_what_it_decoded_early_beside_what_it_says(
    bucket, dense, tmp_path, monkeypatch, in_small_pieces
):
    bucket[0].put_file(str(dense), "archive/looked.mkv")
    media, source = listed(bucket, "looked.mkv"), Source.of(bucket[1], CacheSettings(str(tmp_path / "c"), streams=1))
    cached = []
    looked_here = ray_workers.looked_at
    monkeypatch.setattr(ray_workers, "looked_at", lambda *given: cached.append(given[3]) or looked_here(*given))
    held_back(monkeypatch, 0.5, lambda: bool(cached[0].clips))
    told, *decoded = ray_workers._look(ray_workers.packed(source, 60.0), media, EARLY)
    assert told.content_id == sha256_of(dense)
    assert 1 <= len(told.early) <= len(decoded) == EARLY.clips
    for one, clip in zip(told.early, decoded, strict=False):
        assert (one.decoded, clip.nbytes) == (None, one.nbytes)


@pytest.mark.cluster
def test_subtitles_are_read_from_what_a_look_left_and_not_from_the_store(bucket, plain, tmp_path):
    (tmp_path / "words.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nGood morning\n")
    make("-i", plain, "-i", tmp_path / "words.srt", "-c", "copy", tmp_path / "words.mkv")
    bucket[0].put_file(str(tmp_path / "words.mkv"), "archive/words.mkv")
    media, source = listed(bucket, "words.mkv"), Source.of(bucket[1], CacheSettings(str(tmp_path / "cache")))
    shared = ray_workers.packed(source, 60.0)
    looked = ray_workers._look(shared, media, None)
    (track,) = looked.found.subtitles
    (cue,), fetched = ray_workers._subtitles(shared, media, track.index)
    assert (cue[0], cue[2], fetched, looked.bytes_fetched) == (1.0, "Good morning", 0, media.size_bytes)
    failed, _ = ray_workers._subtitles(shared, replace(media, etag="another"), track.index)
    assert failed.error_class == "media_changed"
