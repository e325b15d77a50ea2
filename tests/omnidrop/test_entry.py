"""What enters the decoder: likeness on the features' own scale, tokens that cover the clip, and what joins them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies import coverage, covering, covering_on_device, entry, joining, likeness
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.omnidrop import OmniDrop


def clip(patches: int = 10, cells: int = 12, sounds: int = 20, kinds: int = 6, seed: int = 0) -> AudioVisual:
    """`patches` seconds of a picture whose cells show `kinds` kinds of things, and sound after it."""
    draw = torch.Generator().manual_seed(seed)
    directions = functional.normalize(torch.randn(kinds, 32, generator=draw), dim=1)
    video, audio = patches * cells, sounds
    shown = torch.randint(0, kinds, (video + audio,), generator=draw)
    features = directions[shown] + 0.05 * torch.randn(video + audio, 32, generator=draw)
    seconds = [float(p) for p in range(patches) for _ in range(cells)]
    seconds += [patches * i / max(audio, 1) for i in range(audio)]
    grid = [(p, 0, c) for p in range(patches) for c in range(cells)] + [(i, 0, 0) for i in range(audio)]
    return AudioVisual(
        modality=torch.tensor([VIDEO] * video + [AUDIO] * audio, dtype=torch.int8),
        chunk=torch.tensor([int(s) // 2 for s in seconds]),
        grid=torch.tensor(grid),
        seconds=torch.tensor(seconds),
        features=features,
        audio_importance=None,
        audio=audio,
        video=video,
        frame_sizes=(cells,) * patches,
        chunks=(patches + 1) // 2,
    )


def noisy(tokens: AudioVisual, strength: float) -> AudioVisual:
    """The clip with noise of so many times the features' root mean square."""
    draw = torch.Generator().manual_seed(7)
    noise = torch.randn(tokens.features.shape, generator=draw) * tokens.features.pow(2).mean().sqrt()
    return replace(tokens, features=tokens.features + strength * noise)


def kernel(tokens: AudioVisual, kind: int) -> tuple[Tensor, Tensor]:
    """(n, n) K and (n,) weights of one modality, as the formulas are written."""
    places = (tokens.modality == kind).nonzero().flatten()
    unit, of = likeness.unit_and_scale(tokens.features[places])
    apart = (tokens.seconds[places][:, None] - tokens.seconds[places][None]).abs()
    values = (10 * ((unit @ unit.T / of).clamp_max(1.0) - 1) - apart).exp()
    window = tokens.seconds[places].long()
    values[(window[:, None] - window[None]).abs() > covering.REACH] = 0.0
    weight = likeness.surprisal(unit, of) + 0.1 if kind == VIDEO else torch.ones(len(places))
    return values, weight / weight.mean()


def covered(tokens: AudioVisual, chosen: Tensor) -> float:
    """The sum that the choice maximises."""
    total = 0.0
    for kind in (AUDIO, VIDEO):
        places = (tokens.modality == kind).nonzero().flatten()
        if places.numel():
            values, weight = kernel(tokens, kind)
            inside = torch.isin(places, chosen)
            if inside.any():
                total += float((weight * values[:, inside].amax(dim=1)).sum())
    return total


def one_by_one(tokens: AudioVisual, kind: int, keep: int) -> Tensor:
    """The plain greedy: always the token that adds most."""
    places = (tokens.modality == kind).nonzero().flatten()
    values, weight = kernel(tokens, kind)
    best, chosen = torch.zeros(len(places)), []
    for _ in range(keep):
        gain = (weight[:, None] * (values - best[:, None]).clamp_min(0)).sum(dim=0)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        best = torch.maximum(best, values[:, chosen[-1]])
    return places[chosen]


@pytest.mark.parametrize("keep", [6, 24, 60])
@pytest.mark.parametrize("seed", range(3))
def test_windows_chosen_at_once_cover_as_much_as_one_by_one(keep: int, seed: int) -> None:
    picture = clip(sounds=0, seed=seed)
    at_once, plain = coverage.cover(picture, keep), one_by_one(picture, VIDEO, keep)
    assert at_once.unique().numel() == keep
    assert covered(picture, at_once) >= 0.98 * covered(picture, plain)
    spread = torch.linspace(0, picture.count - 1, keep).long()
    assert covered(picture, at_once) > 1.02 * covered(picture, spread)


class Waits(TorchDispatchMode):
    """Counts how often the host asks the device for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero")
        return func(*args, **(kwargs or {}))


def test_the_host_waits_for_rounds_not_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device runs ahead of its host, unless the host wants to know what was chosen at every step. A CPU, which does
    not, looks at few tokens in place of all, and chooses the same."""
    tokens = clip(patches=60, sounds=0)
    looked_at_few = coverage.cover(tokens, 240)
    monkeypatch.setattr(coverage, "greedy_on_host", covering_on_device.greedy_on_device)
    with Waits() as waits:
        chosen = coverage.cover(tokens, 240)
    assert torch.equal(chosen, looked_at_few)
    assert waits.count < 100


@pytest.mark.parametrize("shape", [{}, {"sounds": 0}, {"patches": 0}, {"patches": 1, "cells": 1, "sounds": 1}])
def test_as_many_tokens_as_asked_ascending(shape: dict[str, int]) -> None:
    tokens = clip(**shape)
    most = tokens.count
    for keep in sorted({*range(0, most, 9), min(1, most), max(0, most - 1), most}):
        chosen = coverage.cover(tokens, keep)
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        assert len(chosen) == keep


def test_sound_keeps_its_share_within_bounds_whatever_covers_more() -> None:
    """All sounds different, all pictures alike, and the other way round."""
    draw = torch.Generator().manual_seed(0)
    tokens = clip(sounds=60, kinds=1)
    loud = torch.where(tokens.is_audio[:, None], torch.randn(tokens.count, 32, generator=draw), tokens.features)
    quiet = torch.where(tokens.is_audio[:, None], tokens.features, torch.randn(tokens.count, 32, generator=draw))
    for features, times in ((loud, 1.75), (quiet, 1.0)):
        chosen = coverage.cover(replace(tokens, features=features), 60)
        heard = int(tokens.is_audio[chosen].sum())
        shares = heard / tokens.audio, (60 - heard) / tokens.video
        assert shares[0] == pytest.approx(times * shares[1], rel=0.06)
    chosen = coverage.cover(replace(tokens, features=quiet), 60, least_audio=4.0)
    heard = int(tokens.is_audio[chosen].sum())
    assert heard / tokens.audio == pytest.approx(4.0 * (60 - heard) / tokens.video, rel=0.06)


@pytest.mark.parametrize(("entering", "times"), [(0.3, 1.0), (0.13, 1.0), (0.1, 1.3), (0.065, 2.0), (0.03, 2.0)])
def test_where_few_enter_more_of_them_is_sound(entering: float, times: float) -> None:
    """Silence, which little covers, beside pictures that are all different."""
    tokens = clip(patches=40, cells=20, sounds=200)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(tokens.count, 32, generator=draw)
    tokens = replace(tokens, features=torch.where(tokens.is_audio[:, None], torch.ones(32), noise))
    keep = round(entering * tokens.count)
    heard = int(tokens.is_audio[coverage.cover(tokens, keep)].sum())
    shares = heard / tokens.audio, (keep - heard) / tokens.video
    assert 0.95 * times * shares[1] <= shares[0] <= 1.05 * max(times, 1.75) * shares[1]
    as_before = int(tokens.is_audio[coverage.cover(tokens, keep, least_audio=1.0)].sum())
    assert (as_before < heard) == (times == 2.0)
    assert entry.video_entering(keep, tokens.audio, tokens.video) <= keep - heard


def test_what_is_shown_for_a_moment_is_among_few_tokens() -> None:
    tokens = clip(patches=20, cells=12, sounds=0, kinds=1)
    features = tokens.features.clone()
    features[7 * 12 + 5] = torch.randn(32, generator=torch.Generator().manual_seed(3))
    assert 7 * 12 + 5 in coverage.cover(replace(tokens, features=features), 6).tolist()


def test_noise_leaves_likeness_nearly_as_it_was() -> None:
    clean = clip(patches=30, sounds=0)
    unit, of = likeness.unit_and_scale(clean.features)
    assert float(of) > 0.9
    dirty, scaled = likeness.unit_and_scale(noisy(clean, 0.6).features)
    plain = dirty @ dirty.T
    wanted = (unit @ unit.T / of).clamp_max(1.0)
    same_kind = wanted > 0.9
    assert float(plain[same_kind].mean()) < 0.8  # what a fixed scale would see
    assert float((plain / scaled).clamp_max(1.0)[same_kind].mean()) > 0.85


def test_features_without_kinds_are_not_made_alike() -> None:
    """A scale that followed noise all the way down would call everything alike."""
    random = torch.randn(300, 64, generator=torch.Generator().manual_seed(1))
    unit, of = likeness.unit_and_scale(random)
    assert float(of) == pytest.approx(likeness.LEAST_SCALE)
    assert float(((unit @ unit.T / of) > joining.LEAST_LIKENESS).float().fill_diagonal_(0).mean()) < 0.05


def test_rarity_of_many_tokens_is_estimated_from_some() -> None:
    many = torch.cat([clip(sounds=0).features] * 12)
    assert many.shape[0] > likeness.MOST_SAMPLED
    every, some = likeness.rarity(clip(sounds=0).features), likeness.rarity(many)[:120]
    assert torch.corrcoef(torch.stack((every, some)))[0, 1] > 0.95


def test_what_is_left_out_joins_the_most_alike_within_a_second() -> None:
    features = torch.tensor([[1.0, 0.0], [0.98, 0.2], [0.0, 2.0], [1.0, 0.0], [3.0, 0.1]])
    tokens = replace(
        clip(patches=5, cells=1, sounds=0),
        features=features,
        seconds=torch.tensor([0.0, 1.0, 1.0, 4.0, 5.0]),
    )
    index = torch.tensor([0, 2, 4])
    join = joining.by_likeness(tokens, index)
    # The second joins the first, not the third (unlike it); the fourth the last, not the first (four seconds away).
    assert dict(zip(join.source.tolist(), join.target.tolist(), strict=True)) == {1: 0, 3: 2}
    merged = join(features, index)
    assert merged.norm(dim=1).tolist() == pytest.approx(features[index].norm(dim=1).tolist(), rel=1e-5)
    assert torch.equal(merged[1], features[2])
    mean = (features[0] + join.weight[0] * features[1]) / (1 + join.weight[0])
    assert functional.cosine_similarity(merged[0], mean, dim=0) == pytest.approx(1.0, abs=1e-6)


def test_averages_are_nearer_to_what_is_shown_than_noisy_tokens() -> None:
    clean = clip(patches=20, cells=12, sounds=0)
    dirty = noisy(clean, 0.5)
    index = coverage.cover(dirty, 40)
    merged = joining.by_likeness(dirty, index)(dirty.features, index)
    truth = clean.features[index]
    before = functional.cosine_similarity(dirty.features[index], truth).mean()
    assert functional.cosine_similarity(merged, truth).mean() > before + 0.03


def test_sound_enters_as_it_is() -> None:
    tokens = clip()
    index = coverage.cover(tokens, 50)
    join = joining.by_likeness(tokens, index)
    assert join.source.numel()
    assert not tokens.is_audio[join.source].any()


def test_blocks_of_sources_do_not_change_what_joins_what(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = clip(patches=30)
    index = coverage.cover(tokens, 60)
    whole = joining.by_likeness(tokens, index)
    monkeypatch.setattr(joining, "BLOCK", 7)
    parts = joining.by_likeness(tokens, index)
    assert torch.equal(whole.source, parts.source)
    assert torch.equal(whole.target, parts.target)


def test_nothing_joins_where_nothing_is_left_out_or_merging_is_off() -> None:
    tokens = clip()
    assert OmniDrop(merge=False).joins(tokens, coverage.cover(tokens, 30)) is None
    join = OmniDrop().joins(tokens, torch.arange(tokens.count))
    assert join is not None
    assert join.source.numel() == 0
