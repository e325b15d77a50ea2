"""Probing: what a file holds, and every way a file can be wrong, without harm to the files beside it."""

from __future__ import annotations

import errno
import os
import queue
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support.media_files import AAC, X264, children, clip_file, cut, make, picture, sound
from workers.errors import (
    FfmpegMissing,
    MediaMissing,
    MediaTooLarge,
    MediaTruncated,
    NoStreams,
    NotMedia,
    ProbeCrashed,
    ProbeTimeout,
)
from workers.media import ffmpeg
from workers.media.probing import ProbePool, probe
from workers.records import ClipFailure, MediaInfo


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return clip_file(tmp_path_factory.mktemp("probe") / "plain.mp4", 4)


def test_everything_that_decoding_needs_is_found(tmp_path):
    path = tmp_path / "a.mkv"
    make(*picture(3, rate=30), *sound(3, layout="stereo"), "-metadata", "TITLE=Ünï", *X264, *AAC, path)
    info = probe(path)
    assert info.container == "matroska"
    assert info.duration_s == pytest.approx(3, abs=0.05)
    assert (info.video_codec, info.width, info.height, info.frame_rate) == ("h264", 160, 120, 30)
    assert (info.audio_codec, info.sample_rate, info.channels) == ("aac", 48_000, 2)
    assert (info.variable_rate, info.rotation_deg, info.hdr, info.interlaced) == (False, 0, False, False)
    assert info.video_end_s == pytest.approx(3, abs=0.05)
    assert dict(info.tags)["title"] == "Ünï"


@pytest.mark.parametrize("suffix", ["webm", "mkv"])
def test_a_length_that_is_not_declared_is_found(tmp_path, suffix):
    """What a live stream leaves: no duration, no index."""
    path = tmp_path / f"live.{suffix}"
    make(*picture(3), *sound(3), "-c:v", "libvpx", "-c:a", "libopus", "-f", "matroska", "-live", 1, path)
    info = probe(path)
    assert info.duration_s == pytest.approx(3, abs=0.1)
    assert info.has_video
    assert info.has_audio


def test_a_made_up_length_is_not_believed(plain, tmp_path):
    """An mvhd that declares 13 days for 30 kB; the samples themselves end at 4 s."""
    content = bytearray(plain.read_bytes())
    at = content.index(b"mvhd") + 4 + 16
    content[at : at + 4] = (2**30).to_bytes(4, "big")
    (tmp_path / "long.mp4").write_bytes(bytes(content))
    assert probe(tmp_path / "long.mp4").duration_s == pytest.approx(4, abs=0.1)


def test_where_a_truncated_file_ends_is_found(plain, tmp_path):
    make("-i", plain, "-c", "copy", "-movflags", "+faststart", tmp_path / "fast.mp4")
    info = probe(cut(tmp_path / "fast.mp4", tmp_path / "cut.mp4", 0.5))
    assert info.duration_s == pytest.approx(4, abs=0.1)
    assert 0.5 < info.video_end_s < 3


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("empty.mp4", b"", NotMedia),
        ("text.mp4", b"The quick brown fox. " * 200, NotMedia),
        ("random.mkv", bytes(range(256)) * 40, NotMedia),
        ("script.mp4", b"#!/bin/sh\ntouch /tmp/owned\n", NotMedia),
        ("header.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isommp41", MediaTruncated),
        ("header.mkv", b"\x1a\x45\xdf\xa3\x93\x42\x82\x88mat", MediaTruncated),
    ],
)
def test_what_is_not_media_is_named(tmp_path, name, content, error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        probe(tmp_path / name)


def test_a_truncated_mp4_says_what_is_missing(plain, tmp_path):
    with pytest.raises(MediaTruncated, match="moov"):
        probe(cut(plain, tmp_path / "cut.mp4", 0.7))


def test_what_is_not_there_or_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaMissing):
        probe(tmp_path / "nothing.mp4")
    with pytest.raises(NotMedia):
        probe(tmp_path / "pipe.mp4")
    with pytest.raises(NotMedia):
        probe(tmp_path)


def test_pictures_alone_are_not_media_here(tmp_path):
    make("-f", "lavfi", "-i", "testsrc=s=32x32:d=0.1", "-frames:v", 1, tmp_path / "a.png")
    with pytest.raises(NotMedia):
        probe(tmp_path / "a.png")


def test_a_file_with_subtitles_only_has_no_streams(tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nhello\n")
    make("-i", tmp_path / "a.srt", tmp_path / "a.mkv")
    with pytest.raises(NoStreams):
        probe(tmp_path / "a.mkv")


def test_huge_pictures_are_refused(tmp_path):
    make("-f", "lavfi", "-i", "color=s=8192x8192:d=0.04:r=25", "-frames:v", 1, "-c:v", "mjpeg", tmp_path / "big.mkv")
    with pytest.raises(MediaTooLarge, match="8192x8192"):
        probe(tmp_path / "big.mkv")


def test_a_pool_answers_for_every_key_and_reuses_its_children(plain, tmp_path):
    (tmp_path / "no.mp4").write_text("no")
    files = [(n, str(tmp_path / "no.mp4") if n % 5 == 0 else str(plain)) for n in range(60)]
    with ProbePool(2, timeout_s=20) as pool:
        before = dict(pool.probe_many(files[:4]))
        pids = {p.pid for p in children()}
        found = dict(pool.probe_many(files))
        assert pids <= (now := {p.pid for p in children()})
    assert len(before) == 4
    assert len(now) <= 2
    assert set(found) == set(range(60))
    for n, outcome in found.items():
        assert isinstance(outcome, ClipFailure if n % 5 == 0 else MediaInfo)
    assert found[0] == ClipFailure(None, "probe", "not_media", found[0].message)
    assert children() == []


def test_a_pool_reads_its_input_lazily_and_in_the_callers_thread(plain):
    taken: list[str] = []

    def files():
        for n in range(1000):
            taken.append(threading.current_thread().name)
            yield n, str(plain)

    with ProbePool(2) as pool:
        found = pool.probe_many(files())
        for _ in range(5):
            next(found)
        assert len(taken) <= 5 + 2 * 2
    assert set(taken) == {threading.current_thread().name}


def test_a_child_that_is_killed_costs_only_its_file(plain, tmp_path):
    """Stopped first, so that it surely holds the file when it is killed."""
    with ProbePool(1, timeout_s=20) as pool:
        assert isinstance(dict(pool.probe_many([(0, str(plain))]))[0], MediaInfo)
        (child,) = children()
        child.suspend()
        killer = threading.Timer(0.3, os.kill, (child.pid, signal.SIGKILL))
        killer.start()
        found = dict(pool.probe_many([(1, str(plain)), (2, str(plain))]))
        killer.join()
    assert found[1].error_class == ProbeCrashed.error_class
    assert isinstance(found[2], MediaInfo)


def test_a_child_that_hangs_is_ended_on_time_and_replaced(plain):
    with ProbePool(1, timeout_s=3) as pool:  # on a busy machine a child takes more than a second to start
        assert isinstance(dict(pool.probe_many([(0, str(plain))]))[0], MediaInfo)
        (child,) = children()
        child.suspend()
        started = time.monotonic()
        found = dict(pool.probe_many([(1, str(plain)), (2, str(plain))]))
        assert time.monotonic() - started < 10
        assert not child.is_running()
    assert found[1].error_class == ProbeTimeout.error_class
    assert isinstance(found[2], MediaInfo)


class Unreadable:
    """A file whose disk fails in a way that nobody foresaw."""

    size = 1 << 20

    def read(self, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_cannot_be_read_on_leaves_nothing_to_the_next(plain):
    """The child would still wait for the first file's bytes, and take the next request for them."""
    with ProbePool(1, timeout_s=5) as pool:
        assert "No space left" in pool.glance(lambda deadline: Unreadable(), "full.mp4").message
        assert isinstance(dict(pool.probe_many([(1, str(plain))]))[1], MediaInfo)


def test_who_waits_for_a_pool_that_is_closed_waits_no_more():
    begun, goes_on, told = threading.Event(), threading.Event(), queue.Queue()

    def slow(deadline):
        begun.set()
        goes_on.wait()
        raise MediaMissing("gone")

    def waits():
        try:
            told.put(pool.glance(slow, "a.mp4").error_class)
        except RuntimeError as error:
            told.put(str(error))

    pool = ProbePool(1)
    threads = [threading.Thread(target=waits, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert begun.wait(10)
    while not pool._tasks.qsize():
        time.sleep(0.01)
    closing = threading.Thread(target=pool.close, daemon=True)
    closing.start()
    assert told.get(timeout=10) == "this ProbePool is closed"
    goes_on.set()
    assert told.get(timeout=10) == MediaMissing.error_class
    closing.join(10)
    with pytest.raises(RuntimeError, match="closed"):
        pool.glance(slow, "b.mp4")


@pytest.mark.parametrize("name", ["-x.mp4", "a%d:b.mp4", "li\nne.mp4", "ü→名.mp4", "http:\\x.mp4"])
def test_names_are_opened_as_given(plain, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(plain.read_bytes())
    assert probe(path).container == "mp4"


def test_an_ffmpeg_that_never_says_what_it_can_do_is_the_machines_fault(tmp_path, monkeypatch):
    """Not that of the clip which is the first to need it."""
    slow = tmp_path / "ffmpeg"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "TRY_S", 0.2)
    with pytest.raises(FfmpegMissing, match=r"-filters does not end within 0\.2 s"):
        ffmpeg._listing(str(slow), "-filters")
