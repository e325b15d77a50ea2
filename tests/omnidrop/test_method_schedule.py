"""Layer schedules and their calibration: exact counts, cumulative, within bounds, refusing what cannot be reached."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop.errors import PolicyError
from omnidrop.policies.entry import GROUP, LEAST_LEVEL, Entry
from omnidrop.policies.schedule import Schedule, Sigmoid, calibrate, full

SHAPE = Sigmoid(0.0, 0.0)
entries = st.builds(
    Entry,
    audio=st.integers(0, 400),
    frame_sizes=st.lists(st.integers(1, 60), max_size=13).map(tuple),
    audio_share=st.floats(0.1, 1.0),
    video_share=st.floats(0.25, 1.0),
)


@pytest.mark.parametrize(("p_final", "published"), [(0.146, 0.324), (0.2, 0.302), (0.206, 0.300)])
def test_the_published_evaluation_of_the_7b_schedule(p_final: float, published: float) -> None:
    """A tenth of a million tokens, so that rounding to whole tokens does not show."""
    schedule = Sigmoid(0.0, p_final).schedule(1_000_000, 450_000, 28)
    assert schedule.retained_ratio == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize(
    ("layers", "shape", "target"),
    [
        (28, Sigmoid(0.0, 0.2), 0.30),
        (28, Sigmoid(0.02, 0.5), 0.20),
        (36, Sigmoid(0.0, 0.15), 0.30),
        (36, Sigmoid(0.02, 0.5, t_mid=0.55), 0.20),
    ],
)
def test_the_papers_settings_average_about_what_they_are_called(layers: int, shape: Sigmoid, target: float) -> None:
    assert shape.schedule(10_140, 4563, layers).retained_ratio == pytest.approx(target, abs=0.025)


@given(
    st.floats(0, 0.9), st.floats(0, 0.9), st.floats(1, 40), st.floats(0, 1), st.integers(1, 48), st.integers(0, 3000)
)
def test_counts_are_cumulative_and_floored(
    p_init: float, p_final: float, beta: float, t_mid: float, layers: int, entering: int
) -> None:
    shape = Sigmoid(p_init, p_final, beta, t_mid)
    schedule = shape.schedule(3000, entering, layers)
    assert schedule.entering[0] == entering
    assert len(schedule.entering) == layers
    for layer in range(layers - 1):
        alive = schedule.entering[layer]
        assert schedule.drops_after(layer) == math.floor(shape.rate(layer, layers) * alive)
    assert schedule.drops_after(layers - 1) == 0
    low, high = sorted((p_init, p_final))
    assert all(low - 1e-12 <= shape.rate(layer, layers) <= high + 1e-12 for layer in range(layers - 1))


@given(entries, st.integers(2, 40), st.floats(0.01, 1.0))
def test_calibration_meets_the_target_or_names_the_floor(entry: Entry, layers: int, target: float) -> None:
    total = entry.audio + sum(entry.frame_sizes)
    try:
        schedule = calibrate(target, total, layers, SHAPE, entry.counts())
    except PolicyError as error:
        floor = float(str(error).split("the floor is ")[1].split(";")[0])
        assert floor > target
        return
    if not total:
        assert schedule == full(0, layers)
        return
    # Whole tokens: each layer's count may be off by one, and by what one layer's rounding passes on to the next.
    assert abs(schedule.retained_ratio - target) <= 2.5 / total + 0.002
    assert entry.counts().least <= schedule.entering[0] <= total


def test_a_ratio_of_one_prunes_nothing() -> None:
    assert calibrate(1.0, 100, 12, SHAPE, Entry(40, (20, 20, 20)).counts()) == full(100, 12)
    assert full(100, 12).retained_ratio == 1.0
    assert full(100, 12).first_drop is None


def test_a_ratio_below_the_floor_is_refused_with_the_floor() -> None:
    with pytest.raises(PolicyError, match=r"0\.001 cannot be reached with 8 decoder layers .* the floor is 0\.0"):
        calibrate(0.001, 3000, 8, SHAPE, Entry(440, (128,) * 20).counts())
    for outside in (0.0, -0.1, 1.01):
        with pytest.raises(PolicyError, match="above 0 and at most 1"):
            calibrate(outside, 3000, 8, SHAPE, Entry(440, (128,) * 20).counts())


def test_tokens_cannot_come_back() -> None:
    with pytest.raises(ValueError, match="cannot come back"):
        Schedule(10, (5, 6))


def test_the_papers_shares_enter_where_they_reach() -> None:
    """40 % of whole groups of video, 70 % of audio; the calibrated 7B schedule starts there at 30 %."""
    entry = Entry(500, (288,) * 12)
    assert entry.audio_count(1.0) == 350
    assert entry.frame_counts(1.0) == (288, 58, 58, 58) * 3
    schedule = calibrate(0.3, 500 + 288 * 12, 28, SHAPE, entry.counts())
    assert schedule.entering[0] == entry.count(1.0)
    assert schedule.p_init == 0.0
    assert schedule.p_final == pytest.approx(0.2, abs=0.02)


def test_an_incomplete_group_keeps_its_anchor() -> None:
    assert Entry(0, (50,) * 6).frame_counts(1.0) == (50, 10, 10, 10, 50, 10)
    assert Entry(0, (50,)).frame_counts(1.0) == (50,)
    assert Entry(0, (50,)).frame_counts(0.3) == (24,)


@given(entries, st.data())
def test_any_count_between_the_bounds_is_split_exactly(entry: Entry, data: st.DataObject) -> None:
    counts = entry.counts()
    keep = data.draw(st.integers(counts.least, counts.total))
    audio, frames = entry.split(keep)
    assert audio + sum(frames) == keep
    assert 0 <= audio <= entry.audio
    assert all(0 <= count <= size for count, size in zip(frames, entry.frame_sizes, strict=True))
    if keep >= entry.count(1.0):
        anchors = [count == size for count, size in list(zip(frames, entry.frame_sizes, strict=True))[::GROUP]]
        assert all(anchors)


@given(entries)
def test_a_higher_level_never_keeps_less(entry: Entry) -> None:
    levels = [LEAST_LEVEL + step * 0.05 for step in range(39)]
    kept = [entry.count(level) for level in levels]
    assert kept == sorted(kept)
    assert entry.count(2.0) == entry.audio + sum(entry.frame_sizes)
