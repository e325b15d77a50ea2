"""Single time stamps that are damaged move nothing, in any container; where time truly jumps, it does."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.robustness.media_matrix.stamps import BOTH, damaged
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, heard, noise, second_of, source
from workers.media._headers import has_stray_pictures
from workers.media._timeline import _Scan
from workers.media.clip_reader import decode_clip
from workers.media.probing import ProbePool
from workers.media.sound import Sound, placed
from workers.media.strays import MOST_STRAYS, mended
from workers.records import Clip, DecodeSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return source(tmp_path_factory.mktemp("oracle"), seconds=6)


@pytest.fixture(scope="module")
def pool():
    with ProbePool(1) as found:
        yield found


def is_right(path, pool) -> bool:
    """Whether a file holds the source's seconds 2 to 6, in one part and one clip."""
    ((_, info),) = pool.probe_many([(0, str(path))])
    assert info.duration_s == pytest.approx(4, abs=0.1)
    assert not info.segments
    clip = decode_clip(path, info, Clip("c", 0, 0.0, 4.0), DecodeSettings())
    place = heard(clip.audio[HZ // 10 : -HZ // 10])
    assert [second_of(frame) for frame in clip.frames] == pytest.approx(2 + np.arange(8) / 2, abs=0.13)
    assert place.second == pytest.approx(2.1, abs=0.06)
    return place.correlation > 0.94 and clip.decoded_share == 1 and clip.noticed.silent_s < 0.03


@pytest.mark.parametrize(
    ("suffix", "kind", "number", "by_s"),
    [
        ("ts", "v", 40, 3),
        ("ts", "a", 10, 3_600),
        ("vob", "a", 12, 3),
        ("flv", "v", 40, 0.7),
        ("mkv", "v", 40, 20),
        ("mkv", "a", 90, -3),
        ("mkv", "a", 0, 20),
        ("flv", "v", 99, 20),
        ("ts", "a", 0, 0.7),
    ],
)
def test_one_damaged_time_moves_nothing(made, pool, tmp_path, suffix, kind, number, by_s):
    content = cut(made, tmp_path / f"whole.{suffix}", 2, 6).read_bytes()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(damaged(content, suffix, kind, {number}, by_s, BOTH))
    assert path.read_bytes() != content
    assert is_right(path, pool)


def test_an_index_that_shows_one_picture_an_hour_later_is_not_believed(made, pool, tmp_path):
    whole = cut(made, tmp_path / "whole.mp4", 2, 6)
    assert not has_stray_pictures(whole.read_bytes())
    make("-i", whole, "-c", "copy", "-bsf:v", "setts=pts='if(eq(N,40),PTS+3600/TB,PTS)'", tmp_path / "a.mp4")
    assert is_right(tmp_path / "a.mp4", pool)


def test_pictures_that_all_wait_long_are_no_strays():
    def index(*waits: int) -> bytes:
        runs = b"".join(struct.pack(">Ii", 1, wait) for wait in waits)
        return (
            b"mdhd" + bytes(12) + struct.pack(">I", 1_000) + b"ctts" + bytes(4) + struct.pack(">I", len(waits)) + runs
        )

    assert not has_stray_pictures(index(*[80_000, 160_000, 0] * 20))
    assert has_stray_pictures(index(*[40, 80, 0] * 20, 3_000))


def test_sound_that_steps_back_for_a_second_begins_no_segment(made, pool, tmp_path):
    whole = cut(made, tmp_path / "whole.ts", 0, 6)
    step = "setts=ts='if(between((PTS-STARTPTS)*TB,2,3),PTS-0.4/TB,PTS)'"
    make("-i", whole, "-c", "copy", "-bsf:a", step, tmp_path / "a.ts")
    ((_, info),) = pool.probe_many([(0, str(tmp_path / "a.ts"))])
    assert (len(info.parts), info.duration_s) == (1, pytest.approx(6, abs=0.1))
    clip = decode_clip(tmp_path / "a.ts", info, Clip("c", 0, 3.5, 5.5), DecodeSettings())
    assert heard(clip.audio).second == pytest.approx(3.5, abs=0.06)
    assert [second_of(frame) for frame in clip.frames] == pytest.approx(3.5 + np.arange(4) / 2, abs=0.13)


def scanned(*times_s: float, is_broadcast: bool = False, sound_s: float = 0.0) -> list[tuple[float, float]]:
    """From when to when the stretches of pictures at these times go, beside so much sound."""
    scan = _Scan(is_broadcast, {0: "video", 1: "audio"}, size=1 << 30, declared_s=0.0)
    packets = [(time, 0) for time in times_s]
    packets += [(float(time), 1) for time in np.arange(0, sound_s, 0.02)]
    for number, (time, index) in enumerate(packets if not sound_s else sorted(packets)):
        scan.take(index, (time, time, 0.02 if index else 0.04, number))
    scan.finish()
    return [(round(one.streams[0].start_s, 2), round(one.streams[0].end_s, 2)) for one in scan.stretches]


def test_a_time_that_comes_back_is_no_jump():
    steady = [number / 25 for number in range(100)]
    for by_s in (0.7, 3, 70, 3_600, -0.7, -3):
        for is_broadcast in (False, True):
            strays = [time + by_s * (number in (50, 60, 61)) for number, time in enumerate(steady)]
            assert scanned(*strays, is_broadcast=is_broadcast) == [(0, 4)]


def test_a_time_that_does_not_come_back_is_one():
    first, later = [number / 25 for number in range(100)], [3_600 + number / 25 for number in range(100)]
    assert scanned(*first, *later, is_broadcast=True) == [(0, 4), (3_600, 3_604)]
    assert scanned(*later, *first, is_broadcast=True) == [(3_600, 3_604), (0, 4)]
    assert scanned(*first, *(time + 34 for time in first), is_broadcast=False) == [(0, 38)]
    assert scanned(*(80 * number for number in range(5)), is_broadcast=False) == [(0, 320.04)]


def test_a_damaged_time_of_the_first_packet_begins_nothing():
    later = [number / 25 for number in range(1, 100)]
    for first_s in (0.7, 20, 3_600):
        for is_broadcast in (False, True):
            assert scanned(first_s, *later, is_broadcast=is_broadcast, sound_s=4) == [(0.04, 4)]
    # A recording of one picture and 4 s of sound, and another behind it.
    scan = _Scan(True, {0: "video", 1: "audio"}, size=1 << 30, declared_s=0.0)
    scan.take(0, (60, 60, 0.04, 0))
    for number in range(400):
        time = 60 + number / 50 if number < 200 else 10 + number / 50
        scan.take(1, (time, time, 0.02, number))
        if number >= 200:
            scan.take(0, (time, time, 0.02, number))
    scan.finish()
    assert [len(one.streams) for one in scan.stretches] == [2, 2]


def test_a_recording_of_a_few_packets_before_another_is_one():
    scan = _Scan(True, {0: "video", 1: "audio"}, size=1 << 30, declared_s=0.0)
    first = [(36 + number / 25, number % 2) for number in range(4)]
    for number, (time, index) in enumerate([*first, *((number / 50, number % 2) for number in range(200))]):
        scan.take(index, (time, time, 0.04, number))
    scan.finish()
    assert [len(one.streams) for one in scan.stretches] == [2, 2]


def test_a_damaged_time_of_the_last_packet_makes_nothing_longer():
    steady = [number / 25 for number in range(100)]
    for last_s in (7, 20, 50):
        assert scanned(*steady, last_s, sound_s=4) == [(0, 4)]
        assert scanned(*steady, last_s, is_broadcast=True) == [(0, 4)]
        assert scanned(*steady, last_s) == [(0, last_s + 0.04)], "a picture that stayed, where nothing is heard"
        assert scanned(*steady, last_s, sound_s=last_s) == [(0, last_s + 0.04)]
    assert scanned(0, 7, 14, 21, 40, sound_s=4) == [(0, 40.04)], "slides"


def test_packets_that_state_no_time_are_not_held_back_for_ever():
    scan = _Scan(True, {0: "video"}, size=1 << 30, declared_s=0.0)
    for number in range(1_000):
        time = number / 25 + 60 * (number > 100)
        scan.take(0, (time, time, 0.04, number if number < 102 else None))
    assert [one.streams[0].packets for one in scan.stretches] == [101, 899]


def test_slides_beside_sound_are_not_behind_it():
    scan = _Scan(False, {0: "video", 1: "audio"}, size=1 << 30, declared_s=0.0)
    for second in range(200):
        if not second % 50:
            scan.take(0, (float(second), float(second), 0.0, second))
        scan.take(1, (float(second), float(second), 1.0, second))
    scan.finish()
    (stretch,) = scan.stretches
    assert max(seen.lag_s for seen in stretch.streams.values()) == 0
    assert stretch.streams[0].start_s == 0
    assert stretch.end_s == pytest.approx(200, abs=1)


def test_pictures_out_of_order_are_shown_between_their_neighbours():
    times = np.arange(50) / 25
    for number, by_s in ((10, 0.7), (49, -1.0), (30, 3_600), (20, -0.7)):
        strays = times.copy()
        strays[number] += by_s
        moves = mended(strays)
        assert {at: pytest.approx(-by_s, abs=0.05) for at in moves} == moves
        assert list(moves) == [number]
    assert mended(times) == {}
    assert mended(times + 0.01 * (np.arange(50) % 2)) == {}
    assert mended(np.concatenate([np.arange(200) / 25, np.arange(MOST_STRAYS + 1) / 25])) == {}


def test_a_piece_of_sound_at_another_time_stays_where_it_is():
    sound = noise()[: 2 * HZ]
    lengths = np.full(100, HZ // 50)
    for strays in ((50,), (50, 51, 52), (10, 90)):
        starts = np.arange(100) / 50
        starts[list(strays)] += 30
        clip, has = placed(Sound(sound, starts, lengths), 2 * HZ)
        assert has.all()
        np.testing.assert_array_equal(clip, sound)
    gap = np.arange(100) / 50 + 0.5 * (np.arange(100) >= 50)
    _, has = placed(Sound(sound, gap, lengths), 3 * HZ)
    assert 3 * HZ - has.sum() == HZ
