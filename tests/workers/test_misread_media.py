"""What a file holds is asked about or named: tracks that nobody decodes, bytes that nobody reads, clocks that jump.

Each of these was asked about in part, or as something else, without a word.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.records.rows import clips_table
from pipeline.records.unit import decode_unit, encode_unit
from tests.robustness.media_matrix.kinds import all_key_tags, all_keys, all_sync, with_asf_lock, with_types
from tests.robustness.media_matrix.stamps import BOTH, damaged
from tests.support import rows
from tests.support.media_files import make
from tests.support.media_oracle import cut, heard, joined, noise, second_of, source, write_wav
from workers.errors import DecodeFailed, DecodeIncomplete
from workers.media._edits import unfollowed
from workers.media._headers import dolby_profile, pixel_shapes
from workers.media.clip_reader import decode_clip
from workers.media.probing import ProbePool
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings, MediaInfo

POOL: ProbePool
PCM = ("-vn", "-c:a", "pcm_s16le", "-ar", 16_000)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return source(tmp_path_factory.mktemp("oracle"), seconds=17)


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    global POOL
    with ProbePool(1) as POOL:
        yield


def probe(path: Path) -> MediaInfo:
    ((_, found),) = POOL.probe_many([(0, str(path))])
    assert not isinstance(found, ClipFailure), found
    return found


def at(path: Path, start: float, end: float) -> DecodedClip:
    return decode_clip(path, probe(path), Clip("c", 0, start, end), DecodeSettings())


def patched(path: Path, at_byte: int, form: str, *values: int) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at_byte, *values)
    path.write_bytes(content)
    return path


# Tracks


def test_a_track_that_no_decoder_reads_is_said(made, tmp_path):
    info = probe(cut(made, tmp_path / "a.avi", 2, 3, "-c:v", "magicyuv", "-c:a", "pcm_s16le"))
    assert (info.has_video, info.has_audio, info.unused_tracks) == (False, True, 1)
    assert info.notes == ("video track 0 (magicyuv) cannot be decoded and is left out",)
    assert [track.why for track in info.tracks] == ["cannot be decoded: magicyuv", "the only one"]


def test_coded_data_in_place_of_samples_is_no_sound(made, tmp_path):
    frame = np.zeros((1_536, 2), "<i2")
    frame[8:600] = np.random.default_rng(1).integers(-30_000, 30_000, (592, 2))
    frame[8] = (0xF872 - 0x10000, 0x4E1F)
    (tmp_path / "a.raw").write_bytes(np.tile(frame, (125, 1)).tobytes())
    raw = ("-f", "s16le", "-ar", 48_000, "-ac", 2, "-i", tmp_path / "a.raw")
    make(*raw, "-i", cut(made, tmp_path / "v.mp4", 2, 6, "-an"), "-map", 1, "-map", 0, "-c", "copy", tmp_path / "a.mov")
    info = probe(tmp_path / "a.mov")
    assert (info.has_video, info.has_audio, info.unused_tracks) == (True, False, 1)
    assert info.notes == ("audio track 0 (SMPTE 337 data) cannot be decoded and is left out",)


def test_a_camera_that_was_not_plugged_in_is_passed_over(made, tmp_path):
    black = ("-f", "lavfi", "-i", "color=0x101018:s=160x96:r=25:d=2")
    maps = ("-map", "0:v", "-map", "1:v", "-c:v", "mpeg4", "-q:v", 2)
    make(*black, "-ss", 2, "-t", 2, "-i", made, *maps, tmp_path / "a.mkv")
    assert [track.why for track in probe(tmp_path / "a.mkv").tracks] == [
        "pictures of one colour",
        "the largest picture",
    ]


def test_channels_and_mono_tracks_that_cancel_out_are_said(tmp_path):
    half = noise()[: 3 * 16_000]
    four = write_wav(tmp_path / "a.wav", half, -half, half / 2, -half / 2)
    assert "audio track 0: channels of opposite phase" in str(probe(four).notes)
    wavs = [write_wav(tmp_path / f"{n}.wav", gain * half) for n, gain in enumerate((1, -1))]
    make("-i", wavs[0], "-i", wavs[1], "-map", 0, "-map", 1, "-c", "copy", tmp_path / "a.mov")
    assert "audio track 0 and 1: channels of opposite phase" in str(probe(tmp_path / "a.mov").notes)
    assert probe(write_wav(tmp_path / "c.wav", half, half / 2, noise()[60_000:108_000])).notes == ()


def test_a_palette_is_known_in_every_clip(made, tmp_path):
    raw = ("-vf", "format=rgb24,split[a][b];[a]palettegen[p];[b][p]paletteuse", "-c:v", "rawvideo", "-pix_fmt", "pal8")
    clip = at(cut(made, tmp_path / "a.avi", 2, 8, *raw, "-an"), 4, 5)
    assert second_of(clip.frames[1]) == pytest.approx(6.5, abs=0.05)


def test_what_is_noted_of_a_file_stands_with_its_clips():
    unit = rows.unit(rows.media())
    meta = replace(rows.meta(unit), info=replace(rows.INFO, notes=("of the file",)))
    stored = encode_unit(meta, [replace(rows.result(unit.clips[0]), notes=("of the clip",))], unit.questions)
    (notes,) = clips_table(decode_unit(stored, where="here"))["notes"].to_pylist()
    assert notes == ["of the file", "of the clip"]


# Broadcasts


def test_what_is_scrambled_of_a_broadcast_is_said(made, tmp_path):
    path = cut(made, tmp_path / "a.ts", 2, 5)
    packets = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188).copy()
    is_late = np.arange(len(packets)) > len(packets) * 0.6
    packets[is_late & (packets[:, 1] & 0x1F == 1), 3] |= 0x80
    path.write_bytes(packets.tobytes())
    assert "of the stream is scrambled and cannot be read" in str(probe(path).notes)


def test_sound_or_pictures_under_another_pid_go_on(made, tmp_path):
    first = cut(made, tmp_path / "first.ts", 2, 5)
    for stream in (0, 1):
        later = cut(made, tmp_path / "later.ts", 5, 8, "-streamid", f"{stream}:300", "-output_ts_offset", 3)
        info = probe(path := joined(tmp_path / f"{stream}.ts", first, later))
        assert [part.end_s - part.start_s for part in info.segments] == pytest.approx([3, 3], abs=0.2)
        clip = decode_clip(path, info, Clip("c", 0, 3.5, 5.5), DecodeSettings())
        begin_s = 5 + 3.5 - info.segments[1].start_s
        assert [second_of(frame) for frame in clip.frames] == pytest.approx(begin_s + np.arange(4) / 2, abs=0.1)
        assert heard(clip.audio).second == pytest.approx(begin_s, abs=0.05)


def test_a_recording_with_a_new_pid_begins_where_its_clock_does(made, tmp_path):
    later = cut(made, tmp_path / "1.ts", 5, 8, "-streamid", "1:300", "-output_ts_offset", 3_600)
    info = probe(joined(tmp_path / "a.ts", cut(made, tmp_path / "0.ts", 2, 5), later))
    assert [part.end_s - part.start_s for part in info.segments] == pytest.approx([3, 3], abs=0.15)


def test_key_frames_far_apart_are_found(made, tmp_path):
    clip = at(cut(made, tmp_path / "a.ts", 0, 16.5, gop=2_000), 15.5, 16.5)
    assert second_of(clip.frames[0]) == pytest.approx(15.5, abs=0.1)


# Lengths and times


def test_a_recording_may_begin_at_any_time(made, tmp_path):
    for suffix, codec in (("mka", "libopus"), ("ogg", "libvorbis")):
        late = ("-vn", "-c:a", codec, "-output_ts_offset", 100_000)
        assert probe(cut(made, tmp_path / f"a.{suffix}", 2, 6, *late)).duration_s == pytest.approx(4, abs=0.1)


def test_a_picture_shown_an_hour_after_it_is_decoded_has_a_damaged_time(made, tmp_path):
    damaged = "setts=pts='if(eq(N,30),PTS+3600/TB,PTS)'"
    for suffix in ("ts", "vob"):
        whole = cut(made, tmp_path / f"whole.{suffix}", 2, 5)
        make("-i", whole, "-c", "copy", "-bsf:v", damaged, tmp_path / f"a.{suffix}")
        assert probe(tmp_path / f"a.{suffix}").duration_s == pytest.approx(3, abs=0.15)


def test_reading_goes_on_behind_a_hole(made, tmp_path):
    path = cut(made, tmp_path / "a.oga", 2, 14, "-vn", "-c:a", "flac")
    size = path.stat().st_size
    patched(path, size * 4 // 10, f"{size // 5}x")
    assert probe(path).duration_s == pytest.approx(12, abs=0.1)


def test_an_index_that_states_too_little_is_not_believed(made, tmp_path):
    path = cut(made, tmp_path / "a.m4a", 2, 8, "-vn")
    at_length = path.read_bytes().rfind(b"mdhd") + 20
    assert probe(patched(path, at_length, ">I", 3 * 48_000)).duration_s == pytest.approx(6, abs=0.1)


def test_large_waves_are_joined_and_cut_off_as_small_ones(tmp_path):
    wavs = [write_wav(tmp_path / f"{n}.wav", noise()[n * 16_000 : (n + 4) * 16_000]) for n in (0, 5)]
    for magic in (b"RF64", b"BW64"):
        parts = []
        for wav in wavs:
            make("-i", wav, "-c", "copy", "-rf64", "always", wav.with_suffix(".rf64.wav"))
            parts.append(patched(wav.with_suffix(".rf64.wav"), 0, "4s", magic))
        assert probe(parts[0]).duration_s == pytest.approx(4, abs=0.01)
        assert len(probe(joined(tmp_path / "both.wav", *parts)).segments) == 2
        half = tmp_path / "half.wav"
        half.write_bytes(parts[0].read_bytes()[: parts[0].stat().st_size // 2])
        assert probe(half).duration_s == pytest.approx(4, abs=0.01)


def test_samples_behind_the_stated_end_are_said(tmp_path):
    wav = write_wav(tmp_path / "a.wav", noise()[: 6 * 16_000])
    assert probe(wav).notes == ()
    assert "bytes at the end of the file lie behind" in str(probe(patched(wav, 40, "<I", 2 * 32_000)).notes)


def test_coded_sound_in_a_wave_is_read_from_its_beginning(made, tmp_path):
    make("-i", cut(made, tmp_path / "a.ac3", 2, 12, "-vn", "-c:a", "ac3"), "-c", "copy", "-f", "spdif", tmp_path / "a")
    coded = (tmp_path / "a").read_bytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 48_000, 192_000, 4, 16)
    head = b"RIFF" + struct.pack("<I", 36 + len(coded)) + b"WAVE" + form + b"data" + struct.pack("<I", len(coded))
    (tmp_path / "a.wav").write_bytes(head + coded)
    assert heard(at(tmp_path / "a.wav", 7, 9).audio).second == pytest.approx(9, abs=0.05)


def test_a_tag_behind_an_mp3_is_no_sound_that_was_cut_off(tmp_path):
    make("-i", write_wav(tmp_path / "a.wav", noise()[: 4 * 16_000]), "-c:a", "libmp3lame", tmp_path / "a.mp3")
    with (tmp_path / "a.mp3").open("ab") as file:
        file.write(b"APETAGEX" + struct.pack("<III", 2_000, 200_032, 1) + bytes(200_012))
    assert probe(tmp_path / "a.mp3").duration_s == pytest.approx(4, abs=0.1)


def test_edits_that_are_not_followed_are_said():
    def moov(*edits: tuple[int, int, int]) -> bytes:
        return b"elst" + struct.pack(">II", 0, len(edits)) + b"".join(struct.pack(">IiI", *edit) for edit in edits)

    late, plain = (500, -1, 1 << 16), (2_000, 1_024, 1 << 16)
    assert unfollowed(moov(late, plain, plain)) == unfollowed(b"no list") == []
    assert "pauses" in unfollowed(moov(plain, late, plain))[0]
    assert "speed" in unfollowed(moov((2_000, 0, 1 << 15)))[0]
    assert "length of 0" in unfollowed(moov((0, 0, 1 << 16)))[0]
    assert unfollowed(moov((0, 0, 1 << 16)) + b"mvex") == []


# What changes within a stream, and what is not there


def test_an_aspect_ratio_that_changes_is_said_in_any_container(made, tmp_path):
    parts = [
        cut(made, tmp_path / f"{n}.ts", 2 + 3 * n, 5 + 3 * n, "-vf", f"setsar={1 + n}", "-output_ts_offset", 3 * n)
        for n in range(2)
    ]
    whole = joined(tmp_path / "a.ts", *parts)
    for suffix in ("mkv", "mp4", "flv"):
        make("-i", whole, "-c", "copy", tmp_path / f"a.{suffix}")
        (note,) = probe(tmp_path / f"a.{suffix}").notes
        assert note == "the aspect ratio of the pictures changes at 3.0 s: all are given in the first one"


@pytest.mark.parametrize(("turned", "back"), [(90, "transpose=clock"), (180, "hflip,vflip"), (270, "transpose=cclock")])
def test_pictures_that_say_only_once_how_they_are_turned_are_all_turned(made, tmp_path, turned, back):
    whole = cut(made, tmp_path / "a.mkv", 2, 8, "-an", "-vf", back)
    once = f"h264_metadata=display_orientation=insert:rotate={turned}"  # in front of the first picture
    make("-i", whole, "-c", "copy", "-bsf:v", once, tmp_path / "b.mkv")
    clip = at(tmp_path / "b.mkv", 4, 5)
    assert second_of(clip.frames[0]) == pytest.approx(6, abs=0.05)


def test_numbers_that_change_places_begin_another_recording(made, tmp_path):
    swapped = ("-streamid", "0:257", "-streamid", "1:256", "-output_ts_offset", 3)
    path = joined(tmp_path / "a.ts", cut(made, tmp_path / "0.ts", 2, 5), cut(made, tmp_path / "1.ts", 5, 8, *swapped))
    info = probe(path)
    assert [part.end_s - part.start_s for part in info.segments] == pytest.approx([3, 3], abs=0.2)
    begin_s = info.segments[1].start_s
    clip = decode_clip(path, info, Clip("c", 0, begin_s + 1, begin_s + 3), DecodeSettings())
    assert [second_of(frame) for frame in clip.frames] == pytest.approx(6 + np.arange(4) / 2, abs=0.15)
    assert heard(clip.audio).second == pytest.approx(6, abs=0.09)


@pytest.mark.parametrize("sound", ["libmp3lame", "pcm_s16le"])
def test_what_lies_behind_a_hole_of_an_avi_is_of_its_own_second(made, tmp_path, sound):
    path = cut(made, tmp_path / "a.avi", 2, 14, "-c:a", sound)
    content = bytearray(path.read_bytes())
    first, last = len(content) * 4 // 10, len(content) // 2
    content[first:last] = bytes(last - first)
    path.write_bytes(content)
    info = probe(path)
    before, hole, behind = info.segments
    assert (before.start_s, behind.end_s) == (0, pytest.approx(12, abs=0.1))
    assert 0.5 < hole.end_s - hole.start_s < 3
    with pytest.raises((DecodeFailed, DecodeIncomplete)):
        decode_clip(path, info, Clip("c", 0, hole.start_s, hole.end_s), DecodeSettings())
    clip = decode_clip(path, info, Clip("c", 1, behind.start_s, behind.start_s + 2), DecodeSettings())
    shown = 2 + behind.start_s + np.arange(4) / 2
    assert [second_of(frame) for frame in clip.frames] == pytest.approx(shown, abs=0.1)
    assert heard(clip.audio).second == pytest.approx(2 + behind.start_s, abs=0.05)


def test_a_hole_of_an_avi_with_a_palette_is_said(made, tmp_path):
    raw = ("-vf", "format=rgb24,split[a][b];[a]palettegen[p];[b][p]paletteuse", "-c:v", "rawvideo", "-pix_fmt", "pal8")
    content = bytearray(cut(made, tmp_path / "a.avi", 2, 8, *raw, "-an").read_bytes())
    first, last = len(content) * 4 // 10, len(content) // 2
    content[first:last] = bytes(last - first)
    (tmp_path / "a.avi").write_bytes(content)
    assert "the AVI is damaged from 2.4 to 3.0 s" in str(probe(tmp_path / "a.avi").notes)


def test_a_track_that_is_announced_and_empty_is_none(made, tmp_path):
    whole = cut(made, tmp_path / "whole.mkv", 2, 5)
    make("-i", whole, "-c", "copy", "-bsf:v", "noise=drop=1", tmp_path / "a.mkv")
    info = probe(tmp_path / "a.mkv")
    assert (info.has_video, info.has_audio, info.notes) == (False, True, ("video track 0 is announced, but empty",))


def test_what_two_channels_or_several_chunks_hold_is_said(made, tmp_path):
    path = cut(made, tmp_path / "a.mp2", 2, 5, "-vn", "-c:a", "mp2", "-b:a", "192k", "-ac", 2, "-ar", 48_000)
    dual = bytearray(path.read_bytes())
    for begin in range(0, len(dual), 576):
        dual[begin + 3] = dual[begin + 3] & 0x3F | 0x80
    path.write_bytes(dual)
    assert "audio track 0: two programmes (dual mono), heard as their mean" in probe(path).notes
    wav = write_wav(tmp_path / "a.wav", noise()[: 4 * 16_000]).read_bytes()
    twice = wav[:40] + struct.pack("<I", 64_000) + wav[44:64_044] + b"data" + struct.pack("<I", 64_000) + wav[64_044:]
    (tmp_path / "b.wav").write_bytes(twice)
    assert "the samples lie in 2 chunks, of which only the last is read" in probe(tmp_path / "b.wav").notes


def test_a_file_of_another_kind_behind_one_is_said(made, tmp_path):
    other = cut(made, tmp_path / "other.mp4", 5, 12)
    for suffix in ("ts", "mkv", "flv", "avi"):
        both = joined(tmp_path / f"both.{suffix}", cut(made, tmp_path / f"a.{suffix}", 2, 5), other)
        (note,) = probe(both).notes
        assert "behind" in note


def test_a_file_of_another_kind_is_not_heard_as_sound(made, tmp_path):
    other = cut(made, tmp_path / "other.mp4", 5, 12)
    for suffix, codec in (("flac", "flac"), ("mp3", "libmp3lame"), ("aac", "aac"), ("ac3", "ac3"), ("au", "pcm_s16be")):
        alone = cut(made, tmp_path / f"a.{suffix}", 2, 5, "-vn", "-c:a", codec)
        info = probe(joined(tmp_path / f"both.{suffix}", alone, other))
        behind = f"{other.stat().st_size} bytes at the end of the file lie behind the end of its recording"
        assert (len(info.notes), behind in str(info.notes)) == (1, True)
        assert info.duration_s == pytest.approx(3, abs=0.1)


def test_sound_without_a_header_behind_other_sound_is_not_heard_as_more_of_it(made, tmp_path):
    bare = ("-vn", "-c:a", "libmp3lame", "-write_xing", 0, "-id3v2_version", 0)
    other = cut(made, tmp_path / "other.mp3", 5, 12, *bare)
    for suffix, codec in (("aac", "aac"), ("amr", "libopencore_amrnb")):
        rate = ("-ar", 8_000) if suffix == "amr" else ()
        alone = cut(made, tmp_path / f"a.{suffix}", 2, 5, "-vn", "-c:a", codec, *rate)
        info = probe(joined(tmp_path / f"both.{suffix}", alone, other))
        assert f"{other.stat().st_size} bytes at the end of the file lie behind" in str(info.notes)
        assert info.duration_s == pytest.approx(3, abs=0.1)


def test_an_mxf_whose_footer_was_cut_off_is_read_from_its_beginning(made, tmp_path):
    path = cut(made, tmp_path / "a.mxf", 2, 14, "-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s16le", "-ar", 48_000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.97)])
    clip = at(path, 6, 8)
    assert [second_of(frame) for frame in clip.frames] == pytest.approx(8 + np.arange(4) / 2, abs=0.1)
    assert heard(clip.audio).second == pytest.approx(8, abs=0.03)


def test_full_range_that_ends_and_channels_that_go_are_said(made, tmp_path):
    parts = []
    for n, (levels, channels) in enumerate((("pc", 2), ("tv", 1))):
        how = ("-vf", f"scale=out_range={levels},setparams=range={levels}:colorspace=smpte170m", "-ac", channels)
        parts.append(cut(made, tmp_path / f"{n}.ts", 2 + 3 * n, 5 + 3 * n, *how, "-output_ts_offset", 3 * n))
    whole = joined(tmp_path / "a.ts", *parts)
    for suffix in ("mkv", "mp4"):
        make("-i", whole, "-c", "copy", tmp_path / f"a.{suffix}")
        range_, channels = probe(tmp_path / f"a.{suffix}").notes
        assert range_ == "the range of brightness changes at 3.0 s: pictures behind it may lack contrast"
        assert channels.startswith("sound of two channels goes on in one at ")


def test_a_second_shape_of_pixels_in_an_index_is_counted(made, tmp_path):
    content = cut(made, tmp_path / "a.mp4", 2, 3, "-vf", "setsar=2").read_bytes()
    at_list = content.find(b"stsd")
    size = int.from_bytes(content[at_list + 12 : at_list + 16], "big")
    entry = content[at_list + 12 : at_list + 12 + size]
    other = entry.replace(b"pasp" + struct.pack(">II", 2, 1), b"pasp" + struct.pack(">II", 1, 1))
    head = b"stsd" + struct.pack(">II", 0, 2)
    assert (pixel_shapes(content), pixel_shapes(head + entry + entry), pixel_shapes(head + entry + other)) == (1, 1, 2)


def test_films_in_hd_have_fewer_lines(made, tmp_path):
    for size, is_hd in (("1280:536", True), ("1024:576", False)):
        coded = ("-vf", f"scale={size},setparams=colorspace=unknown", "-an")
        assert probe(cut(made, tmp_path / "a.mp4", 2, 2.2, *coded)).is_untagged_hd == is_hd


def test_a_border_that_the_codec_cuts_off_at_the_left_gives_no_shape(made, tmp_path):
    whole = cut(made, tmp_path / "a.mp4", 2, 4, "-vf", "scale=320:192:flags=neighbor,pad=352:208:32:16")
    make("-i", whole, "-c", "copy", "-bsf:v", "h264_metadata=crop_left=32:crop_top=16", tmp_path / "b.mp4")
    clip = at(tmp_path / "b.mp4", 0, 1)
    assert (clip.frames.shape[1:3], clip.notes) == ((192, 320), ())


def test_a_scrambled_disc_is_encrypted(made, tmp_path):
    path = cut(made, tmp_path / "a.vob", 2, 5)
    content = bytearray(path.read_bytes())
    for begin in range(0, len(content), 2_048):  # of a sector the first packet behind its header
        kind = content[begin + 17]
        if kind == 0xE0 or 0xC0 <= kind < 0xE0:
            content[begin + 20] |= 0x10
    path.write_bytes(content)
    ((_, found),) = POOL.probe_many([(0, str(path))])
    assert found.error_class == "encrypted"


def test_a_hole_of_an_avi_without_an_index_is_said(made, tmp_path):
    content = cut(made, tmp_path / "a.avi", 2, 8, "-c:a", "libmp3lame").read_bytes()
    third = len(content) // 3
    (tmp_path / "b.avi").write_bytes(content[:third] + content[third + 20_000 :])
    assert "the AVI has no index and is damaged at byte" in str(probe(tmp_path / "b.avi").notes)
    (tmp_path / "c.avi").write_bytes(content[: 2 * third])
    assert probe(tmp_path / "c.avi").notes == ()


# Pictures


@pytest.mark.parametrize("suffix", ["mp4", "avi", "flv"])
def test_pictures_that_are_called_key_pictures_and_are_none(made, tmp_path, suffix):
    codec = ("-c:v", "flv" if suffix == "flv" else "mpeg4", "-q:v", 2, "-sc_threshold", 1_000_000_000, "-an")
    path = cut(made, tmp_path / f"a.{suffix}", 2, 10, *codec, gop=500)
    path.write_bytes({"mp4": all_sync, "avi": all_keys, "flv": all_key_tags}[suffix](bytearray(path.read_bytes())))
    clip = at(path, 5, 7)
    assert [second_of(frame) for frame in clip.frames] == pytest.approx([7, 7.5, 8, 8.5], abs=0.1)
    assert probe(cut(made, tmp_path / f"b.{suffix}", 2, 10, *codec, gop=50)).lag_s < 0.1, "true key pictures are used"


def test_colours_that_nobody_reads_are_said():
    said = struct.pack(">BBHB", 1, 0, 5 << 9 | 6 << 3 | 5, 0) + bytes(19)
    assert dolby_profile(b"....hvcC...dvcC" + said) == 5
    assert dolby_profile(b"\x41\xe7\x84dvvC\x41\xed\x98" + said) == 5
    assert dolby_profile(b"moov") is None


# Holes and locks


def test_zeros_in_sound_without_times_are_said(made, tmp_path):
    whole = cut(made, tmp_path / "whole.mp3", 2, 14, "-vn", "-c:a", "libmp3lame", "-b:a", "128k").read_bytes()
    hole = bytearray(whole)
    hole[80_000:100_000] = bytes(20_000)
    for number, (content, count) in enumerate(((whole, 0), (hole, 1), (whole + bytes(90_000), 0))):
        (tmp_path / f"{number}.mp3").write_bytes(content)
        notes = probe(tmp_path / f"{number}.mp3").notes
        assert sum("are zeros" in note for note in notes) == count
    tag = b"ID3\4\0\0\0\0\x7f\x7f" + bytes(127 * 129)
    (tmp_path / "3.mp3").write_bytes(whole + tag + whole)
    assert not any("are zeros" in note for note in probe(tmp_path / "3.mp3").notes)


@pytest.mark.parametrize(
    ("suffix", "lock"),
    [
        ("m4a", lambda content: content.replace(b"mp4a", b"aavd", 1)),
        ("ts", lambda content: with_types(content, {0x1B: 0xDB, 0x0F: 0xCF})),
        ("wma", with_asf_lock),
    ],
    ids=["audible", "sample-aes", "wma"],
)
def test_what_a_header_calls_encrypted_is_named_so(made, tmp_path, suffix, lock):
    path = cut(made, tmp_path / f"a.{suffix}", 2, 4, *(() if suffix == "ts" else ("-vn",)))
    assert probe(path).has_audio
    path.write_bytes(lock(bytearray(path.read_bytes())))
    ((_, found),) = POOL.probe_many([(0, str(path))])
    assert isinstance(found, ClipFailure)
    assert found.error_class == "encrypted"


def test_sound_that_ffmpeg_gives_up_behind_a_damaged_time_is_missing(made, tmp_path):
    content = cut(made, tmp_path / "whole.ts", 2, 8).read_bytes()
    (tmp_path / "a.ts").write_bytes(damaged(content, "ts", "v", {60}, -20, BOTH))
    clip = at(tmp_path / "a.ts", 0, 4)
    assert clip.noticed.missing_s == pytest.approx(1.6, abs=0.3)
    assert any("of audio are missing" in note for note in clip.notes)


def test_a_broadcast_that_lacks_bytes_is_not_called_scrambled(made, tmp_path):
    content = cut(made, tmp_path / "whole.ts", 2, 8).read_bytes()
    lacks = b"".join(content[at + 1 : at + 20_000] for at in range(188, len(content), 20_000))
    (tmp_path / "a.ts").write_bytes(content[:188] + lacks)
    assert not any("scrambled" in note for note in probe(tmp_path / "a.ts").notes)


def test_a_number_that_was_of_sound_begins_a_segment_with_its_pictures(made, tmp_path):
    parts = [
        cut(made, tmp_path / "0.ts", 2, 6, "-vn"),
        cut(made, tmp_path / "1.ts", 6, 10, "-output_ts_offset", 4),
    ]
    info = probe(joined(tmp_path / "a.ts", *parts))
    assert [(part.info.has_video, round(part.end_s - part.start_s)) for part in info.parts] == [(False, 4), (True, 4)]


def test_cues_that_all_say_the_same_second_cost_no_clip(made, tmp_path):
    content = bytearray(cut(made, tmp_path / "a.mkv", 0, 16).read_bytes())
    cues = content.rfind(b"\x1c\x53\xbb\x6b")
    for found in re.finditer(rb"\xbb.\xb3[\x81-\x84]", bytes(content[cues:]), re.DOTALL):
        first = cues + found.end()
        size = content[first - 1] & 0x7F
        content[first : first + size] = bytes(size)
    (tmp_path / "a.mkv").write_bytes(content)
    clip = at(tmp_path / "a.mkv", 8, 12)
    assert [second_of(frame) for frame in clip.frames] == pytest.approx(8 + np.arange(8) / 2, abs=0.1)
    assert clip.noticed.missing_s == 0


def test_samples_in_blocks_that_packets_split_are_read_from_the_beginning(made, tmp_path):
    lpcm = ("-vn", "-c:a", "pcm_dvd", "-sample_fmt", "s32", "-ar", 48_000, "-ac", 2)
    path = cut(made, tmp_path / "a.vob", 2, 10, *lpcm)
    info = probe(path)
    for begin in (4, 5, 6):
        clip = decode_clip(path, info, Clip("c", 0, begin, begin + 1), DecodeSettings())
        assert heard(clip.audio).correlation > 0.9


def test_a_tag_before_flac_is_no_part_that_cannot_be_read(made, tmp_path):
    content = cut(made, tmp_path / "whole.flac", 2, 4, "-vn", "-c:a", "flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(b"ID3\4\0\0\0\0\x27\x08" + bytes(5_000) + content)
    info = probe(tmp_path / "a.flac")
    assert (info.notes, info.duration_s) == ((), pytest.approx(2, abs=0.1))


def test_numbers_with_their_first_byte_first_are_not_heard_as_noise(made, tmp_path):
    content = cut(made, tmp_path / "a.wav", 2, 4, *PCM).read_bytes()
    (tmp_path / "a.wav").write_bytes(b"RIFX" + content[4:])
    ((_, found),) = POOL.probe_many([(0, str(tmp_path / "a.wav"))])
    assert isinstance(found, ClipFailure)
    assert (found.error_class, found.message[:4]) == ("not_media", "a RI")
