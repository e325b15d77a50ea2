"""How alike encoder features are, on the features' own scale.

Promises: noise on the features, which shrinks all their cosines by one factor, changes likeness little; clean features
give plain cosines. Knows nothing about time, budgets or questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MOST_SAMPLED = 1024
"""Tokens by which the scale is estimated: as many products as a quarter of one query projection."""
NEAREST = 0.05
"""Share of the other tokens that counts as a token's own kind."""
LEAST_SCALE = 0.3
"""Below, features have no kinds: nothing is alike, and no scale makes it so."""
CONCENTRATION = 10.0
"""Of the von Mises-Fisher kernel exp(k (likeness - 1)): tokens at a likeness of 0.9 count 1 / e of an equal one."""

USUAL = 0.1
"""The weight of the most usual tokens, in nats as `rarity`: where nothing is rare all count alike."""


def sampled(features: Tensor, most: int = MOST_SAMPLED) -> Tensor:
    """Up to `most` evenly spaced rows of (n, D)."""
    count = features.shape[0]
    if count <= most:
        return features
    chosen = torch.arange(most, device=features.device)
    return features[torch.div(chosen * count, most, rounding_mode="floor")]


def scale(unit: Tensor) -> Tensor:
    """() float32: the cosine of tokens of one kind, at most 1; `unit` (n, D) of any type has rows of length 1.

    The median over tokens of the mean cosine to their nearest NEAREST, at least LEAST_SCALE. Noise of relative strength
    s divides every cosine by 1 + s^2 (Spearman's correction for attenuation divides it out again).
    """
    some = sampled(unit)
    others = some.shape[0] - 1
    if others < 1:
        return torch.ones((), device=unit.device)
    cosine = (some @ some.T).float()
    cosine.fill_diagonal_(-1.0)
    nearest = torch.topk(cosine, max(1, round(NEAREST * others)), dim=1).values
    return nearest.mean(dim=1).median().clamp(LEAST_SCALE, 1.0)


@dataclass(frozen=True, eq=False)
class Compared:
    """The m of a clip's n tokens that are of one modality, as they are compared."""

    places: Tensor
    """(m,) int64: indices into the clip's n tokens."""
    rank: Tensor
    """(n,) int64: of each of these tokens, its number among the m."""
    unit: Tensor
    """(m, D) in the features' own type: with length 1."""
    scale: Tensor
    """() float32, see `scale`."""

    @classmethod
    def of(cls, features: Tensor, own: Tensor, is_kind: Tensor) -> Compared:
        """Of `features` (n, D) those where `is_kind` (n,) bool; `own` (n,) as for `unit_and_scale`."""
        places = torch.nonzero(is_kind).flatten()
        rank = torch.cumsum(is_kind, 0) - 1
        unit, of = unit_and_scale(features[places], own[places])
        return cls(places, rank, unit, of)


def unit_and_scale(features: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`features` (n, D) as rows of length 1, and their scale, by those that are not copies: `own` (n,) bool.

    Copies are equal, however noisy features are: with what stands still among them the scale would be 1.
    """
    unit = functional.normalize(features.float(), dim=-1).to(features.dtype)
    return unit, scale(unit if own is None else unit[own])


def log_kernel_(alike: Tensor, apart_s: Tensor) -> Tensor:
    """log K of `omnidrop.policies.coverage`, in place of `alike`: likenesses, and seconds between the same tokens."""
    return alike.sub_(1.0).mul_(CONCENTRATION).sub_(apart_s)


def rarity(features: Tensor, own: Tensor | None = None) -> Tensor:
    """(n,) float32, in nats, at least 0: how unusual each of `features` (n, D) is among them, the most usual 0.

    `own` as for `unit_and_scale`.
    """
    return surprisal(*unit_and_scale(features, own))


def surprisal(unit: Tensor, of: Tensor) -> Tensor:
    """(n,) float32: -log p of each row of `unit` (n, D) under a kernel density estimate over the rows, less the lowest.

    Of more than MOST_SAMPLED rows, so many evenly spaced ones are the estimate's. `of` is their scale.
    """
    alike = (unit @ sampled(unit).T).float().div_(of).clamp_max_(1.0)
    nats = -alike.sub_(1.0).mul_(CONCENTRATION).logsumexp(dim=1)
    return nats - nats.amin()
