"""Which tokens stay: importance over a set, temporal diversity, pruning before the decoder, and the policies' rules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from omnidrop import policies
from omnidrop.engine.importance import aggregate, attention_received
from omnidrop.errors import PolicyError
from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies import diversity, intra_modality
from omnidrop.policies.base import AudioVisual, LayerTokens
from omnidrop.policies.entry import WAYS, Entry, Way
from omnidrop.policies.likeness import rarity
from omnidrop.policies.omnidrop import OmniDrop
from omnidrop.policies.tokens import keep_highest
from omnidrop.pruning import MODES, Pruning


def tokens(audio: int, frames: tuple[int, ...], *, seed: int = 0, importance: bool = True) -> AudioVisual:
    """A clip: all frames, then all audio, random features."""
    generator = torch.Generator().manual_seed(seed)
    grid = [(t, 0, place) for t, size in enumerate(frames) for place in range(size)] + [(i, 0, 0) for i in range(audio)]
    video = sum(frames)
    chunk = [g[0] // 2 for g in grid[:video]] + [i // 10 for i in range(audio)]
    return AudioVisual(
        modality=torch.tensor([VIDEO] * video + [AUDIO] * audio, dtype=torch.int8),
        chunk=torch.tensor(chunk, dtype=torch.int64),
        grid=torch.tensor(grid, dtype=torch.int32).view(-1, 3),
        seconds=torch.tensor([float(g[0]) for g in grid[:video]] + [i / 5 for i in range(audio)]),
        features=torch.randn(len(grid), 8, generator=generator),
        audio_importance=torch.rand(audio, generator=generator) if importance and audio else None,
        audio=audio,
        video=video,
        frame_sizes=frames,
        chunks=max(chunk, default=-1) + 1,
    )


# --- importance -------------------------------------------------------------------------------------------------------


def test_importance_is_the_mean_of_the_full_rows_softmax() -> None:
    """Against weights written out for every head, with two questions that do not see each other."""
    generator = torch.Generator().manual_seed(1)
    heads, kv, width, prefix = 6, 2, 4, 9
    query = torch.randn(heads, 5, width, generator=generator)
    key = torch.randn(kv, prefix + 5, width, generator=generator)
    visible = torch.zeros(5, 5, dtype=torch.bool)
    visible[:2, :2], visible[2:, 2:] = torch.ones(2, 2).tril().bool(), torch.ones(3, 3).tril().bool()
    owner = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3]])
    columns = torch.tensor([1, 2, 5, 8])
    got = attention_received(query, key, visible, owner, columns, scaling=0.7)
    wanted = torch.zeros(2, 4)
    for head in range(heads):
        for row in range(5):
            scores = 0.7 * query[head, row] @ key[head // 3].T
            scores[prefix:][~visible[row]] = float("-inf")
            of_row = scores.softmax(0)[columns]
            question = 0 if row < 2 else 1
            wanted[question] += of_row / heads / (2 if question == 0 else 3)
    torch.testing.assert_close(got, wanted)
    assert torch.equal(attention_received(query, key, visible, owner, columns, scaling=0.7, first=1), got)


def test_one_question_keeps_its_values() -> None:
    one = torch.rand(1, 20)
    for guidance in ("max", "mean", "quota"):
        assert torch.equal(aggregate(one, guidance), one[0])


def test_a_question_with_little_attention_still_counts() -> None:
    """The second question pays a hundredth of the attention to the clip; its favourite must not lose to noise."""
    loud = torch.tensor([0.5, 0.3, 0.1, 0.05])
    quiet = torch.tensor([0.0005, 0.0005, 0.0005, 0.0085])
    assert aggregate(torch.stack((loud, quiet)), "max").argmax() == 3
    assert aggregate(torch.stack((loud, quiet)), "mean").argsort(descending=True)[:2].sort().values.tolist() == [0, 3]


def taking_turns(importance: Tensor, keep: int) -> set[int]:
    """Questions name their next best token in turn until `keep` tokens are named."""
    ranked = importance.argsort(dim=1, descending=True, stable=True).tolist()
    named: list[int] = []
    for turn in range(importance.shape[1]):
        for order in ranked:
            if order[turn] not in named and len(named) < keep:
                named.append(order[turn])
    return set(named)


@given(st.integers(2, 6), st.integers(1, 40), st.data())
def test_quota_is_taking_turns(questions: int, count: int, data: st.DataObject) -> None:
    importance = torch.rand(questions, count, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    keep = data.draw(st.integers(1, count))
    got = keep_highest(aggregate(importance, "quota"), keep)
    assert set(got.tolist()) == taking_turns(importance, keep)


# --- temporal diversity -----------------------------------------------------------------------------------------------


def diverse(score: list[float], chunk: list[int], count: int, chunks: int, normalised: bool) -> list[int]:
    """The definition, in plain Python."""
    n = len(score)
    going = n - count
    candidates = sorted(range(n), key=lambda i: score[i])[: 2 * going]
    best = chunk[max(range(n), key=lambda i: score[i])]
    value = {i: score[i] for i in candidates}
    if normalised:
        low, high = min(value.values()), max(value.values())
        value = {i: (v - low) / (high - low) for i, v in value.items()}
    far = {i: value[i] + 0.2 * abs(best - chunk[i]) / max(chunks - 1, 1) for i in candidates}
    gone = set(sorted(candidates, key=far.__getitem__)[:going])
    return [i for i in range(n) if i not in gone]


@given(st.integers(2, 60), st.booleans(), st.data())
def test_diversity_is_its_definition(n: int, normalised: bool, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
    score = (torch.rand(n, generator=generator, dtype=torch.float64) / n).float()
    chunk = torch.randint(0, 7, (n,), generator=generator)
    count = data.draw(st.integers(1, n - 1))
    got = diversity.keep(score, chunk, count, 0.2, 7, normalised=normalised).tolist()
    assert len(got) == count
    assert got == sorted(set(got))
    assert got == diverse(score.tolist(), chunk.tolist(), count, 7, normalised)


def test_far_moments_win_over_slightly_better_near_ones() -> None:
    """Eight tokens, four go, so all are candidates: the best is in chunk 0, near ones beat far ones by a little."""
    score = torch.tensor([1.0, 0.8, 0.05, 0.04, 0.03, 0.02, 0.01, 0.0])
    chunk = torch.tensor([0, 0, 0, 0, 3, 3, 3, 3])
    assert keep_highest(score, 4).tolist() == [0, 1, 2, 3]
    assert diversity.keep(score, chunk, 4, 0.2, 4, normalised=True).tolist() == [0, 1, 4, 5]


# --- before the decoder -----------------------------------------------------------------------------------------------


def test_merged_frames_keep_what_differs_most_from_the_anchor() -> None:
    clip = tokens(0, (10,) * 6)
    features = clip.features[:10].repeat(6, 1) + 0.001 * clip.features
    changed = {1: [3, 4], 2: [0, 9], 3: [5, 6], 5: [1, 7]}
    for frame, places in changed.items():
        features[[frame * 10 + place for place in places]] *= -1
    clip = AudioVisual(**{**vars(clip), "features": features})
    entry = Entry(0, clip.frame_sizes)
    kept = intra_modality.select(clip, entry, entry.count(1.0), "merged").tolist()
    wanted = [
        *range(10),
        *range(40, 50),
        *(frame * 10 + place for frame, places in changed.items() for place in places),
    ]
    assert kept == sorted(wanted)


def test_audio_keeps_what_its_encoder_attended_to() -> None:
    clip = tokens(20, ())
    entry = Entry(20, ())
    assert clip.audio_importance is not None
    kept = intra_modality.select(clip, entry, 14, "merged")
    assert set(kept.tolist()) == set(clip.audio_importance.topk(14).indices.tolist())


def test_diverse_entry_keeps_one_of_each_kind_in_every_chunk() -> None:
    """Three kinds of token a chunk, many of each: nothing is kept twice before each kind is kept once."""
    clip = tokens(0, (12,) * 8)
    kinds = torch.eye(3, clip.features.shape[1]).repeat(clip.count // 3, 1)
    clip = AudioVisual(**{**vars(clip), "features": kinds + 0.001 * clip.features})
    entry = Entry(0, clip.frame_sizes)
    kept = intra_modality.select(clip, entry, 3 * clip.chunks, "diverse")
    found = {(int(clip.chunk[token]), int(kinds[token].argmax())) for token in kept.tolist()}
    assert found == {(chunk, kind) for chunk in range(clip.chunks) for kind in range(3)}


def test_a_rare_thing_enters_from_every_frame_that_shows_it() -> None:
    """A background of many kinds, none like the other, and one thing in three cells of every frame."""
    frames, cells = 8, 12
    clip = tokens(0, (cells,) * frames)
    features = torch.zeros(frames, cells, 24)
    features[:, torch.arange(9), torch.arange(9)] = 1.0  # the same nine in every frame: usual, but unlike each other
    for frame in range(frames):
        features[frame, 9:, 10 + frame] = 1.0  # another thing in every frame, in three cells
    clip = AudioVisual(**{**vars(clip), "features": features.reshape(-1, 24)})
    entry = Entry(0, clip.frame_sizes)
    kept = intra_modality.select(clip, entry, 6 * frames)
    assert {token // cells for token in kept.tolist() if token % cells >= 9} == set(range(frames))
    found = [int((kept // cells == frame).sum()) for frame in range(frames)]
    assert found == [6] * frames, "every frame gives the same share"


def test_few_tokens_are_chosen_from_several_frames_at_once() -> None:
    """Two of twelve for a frame: three frames share a window, in which the two that stand out stay from one frame."""
    frames, cells = 6, 12
    clip = tokens(0, (cells,) * frames)
    features = torch.zeros(frames, cells, 12)
    features[..., 0] = 1.0
    for frame, thing in ((1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (4, 8)):
        features[frame, thing] = torch.nn.functional.one_hot(torch.tensor(thing), 12).float()
    clip = AudioVisual(**{**vars(clip), "features": features.reshape(-1, 12)})
    kept = intra_modality.select(clip, Entry(0, clip.frame_sizes), 2 * frames)
    assert {(token // cells, token % cells) for token in kept.tolist()} >= {(1, n) for n in range(3, 8)} | {(4, 8)}
    assert [int((kept // (3 * cells) == window).sum()) for window in range(2)] == [6, 6]


def test_rarity_is_surprisal() -> None:
    unlike = torch.eye(4)
    features = torch.cat((unlike[:1].expand(6, 4), unlike[1:2].expand(2, 4), 3.0 * unlike[2:3]))
    usual, pair, alone = (float(x) for x in rarity(features)[[0, 6, 8]])
    assert usual == 0.0
    # Without what others add, exp(-10) each, these are log(6 / 2) and log(6 / 1).
    assert pair == pytest.approx(math.log(3), abs=1e-3)
    assert alone == pytest.approx(math.log(6), abs=1e-3)
    assert rarity(unlike).tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_rarity_of_many_is_estimated_from_some() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=-1).repeat(100, 1)
    features[1234] = -features.mean(0)
    rare = rarity(features)
    assert int(rare.argmax()) == 1234
    assert rare[:40].tolist() == pytest.approx(rare[400:440].tolist(), abs=0.2)


def test_what_mattered_in_earlier_layers_still_counts() -> None:
    """The first look is for token 0, the second for token 3; the paper knows only the layer it is in."""
    first, now = torch.tensor([0.8, 0.1, 0.05, 0.05]), torch.tensor([0.1, 0.25, 0.15, 0.5])
    layer = LayerTokens(
        5, 28, torch.arange(4), now, torch.ones(4, dtype=torch.int8), torch.arange(4), 4, earlier=(first,)
    )
    assert OmniDrop().at_layer(layer, 2).tolist() == [0, 3]
    assert OmniDrop(memory=0.0).at_layer(layer, 2).tolist() == [1, 3]
    with pytest.raises(PolicyError, match="memory must be 0 to 1"):
        OmniDrop(memory=2.0)


def test_every_way_in_keeps_as_many_of_each_modality() -> None:
    clip = tokens(40, (30,) * 8)
    entry = Entry(40, clip.frame_sizes)
    for keep in (60, 100, 200):
        kept = [intra_modality.select(clip, entry, keep, way) for way in ("rare", "diverse", "merged")]
        assert len({int(clip.is_audio[found].sum()) for found in kept}) == 1


@given(
    st.integers(0, 30),
    st.lists(st.integers(1, 12), max_size=9),
    st.booleans(),
    st.sampled_from(WAYS),
    st.data(),
)
def test_selection_has_exactly_the_count_in_order(
    audio: int, frames: list[int], known: bool, way: Way, data: st.DataObject
) -> None:
    if audio + sum(frames) == 0:
        return
    clip = tokens(audio, tuple(frames), importance=known)
    entry = Entry(audio, clip.frame_sizes)
    keep = data.draw(st.integers(entry.counts().least, clip.count))
    kept = intra_modality.select(clip, entry, keep, way).tolist()
    assert len(kept) == keep
    assert kept == sorted(set(kept))
    assert not kept or (kept[0] >= 0 and kept[-1] < clip.count)


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in policies.names() if n != "none"])
@pytest.mark.parametrize("layers", [12, 28])
def test_every_policy_meets_its_ratio_and_keeps_what_it_planned(name: str, layers: int) -> None:
    clip = tokens(60, (30,) * 8)
    policy = policies.named(name)
    schedule = policy.plan(clip, layers, 0.4)
    assert schedule.total == clip.count
    assert schedule.retained_ratio == pytest.approx(0.4, abs=0.03)
    kept = policy.before(clip, schedule)
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == schedule.entering[0]
    for layer in range(layers - 1):
        if not schedule.drops_after(layer):
            continue
        alive = LayerTokens(
            layer=layer,
            layers=layers,
            index=kept,
            importance=torch.rand(len(kept), generator=torch.Generator().manual_seed(layer)),
            modality=clip.modality[kept],
            chunk=clip.chunk[kept],
            chunks=clip.chunks,
            audio=clip.audio,
            video=clip.video,
            hidden=clip.features[kept],
            text=clip.features[:3],
            asked=torch.ones(1, 3, dtype=torch.bool),
        )
        stay = policy.at_layer(alive, schedule.entering[layer + 1])
        assert stay.tolist() == sorted(set(stay.tolist()))
        assert len(stay) == schedule.entering[layer + 1]
        kept = kept[stay]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"mode": "fast"}, "unknown mode 'fast'; allowed: dense, dense_shared"),
        ({"policy": "best"}, "unknown policy 'best'; allowed: .*omnidrop"),
        ({"guidance": "sum"}, "unknown guidance 'sum'; allowed: max, mean, quota"),
        ({"retained_ratio": 0.0}, "above 0 and at most 1"),
        ({"retained_ratio": 1.5}, "above 0 and at most 1"),
        ({"mode": "dense"}, "mode 'dense' prunes nothing"),
        ({"policy": "none"}, "policy 'none' keeps everything"),
        ({"settings": (("sharpness", 3),)}, "no setting 'sharpness'; allowed: merge, read_left_out, beta, t_mid"),
        ({"settings": (("diversity", "some"),)}, "diversity must be one of off, printed, normalised"),
        ({"settings": (("p_init", 0.1),)}, "give both p_init and p_final"),
        ({"settings": (("video_keep", 0.1),)}, "video_keep must be 0.25 to 1"),
    ],
)
def test_pruning_says_what_is_wrong(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Pruning(**given_)


def test_pruning_is_hashable_and_off_in_every_mode() -> None:
    assert len({Pruning.off(mode) for mode in MODES}) == len(MODES)
    assert Pruning() == Pruning() != Pruning(retained_ratio=0.2)


def test_the_papers_rates_can_be_given_instead_of_a_ratio() -> None:
    clip = tokens(60, (30,) * 8)
    schedule = policies.named("omnidrop", p_init=0.0, p_final=0.2).plan(clip, 28, None)
    assert schedule.entering[0] == 42 + 2 * (30 + 18)
    with pytest.raises(PolicyError, match="not both"):
        policies.named("omnidrop", p_init=0.0, p_final=0.2).plan(clip, 28, 0.3)
    with pytest.raises(PolicyError, match="needs a retained_ratio"):
        policies.named("omnidrop").plan(clip, 28, None)
