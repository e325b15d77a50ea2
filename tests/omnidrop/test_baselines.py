"""The baselines behind the policy protocol: exact counts, determinism, and each method's own idea."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop import policies
from omnidrop.errors import PolicyError
from omnidrop.model import OmniModel, Request
from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies import max_min_selection
from omnidrop.policies.base import AudioVisual, LayerTokens
from omnidrop.policies.budget import apportion
from omnidrop.policies.dash import Dash
from omnidrop.policies.divprune import DivPrune
from omnidrop.policies.evs import EVS
from omnidrop.policies.fastv import FastV
from omnidrop.policies.feature_selection import density_peaks
from omnidrop.policies.max_min_selection import max_min, split
from omnidrop.policies.omnidrop_paper import OmniDropPaper
from omnidrop.policies.omnipack import OmniPack, published_shares
from omnidrop.policies.omnizip import OmniZip
from omnidrop.policies.random_tokens import Random
from omnidrop.policies.seats import Seats
from omnidrop.policies.vidcom2 import VidCom2
from omnidrop.policies.visionzip import VisionZip
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Choice, Question
from omnidrop.selfcheck import sample_clip
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni

__all__ = ["small_qwen2_5_omni", "small_qwen3_omni"]

BASELINES = ("random", "fastv", "divprune", "omnizip", "dash", "seats", "visionzip", "vidcom2", "evs", "omnipack")
LAYERS = 28
WORDS = torch.randn(4, 16, generator=torch.Generator().manual_seed(9))
"""States of the text: of the prefix, and of two questions."""


def clip(
    chunks: int = 5, frames: int = 2, frame_tokens: int = 12, audio: int = 10, width: int = 16, seed: int = 0
) -> AudioVisual:
    """Random features; every chunk has `frames` temporal patches of `frame_tokens` tokens, then `audio` tokens."""
    modality, chunk, grid, seconds = [], [], [], []
    for number in range(chunks):
        for frame in range(frames):
            modality += [VIDEO] * frame_tokens
            grid += [(number * frames + frame, place // 4, place % 4) for place in range(frame_tokens)]
            seconds += [2 * number + 2 * frame / frames] * frame_tokens
        modality += [AUDIO] * audio
        grid += [(number * audio + place, 0, 0) for place in range(audio)]
        seconds += [2 * number + 2 * place / audio for place in range(audio)]
        chunk += [number] * (frames * frame_tokens + audio)
    draw = torch.Generator().manual_seed(seed)
    return AudioVisual(
        modality=torch.tensor(modality, dtype=torch.int8),
        chunk=torch.tensor(chunk),
        grid=torch.tensor(grid, dtype=torch.int32),
        seconds=torch.tensor(seconds, dtype=torch.float32),
        features=torch.randn(len(modality), width, generator=draw),
        audio_importance=torch.rand(chunks * audio, generator=draw) if audio else None,
        audio=chunks * audio,
        video=chunks * frames * frame_tokens,
        frame_sizes=(frame_tokens,) * (chunks * frames),
        chunks=chunks,
    )


CLIPS = {
    "both": clip(),
    "video only": clip(audio=0),
    "audio only": clip(frames=0),
    "one chunk": clip(chunks=1),
    "one token of each": clip(chunks=1, frames=1, frame_tokens=1, audio=1),
    "more audio than video": clip(frames=1, frame_tokens=2, audio=25),
    "three patches a chunk": clip(frames=3),
}


def run(policy: Any, tokens: AudioVisual, ratio: float, layers: int = LAYERS) -> list[list[int]]:
    """Which tokens enter each layer, with importance drawn anew (but alike) at every layer."""
    schedule = policy.plan(tokens, layers, ratio)
    index = policy.before(tokens, schedule)
    entered = []
    for layer in range(layers):
        entered.append(index.tolist())
        if not schedule.drops_after(layer):
            continue
        draw = torch.Generator().manual_seed(layer)
        alive = LayerTokens(
            layer=layer,
            layers=layers,
            index=index,
            importance=torch.rand(tokens.count, generator=draw)[index] / tokens.count,
            modality=tokens.modality[index],
            chunk=tokens.chunk[index],
            chunks=tokens.chunks,
            audio=tokens.audio,
            video=tokens.video,
            hidden=tokens.features[index],
            text=WORDS,
            asked=torch.tensor([[True, True, True, False], [True, True, False, True]]),
        )
        index = index[policy.at_layer(alive, schedule.entering[layer + 1])]
    assert [len(one) for one in entered] == list(schedule.entering)
    return entered


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("case", CLIPS)
@pytest.mark.parametrize("ratio", [0.15, 0.35, 0.62, 0.95])
def test_exact_counts_ascending_cumulative_and_deterministic(name: str, case: str, ratio: float) -> None:
    tokens = CLIPS[case]
    policy = policies.named(name)
    entered = run(policy, tokens, ratio)
    for before, after in itertools.pairwise(entered):
        assert set(after) <= set(before)
    for one in entered:
        assert one == sorted(set(one))
    mean = sum(map(len, entered)) / (tokens.count * LAYERS)
    # One token more or less in every layer is as near as whole tokens come.
    assert abs(mean - ratio) <= 1.0 / tokens.count
    assert entered == run(policy, tokens, ratio)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("case", CLIPS)
def test_ratio_1_keeps_everything(name: str, case: str) -> None:
    tokens = CLIPS[case]
    assert run(policies.named(name), tokens, 1.0) == [list(range(tokens.count))] * LAYERS


@pytest.mark.parametrize("name", BASELINES)
def test_a_ratio_must_be_given_and_sensible(name: str) -> None:
    for wrong in (None, 0.0, 1.5):
        with pytest.raises(PolicyError, match="retained_ratio"):
            policies.named(name).plan(CLIPS["both"], LAYERS, wrong)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("family", ["small_qwen2_5_omni", "small_qwen3_omni"])
def test_runs_in_the_real_decoder_and_never_drops_text(name: str, family: str, request: pytest.FixtureRequest) -> None:
    """What entered is what the ratio asks, every text row is there, and ratio 1 gives the unpruned answers."""
    directory: Path = request.getfixturevalue(family)
    model = OmniModel.load(str(directory), device="cpu")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 64, 96, 3), dtype=np.uint8)
    audio = (rng.normal(size=64_000) * 0.1).astype(np.float32)
    questions = [
        Question("colour", "What colour is the circle?", Choice(("red", "green"))),
        Question("sweep", "Is a rising sweep heard?", Boolean()),
    ]
    ratio = 0.6
    pruned = model.answer(
        frames, audio, Request(questions, fps=2.0, pruning=Pruning(policy=name, retained_ratio=ratio))
    )
    whole = model.answer(frames, audio, Request(questions, fps=2.0, pruning=Pruning.off()))
    found = pruned.trace.retained_ratio()
    assert found == pytest.approx(ratio, abs=0.5 / (pruned.trace.audio_in + pruned.trace.video_in) + 0.01)
    entering = pruned.trace.layers[0]
    text = whole.cost.as_run.tokens - whole.trace.audio_in - whole.trace.video_in
    assert pruned.cost.as_run.tokens == text + entering.audio + entering.video
    assert pruned.cost.as_run.prefill_flops < whole.cost.as_run.prefill_flops
    assert all(0.0 <= answer.probability <= 1.0 for answer in pruned.answers)
    kept = model.answer(frames, audio, Request(questions, fps=2.0, pruning=Pruning(policy=name, retained_ratio=1.0)))
    for one, other in zip(kept.answers, whole.answers, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_random_keeps_the_same_share_of_each_modality_and_follows_its_seed() -> None:
    tokens = clip(chunks=10)
    kept = torch.tensor(run(Random(seed=1), tokens, 0.25)[0])
    assert int(tokens.is_audio[kept].sum()) == tokens.audio // 4
    assert kept.tolist() != run(Random(seed=2), tokens, 0.25)[0]


def test_fastv_cuts_once_and_names_its_floor() -> None:
    tokens = clip()
    entered = run(FastV(), tokens, 0.3)
    assert [len(one) for one in entered[:2]] == [tokens.count] * 2
    assert len({len(one) for one in entered[2:]}) == 1
    importance = torch.linspace(1, 0, 20)
    alive = LayerTokens(1, LAYERS, torch.arange(20), importance, torch.zeros(20), torch.zeros(20, dtype=torch.int64), 1)
    assert FastV().at_layer(alive, 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(PolicyError, match=r"floor is 0\.500"):
        FastV().plan(tokens, 4, 0.3)


def test_max_min_takes_what_is_different_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten copies of one token and five others: six picks are one copy and the five."""
    others = torch.eye(8)[:5]
    features = torch.cat([torch.eye(8)[7:].expand(10, 8), others])
    (picked,) = max_min(features, [torch.arange(15)], [6])
    assert sorted(picked.tolist())[1:] == [10, 11, 12, 13, 14]
    assert min(picked.tolist()) < 10
    monkeypatch.setattr(max_min_selection, "MOST_PAIRS", 15**2)
    again = max_min(features, [torch.arange(15)] * 3, [6, 2, 0])
    assert [one.tolist() for one in again] == [picked.tolist(), picked.tolist()[:2], []]
    weighted = torch.ones(15)
    weighted[12] = 0.0
    (picked,) = max_min(features, [torch.arange(15)], [5], weighted)
    assert 12 not in picked.tolist()


def test_divprune_keeps_the_same_share_of_every_window() -> None:
    tokens = clip(chunks=4)
    kept = torch.tensor(run(DivPrune(), tokens, 0.5)[0])
    assert torch.bincount(tokens.chunk[kept]).tolist() == [17] * 4
    assert torch.bincount(tokens.chunk[kept][tokens.is_audio[kept]]).tolist() == [5] * 4


def test_density_peaks_finds_a_token_of_each_cluster() -> None:
    centres = torch.tensor([[10.0, 0], [0, 10], [-10, 0]])
    features = centres.repeat_interleave(6, dim=0) + 0.1 * torch.randn(
        18, 2, generator=torch.Generator().manual_seed(0)
    )
    assert sorted(p // 6 for p in density_peaks(features, 3).tolist()) == [0, 1, 2]


def test_omnizip_gives_the_picture_more_where_more_sound_stays() -> None:
    tokens = clip(chunks=4)
    importance = torch.full((4, 10), 0.1)
    importance[2] = 1.0
    loud = replace(tokens, audio_importance=importance.flatten())
    kept = torch.tensor(run(OmniZip(), loud, 0.3)[0])
    seen = torch.bincount(tokens.chunk[kept][~tokens.is_audio[kept]], minlength=4)
    heard = torch.bincount(tokens.chunk[kept][tokens.is_audio[kept]], minlength=4)
    assert heard[2] == 10
    assert (seen[2] > seen[[0, 1, 3]]).all()


def test_omnizip_keeps_what_changes_in_odd_frames() -> None:
    tokens = clip(chunks=1, frames=2, audio=0)
    features = tokens.features.clone()
    features[12:24] = features[:12]
    features[[14, 19]] = -features[[14, 19]]
    kept = run(OmniZip(), replace(tokens, features=features), 4 / 24)[0]
    assert [k for k in kept if k >= 12] == [14, 19]


def test_omnizip_averages_dropped_sound_into_the_most_alike_that_stays() -> None:
    tokens = clip(chunks=1, frames=1, frame_tokens=2, audio=4)
    features = tokens.features.clone()
    features[2:] = torch.eye(16)[:4] + 0.1
    features[4] = features[2] + 0.01  # dropped, and like the first sound
    index = torch.tensor([0, 1, 2, 3])
    join = OmniZip().joins(replace(tokens, features=features), index)
    assert join is not None
    assert dict(zip(join.source.tolist(), join.target.tolist(), strict=True))[4] == 2
    assert OmniZip(merge=False).joins(tokens, index) is None


def test_visionzip_keeps_what_encoders_look_at_and_means_of_the_rest() -> None:
    tokens = clip(chunks=1, frames=1, frame_tokens=12, audio=0)
    importance = torch.zeros(12)
    importance[[2, 5, 7]] = 1.0
    looked = replace(tokens, video_importance=importance)
    policy = VisionZip(dominant=0.5)
    index = policy.before(looked, policy.plan(looked, LAYERS, 0.5))
    assert {2, 5, 7} <= set(index.tolist())
    join = policy.joins(looked, index)
    assert join is not None
    assert sorted([*index.tolist(), *join.source.tolist()]) == list(range(12))
    # Nothing is averaged into the dominant ones.
    assert not {2, 5, 7} & set(index[join.target].tolist())
    merged = join(tokens.features, index)
    for place, token in enumerate(index.tolist()):
        if token in (2, 5, 7):
            assert torch.equal(merged[place], tokens.features[token])


def test_vidcom2_gives_a_frame_unlike_the_others_more() -> None:
    tokens = clip(chunks=8, frames=1, frame_tokens=10, audio=0)
    same = torch.randn(16, generator=torch.Generator().manual_seed(1))
    features = same + 0.1 * tokens.features
    features[30:40] = tokens.features[30:40]
    odd = replace(tokens, features=features)
    kept = torch.tensor(run(VidCom2(), odd, 0.3)[0])
    by_frame = torch.bincount(torch.div(kept, 10, rounding_mode="floor"), minlength=8)
    assert by_frame[3] == by_frame.max() > by_frame.float().mean()


def test_evs_keeps_the_first_frame_and_what_changes() -> None:
    tokens = clip(chunks=3, frames=2, frame_tokens=12, audio=0)
    features = tokens.features[:12].repeat(6, 1)
    features[[30, 41, 60]] = -features[[30, 41, 60]]
    still = replace(tokens, features=features)
    kept = run(EVS(), still, 17 / 72)[0]
    assert kept[:12] == list(range(12))
    # What changed, and where it changed back.
    assert {30, 41, 60} <= set(kept)
    assert set(kept[12:]) <= {30, 42, 41, 53, 60}


def test_dash_segments_begin_where_the_sound_changes() -> None:
    tokens = clip(chunks=2, frames=2, audio=10)
    features = tokens.features.clone()
    sound = torch.zeros(20, 16)
    sound[:5, 0], sound[5:14, 1], sound[14:, 2] = 1.0, 1.0, 1.0
    features[tokens.is_audio] = sound
    of_audio, of_frame, segments = Dash().segments(replace(tokens, features=features))
    assert of_audio == [0] * 5 + [1] * 9 + [2] * 6
    # Two temporal patches a chunk lie at audio tokens 0, 5, 10 and 15.
    assert of_frame == [0, 1, 1, 2]
    assert segments == 3


def test_seats_climbs_down_and_leaves_nothing_in_the_last_layers() -> None:
    tokens = clip(chunks=20)
    entering = Seats().plan(tokens, 28, 0.3).entering
    assert entering[0] / tokens.count == pytest.approx(1.4 * 0.3, abs=0.01)
    assert [layer for layer in range(27) if entering[layer + 1] < entering[layer]] == [16, 18, 20, 23]
    assert entering[24:] == (0,) * 4
    shallow = Seats().plan(tokens, 12, 0.3)
    assert shallow.entering[-1] == 0
    assert shallow.retained_ratio == pytest.approx(0.3, abs=0.01)


def test_seats_gives_more_to_windows_and_modalities_that_are_asked_for() -> None:
    tokens = clip(chunks=4, frames=1, frame_tokens=10)
    importance = torch.full((tokens.count,), 0.2)
    importance[tokens.chunk == 1] = 1.0
    importance[(tokens.chunk == 2) & tokens.is_audio] = 0.6
    alive = LayerTokens(16, 28, torch.arange(tokens.count), importance, tokens.modality, tokens.chunk, 4)
    kept = Seats().at_layer(alive, 30)
    by_window = torch.bincount(tokens.chunk[kept], minlength=4)
    assert by_window[1] == 20
    assert by_window[2] > by_window[0]
    inside = tokens.is_audio[kept[tokens.chunk[kept] == 2]]
    assert int(inside.sum()) > int((~inside).sum())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_split_is_exact_and_fair(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=12))
    weights = data.draw(st.lists(st.floats(0, 100), min_size=len(sizes), max_size=len(sizes)))
    keep = data.draw(st.integers(0, sum(sizes)))
    counts = split(keep, sizes, weights)
    assert sum(counts) == keep
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    proportional = split(keep, sizes)
    share = keep / max(sum(sizes), 1)
    assert all(abs(count - size * share) <= 1 for count, size in zip(proportional, sizes, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 10_000), st.data())
def test_apportion_is_exact_and_takes_the_best_of_each_group(
    n: int, groups: int, seed: int, data: st.DataObject
) -> None:
    draw = torch.Generator().manual_seed(seed)
    score, quota = torch.rand(n, generator=draw), torch.rand(groups, generator=draw)
    group = torch.randint(0, groups, (n,), generator=draw)
    keep = data.draw(st.integers(0, n))
    kept = apportion(score, group, quota, keep)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == keep
    stays = torch.zeros(n, dtype=torch.bool)
    stays[kept] = True
    for number in range(groups):
        inside, outside = score[(group == number) & stays], score[(group == number) & ~stays]
        if len(inside) and len(outside):
            assert inside.min() >= outside.max()


# --- the paper --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "ratio", "rates"),
    [(28, 0.3, (0.0, 0.2)), (28, 0.2, (0.02, 0.5)), (36, 0.3, (0.0, 0.15)), (36, 0.2, (0.02, 0.5))],
)
def test_the_paper_runs_at_its_own_rates(layers: int, ratio: float, rates: tuple[float, float]) -> None:
    tokens = clip(chunks=30, frames=2, frame_tokens=144, audio=50)
    schedule = OmniDropPaper().plan(tokens, layers, ratio)
    assert (schedule.p_init, schedule.p_final) == rates
    assert schedule.retained_ratio == pytest.approx(ratio, abs=0.02)
    solved = OmniDropPaper().plan(tokens, layers, 0.25)
    assert solved.retained_ratio == pytest.approx(0.25, abs=0.005)
    given_ = OmniDropPaper(p_init=0.0, p_final=0.1).plan(tokens, layers, None)
    assert (given_.p_init, given_.p_final) == (0.0, 0.1)


def test_the_paper_is_guided_by_words_and_remembers_nothing() -> None:
    policy = OmniDropPaper()
    assert policy.guide == "words"
    assert [policy.diverse_from(layers) for layers in (28, 36, 12)] == [14, 19, 6]
    importance = torch.tensor([0.4, 0.3, 0.2, 0.1])
    earlier = (torch.tensor([0.0, 0.0, 0.0, 1.0]),)
    layer = LayerTokens(
        2, 28, torch.arange(4), importance, torch.zeros(4), torch.zeros(4, dtype=torch.int64), 1, earlier
    )
    assert policy.at_layer(layer, 2).tolist() == [0, 1]


def test_the_papers_temporal_tokens_are_deleted_or_merged_into_their_anchor() -> None:
    tokens = clip(chunks=2, frames=2, frame_tokens=10, audio=0)
    features = tokens.features[:10].repeat(4, 1) + 0.01 * tokens.features
    still = replace(tokens, features=features)
    index = torch.cat((torch.arange(10), torch.tensor([12, 23, 34])))
    assert OmniDropPaper().joins(still, index) is None
    join = OmniDropPaper(temporal_tokens="merge").joins(still, index)
    assert join is not None
    assert sorted(join.source.tolist()) == sorted(set(range(10, 40)) - {12, 23, 34})
    assert ((join.source - index[join.target]) % 10 == 0).all()
    with pytest.raises(PolicyError, match="temporal_tokens must be delete or merge, got 'keep'"):
        OmniDropPaper(temporal_tokens="keep")  # type: ignore[arg-type]


def test_omnipack_enters_by_the_published_shares() -> None:
    # Qwen2.5-Omni's 144 and 25 tokens a second: 25, 20, 15 and 10 % are these shares of the video and of the audio.
    for enters, seen, heard in ((0.25, 0.20, 0.55), (0.20, 0.15, 0.50), (0.15, 0.10, 0.45), (0.10, 0.06, 0.35)):
        audio, video = published_shares(round(enters * 16900), 2500, 14400)
        assert audio + video == round(enters * 16900)
        assert audio / 2500 == pytest.approx(heard, abs=0.02)
        assert video / 14400 == pytest.approx(seen, abs=0.005)
    # Half of what enters passes layer 18 of 28.
    even = OmniPack(shares="even")
    seen = CLIPS["both"].modality[even.before(CLIPS["both"], even.plan(CLIPS["both"], LAYERS, 0.2))] == VIDEO
    assert seen.float().mean() == pytest.approx(120 / 170, abs=0.03)
    schedule = OmniPack().plan(clip(chunks=20), LAYERS, 0.2)
    assert schedule.first_drop == 17
    assert schedule.entering[18] == pytest.approx(schedule.entering[0] / 2, abs=1)


def test_omnipack_lets_in_the_important_and_one_of_every_kind() -> None:
    tokens = clip(chunks=4, frames=2, frame_tokens=12, audio=0)
    kinds = torch.eye(16)[torch.arange(96) % 4]
    seen = torch.rand(96, generator=torch.Generator().manual_seed(2)) * 0.1
    seen[[5, 50]] = 1.0
    of_kinds = replace(tokens, features=kinds + 0.01 * tokens.features, video_importance=seen)
    policy = OmniPack()
    index = policy.before(of_kinds, policy.plan(of_kinds, LAYERS, 0.1))
    assert {5, 50} <= set(index.tolist())
    assert set((index % 4).tolist()) == {0, 1, 2, 3}
    join = policy.joins(of_kinds, index)
    assert join is not None
    assert sorted([*index.tolist(), *join.source.tolist()]) == list(range(96))
    # What is left out joins its own kind, and 38 % of what enters is the mean of both.
    assert torch.equal(index[join.target] % 4, join.source % 4)
    only = torch.bincount(join.target, minlength=index.shape[0]) == 0
    merged = join(of_kinds.features, index)
    assert torch.allclose(merged[only], of_kinds.features[index][only])
    one = int(torch.nonzero(~only)[0])
    those = join.target == one
    mean = of_kinds.features[index[one]] + (join.weight[those, None] * of_kinds.features[join.source[those]]).sum(0)
    mean /= 1.0 + join.weight[those].sum()
    assert torch.allclose(merged[one], 0.62 * of_kinds.features[index[one]] + 0.38 * mean, atol=1e-6)


def test_omnipack_keeps_in_the_middle_what_is_like_the_text_and_joins_the_rest_to_its_kind() -> None:
    # Audio 0 to 3, video 4 to 11; the question's states are those of audio 2 and of video 9.
    states = torch.eye(16)[:12] + 0.02
    text = states[[2, 9]]
    layer = LayerTokens(
        17, 28, torch.arange(12), torch.zeros(12), torch.tensor([AUDIO] * 4 + [VIDEO] * 8), torch.zeros(12).long(), 1,
        audio=4, video=8, hidden=states, text=text, asked=torch.ones(1, 2, dtype=torch.bool),
    )  # fmt: skip
    policy = OmniPack()
    kept = policy.at_layer(layer, 3)
    assert {2, 9} <= set(kept.tolist())
    join = policy.joins_at(layer, kept)
    assert join is not None
    assert sorted([*kept.tolist(), *join.source.tolist()]) == list(range(12))
    assert torch.equal((join.source < 4), (kept[join.target] < 4))
    assert OmniPack(merge=False).joins_at(layer, kept) is None


def test_a_policy_that_reads_states_is_given_those_of_the_text_its_questions_see() -> None:
    """Through the real engine: tokens count as asked, and each question's pass sees its own words alone."""
    model, (frames, audio) = OmniModel.load("tiny", device="cpu"), sample_clip(8, 120, 160)
    one, other = (Question("q", text, Boolean()) for text in ("Is a circle shown?", "Is a low tone heard?"))
    kept = {}
    for question in (one, other):
        pruning = Pruning("set_guided", "omnipack", 0.2)
        got = model.answer(frames, audio, Request([question], fps=2.0, pruning=pruning, positions=True))
        assert got.positions is not None
        assert got.positions.kept[0][0].shape[0] > got.positions.kept[0][-1].shape[0]
        kept[question.text] = got.positions.kept[0]
    first, last = zip(*((of[0].tolist(), of[-1].tolist()) for of in kept.values()), strict=True)
    assert first[0] == first[1]
    assert last[0] != last[1]
