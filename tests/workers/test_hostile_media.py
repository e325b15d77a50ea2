"""Hostile media: each file ends with answers, a measured share or a named class; nothing hangs, leaks or reaches out.

`python -m tests.robustness.fuzz_media` is the long run of the same; here is a slice of it, and what it found.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import s3fs

from pipeline.archive.listing import list_media
from pipeline.config.sections import ArchiveConfig
from tests.robustness.fuzz_media import mutations, references, tracing
from tests.robustness.fuzz_media.harness import Settings, fuzz
from tests.robustness.fuzz_media.references import Bait
from tests.robustness.fuzz_media.seeds import RECIPES, Seed, make_seeds
from tests.robustness.fuzz_media.structure import borders, parts
from tests.robustness.fuzz_media.trials import trials
from tests.robustness.fuzz_media.watching import BaitWatch, confined_children
from tests.support.media_files import AAC, X264, clip_file, make, picture, sound, times_of
from tests.support.s3_server import s3_server
from workers.errors import ClipTooShort, DecodeFailed, MediaError, NotMedia
from workers.media.clip_reader import decode_clip, target_size
from workers.media.decode import Source, decode_one
from workers.media.fetching import CacheSettings
from workers.media.ffmpeg import find_ffmpeg
from workers.media.probing import ProbePool, probe
from workers.records import Clip, DecodeSettings, MediaInfo

QUICK = (
    *("truncated", "referring", "embedding", "empty", "named", "odd_pictures", "odd_streams", "odd_sound"),
    *(kind for kind in mutations.KINDS if kind != "deep_nesting"),
)
"""All kinds but those that are slow on purpose."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> dict[str, Seed]:
    return {seed.name: seed for seed in make_seeds(tmp_path_factory.mktemp("seeds"))}


# The slice of the long run


def test_every_hostile_file_ends_as_promised(tmp_path):
    report = fuzz(Settings(files=30, seed=3, kinds=QUICK), tmp_path)
    assert report.violations == []
    assert report.files == 30
    assert set(report.counts) == set(QUICK)
    assert report.outcomes["answered"] > 5
    assert report.outcomes["partial"] > 0
    assert {"quarantine: not_media", "quarantine: truncated"} <= set(report.outcomes)
    assert report.bait_looks > 10


@pytest.mark.long
def test_the_same_through_a_bucket(tmp_path):
    """Names as on a disk; and keys that would climb out of a folder, which are names like any other."""
    kinds = ("named", "referring", "embedding", "truncated")
    with s3_server("climbing") as endpoint:
        make(*picture(1), *X264, tmp_path / "a.mp4")
        filesystem = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True)
        for key in ("../x.mp4", "a/../../b.mp4", "a//b.mp4", "%2e%2e%2fx.mp4", "a b+c?d#e.mp4"):
            filesystem.call_s3("put_object", Bucket="climbing", Key=key, Body=(tmp_path / "a.mp4").read_bytes())
        source = Source.of({"endpoint_url": endpoint}, CacheSettings(str(tmp_path / "cache")))
        with ProbePool(1, storage_options={"endpoint_url": endpoint}) as pool:
            for media in list_media(ArchiveConfig(uri="s3://climbing", endpoint_url=endpoint)):
                ((_, info),) = pool.probe_many([(media.key, media.uri)])
                clip = decode_one(media, info, Clip("c", 0, 0, 1), DecodeSettings(), source)
                assert clip.decoded_share == 1, media.key
        assert {path.parent for path in tmp_path.rglob("*.lock")} == {tmp_path / "cache"}
        report = fuzz(Settings(files=8, seed=4, kinds=kinds, s3_endpoint=endpoint), tmp_path)
    assert report.violations == []
    assert report.files == 8
    assert report.outcomes["answered"] > 0


def test_a_seed_gives_the_same_files(seeds, tmp_path):
    def digests(seed):
        found = []
        for trial in islice(trials(tuple(seeds.values()), seed, Bait("/bait", 9)), 150):
            if trial.kind not in ("bomb",) and not trial.kind.startswith("odd_"):
                trial.write(tmp_path / "file")
                found.append((trial.kind, trial.name, hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()))
        return found

    assert digests(1) == digests(1)
    assert digests(1) != digests(2)


@pytest.mark.parametrize("name", ["fast.mp4", "plain.mkv", "live.webm", "plain.avi"])
def test_borders_are_where_parts_begin(seeds, name):
    seed = seeds[name]
    found = borders(seed)
    assert len(found) > 50
    outer = [part for part in parts(seed) if part.depth == 0]
    assert outer[0].start == 0
    assert outer[-1].end == len(seed.content)
    assert all(0 < border < len(seed.content) for border in found)


def test_seeds_are_media_of_many_kinds(seeds, tmp_path):
    assert len(seeds) == len(RECIPES) > 30
    for seed in seeds.values():
        (tmp_path / seed.name).write_bytes(seed.content)
    with ProbePool(2) as pool:
        found = dict(pool.probe_many((name, str(tmp_path / name)) for name in seeds))
    assert {name: info for name, info in found.items() if not 1.9 < info.duration_s < 2.2} == {}


# References


@pytest.fixture
def bait(tmp_path):
    with BaitWatch(tmp_path) as watch:
        yield watch


def test_playlists_open_nothing_whatever_they_are_called(bait, tmp_path):
    files = references.playlists(bait.bait)
    assert len(files) > 300
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with ProbePool(2) as pool:
        found = dict(pool.probe_many((name, str(tmp_path / name)) for name in files))
    assert {outcome.error_class for outcome in found.values()} == {NotMedia.error_class}
    # As if probing had been fooled: decoding alone must not follow either, not even told to.
    for name in files:
        kind, _, way = name.partition("-")
        if way.partition(".")[0] in ("path", "http"):
            container = {"hls": "hls", "ffconcat": "concat", "dash": "dash", "sdp": "sdp"}.get(kind, "mp4")
            info = MediaInfo(container, 5.0, video_codec="h264", width=160, height=120, frame_rate=25.0)
            with pytest.raises(DecodeFailed):
                decode_clip(tmp_path / name, info, Clip("c", 0, 0, 5), DecodeSettings())
    assert bait.taken == []
    assert bait.looks > 20


def test_references_inside_media_open_nothing(bait, seeds, tmp_path):
    decoded = 0
    files = references.embedded(bait.bait, seeds)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with ProbePool(2) as pool:
        found = dict(pool.probe_many((name, str(tmp_path / name)) for name in files))
    for name, info in found.items():
        if isinstance(info, MediaInfo) and any(way in name for way in ("-path", "-relative", "-http", "-subfile")):
            try:
                decode_clip(tmp_path / name, info, Clip("c", 0, 0, info.duration_s), DecodeSettings(fps=1))
                decoded += 1
            except MediaError:
                pass
    assert decoded > 8
    assert bait.taken == []
    # Its index is of the file before the words were put in: that is no hole.
    assert found["subtitle-playlist-path.avi"].segments == ()


@pytest.mark.parametrize("way", ["path", "http"])
def test_the_bait_notices(bait, tmp_path, way):
    """The tests above can fail: an ffmpeg that is free to follow takes the bait."""
    playlist = tmp_path / "innocent.m3u8"
    playlist.write_bytes(references.playlists(bait.bait)[f"hls-{way}.mp4"])
    allowed = ("-allowed_extensions", "ALL", "-extension_picky", "0", "-protocol_whitelist", "file,http,tcp")
    free = [find_ffmpeg(), "-v", "quiet", "-nostdin", *allowed, "-i", playlist, "-f", "null", "-"]
    assert subprocess.run(free, timeout=60, check=False).returncode
    assert bait.taken


TRACED = """\
import sys
from pathlib import Path
from workers.errors import MediaError
from workers.media.clip_reader import decode_clip
from workers.media.probing import probe
from workers.records import Clip, DecodeSettings
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        info = probe(path)
        decode_clip(path, info, Clip("c", 0, 0, info.duration_s), DecodeSettings(fps=1))
    except MediaError as error:
        print(error.error_class)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_sees_nothing_else_opened(seeds, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    files = references.embedded(Bait(str(tmp_path / "bait"), 9), seeds)
    for name in [name for name in files if "-path" in name or "-http" in name][:8]:
        (archive / name).write_bytes(files[name])
    log = tmp_path / "strace.log"
    assert tracing.traced([sys.executable, "-c", TRACED, str(archive)], log) == 0
    found = tracing.audit(log.read_text(errors="surrogateescape").splitlines())
    assert found.violations == []
    assert found.children >= 12
    assert found.media_opened >= 6


@pytest.mark.parametrize(
    "call",
    [
        'openat(AT_FDCWD, "/tmp/m/archive/other.mp4", O_RDONLY) = 5',
        'openat(AT_FDCWD, "/etc/passwd", O_RDONLY <unfinished ...>',
        'openat(AT_FDCWD, "/tmp/m/archive/a.mp4", O_RDWR) = 5',
        "connect(5, {sa_family=AF_INET, sin_port=htons(80)}, 16) = -1 EINPROGRESS",
        'unlink("/tmp/m/archive/a.mp4") = 0',
        'execve("/bin/sh", ["sh", "-c", "id"], 0x1) = 0',
    ],
)
def test_the_audit_sees_what_a_child_may_not(call):
    started = '7 execve("/usr/bin/python3", ["python3", "-I", "-S", "/x/_launch.py", "1", "/x/ffmpeg", "-i", "file:/tmp/m/archive/a.mp4"], 0x1) = 0'  # noqa: E501
    own = '7 openat(AT_FDCWD, "/tmp/m/archive/a.mp4", O_RDONLY) = 4'
    thread = "7 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 8"
    assert tracing.audit([started, own, thread]).violations == []
    assert len(tracing.audit([started, own, thread, f"8 {call}"]).violations) == 1


# What it found


def test_one_damaged_time_makes_no_days(tmp_path):
    late = "setts=ts='if(eq(N,20),PTS+40000/TB,PTS)'"
    make(*picture(3), *X264, "-bf", 0, "-bsf:v", late, "-f", "mpegts", tmp_path / "jump.ts")
    info = probe(tmp_path / "jump.ts")
    assert info.duration_s < 60
    assert decode_clip(tmp_path / "jump.ts", info, Clip("c", 0, 0, 2), DecodeSettings()).frames.shape[0] == 4


def test_a_long_silent_file_is_no_damage(tmp_path):
    """Three bytes a second, without a gap: the scan believes it."""
    make("-f", "lavfi", "-i", "anullsrc=r=8000:d=1200", "-c:a", "flac", "-frame_size", 65535, tmp_path / "still.flac")
    assert probe(tmp_path / "still.flac").duration_s == pytest.approx(1200, abs=1)


def test_matroska_declares_the_last_time_and_not_the_length(tmp_path):
    make("-i", clip_file(tmp_path / "a.mp4", 4), "-c", "copy", "-output_ts_offset", 26.5, tmp_path / "late.mkv")
    info = probe(tmp_path / "late.mkv")
    assert info.start_s == pytest.approx(26.5, abs=0.1)
    assert info.duration_s == pytest.approx(4, abs=0.1)
    clip = decode_clip(tmp_path / "late.mkv", info, Clip("c", 0, 0, info.duration_s), DecodeSettings())
    assert clip.decoded_share == 1
    np.testing.assert_allclose(times_of(clip.frames), np.arange(8) / 2, atol=0.15)


def test_sound_before_a_late_picture_is_heard(tmp_path):
    make("-itsoffset", 40, *picture(2), *sound(20), *X264, *AAC, tmp_path / "late.mkv")
    clip = decode_clip(tmp_path / "late.mkv", probe(tmp_path / "late.mkv"), Clip("c", 0, 0, 10), DecodeSettings())
    assert clip.decoded_share == 1
    assert clip.audio.any()
    assert not clip.frames.any()
    assert any("no frame before 4" in note for note in clip.notes)


def test_a_picture_is_not_held_for_days(tmp_path):
    late = "setts=ts='if(gt(N,20),PTS+40000/TB,PTS)'"
    make(*picture(3), *X264, "-bf", 0, "-bsf:v", late, tmp_path / "jump.mkv")
    path = tmp_path / "jump.mkv"
    info = MediaInfo(
        "matroska", 40_003.0, video_codec="h264", width=160, height=120, frame_rate=25.0, video_end_s=40_003.0
    )
    assert decode_clip(path, info, Clip("c", 0, 600, 610), DecodeSettings()).decoded_share == 1  # a slide may stay
    with pytest.raises(DecodeFailed, match="frames are missing"):
        decode_clip(path, info, Clip("c", 0, 20_000, 20_010), DecodeSettings())


def test_a_sliver_at_the_end_gets_no_frame_of_its_own(tmp_path):
    """Opus and AAC outlast the picture by a few ms: 8.008 s are 16 frames at 2 a second."""
    make(*picture(4), *sound(4.008), *X264, *AAC, tmp_path / "a.mp4")
    clip = decode_clip(tmp_path / "a.mp4", probe(tmp_path / "a.mp4"), Clip("c", 0, 0, 4.008), DecodeSettings())
    assert len(clip.frames) == 8
    assert len(clip.audio) == 64_128
    np.testing.assert_allclose(times_of(clip.frames), np.arange(8) / 2, atol=0.15)


def test_pictures_like_lines_are_squeezed_to_what_models_take():
    for size in ((16_384, 1), (1, 16_384), (4_095, 3), (640, 1)):
        width, height = target_size(*size, 784)
        assert max(width, height) < 200 * min(width, height)
        assert width * height <= 784
    assert target_size(1_000, 20, 10_000) == (707, 14)


def test_sound_too_short_to_hear_has_a_name(tmp_path):
    make("-f", "lavfi", "-i", "sine=sample_rate=16000:duration=1", "-af", "atrim=end_sample=1", tmp_path / "one.wav")
    info = probe(tmp_path / "one.wav")
    with pytest.raises(ClipTooShort, match=r"0\.1 ms of audio and no video"):
        decode_clip(tmp_path / "one.wav", info, Clip("c", 0, 0, info.duration_s), DecodeSettings())


def test_nothing_is_left():
    assert confined_children() == []
