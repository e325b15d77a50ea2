"""Ways to choose tokens by their features alone: density peaks, change from the frame before.

Promises: exactly as many tokens as asked, the same for the same features. Knows nothing about budgets or questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.policies.base import AudioVisual
from omnidrop.policies.max_min_selection import split


def density_peaks(features: Tensor, keep: int, neighbours: int = 5) -> Tensor:
    """(keep,) indices of the tokens of (n, D) that are dense and far from anything denser (density-peak clustering).

    Density is exp(-mean squared distance to the `neighbours` nearest), the score its product with the distance to the
    nearest token of higher density.
    """
    n = features.shape[0]
    distance = torch.cdist(features.float()[None], features.float()[None])[0] / features.shape[1] ** 0.5
    nearest = torch.topk(distance, min(neighbours + 1, n), largest=False).values[:, 1:]
    # Equal tokens would all be each other's peak: the earlier one counts as denser.
    tie = torch.arange(n, 0, -1, device=features.device) * 1e-6
    density = (-nearest.square().mean(dim=1).nan_to_num()).exp() + tie
    denser = density[None, :] > density[:, None]
    reach = distance.masked_fill(~denser, float("inf")).amin(dim=1)
    reach = torch.where(reach.isinf(), distance.amax(dim=1) + 1e-6, reach)
    return torch.topk(density * reach, keep).indices


def most_changed(features: Tensor, before: Tensor, keep: int) -> Tensor:
    """(keep,) indices of the tokens of (n, D) least like (cosine) those at the same places of the frame `before`."""
    if features.shape != before.shape:
        return density_peaks(features, keep)
    return torch.topk(
        functional.cosine_similarity(features.float(), before.float(), dim=-1), keep, largest=False
    ).indices


def audio_by_attention(tokens: AudioVisual, keep: int) -> Tensor:
    """(keep,) indices of the audio tokens that receive most attention in their encoder's last layer."""
    places = torch.nonzero(tokens.is_audio).flatten()
    if tokens.audio_importance is None:
        evenly = torch.arange(keep, device=places.device) * tokens.audio
        return places[torch.div(evenly, max(keep, 1), rounding_mode="floor")]
    return places[torch.topk(tokens.audio_importance, keep).indices]


def frames_by_peaks_and_change(tokens: AudioVisual, frame_group: Sequence[int], group_keep: Sequence[int]) -> Tensor:
    """OmniZip's scheme inside groups of temporal patches: a group's first, third, ... by density peaks, the others by
    what changed since the patch before.

    `frame_group` names each temporal patch's group, ascending; `group_keep` is each group's video budget.
    """
    places = torch.nonzero(~tokens.is_audio).flatten()
    frames = torch.split_with_sizes(places, list(tokens.frame_sizes))
    kept = []
    for group, budget in enumerate(group_keep):
        inside = [number for number, of in enumerate(frame_group) if of == group]
        shares = split(budget, [tokens.frame_sizes[number] for number in inside])
        for position, (number, share) in enumerate(zip(inside, shares, strict=True)):
            features = tokens.features[frames[number]]
            if position % 2:
                picked = most_changed(features, tokens.features[frames[number - 1]], share)
            else:
                picked = density_peaks(features, share)
            kept.append(frames[number][picked])
    return torch.cat(kept) if kept else places[:0]
