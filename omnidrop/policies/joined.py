"""Features of tokens that were left out, averaged into those that enter the decoder.

Promises: as many tokens with the positions they had, each feature as long as it was where `own` is not given; a token
that nothing joins is unchanged. Knows nothing about which tokens join which.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Joined:
    """Which tokens that were left out join which that enter."""

    source: Tensor
    """(m,) int64: indices into the clip's n tokens."""
    target: Tensor
    """(m,) int64: indices into the tokens that enter."""
    weight: Tensor
    """(m,) float32."""
    own: Tensor | None = None
    """(entering,) float32: share of its own feature that each keeps beside the mean, whose length is then taken as it
    is. None: the mean alone, as long as the own feature was."""

    def __call__(self, features: Tensor, index: Tensor) -> Tensor:
        """(n, D) features of all tokens -> (entering, D) of those at `index` with what joined them, lengths kept.

        `f_j <- (f_j + sum_i w_i f_i) / (1 + sum_i w_i)`, rescaled to the length that f_j had.
        """
        own = features[index].float()
        weight = self.weight.to(own.device)
        added = features[self.source].float() * weight[:, None]
        merged = own.index_add(0, self.target, added)
        share = torch.ones(index.shape[0], device=own.device).index_add_(0, self.target, weight)
        merged = merged / share[:, None]
        if self.own is not None:
            kept = self.own.to(own.device)[:, None]
            return (kept * own + (1.0 - kept) * merged).to(features.dtype)
        tiny = torch.finfo(torch.float32).tiny
        length = own.norm(dim=1, keepdim=True) / merged.norm(dim=1, keepdim=True).clamp_min(tiny)
        touched = (share > 1.0)[:, None]
        return torch.where(touched, merged * length, own).to(features.dtype)
