"""Ways to choose tokens by their features alone: max-min diversity, density peaks, change from the frame before.

Promises: exactly as many tokens as asked, the same for the same features. Knows nothing about budgets or questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.baselines.budget import split
from omnidrop.policies import AudioVisual

MOST_PAIRS = 1 << 25
"""Distances held at once, 128 MB of float32: five minutes of large frames would fill a device."""


def windows(tokens: AudioVisual) -> list[Tensor]:
    """Indices of the tokens of each modality in each chunk, parts without tokens left out."""
    parts = []
    for modality in torch.unique(tokens.modality).tolist():
        places = torch.nonzero(tokens.modality == modality).flatten()
        chunk = tokens.chunk[places]
        parts += [places[chunk == number] for number in range(tokens.chunks)]
    return [part for part in parts if part.numel()]


def max_min(
    features: Tensor, parts: Sequence[Tensor], keep: Sequence[int], weight: Tensor | None = None
) -> list[Tensor]:
    """From each of `parts` (indices into `features` (n, D)), the tokens most unlike those chosen before.

    Greedy max-min on 1 - cosine: the first is the token farthest from its nearest neighbour, every next one has the
    largest distance to its nearest chosen one, times `weight` (n,) where given. All parts advance in step.
    """
    longest = max((part.numel() for part in parts), default=1)
    at_once = max(1, MOST_PAIRS // longest**2)
    if len(parts) > at_once:
        batches = range(0, len(parts), at_once)
        return [
            picked
            for at in batches
            for picked in max_min(features, parts[at : at + at_once], keep[at : at + at_once], weight)
        ]
    device = features.device
    members = torch.zeros(len(parts), longest, dtype=torch.int64, device=device)
    real = torch.zeros(len(parts), longest, dtype=torch.bool, device=device)
    for number, part in enumerate(parts):
        members[number, : part.numel()], real[number, : part.numel()] = part, True
    unit = functional.normalize(features.float(), dim=-1)[members]
    distance = 1.0 - unit @ unit.transpose(1, 2)
    pull = torch.ones_like(real, dtype=torch.float32) if weight is None else weight.float()[members]
    others = distance.masked_fill(~real[:, None, :], float("inf"))
    others = others.masked_fill(torch.eye(longest, dtype=torch.bool, device=device), float("inf"))
    # A part of one token has no neighbour; any finite number will do for it.
    nearest = others.amin(dim=2).clamp_max(2.0)
    chosen = torch.zeros_like(real)
    every = torch.arange(len(parts), device=device)
    order = []
    for step in range(max(keep, default=0)):
        pick = (nearest * pull).masked_fill(chosen | ~real, float("-inf")).argmax(dim=1)
        order.append(pick)
        chosen[every, pick] = True
        reach = distance[every, pick]
        nearest = reach if step == 0 else torch.minimum(nearest, reach)
    picks = torch.stack(order, dim=1) if order else torch.zeros(len(parts), 0, dtype=torch.int64, device=device)
    return [members[number, picks[number, :count]] for number, count in enumerate(keep)]


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
