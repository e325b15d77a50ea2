"""A clip holds what the file holds at that second: joined, jumping, gappy, many-tracked and odd files, read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.sections import ClipsConfig
from pipeline.planning.cutting import cut_media
from tests.robustness.fuzz_media import bombs
from tests.robustness.fuzz_media.seeds import RECIPES, Seed
from tests.robustness.media_matrix.made_of import FRAGMENTED
from tests.support.cropped_files import cropped_file
from tests.support.media_files import make
from tests.support.media_oracle import Heard, cut, heard, joined, noise, second_of, source, write_wav
from workers import errors
from workers.errors import DecodeFailed, DecodeIncomplete, MediaEncrypted, NoStreams, NotMedia, TrackMissing
from workers.media.clip_reader import decode_clip
from workers.media.probing import ProbePool
from workers.media.sound import Sound, placed
from workers.media.tracks import chosen
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings, MediaInfo

POOL: ProbePool
FILES = Path(__file__).parents[1] / "data" / "media"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """24 lossless seconds to make other files from."""
    return source(tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    """One probing process for all files: starting one takes longer than most of them."""
    global POOL
    with ProbePool(1) as POOL:
        yield


def probe(path: Path) -> MediaInfo:
    ((_, found),) = POOL.probe_many([(0, str(path))])
    if isinstance(found, ClipFailure):
        raise next(e for e in vars(errors).values() if getattr(e, "error_class", None) == found.error_class)
    return found


def clips(path: Path, length_s: float = 4.0, info: MediaInfo | None = None, **decoding) -> list[DecodedClip]:
    """All clips of a file, as a run cuts them."""
    info = info or probe(path)
    spans = cut_media(info, ClipsConfig(length_s=length_s))
    return [decode_clip(path, info, Clip("c", n, *span), DecodeSettings(**decoding)) for n, span in enumerate(spans)]


def at(path: Path, start: float, end: float, info: MediaInfo | None = None) -> DecodedClip:
    return decode_clip(path, info or probe(path), Clip("c", 0, start, end), DecodeSettings())


def shown(frame: np.ndarray) -> float:
    """The second that a picture of tests/data/media shows."""
    height, width = frame.shape[:2]
    grey, quarter, code = frame.astype(float).mean(axis=2), height / 4, 0
    for bit in range(16):
        row, column = divmod(bit, 8)
        top, left = quarter * (1 + row), column * width / 8
        field = grey[
            int(top + quarter * 0.3) : int(top + quarter * 0.7) + 1, int(left + width / 32) : int(left + width / 12)
        ]
        code = code << 1 | (field.mean() > 125)
    return code / 100


def assert_follows(found: list[DecodedClip], *parts: tuple[float, float], within: float = 0.03) -> None:
    """The clips hold the source's parts one after the other, each second once, picture and sound together."""
    for number, (start, end) in enumerate(parts):
        mine = [clip for clip in found if clip.noticed.segment == number]
        first_s = mine[0].clip.start_s
        assert mine[-1].clip.end_s - first_s == pytest.approx(end - start, abs=0.15)
        for clip in mine:
            wanted = start + clip.clip.start_s - first_s
            if clip.frames is not None:
                times = [second_of(frame) for frame in clip.frames]
                np.testing.assert_allclose(times, wanted + np.arange(len(times)) / clip.fps, atol=0.1)
            if clip.audio is not None and len(clip.audio) > 8_000:
                place = heard(clip.audio)
                assert place.second == pytest.approx(wanted, abs=within)
                assert place.correlation > 0.9
    assert {clip.noticed.segment for clip in found} == set(range(len(parts)))


# Timelines


@pytest.mark.parametrize("suffix", ["ts", "vob", "mkv", "flv", "avi", "mp4"])
def test_joined_recordings_are_asked_once_each(made, tmp_path, suffix):
    parts = [cut(made, tmp_path / f"{n}.{suffix}", *span) for n, span in enumerate(((2, 5.4), (13, 17)))]
    # AVI's own sound comes a frame late, as every player has it.
    assert_follows(clips(joined(tmp_path / f"both.{suffix}", *parts)), (2, 5.4), (13, 17), within=0.04)


def test_joined_fragmented_mp4(made, tmp_path):
    how = ("-movflags", "frag_keyframe+empty_moov")
    parts = [cut(made, tmp_path / f"{n}.mp4", *span, *how) for n, span in enumerate(((2, 5), (13, 17)))]
    assert_follows(clips(joined(tmp_path / "both.mp4", *parts)), (2, 5), (13, 17))


@pytest.mark.parametrize(("suffix", "begins"), [("mp4", b"moof"), ("mkv", b"\x1f\x43\xb6\x75"), ("flv", b"FLV")])
def test_times_that_begin_again_without_a_header_of_their_own(made, tmp_path, suffix, begins):
    how = FRAGMENTED if suffix == "mp4" else ()
    first, second = (
        cut(made, tmp_path / f"{n}.{suffix}", *span, *how).read_bytes() for n, span in enumerate(((2, 3), (13, 15)))
    )
    end = first.rfind(b"mfra") - 4 if suffix == "mp4" else len(first)
    begin = second.find(begins) + {"mp4": -4, "mkv": 0, "flv": 13}[suffix]
    (tmp_path / f"both.{suffix}").write_bytes(first[:end] + second[begin:])
    assert_second_part_is(tmp_path / f"both.{suffix}", 13, 15)


def test_joined_mxf(made, tmp_path):
    how = ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s16le")
    parts = [cut(made, tmp_path / f"{n}.mxf", *span, *how) for n, span in enumerate(((2, 3), (13, 15)))]
    assert_second_part_is(joined(tmp_path / "both.mxf", *parts), 13, 15)


def assert_second_part_is(path: Path, start: float, end: float) -> None:
    info = probe(path)
    first, second = info.parts
    assert first.end_s == second.start_s == pytest.approx(1, abs=0.1)
    found = at(path, second.start_s, second.end_s, info)
    assert second_of(found.frames[1]) == pytest.approx(start + 0.5, abs=0.1)
    assert heard(found.audio).second == pytest.approx(start, abs=0.05)
    assert found.clip.length_s == pytest.approx(end - start, abs=0.1)


def test_room_taken_beforehand_is_not_searched(made, tmp_path):
    path = cut(made, tmp_path / "a.avi", 2, 4)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(1 << 17))
    info = probe(path)
    assert [part.video_bytes for part in info.parts] == [(0, size)]


def test_streams_that_nobody_announced_are_no_sound_that_begins_late(tmp_path):
    """One that turns up late may have the number of one whose sound is looked for."""
    make(*RECIPES["plain.ts"], tmp_path / "a.ts")
    seed = Seed("plain.ts", (tmp_path / "a.ts").read_bytes())
    (tmp_path / "a.ts").write_bytes(bombs.BYTES["thousand-programmes.ts"]({"plain.ts": seed})[: 40 * 188])
    with pytest.raises(NoStreams):
        probe(tmp_path / "a.ts")


def test_chained_ogg(tmp_path):
    for n, start in enumerate((3, 40)):
        wav = write_wav(tmp_path / f"{n}.wav", noise()[start * 16_000 : (start + 6) * 16_000])
        make("-i", wav, "-ar", 48_000, "-c:a", "libvorbis", tmp_path / f"{n}.ogg")
    assert_follows(clips(joined(tmp_path / "both.ogg", tmp_path / "0.ogg", tmp_path / "1.ogg")), (3, 9), (40, 46))


@pytest.mark.parametrize("jump_s", [15.0, 3600.0, 80_000.0])
def test_a_broadcast_clock_that_jumps_makes_no_phantom_clips(made, tmp_path, jump_s):
    parts = [cut(made, tmp_path / "0.ts", 2, 5), cut(made, tmp_path / "1.ts", 13, 17, "-output_ts_offset", jump_s)]
    both = joined(tmp_path / "both.ts", *parts)
    info = probe(both)
    assert info.segments[0].pts_s == pytest.approx(1.4, abs=0.05)
    assert info.duration_s == pytest.approx(7, abs=0.2)
    assert_follows(clips(both, info=info), (2, 5), (13, 17))


def test_a_programme_with_new_stream_numbers(made, tmp_path):
    other = ("-streamid", "0:300", "-streamid", "1:301", "-output_ts_offset", 3)
    parts = [cut(made, tmp_path / "0.ts", 2, 5), cut(made, tmp_path / "1.ts", 13, 17, *other)]
    assert_follows(clips(joined(tmp_path / "both.ts", *parts)), (2, 5), (13, 17))


@pytest.mark.parametrize("without", [0, 1])
def test_a_recording_without_sound_beside_one_that_has_some(made, tmp_path, without):
    parts = [
        cut(made, tmp_path / f"{n}.ts", *span, *(("-an",) if n == without else ()))
        for n, span in enumerate(((2, 5), (13, 17)))
    ]
    both = joined(tmp_path / "both.ts", *parts)
    found = clips(both)
    assert_follows(found, (2, 5), (13, 17))
    assert [clip.audio is None for clip in found] == [clip.noticed.segment == without for clip in found]


def test_sound_and_pictures_are_of_one_programme(made, tmp_path):
    """Two programmes in one stream: the first one's sound is not that of the second one's larger pictures."""
    make("-ss", 14, "-t", 4, "-i", made, "-ss", 2, "-t", 4, "-i", made, "-map", "0:v", "-map", "0:a", "-map", "1:v",
         "-map", "1:a", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-filter:v:0", "scale=80:48",
         "-c:a", "aac", "-ar", 48_000, "-program", "title=one:st=0:st=1", "-program", "title=two:st=2:st=3",
         tmp_path / "two.ts")  # fmt: skip
    info = probe(tmp_path / "two.ts")
    assert heard(at(tmp_path / "two.ts", 0, 4, info).audio).second == pytest.approx(2, abs=0.08)
    assert [track.why for track in info.tracks if not track.chosen] == ["of another programme"] * 2


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_pause_of_picture_and_sound_is_no_content(made, tmp_path, suffix):
    later = "setts=ts='if(gte(PTS*TB,3),PTS+600/TB,PTS)':dts='if(gte(DTS*TB,3),DTS+600/TB,DTS)'"
    plain = cut(made, tmp_path / "plain.mkv", 2, 9)
    make("-i", plain, "-c", "copy", "-bsf:v", later, "-bsf:a", later, tmp_path / f"paused.{suffix}")
    info = probe(tmp_path / f"paused.{suffix}")
    assert [round(part.pts_s) for part in info.parts] == [0, 603]
    assert_follows(clips(tmp_path / f"paused.{suffix}", info=info), (2, 5), (5, 9))


def test_slides_far_apart_are_time():
    info = probe(FILES / "70_slides_1h_15min_gaps.mkv")
    assert info.duration_s == pytest.approx(3600, abs=0.1)
    assert shown(at(FILES / "70_slides_1h_15min_gaps.mkv", 1000, 1010, info).frames[-1]) == 300


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(10, 25), min_size=2, max_size=3), st.integers(0, 40), st.sampled_from(["ts", "mkv", "vob"]))
def test_any_joins_and_offsets(made, tmp_path, tenths, offset, suffix):
    spans, begin = [], 1.0
    for tenth in tenths:
        spans.append((begin, begin + tenth / 10))
        begin += tenth / 10 + 3
    shift = ("-output_ts_offset", offset) if suffix == "ts" else ()
    parts = [cut(made, tmp_path / f"{n}.{suffix}", *span, *(shift if n else ())) for n, span in enumerate(spans)]
    found = clips(joined(tmp_path / f"all.{suffix}", *parts), 1.7)
    # Offsets below the broadcast's ten seconds may join on without a jump; then time runs on.
    if {clip.noticed.segment for clip in found} == set(range(len(spans))):
        assert_follows(found, *spans, within=0.04)
    else:
        assert suffix == "ts"
        assert offset


@pytest.mark.parametrize("suffix", ["aac", "mp3"])
def test_a_length_that_is_only_estimated_is_read(tmp_path, suffix):
    loud = np.concatenate([noise()[:80_000], np.zeros(400_000, np.float32), noise()[80_000:160_000]])
    wav = write_wav(tmp_path / "a.wav", loud)
    codec = ("-c:a", "aac") if suffix == "aac" else ("-c:a", "libmp3lame", "-q:a", 4, "-write_xing", 0)
    make("-i", wav, "-ar", 48_000, *codec, tmp_path / f"a.{suffix}")
    info = probe(tmp_path / f"a.{suffix}")
    assert info.duration_s == pytest.approx(35, abs=0.1)
    assert heard(at(tmp_path / f"a.{suffix}", 31, 34, info).audio).second == pytest.approx(6, abs=0.03)


CUT_OFF = {
    "avi": ("-c:v", "mjpeg", "-c:a", "pcm_s16le"),
    "mxf": ("-c:v", "mpeg2video", "-c:a", "pcm_s16le", "-ar", 48_000),
    "wav": ("-vn", "-c:a", "pcm_s16le"),
    "caf": ("-vn", "-c:a", "pcm_s16be"),
    "w64": ("-vn", "-c:a", "pcm_s16le"),
}


@pytest.mark.parametrize("suffix", ["mkv", "flv", "asf", *CUT_OFF])
def test_what_a_cut_off_file_lacks_is_missed(made, tmp_path, suffix):
    whole = cut(made, tmp_path / f"whole.{suffix}", 2, 14, *CUT_OFF.get(suffix, ()))
    (tmp_path / f"half.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    info = probe(tmp_path / f"half.{suffix}")
    assert info.duration_s == pytest.approx(12, abs=0.1)
    with pytest.raises((DecodeFailed, DecodeIncomplete)):
        at(tmp_path / f"half.{suffix}", 9, 12, info)


def test_what_a_pipe_could_not_finish_is_not_cut_off(tmp_path):
    wav = write_wav(tmp_path / "a.wav", noise()[: 3 * 16_000])
    for size in (0, 0x7FFFF000, 0xFFFFFFFF):
        content = wav.read_bytes()
        at_data = content.find(b"data") + 4
        (tmp_path / "b.wav").write_bytes(content[:at_data] + size.to_bytes(4, "little") + content[at_data + 4 :])
        assert probe(tmp_path / "b.wav").duration_s == pytest.approx(3, abs=0.01)


def test_where_no_packet_is_no_ffmpeg_looks(tmp_path, monkeypatch):
    wav = write_wav(tmp_path / "a.wav", noise()[: 3 * 16_000])
    make("-i", wav, tmp_path / "a.aiff")
    content = bytearray((tmp_path / "a.aiff").read_bytes())
    at_count = content.find(b"COMM") + 10
    content[at_count : at_count + 4] = (16_000 * 3_000).to_bytes(4, "big")
    (tmp_path / "a.aiff").write_bytes(content)
    info = probe(tmp_path / "a.aiff")
    assert (info.duration_s, info.audio_end_s) == pytest.approx((3_000, 3), abs=0.01)
    monkeypatch.setattr("workers.media.clip_reader.take_span", None)
    with pytest.raises(DecodeFailed, match=r"end 3\.0 s into the file, although it says that it is 3000\.0 s long"):
        at(tmp_path / "a.aiff", 60, 90, info)


def test_a_packet_of_sound_lasts_no_days(tmp_path):
    wav = write_wav(tmp_path / "a.wav", noise()[:1])
    make("-i", wav, tmp_path / "a.ogg")
    assert probe(tmp_path / "a.ogg").duration_s < 1


def test_sound_that_libav_seeks_wrongly_is_of_its_second(tmp_path):
    wav = write_wav(tmp_path / "a.wav", noise()[: 12 * 16_000])
    make("-i", wav, "-c:a", "g722", tmp_path / "b.wav")
    assert heard(at(tmp_path / "b.wav", 8, 11).audio).second == pytest.approx(8, abs=0.01)


def test_aac_that_changes_its_rate_counts_content(tmp_path):
    parts = []
    for start, hz in ((2, 44_100), (5, 48_000)):
        wav = write_wav(tmp_path / f"{hz}.wav", noise()[start * 16_000 : (start + 3) * 16_000])
        make("-i", wav, "-ar", hz, "-b:a", "128k", tmp_path / f"{hz}.aac")
        parts.append(tmp_path / f"{hz}.aac")
    assert_follows(clips(joined(tmp_path / "both.aac", *parts)), (2, 5), (5, 8))


def test_late_sound_is_heard_though_the_head_tells_nothing(made, tmp_path):
    whole = cut(made, tmp_path / "a.mp4", 2, 8)
    late = ("-itsoffset", 2.5, "-i", whole, "-map", "0:v", "-map", "1:a", "-c", "copy")
    make("-i", whole, *late, tmp_path / "b.m2ts")
    assert heard(at(tmp_path / "b.m2ts", 4, 7).audio).second == pytest.approx(3.5, abs=0.03)


def test_streams_on_clocks_hours_apart_are_asked_one_after_the_other(made, tmp_path):
    whole = cut(made, tmp_path / "a.mp4", 2, 5)
    make("-i", whole, "-itsoffset", 40_000, "-i", whole, "-map", "0:a", "-map", "1:v", "-c", "copy", tmp_path / "b.ts")
    info = probe(tmp_path / "b.ts")
    assert info.duration_s == pytest.approx(6, abs=0.2)
    sound, pictures = clips(tmp_path / "b.ts", info=info)
    assert sound.frames is None
    assert heard(sound.audio).second == pytest.approx(2, abs=0.05)
    assert pictures.audio is None
    assert second_of(pictures.frames[0]) == pytest.approx(2, abs=0.05)


def test_a_picture_a_second_out_of_order_costs_no_sound(made, tmp_path):
    pictures = ("-r", 1, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", 3)
    make("-ss", 2, "-t", 6, "-i", made, *pictures, tmp_path / "a.mkv")
    info = probe(tmp_path / "a.mkv")
    assert (info.audio_end_s, info.notes) == (pytest.approx(6, abs=0.2), ())
    assert heard(at(tmp_path / "a.mkv", 1, 5, info).audio).second == pytest.approx(3, abs=0.03)


def test_a_sequence_of_pictures_is_not_its_first_one(made, tmp_path):
    make("-ss", 2, "-t", 2, "-i", made, "-an", "-c:v", "libsvtav1", "-preset", 12, "-crf", 10, tmp_path / "a.avif")
    (clip,) = clips(tmp_path / "a.avif")
    assert [second_of(frame) for frame in clip.frames] == pytest.approx([2, 2.5, 3, 3.5], abs=0.05)


# Sound


def moved(pieces: int, shifts: np.ndarray) -> Sound:
    """Twenty-millisecond pieces of the noise, with the times that their shifts give them."""
    starts = np.arange(pieces) * 0.02 + shifts
    return Sound(noise()[: pieces * 320], starts, np.full(pieces, 320))


@settings(max_examples=12, deadline=None)
@given(st.integers(30, 400), st.floats(0.025, 5))
def test_a_gap_is_silence_at_its_place(piece, gap_s):
    clip, has = placed(moved(500, np.where(np.arange(500) < piece, 0, gap_s)), 16 * 16_000)
    first, begin = piece * 320, piece * 320 + round(gap_s * 16_000)
    assert not has[first : begin - 1].any()
    assert not clip[first : begin - 1].any()
    np.testing.assert_allclose(clip[begin : begin + 3_200], noise()[first : first + 3_200], atol=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.floats(0.02, 0.12), st.integers(0, 60))
def test_late_stamps_move_nothing(late, prompt, by_s, phase):
    """Bursts of packets that are stamped late, from any point on."""
    is_late = (np.arange(500) + phase) % (late + prompt) < late
    clip, _ = placed(moved(500, is_late * by_s), 8 * 16_000)
    at = heard(clip[16_000:-16_000])
    assert at.correlation > 0.99
    # One that begins among late stamps and hears no prompt one for long may take the first of them for the line.
    assert abs(at.second - 1) < 0.02


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1_000_000))
def test_stamps_at_random_move_nothing_much(seed):
    by_s = np.random.default_rng(seed).uniform(-0.05, 0.05, 500)
    at = heard(placed(moved(500, by_s), 8 * 16_000)[0][16_000:-16_000])
    assert at.correlation > 0.95
    assert abs(at.second - 1) < 0.02


@pytest.mark.parametrize("by_s", [0.03, 0.06, 0.12])
@pytest.mark.parametrize("period_s", [3, 5, 7])
@pytest.mark.parametrize("pieces", [350, 700])
def test_stamps_that_wander_to_and_fro_move_nothing(by_s, period_s, pieces):
    wandering = by_s * np.sin(2 * np.pi * np.arange(pieces) * 0.02 / period_s)
    clip, has = placed(moved(pieces, wandering), pieces * 320 - 16_000)
    at = heard(clip[16_000:])
    assert (at.correlation > 0.99, abs(at.second - 1) < by_s / 2, has[1_600:].all()) == (True, True, True)


def test_a_clock_that_runs_away_is_followed():
    clip, _ = placed(moved(700, np.arange(700) * 0.0004), 12 * 16_000)
    for begin in (2, 10):
        at = heard(clip[begin * 16_000 : begin * 16_000 + 4_000])
        assert at.second == pytest.approx(begin / 1.02, abs=0.01)


@pytest.mark.parametrize("name", ["76_jitter_60ms.flv", "76_jitter_90ms.mkv"])
def test_jittering_times_cut_nothing(name):
    whole, part = at(FILES / name, 0, 10), at(FILES / name, 4.3, 8.3)
    assert (whole.noticed.silent_s, part.noticed.silent_s) == (0, 0)
    inner, around = part.audio[8_000:-8_000], whole.audio[round(4.8 * 16_000) - 320 : round(4.8 * 16_000) + 48_320]
    matches = [np.corrcoef(inner, around[lag : lag + len(inner)])[0, 1] for lag in range(640)]
    assert max(matches) > 0.95  # within 20 ms of one another


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_gap_in_the_sound_stays_a_gap(made, tmp_path, suffix):
    plain = cut(made, tmp_path / f"plain.{suffix}", 2, 14)
    drop = "noise=drop='between(pts*tb,5,6)+between(pts*tb,6,7)'"
    make("-i", plain, "-c", "copy", "-bsf:a", drop, tmp_path / f"gap.{suffix}")
    clip = at(tmp_path / f"gap.{suffix}", 5.5, 10.5)
    assert clip.decoded_share == 1, clip.notes
    assert clip.noticed.silent_s == pytest.approx(1.5, abs=0.1)
    assert not clip.audio[1_000:22_000].any()
    assert heard(clip.audio[32_000:]).second == pytest.approx(9.5, abs=0.03)
    assert second_of(clip.frames[0]) == pytest.approx(7.5, abs=0.07)


@pytest.mark.parametrize("name", ["78_opus_dtx.webm", "78_opus_dtx_audio.webm"])
def test_silence_without_packets_is_answered(name):
    clip = at(FILES / name, 0, 30)
    assert clip.decoded_share == 1
    assert 18 < clip.noticed.silent_s < 22
    assert not clip.audio[8 * 16_000 : 22 * 16_000].any()


def test_sound_that_changes_its_format_is_whole():
    clip = at(FILES / "73_audio_format_change.ts", 0, 11.8)
    assert (clip.decoded_share, clip.noticed.silent_s) == (1, 0)


def test_one_modality_lost_does_not_cost_the_other(made, tmp_path):
    plain = cut(made, tmp_path / "plain.mkv", 2, 8)
    make("-i", plain, "-c", "copy", "-bsf:a", "noise=amount=3", tmp_path / "bad-sound.mkv")
    clip = at(tmp_path / "bad-sound.mkv", 0, 6)
    assert clip.decoded_share < 1
    assert second_of(clip.frames[3]) == pytest.approx(3.5, abs=0.05)


@pytest.mark.parametrize(
    ("gains", "suffix"), [((1, 1), "wav"), ((1, 0), "wav"), ((1,) * 6, "mkv"), ((1, 0.5, 0), "wav")]
)
def test_channels_are_averaged_and_never_clipped(tmp_path, gains, suffix):
    loud = (noise()[: 4 * 16_000] * (0.95 / np.abs(noise()[: 4 * 16_000]).max())).astype(np.float32)
    write_wav(tmp_path / "a.wav", *(np.float32(gain) * loud for gain in gains))
    path = tmp_path / f"b.{suffix}"
    make("-i", tmp_path / "a.wav", *(("-c:a", "flac") if suffix == "mkv" else ()), path)
    clip = at(path, 0, 4)
    assert np.abs(clip.audio - loud * np.mean(gains)).max() < 2e-3
    assert clip.noticed.clipped_share == 0


def test_eight_channels_in_planes_are_listened_to(tmp_path):
    wav = write_wav(tmp_path / "a.wav", *([noise()[:16_000]] * 7), 0 * noise()[:16_000])
    make("-i", wav, "-c:a", "libopus", "-mapping_family", 255, "-ar", 48_000, tmp_path / "a.mka")
    assert "1 of 8 channels are silent" in str(probe(tmp_path / "a.mka").notes)


def test_silent_channels_and_opposite_phase_are_said(tmp_path):
    half = noise()[: 6 * 16_000]
    assert "1 of 2 channels are silent" in str(probe(write_wav(tmp_path / "a.wav", half, 0 * half)).notes)
    assert "opposite phase" in str(probe(write_wav(tmp_path / "b.wav", half, -half)).notes)
    assert probe(write_wav(tmp_path / "c.wav", half, half)).notes == ()


# Tracks


@pytest.mark.parametrize(
    ("name", "index", "why"),
    [
        ("26_commentary_first.mkv", 2, "flagged comment"),
        ("26_audio_description_first.mkv", 2, "flagged visual_impaired"),
        ("26_silent_first.mp4", 2, "digital silence"),
        ("51_preview_mjpeg_first.mov", 1, "largest"),
        ("50_dashcam_front_rear.mp4", 0, "default"),
    ],
)
def test_the_programme_is_taken_and_the_rest_says_why_not(name, index, why):
    info = probe(FILES / name)
    assert [track.index for track in info.tracks if (track.chosen and track.kind != "video") or (len(info.tracks) == 2
            and track.chosen)] == [index]  # fmt: skip
    assert info.unused_tracks == 1
    assert why in next(track.why for track in info.tracks if not track.chosen)


def test_tracks_can_be_asked_for(tmp_path):
    one, other = noise()[: 5 * 16_000], noise()[30 * 16_000 : 35 * 16_000]
    write_wav(tmp_path / "one.wav", one)
    write_wav(tmp_path / "other.wav", other)
    make("-i", tmp_path / "one.wav", "-i", tmp_path / "other.wav", "-map", 0, "-map", 1, "-c:a", "flac",
         "-metadata:s:0", "language=eng", "-metadata:s:1", "language=ger", tmp_path / "two.mka")  # fmt: skip
    info = probe(tmp_path / "two.mka")
    for wish, wanted in (("auto", one), ("0", one), ("1", other), ("lang:de", other), ("all", (one + other) / 2)):
        sound = at(tmp_path / "two.mka", 0, 5, chosen(info, wish)).audio
        assert np.abs(sound - wanted).max() < 1e-3, wish
    with pytest.raises(TrackMissing, match="eng, ger"):
        chosen(info, "lang:fr")
    with pytest.raises(TrackMissing, match="counted from 0"):
        chosen(info, "2")


@pytest.mark.parametrize("suffix", ["mxf", "mov"])
def test_single_channels_as_tracks_are_mixed(made, tmp_path, suffix):
    one, other = (write_wav(tmp_path / f"{n}.wav", noise()[n * 80_000 : (n + 1) * 80_000]) for n in (0, 1))
    video = ("-c:v", "mpeg2video", "-q:v", 2) if suffix == "mxf" else ("-c:v", "libx264", "-pix_fmt", "yuv420p")
    make("-t", 5, "-i", made, "-i", one, "-i", other, "-map", "0:v", "-map", 1, "-map", 2, *video, "-c:a", "pcm_s16le",
         "-ar", 48_000, tmp_path / f"two.{suffix}")  # fmt: skip
    clip = at(tmp_path / f"two.{suffix}", 0, 4.8)
    wanted = (noise()[:80_000] + noise()[80_000:160_000])[: len(clip.audio)] / 2
    assert np.corrcoef(clip.audio, wanted)[0, 1] > 0.98


# Shapes and stills


@pytest.mark.parametrize("name", ["48_res_change.ts", "48_res_change.mkv"])
def test_a_picture_that_turns_keeps_its_shape(name):
    clip = at(FILES / name, 0, 7.9)
    assert "padded" in str(clip.notes)
    first, last = clip.frames[1], clip.frames[-1]
    assert shown(first) == pytest.approx(0.5, abs=0.05)
    width = round(96 * 96 / 160)
    left = (160 - width) // 2
    assert not last[:, : left - 2].any()
    assert not last[:, left + width + 2 :].any()
    assert shown(last[:, left : left + width]) == pytest.approx(7.5, abs=0.08)


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_a_border_that_the_container_cuts_off_is_not_padded(made, tmp_path, suffix):
    found = at(cropped_file(made, tmp_path / f"a.{suffix}", 2, 4), 0, 2)
    assert second_of(found.frames[2]) == pytest.approx(3, abs=0.1)
    assert found.notes == ()


def test_an_aspect_ratio_that_changes_is_said(tmp_path):
    joined = tmp_path / "joined.ts"
    for number, aspect in enumerate(["4:3", "16:9", "16:9"]):
        part = tmp_path / f"{number}.ts"
        make("-f", "lavfi", "-i", "testsrc2=s=352x288:r=25:d=2", "-c:v", "mpeg2video", "-aspect", aspect,
             "-output_ts_offset", 10 + 2 * number, part)  # fmt: skip
        with joined.open("ab") as file:
            file.write(part.read_bytes())
    assert probe(joined).notes == ("the aspect ratio of the pictures changes at 2.0 s: all are given in the first one",)
    assert probe(part).notes == ()


def test_hd_that_does_not_say_is_bt709():
    frame = at(FILES / "43_hd_bt709_untagged.mp4", 0, 2).frames[0]
    np.testing.assert_allclose(frame[4, 4], (200, 30, 30), atol=6)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("56_encrypted_cenc.mp4", MediaEncrypted),
        ("59_still.avif", NotMedia),
        ("59_grid.avif", NotMedia),
        ("60_bcast.gxf", NotMedia),
        ("60_raw.h264", NotMedia),
    ],
)
def test_what_cannot_be_read_has_its_class(name, error):
    with pytest.raises(error):
        probe(FILES / name)


def test_the_heard_place_is_a_measure():
    """The oracle itself: it finds a cut, a gain and what is not there."""
    assert heard(noise()[32_000:64_000] / 2) == Heard(2.0, pytest.approx(1.0), pytest.approx(0.5))
    assert heard(np.random.default_rng(1).standard_normal(32_000)).correlation < 0.1
