"""What is left out at the entry joins what enters and is most like it: features become means of their own kind.

Promises: serves every policy that prunes before the decoder, whatever it chose by. Knows nothing about how features are
averaged (`joined`), or about layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidrop.models.base import VIDEO
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.joined import Joined
from omnidrop.policies.tokens import left_out

REACH_S = 1.0
"""A token joins one at most so many seconds away: one temporal patch at two frames a second."""
LEAST_LIKENESS = 0.8
"""Less alike tokens are dropped, as without merging."""
BLOCK = 1024
"""Sources compared at once."""


def by_likeness(tokens: AudioVisual, index: Tensor) -> Joined:
    """Every picture token that `index` leaves out, with the entering one most like it within REACH_S.

    Sound enters as it is: a second is long for speech, and on the worlds without it merging sound gained nothing.
    """
    device = tokens.features.device
    seen, left = tokens.modality == VIDEO, left_out(tokens, index)
    sources = left[seen[left]]
    targets = torch.nonzero(seen[index]).flatten()
    if not sources.numel() or not targets.numel():
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return Joined(nothing, nothing, torch.zeros(0, device=device))
    compared = tokens.compared[VIDEO]
    unit, rank = compared.unit, compared.rank
    at, there = tokens.seconds[sources], tokens.seconds[index[targets]]
    best = torch.full((sources.shape[0],), -1.0, device=device)
    to = torch.zeros_like(sources)
    # Tokens are in time order: blocks of sources see a short run of targets, so no n x n matrix is made.
    for begin in range(0, sources.shape[0], BLOCK):
        block = slice(begin, begin + BLOCK)
        near = torch.nonzero((there >= at[block].amin() - REACH_S) & (there <= at[block].amax() + REACH_S)).flatten()
        if not near.numel():
            continue
        alike = (unit[rank[sources[block]]] @ unit[rank[index[targets[near]]]].T).float()
        alike.div_(compared.scale)
        far = (at[block][:, None] - there[near][None]).abs() > REACH_S + 1e-3
        best[block], nearest = alike.masked_fill_(far, -1.0).clamp_max_(1.0).max(dim=1)
        to[block] = targets[near[nearest]]
    like = best > LEAST_LIKENESS
    return Joined(sources[like], to[like], best[like])
