"""Decoding one span: the right moments, exact counts, nothing claimed that was not there, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from omnidrop.errors import OmniDropError
from tests.support.handed_on_probers import probers_handed_on
from tests.support.media_files import (
    AAC,
    X264,
    children,
    clip_file,
    cut,
    make,
    picture,
    sound,
    spoil,
    times_of,
    tone_starts,
)
from workers.errors import (
    DecodeFailed,
    DecodeIncomplete,
    DecodeKilled,
    DecodeTimeout,
    FfmpegMissing,
    MediaMissing,
    MediaTooLarge,
    NoStreams,
    NotMedia,
)
from workers.media import confinement, ffmpeg
from workers.media.clip_reader import decode_clip, target_size
from workers.media.probing import probe
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo

__all__ = ["probers_handed_on"]

FRAME_S = 1 / 25


def decode(path: Path, start: float, end: float, **settings) -> DecodedClip:
    return decode_clip(path, probe(path), Clip("clip", 0, start, end), DecodeSettings(**settings))


def assert_shows(clip: DecodedClip, *, within: float = 2 * FRAME_S, scale: float = 1.0) -> None:
    """Every frame shows the moment it stands for."""
    assert clip.frames is not None
    wanted = clip.clip.start_s + np.arange(len(clip.frames)) / clip.fps
    np.testing.assert_allclose(times_of(clip.frames), wanted, atol=within + 0.05)


def assert_sounds(clip: DecodedClip, *, within: float = 0.035) -> None:
    """Tones begin at whole seconds of the source."""
    assert clip.audio is not None
    starts = np.array(tone_starts(clip.audio)) + clip.clip.start_s
    first, last = np.ceil(clip.clip.start_s - within), np.ceil(clip.clip.end_s - within)
    # A span that begins inside a tone hears it at once.
    starts = starts[np.abs(starts - clip.clip.start_s) > within] if clip.clip.start_s % 1 > within else starts
    np.testing.assert_allclose(starts, np.arange(first, last), atol=within)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Six seconds of H.264 + AAC in several containers."""
    folder = tmp_path_factory.mktemp("media")
    for suffix in ("mp4", "mkv", "ts", "avi", "mov", "flv"):
        clip_file(folder / f"plain.{suffix}")
    make("-i", folder / "plain.mp4", "-c", "copy", "-movflags", "+faststart", folder / "fast.mp4")
    return folder


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "mov", "flv"])
@pytest.mark.parametrize(("start", "end"), [(0, 2), (2.3, 4.3), (5, 6)])
def test_frames_and_samples_are_from_the_span_and_aligned(files, suffix, start, end):
    clip = decode(files / f"plain.{suffix}", start, end)
    assert clip.frames.shape == (round(2 * (end - start)), 120, 160, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.audio.shape == (round(16_000 * (end - start)),)
    assert clip.audio.dtype == np.float32
    assert (clip.fps, clip.decoded_share, clip.notes) == (2.0, 1.0, ())
    assert_shows(clip)
    assert_sounds(clip)


@pytest.mark.parametrize("fps", [0.5, 1, 3.7, 25, 30])
def test_any_rate_is_sampled_at_true_times(files, fps):
    clip = decode(files / "plain.mkv", 1, 4, fps=fps)
    assert len(clip.frames) == np.ceil(3 * fps - 1e-6)
    assert clip.fps == fps
    assert_shows(clip)


def test_a_one_second_clip_and_a_short_last_clip(files):
    assert decode(files / "plain.mp4", 3, 4).frames.shape[0] == 2
    last = decode(files / "plain.mp4", 5.7, 6)
    assert (last.frames.shape[0], len(last.audio), last.decoded_share) == (1, 4_800, 1.0)


def test_without_sound_and_without_picture(tmp_path):
    make(*picture(3), *X264, tmp_path / "silent.mp4")
    silent = decode(tmp_path / "silent.mp4", 1, 3)
    assert silent.audio is None
    assert silent.decoded_share == 1
    assert_shows(silent)
    for name, codec in {"a.wav": "pcm_s16le", "a.mp3": "libmp3lame", "a.flac": "flac", "a.ogg": "libvorbis"}.items():
        make(*sound(3), "-c:a", codec, tmp_path / name)
        heard = decode(tmp_path / name, 1, 3)
        assert heard.frames is None
        assert (len(heard.audio), heard.decoded_share) == (32_000, 1.0), name
        assert_sounds(heard, within=0.06)


def test_a_file_with_neither_is_refused():
    with pytest.raises(NoStreams):
        decode_clip(__file__, MediaInfo("mp4", 1.0), Clip("c", 0, 0, 1), DecodeSettings())


def test_webm_with_vp9_and_opus(tmp_path):
    make(
        *picture(4), *sound(4), "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8,
        "-g", 30, "-c:a", "libopus", tmp_path / "a.webm",
    )  # fmt: skip
    clip = decode(tmp_path / "a.webm", 1.5, 3.5)
    assert clip.decoded_share == 1
    assert_shows(clip)
    assert_sounds(clip)


def test_variable_frame_rate_keeps_true_times(tmp_path):
    make(*picture(6), *sound(6), "-vf", "select='if(lt(t,2),1,not(mod(n,9)))'", "-fps_mode", "vfr", *X264, *AAC,
         tmp_path / "vfr.mp4")  # fmt: skip
    assert probe(tmp_path / "vfr.mp4").variable_rate
    clip = decode(tmp_path / "vfr.mp4", 1, 5)
    assert clip.decoded_share == 1
    assert_shows(clip, within=9 * FRAME_S)


@pytest.mark.parametrize("with_sound", [True, False])
def test_a_slide_that_stays_is_no_loss(tmp_path, with_sound):
    """One picture at 0 s, the next at 5 s: a clip between them shows the first one whole."""
    path = tmp_path / "slides.mkv"
    audio = sound(8) if with_sound else ()
    make(*picture(8), *audio, "-vf", "select='eq(n,0)+eq(n,125)+gt(n,190)'", "-fps_mode", "vfr", *X264, *AAC, path)
    clip = decode(path, 2, 4)
    assert clip.decoded_share == 1, clip.notes
    np.testing.assert_allclose(times_of(clip.frames), 0, atol=0.08)
    np.testing.assert_allclose(times_of(decode(path, 4, 6).frames), [0, 0, 5, 5], atol=0.08)


def test_rotation_is_applied_and_its_size_reported(files, tmp_path):
    make("-display_rotation", 90, "-i", files / "plain.mp4", "-c", "copy", tmp_path / "turned.mp4")
    info = probe(tmp_path / "turned.mp4")
    assert (info.width, info.height, info.rotation_deg) == (120, 160, 90)
    assert decode(tmp_path / "turned.mp4", 1, 2).frames.shape == (2, 160, 120, 3)


@pytest.mark.parametrize("size", ["161x121", "33x97", "2x2", "1280x40"])
def test_odd_sizes(tmp_path, size):
    width, height = map(int, size.split("x"))
    make(*picture(2, size=size), "-c:v", "ffv1", "-pix_fmt", "yuv444p", tmp_path / "odd.mkv")
    clip = decode(tmp_path / "odd.mkv", 0, 2)
    assert clip.frames.shape == (4, height, width, 3)
    assert_shows(clip)


def test_anamorphic_pictures_have_their_displayed_shape(tmp_path):
    make(*picture(2), "-vf", "setsar=2", *X264, tmp_path / "wide.mp4")
    assert decode(tmp_path / "wide.mp4", 0, 2).frames.shape == (4, 120, 320, 3)


def test_frames_are_scaled_down_to_max_pixels_in_their_aspect(files):
    frames = decode(files / "plain.mp4", 0, 1, max_pixels=4800).frames
    assert frames.shape == (2, 60, 80, 3)
    assert target_size(1920, 1080, 128 * 28 * 28) == (422, 237)
    assert target_size(100, 50, 10_000) == (100, 50)
    assert target_size(100_000, 1, 10_000) == (100, 1)


def test_a_file_that_does_not_start_at_zero(files, tmp_path):
    make("-i", files / "plain.mp4", "-c", "copy", "-output_ts_offset", 1000, tmp_path / "late.ts")
    info = probe(tmp_path / "late.ts")
    assert info.start_s > 999
    assert info.duration_s == pytest.approx(6, abs=0.1)
    clip = decode(tmp_path / "late.ts", 2, 4)
    assert clip.decoded_share == 1
    assert_shows(clip)
    assert_sounds(clip)


def test_the_default_audio_stream_is_taken(tmp_path):
    path = tmp_path / "languages.mkv"
    make(*picture(2), *sound(2), "-f", "lavfi", "-i", "sine=frequency=3000:duration=2", "-map", 0, "-map", 2, "-map", 1,
         *X264, *AAC, "-disposition:a:0", 0, "-disposition:a:1", "default", path)  # fmt: skip
    info = probe(path)
    assert (info.audio_stream, info.audio_streams) == (1, 2)
    assert_sounds(decode(path, 0, 2))


def test_more_than_two_channels_are_mixed_down(tmp_path):
    make(*picture(2), *sound(2, layout="5.1"), *X264, *AAC, tmp_path / "surround.mp4")
    assert probe(tmp_path / "surround.mp4").channels == 6
    assert_sounds(decode(tmp_path / "surround.mp4", 0, 2))


def test_cover_art_is_not_video(tmp_path):
    make("-f", "lavfi", "-i", "testsrc=s=32x32:d=0.1", "-frames:v", 1, tmp_path / "cover.png")
    make(*sound(3), "-i", tmp_path / "cover.png", "-map", 0, "-map", 1, *AAC, "-c:v", "copy", "-disposition:v:0",
         "attached_pic", tmp_path / "song.m4a")  # fmt: skip
    clip = decode(tmp_path / "song.m4a", 1, 3)
    assert clip.frames is None
    assert clip.decoded_share == 1
    make(*picture(2), "-i", tmp_path / "cover.png", "-map", 1, "-map", 0, *X264[:2], "-c:v:0", "copy",
         "-disposition:v:0", "attached_pic", tmp_path / "film.mp4")  # fmt: skip
    assert_shows(decode(tmp_path / "film.mp4", 0, 2))


def test_hdr_is_tone_mapped_and_said(tmp_path):
    path = tmp_path / "hdr.mp4"
    make(*picture(2), "-vf", "format=yuv420p10le", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params",
         "log-level=0:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc", path)  # fmt: skip
    assert probe(path).hdr
    clip = decode(path, 0, 2)
    assert clip.decoded_share == 1
    assert any("HDR" in note for note in clip.notes)
    if {"zscale", "tonemap"} <= ffmpeg.filters():
        untouched = decode_clip(path, replace(probe(path), hdr=False), clip.clip, DecodeSettings())
        assert abs(clip.frames.mean() - untouched.frames.mean()) > 8


def test_interlaced_pictures_have_no_combs(tmp_path):
    """A bar that moves 8 pixels a field: woven fields would differ from line to line."""
    path = tmp_path / "fields.mpg"
    make("-f", "lavfi", "-i", "color=black:s=320x240:r=50:d=2[b];color=white:s=40x240:r=50:d=2[w];"
         "[b][w]overlay=x='mod(n*8,280)':y=0,interlace", "-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", 2,
         path)  # fmt: skip
    info = probe(path)
    assert info.interlaced
    for most in (320 * 240, 160 * 100):  # through bwdif, and through one field
        frames = decode(path, 0, 2, max_pixels=most).frames.astype(int)
        combs = np.abs(frames[:, 2:] + frames[:, :-2] - 2 * frames[:, 1:-1]).mean()
        assert combs < 2


def test_a_size_that_changes_in_the_middle_keeps_counts_and_times(tmp_path):
    make(*picture(3), *X264, "-f", "mpegts", tmp_path / "a.ts")
    make(*picture(3, size="200x160"), *X264, "-output_ts_offset", 3, "-f", "mpegts", tmp_path / "b.ts")
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    clip = decode_clip(both, probe(both), Clip("c", 0, 1, 5), DecodeSettings())
    assert clip.frames.shape == (8, 120, 160, 3)
    np.testing.assert_allclose(times_of(clip.frames), [1, 1.5, 2, 2.5, 0, 0.5, 1, 1.5], atol=0.15)


def test_channels_that_change_in_the_middle_cost_nothing(tmp_path):
    for name, layout, offset in (("a.ts", "5.1", 0), ("b.ts", "stereo", 3)):
        make(*picture(3), *sound(3, layout=layout), *X264, "-c:a", "ac3", "-output_ts_offset", offset, tmp_path / name)
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    clip = decode(both, 1, 5)
    assert (clip.decoded_share, clip.notes) == (1.0, ())
    assert_sounds(clip)
    np.testing.assert_allclose(times_of(clip.frames), [1, 1.5, 2, 2.5, 0, 0.5, 1, 1.5], atol=0.15)


def test_sound_that_begins_late_keeps_its_place(tmp_path):
    make(*picture(4), "-itsoffset", 1.5, *sound(2.5), *X264, "-c:a", "pcm_s16le", tmp_path / "late.mkv")
    clip = decode(tmp_path / "late.mkv", 0, 4)
    assert clip.decoded_share == 1
    np.testing.assert_allclose(tone_starts(clip.audio), [1.5, 2.5, 3.5], atol=0.035)
    assert_shows(clip)


# What the exit status hides


@pytest.mark.parametrize("name", ["plain.mkv", "fast.mp4", "plain.ts", "plain.avi"])
def test_a_truncated_file_never_passes_for_whole(files, tmp_path, name):
    path = cut(files / name, tmp_path / name, 0.6)
    whole = decode(path, 0, 2)
    assert (whole.decoded_share, len(whole.frames)) == (1.0, 4)
    assert_shows(whole)
    info = probe(path)
    assert 2.5 < max(info.video_end_s, info.audio_end_s) < 5
    partial = decode_clip(path, info, Clip("c", 0, 2, 4), DecodeSettings(min_share=0.1))
    assert 0.1 < partial.decoded_share < 0.95
    assert (len(partial.frames), len(partial.audio)) == (4, 32_000)
    assert any("missing" in note for note in partial.notes)
    with pytest.raises((DecodeFailed, DecodeIncomplete)):
        decode_clip(path, info, Clip("c", 0, 4, 6), DecodeSettings())


def test_below_min_share_a_clip_is_refused_with_the_share(files, tmp_path):
    path = cut(files / "plain.mkv", tmp_path / "cut.mkv", 0.6)
    with pytest.raises(DecodeIncomplete, match=r"only \d\d\.\d% of the clip from 2 s to 4 s .* min_share is 95%"):
        decode(path, 2, 4, min_share=0.95)


@pytest.mark.parametrize("name", ["plain.mkv", "fast.mp4", "plain.ts"])
def test_a_corrupt_middle_is_noticed_and_only_there(files, tmp_path, name):
    path = spoil(files / name, tmp_path / name, 0.45, 0.55)
    for start, end in ((0, 2), (4, 6)):
        assert decode(path, start, end).decoded_share == 1
    middle = decode(path, 2, 4, min_share=0)
    assert middle.decoded_share < 0.9
    assert (len(middle.frames), len(middle.audio)) == (4, 32_000)


def test_a_damaged_time_far_ahead_does_not_fill_the_hours_between(files, tmp_path):
    late = "setts=ts='if(gt(N,40),PTS+40000/TB,PTS)'"
    make("-i", files / "plain.mkv", "-c", "copy", "-an", "-bsf:v", late, tmp_path / "jump.mkv")
    started = time.monotonic()
    clip = decode(tmp_path / "jump.mkv", 0, 3, min_share=0.01)
    assert time.monotonic() - started < 5
    assert len(clip.frames) == 6
    np.testing.assert_allclose(times_of(clip.frames[:4]), [0, 0.5, 1, 1.5], atol=0.15)


def test_sound_that_ends_early_is_silence_not_loss(tmp_path):
    make(*picture(6), *sound(2), *X264, *AAC, tmp_path / "short-sound.mp4")
    clip = decode(tmp_path / "short-sound.mp4", 3, 6)
    assert clip.decoded_share == 1
    assert_shows(clip)
    assert not clip.audio.any()
    assert any("silence" in note for note in clip.notes)


def test_a_picture_that_ends_early_stays(tmp_path):
    make(*picture(2), *sound(6), *X264, *AAC, tmp_path / "short-picture.mp4")
    clip = decode(tmp_path / "short-picture.mp4", 3, 6)
    assert clip.decoded_share == 1, clip.notes
    np.testing.assert_allclose(times_of(clip.frames), 2, atol=0.12)
    assert_sounds(clip)


# Names, limits, confinement


@pytest.mark.parametrize("name", ["-i.mp4", "a%03d.mp4", "it's \"q\".mp4", "li\nne.mp4", "ü→名.mp4", "http:x.mp4", "a b;c|d,[e].mp4"])  # fmt: skip  # noqa: E501
def test_names_are_opened_as_given(files, tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes((files / "plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert_shows(decode(Path(name), 0, 1))


def test_what_is_not_there_or_not_a_file(files, tmp_path):
    info, clip = probe(files / "plain.mp4"), Clip("c", 0, 0, 1)
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, error in ((tmp_path / "no.mp4", MediaMissing), (tmp_path / "pipe.mp4", NotMedia), (tmp_path, NotMedia)):
        with pytest.raises(error):
            decode_clip(path, info, clip, DecodeSettings())


def test_limits_refuse_before_decoding(files):
    path = files / "plain.mp4"
    with pytest.raises(MediaTooLarge, match="max_media_bytes is 1000"):
        decode(path, 0, 1, max_media_bytes=1000)
    with pytest.raises(MediaTooLarge, match="max_bytes is 100000"):
        decode(path, 0, 2, max_bytes=100_000)


def open_files() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}  # fmt: skip  # noqa: E501


def test_a_timeout_ends_the_process_and_leaves_nothing(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    make("-f", "lavfi", "-i", "testsrc2=s=640x480:r=30:d=30", "-c:v", "mpeg2video", tmp_path / "long.mkv")
    info = probe(tmp_path / "long.mkv")
    before = children()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DecodeTimeout, match=r"timeout_s = 0\.15 s"):
        decode_clip(tmp_path / "long.mkv", info, Clip("c", 0, 0, 30), DecodeSettings(timeout_s=0.15, fps=30, max_bytes=1 << 33))  # fmt: skip  # noqa: E501
    assert children() == before
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


ENDLESS = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=5"]


def test_the_wrapper_ends_an_endless_child_on_time():
    before, started = children(), time.monotonic()
    done = ffmpeg.run([ffmpeg.find_ffmpeg(), "-re", *ENDLESS, "-f", "null", "-"], limits=ffmpeg.Limits(0.3, 1 << 20))
    assert done.timed_out
    assert time.monotonic() - started < 2
    assert children() == before


def test_the_wrapper_bounds_what_a_child_writes():
    with ffmpeg.anonymous_file("out") as fd:
        done = ffmpeg.run(
            [ffmpeg.find_ffmpeg(), "-v", "quiet", *ENDLESS, "-f", "rawvideo", f"pipe:{fd}"],
            limits=ffmpeg.Limits(20, 1 << 20),
            pass_fds=[fd],
        )
        assert done.too_large
        assert os.fstat(fd).st_size == 1 << 20


def test_a_limit_of_the_machine_is_not_the_files_fault():
    """A limit that this process cannot raise is below what a clip may take."""
    write = f"""if 1:
        import resource
        from workers.media import ffmpeg
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with ffmpeg.anonymous_file("out") as fd:
            given = [ffmpeg.packed_ffmpeg(), "-v", "quiet", *{ENDLESS}, "-f", "rawvideo", f"pipe:{{fd}}"]
            try:
                ffmpeg.run(given, limits=ffmpeg.Limits(20, 1 << 20), pass_fds=[fd])
            except ffmpeg.ResourceLimit as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", write], capture_output=True, text=True, check=True)
    assert "may not grow beyond 65536 bytes (`ulimit -f`)" in done.stdout


def test_an_ffmpeg_that_the_system_refuses_files_says_nothing_about_the_media(videos):
    given = [ffmpeg.find_ffmpeg(), "-v", "error", *12 * ["-i", str(videos / "short.mp4")], "-f", "null", "-"]
    with pytest.raises(DecodeKilled, match=r"no threads or files left for ffmpeg.*Too many open files"):
        ffmpeg.run(given, limits=ffmpeg.Limits(20, 1 << 20, open_files=12), reads=[videos / "short.mp4"])


def test_the_wrapper_bounds_what_a_child_says():
    done = ffmpeg.run(
        [ffmpeg.find_ffmpeg(), "-v", "debug", *ENDLESS, "-vf", "showinfo", "-t", "3000", "-f", "null", "-"],
        limits=ffmpeg.Limits(20, 1 << 26),
    )
    assert done.returncode == 0
    assert 1000 < len(done.stderr) <= ffmpeg.STDERR_BYTES + ffmpeg.STDERR_HEAD_BYTES + 10
    assert "testsrc" in done.stderr[:5000]


def test_a_child_dies_with_its_parent(tmp_path):
    """The parent is killed with SIGKILL, so nothing of ours can clean up: the kernel must."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from workers.media import ffmpeg\n"
        "source = ['-re', '-f', 'lavfi', '-i', 'testsrc', '-metadata', sys.argv[2], '-f', 'null', '-']\n"
        "ffmpeg.run([ffmpeg.find_ffmpeg(), *source], limits=ffmpeg.Limits(60, 1 << 20))\n"
    )
    import subprocess
    import sys

    mark = f"title={tmp_path.name}-{os.getpid()}"
    parent = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parents[2]), mark])
    try:
        found = wait_for(lambda: [p for p in psutil.Process(parent.pid).children() if mark in command_line(p)])
        assert found
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not found[0].is_running() or found[0].status() == psutil.STATUS_ZOMBIE)


def command_line(process):
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def wait_for(condition, seconds: float = 10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    return condition()


def test_a_child_sees_no_credentials(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    child = confinement.start(["/usr/bin/env"], timeout_s=5, file_bytes=0, stdout=-1)
    said = child.communicate()[0].decode()
    assert "PATH=" in said
    assert "planted" not in said


def test_the_named_ffmpeg_comes_first_then_the_systems_then_the_packed_one(monkeypatch, tmp_path):
    def find():
        # What is found once is kept: the function below the cache looks each time.
        return ffmpeg.ffmpeg_tool.__wrapped__().path

    packed = ffmpeg.packed_ffmpeg()
    system, named = tmp_path / "bin" / "ffmpeg", tmp_path / "named"
    system.parent.mkdir()
    for made in (system, named):
        made.symlink_to(packed)
    monkeypatch.setenv("PATH", str(system.parent))
    monkeypatch.setenv("OMNIDROP_FFMPEG", str(named))
    assert find() == str(named)
    monkeypatch.delenv("OMNIDROP_FFMPEG")
    assert find() == str(system)
    system.unlink()
    assert find() == packed
    monkeypatch.setenv("OMNIDROP_FFMPEG", "/nowhere/ffmpeg")
    with pytest.raises(FfmpegMissing, match=r"OMNIDROP_FFMPEG is '/nowhere/ffmpeg'"):
        find()


@pytest.mark.parametrize(("kills", "is_used"), [(2, True), (3, False)])
def test_an_ffmpeg_that_is_killed_while_it_is_tried_is_tried_again(monkeypatch, kills, is_used):
    run, left = ffmpeg.run, [kills]

    def killed(*arguments, **more):
        done = run(*arguments, **more)
        left[0] -= 1
        return replace(done, returncode=-signal.SIGKILL) if left[0] >= 0 else done

    monkeypatch.setattr(ffmpeg, "run", killed)
    if is_used:
        assert ffmpeg.ffmpeg_tool.__wrapped__().path == ffmpeg.packed_ffmpeg()
    else:
        with pytest.raises(FfmpegMissing, match="exit status -9"):
            ffmpeg.ffmpeg_tool.__wrapped__()


def test_the_suites_ffmpeg_is_the_packed_one():
    """Whatever this machine has on its PATH, now or in a minute."""
    assert ffmpeg.find_ffmpeg() == ffmpeg.packed_ffmpeg()
    assert ffmpeg.ffmpeg_version().startswith("ffmpeg version")


class Canary:
    """A file that notices being read (a FIFO: opening it for reading lets our writer in) and a listening port."""

    def __init__(self, folder: Path) -> None:
        self.fifo = folder / "canary.ts"
        os.mkfifo(self.fifo)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.1)
        self.port = self.listener.getsockname()[1]

    def was_opened(self) -> bool:
        try:
            os.close(os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # ENXIO: nobody has it open for reading
            pass
        else:
            return True
        try:
            self.listener.accept()[0].close()
        except TimeoutError:
            return False
        return True


INDIRECT = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\nduration 5\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT5S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL><SegmentBase/>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",  # noqa: E501
}


@pytest.mark.parametrize("kind", sorted(INDIRECT))
@pytest.mark.parametrize("target", ["file", "http"])
def test_indirections_open_nothing_else(tmp_path, kind, target):
    canary = Canary(tmp_path)
    where = str(canary.fifo) if target == "file" else f"http://127.0.0.1:{canary.port}/x.ts"
    path = tmp_path / "innocent.mp4"
    path.write_text(INDIRECT[kind].format(target=where, port=canary.port))
    opened: list[bool] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            opened.append(canary.was_opened())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(NotMedia):
            probe(path, timeout_s=10)
        for container in ("mp4", "matroska", "mpegts", kind if kind != "sdp" else "hls"):
            info = MediaInfo(container, 5.0, video_codec="h264", width=160, height=120, frame_rate=25.0)
            with pytest.raises(DecodeFailed):
                decode_clip(path, info, Clip("c", 0, 0, 5), DecodeSettings(timeout_s=10))
    finally:
        stop.set()
        watcher.join()
    assert not any(opened)
    assert len(opened) > 1


@pytest.mark.parametrize("level", [confinement.Level(0, False), confinement.level()], ids=str)
def test_the_canary_sings_when_confinement_is_off(tmp_path, monkeypatch, level):
    """The test above can fail: with the demuxer allowed and the kernel's own walls away, the canary is opened."""
    monkeypatch.setattr(ffmpeg, "DEMUXERS", ("hls", "mpegts"))
    monkeypatch.setattr(confinement, "level", lambda: level)
    canary = Canary(tmp_path)
    path = tmp_path / "innocent.mp4"
    path.write_text(INDIRECT["hls"].format(target=canary.fifo))
    info = MediaInfo("hls", 5.0, video_codec="h264", width=160, height=120, frame_rate=25.0)
    outcome: list[str] = []

    def decode_it() -> None:
        try:
            decode_clip(path, info, Clip("c", 0, 0, 5), DecodeSettings(timeout_s=3))
        except OmniDropError as error:
            outcome.append(error.error_class)

    worker = threading.Thread(target=decode_it)
    worker.start()
    if level.landlock:
        worker.join()
        assert not canary.was_opened()
    else:
        assert wait_for(canary.was_opened, 5)
        worker.join()
    assert outcome == ["decode_timeout"] or outcome == ["decode_failed"]
