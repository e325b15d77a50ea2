"""Cutting media into clips and units, and ids that follow from content."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import identity
from pipeline.config.job import ClipsConfig
from pipeline.planning.cutting import cut_spans

lengths = st.floats(0.5, 120, allow_nan=False)


@given(duration=st.floats(0.05, 5_000), length=lengths, shortest=st.floats(0.1, 0.5))
def test_fixed_spans_cover_everything_once(duration, length, shortest):
    spans = cut_spans(duration, ClipsConfig(length_s=length, min_length_s=shortest))
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(duration, abs=1e-6)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert all(end > start for start, end in spans)
    assert all(end - start == pytest.approx(length, abs=2e-6) for start, end in spans[:-1])
    if len(spans) > 1:
        assert spans[-1][1] - spans[-1][0] >= shortest - 1e-5


@given(duration=st.floats(1, 500), length=st.floats(2, 60), share=st.floats(0.1, 0.9))
def test_overlapping_spans_share_what_was_asked(duration, length, share):
    spans = cut_spans(duration, ClipsConfig(length_s=length, overlap_s=length * share))
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(duration, abs=1e-6)
    for before, after in pairwise(spans):
        assert before[1] - after[0] == pytest.approx(length * share, abs=1e-5)


@given(duration=st.floats(2, 600), cuts=st.lists(st.floats(0, 600), max_size=20), longest=st.floats(2, 30))
def test_scene_spans_cover_everything_within_the_limits(duration, cuts, longest):
    config = ClipsConfig(cut="scene", max_length_s=longest, min_length_s=1.0)
    spans = cut_spans(duration, config, cuts)
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(duration, abs=1e-6)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert all(end - start <= longest + 1e-5 for start, end in spans)


def test_scenes_begin_at_the_cuts():
    config = ClipsConfig(cut="scene", max_length_s=10, min_length_s=2)
    assert cut_spans(20, config, [4.0, 5.0, 12.0, 19.5]) == [(0, 4.0), (4.0, 12.0), (12.0, 20.0)]


@pytest.mark.parametrize(
    ("duration", "spans"),
    [
        (0, []),
        (0.2, [(0, 0.2)]),
        (30, [(0, 30)]),
        (30.5, [(0, 30.5)]),
        (31, [(0, 30), (30, 31)]),
        (60, [(0, 30), (30, 60)]),
    ],
)
def test_a_short_rest_joins_the_clip_before_it(duration, spans):
    assert cut_spans(duration, ClipsConfig(length_s=30, min_length_s=1)) == spans


def test_ids_follow_from_content_and_from_nothing_else():
    version = identity.version_id("job", "m", "etag", "recipe")
    assert version == identity.version_id("job", "m", "etag", "recipe")
    others = {
        identity.version_id(*changed)
        for changed in (
            ("jobb", "m", "etag", "recipe"),
            ("job", "mm", "etag", "recipe"),
            ("job", "m", "etag2", "recipe"),
            ("job", "m", "etag", "recipe2"),
            # Parts may not run into each other.
            ("job", "me", "tag", "recipe"),
        )
    }
    assert len(others) == 5
    assert version not in others
    assert identity.clip_id(version, 0, 10) == identity.clip_id(version, 0.0, 10.0000001)
    assert identity.clip_id(version, 0, 10) != identity.clip_id(version, 0, 10.001)
    assert len(identity.unit_id(version, [])) == identity.ID_HEX


def test_a_recipe_does_not_depend_on_the_order_of_its_fields():
    assert identity.recipe_hash({"a": 1, "b": {"c": 2, "d": 3}}) == identity.recipe_hash(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
