"""Pictures that are neither shown nor referred to are not decoded, and nothing else about a clip changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.media_files import make, spoil
from workers.media import extraction
from workers.media.clip_reader import decode_clip
from workers.media.extraction import Take
from workers.media.ffmpeg import Finished
from workers.media.needed import Packet, left_out
from workers.media.probing import ProbePool
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo

MOVING = "testsrc2=s=192x144:r=25,noise=alls=8:allf=t"
X264 = "open-gop=1:b-pyramid=normal:b-adapt=0:scenecut=0"
X265 = "log-level=error:open-gop=1:b-pyramid=1:b-adapt=0:temporal-layers=1:keyint=30:bframes=3"
LEAST_SHARE = {"h264.mp4": 0.3, "hevc.mkv": 0.4, "mpeg2.ts": 0.6, "mjpeg.mov": 0.85}
"""Of the listed pictures are left out at 2 a second."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Six seconds in four ways, from one ffmpeg."""
    folder = tmp_path_factory.mktemp("coded")
    outputs = {
        "h264.mp4": ("libx264", "-preset", "veryfast", "-g", 50, "-bf", 3, "-x264-params", X264),
        "hevc.mkv": ("libx265", "-preset", "ultrafast", "-x265-params", X265),
        "mpeg2.ts": ("mpeg2video", "-g", 12, "-bf", 2, "-q:v", 4),
        "mjpeg.mov": ("mjpeg", "-q:v", 4, "-pix_fmt", "yuvj420p"),
    }
    written = [x for name, how in outputs.items() for x in ("-c:v", *how, "-c:a", "aac", folder / name)]
    make("-f", "lavfi", "-t", 6, "-i", MOVING, "-f", "lavfi", "-t", 6, "-i", "sine=440", *written)
    return folder


@pytest.fixture(scope="module")
def infos(files) -> dict[str, MediaInfo]:
    with ProbePool(1) as pool:
        return dict(pool.probe_many((name, str(files / name)) for name in LEAST_SHARE))


@pytest.fixture
def spared(monkeypatch) -> list[float]:
    """Files so small are decoded whole; here they are not. The share of their listed pictures that was left out."""
    shares: list[float] = []

    def counted(packets, *given):
        found = left_out(packets, *given)
        shares.append(0.0 if found is None else len(found.times) / len(packets))
        return found

    monkeypatch.setattr(extraction, "LEAST_PIXELS", 0)
    monkeypatch.setattr(extraction, "left_out", counted)
    return shares


def whole(path: Path, info: MediaInfo, start_s: float) -> DecodedClip:
    """With every picture of the span decoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "LEAST_PIXELS", 10**18)
        return decode(path, info, start_s)


def decode(path: Path, info: MediaInfo, start_s: float) -> DecodedClip:
    return decode_clip(path, info, Clip("c", 0, start_s, start_s + 2.5), DecodeSettings())


@pytest.mark.parametrize("name", LEAST_SHARE)
def test_the_clip_is_the_same_and_most_of_its_pictures_are_not_decoded(files, infos, spared, name):
    got, wanted = (way(files / name, infos[name], 3.14) for way in (decode, whole))
    assert np.array_equal(got.frames, wanted.frames)
    assert np.array_equal(got.audio, wanted.audio)
    assert (got.decoded_share, got.notes, got.noticed) == (wanted.decoded_share, wanted.notes, wanted.noticed)
    assert spared == [pytest.approx(1, abs=1 - LEAST_SHARE[name])]


def test_what_is_damaged_is_judged_by_all_that_is_there(files, infos, spared, tmp_path):
    damaged = spoil(files / "h264.mp4", tmp_path / "damaged.mp4", 0.6, 0.8)
    got, wanted = (way(damaged, infos["h264.mp4"], 3.14) for way in (decode, whole))
    assert wanted.notes  # said to be damaged
    assert np.array_equal(got.frames, wanted.frames)
    assert (got.decoded_share, got.notes) == (wanted.decoded_share, wanted.notes)
    assert spared[0] > 0


PICTURES = ("[h264 @ 0x1] [error] Invalid NAL unit size (9 > 3).", "[h264 @ 0x1] [error] no frame!")
SOUND = ("[aac @ 0x2] [error] Reserved bit set.", "[aist#0:1/aac @ 0x3] [dec:aac @ 0x4] [error] Error submitting")
OTHER_SOUND = ("[aac @ 0x5] [error] Number of bands (9) exceeds limit (4).",)


@given(st.permutations([PICTURES, PICTURES, SOUND, SOUND, OTHER_SOUND]))
def test_a_note_has_the_same_words_whichever_decoder_complains_first(turns):
    said, at = ["[info] Stream mapping:"], dict.fromkeys(turns, 0)
    for decoder in turns:
        said.append(decoder[at[decoder]])
        at[decoder] += 1
    times, none = np.zeros(1), np.zeros((0, 1, 1, 3), np.uint8)
    there = Take(none, times, (), Finished(0, "\n".join(said), 1.0))
    nothing = Take(none, times[:0], (), Finished(69, "\n".join([*said, "[error] Conversion failed!"]), 1.0))
    assert there.complaint == "[aac] [error] Number of bands (9) exceeds limit (4)."
    assert nothing.failure == f"ffmpeg ended with 69: {there.complaint}"


KEY, P, B = (True, True), (False, True), (False, False)


def kept(pictures: list[tuple[float, tuple[bool, bool]]], wanted: list[float], length_s: float = 10) -> list[float]:
    """Times of the pictures that are decoded; given in the order of the file."""
    found = left_out([Packet(t, *kind) for t, kind in pictures], 0.0, length_s, np.array(wanted))
    gone = set() if found is None else set(found.times.tolist())
    return [t for t, _ in pictures if t not in gone]


def test_references_are_followed_back_to_the_key_picture():
    # 7 is the last one before the end, 10 and 11 are beyond it.
    closed = [(0, KEY), (2, P), (1, B), (4, P), (3, B), (5, KEY), (7, P), (6, B), (10, KEY), (11, P)]
    assert kept(closed, [1.5]) == [0, 2, 1, 5, 7, 10, 11]
    assert kept(closed, [6.5]) == [5, 7, 6, 10, 11]
    # 4 and 5 lie behind the key picture of 6 and are shown before it: they refer to 3, too.
    opened = [(0, KEY), (3, P), (1, B), (2, B), (6, KEY), (4, B), (5, B), (9, P), (7, B), (8, B), (12, KEY)]
    assert kept(opened, [5.5]) == [0, 3, 6, 5, 9, 12]
    assert kept(opened, [6.5]) == [6, 9, 12]


def test_nothing_is_left_out_where_times_do_not_tell_pictures_apart():
    assert kept([(0, KEY), (0, B), (1, P)], [1], 3) == [0, 0, 1]


def test_both_pictures_are_kept_where_rounding_could_show_either():
    assert kept([(0.0, KEY), (0.9995, B), (1.4, B), (1.9, B), (3, KEY)], [1], 2.0) == [0.0, 0.9995, 1.9, 3]
