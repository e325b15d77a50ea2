"""Tokens that are least like each other, window by window, how rare each is, and how a budget is shared over windows.

Promises: exactly as many tokens as asked, the same for the same features; counts are host integers. Knows nothing about
questions, layers or policies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.models.base import AUDIO, VIDEO

if TYPE_CHECKING:
    from omnidrop.policies.base import AudioVisual

MOST_PAIRS = 1 << 25
"""Distances held at once, 128 MB of float32: five minutes of large frames would fill a device."""


GOLDEN = (5**0.5 - 1) / 2


def frames(tokens: AudioVisual, together: int = 1) -> list[Tensor]:
    """Indices of the video tokens of every `together` temporal patches, in time order."""
    sizes = [sum(tokens.frame_sizes[at : at + together]) for at in range(0, len(tokens.frame_sizes), together)]
    return list(torch.split(torch.nonzero(tokens.modality == VIDEO).flatten(), sizes))


def windows(tokens: AudioVisual, modalities: Sequence[int] = (AUDIO, VIDEO)) -> list[Tensor]:
    """Indices of the tokens of each of `modalities` in each chunk, parts without tokens left out."""
    parts = []
    for modality in modalities:
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


def split(keep: int, sizes: Sequence[int], weights: Sequence[float] | None = None) -> list[int]:
    """Share `keep` out over parts of `sizes` in proportion to `weights` (default: their sizes), none beyond its size.

    What a full part cannot take goes to the others; fractions go to the largest remainders, of equal ones to parts that
    lie apart.
    """
    if not 0 <= keep <= sum(sizes):
        raise ValueError(f"cannot keep {keep} of {sum(sizes)} tokens")
    # A weight of nothing still takes part once all others are full.
    pull = [max(float(w), 1e-9) if s else 0.0 for w, s in zip(weights or sizes, sizes, strict=True)]
    low, high = 0.0, max((s / p for s, p in zip(sizes, pull, strict=True) if p), default=0.0)
    for _ in range(200):
        level = (low + high) / 2
        if sum(min(s, level * p) for s, p in zip(sizes, pull, strict=True)) < keep:
            low = level
        else:
            high = level
    exact = [min(float(s), high * p) for s, p in zip(sizes, pull, strict=True)]
    counts = [math.floor(x + 1e-6) for x in exact]
    # Multiples of the golden ratio: however few parts get one more, they lie apart.
    by_rest = sorted(range(len(sizes)), key=lambda i: (round(counts[i] - exact[i], 9), i * GOLDEN % 1.0))
    while (left := keep - sum(counts)) > 0:
        for part in [i for i in by_rest if counts[i] < sizes[i]][:left]:
            counts[part] += 1
    while (over := sum(counts) - keep) > 0:
        for part in [i for i in reversed(by_rest) if counts[i] > 0][:over]:
            counts[part] -= 1
    return counts
