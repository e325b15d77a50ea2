"""What is left out at the entry is still read: questions see its keys and values, which follow a token that enters.

Promises: serves every policy that prunes before the decoder, whatever it chose by. Knows nothing about attention or
hidden states (`omnidrop.engine.left_out`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies import likeness
from omnidrop.policies.base import AudioVisual

BLOCK = 1024
"""Tokens compared with all that enter at once."""


@dataclass(frozen=True)
class Reading:
    """Base of policies that drop tokens before the decoder: whether questions read those all the same."""

    read_left_out: bool = False
    """Questions attend to the keys and values of tokens that do not enter. Nothing else of a layer is computed for
    these. Worth it where few enter: docs/guide/choosing.md."""

    def followed(self, tokens: AudioVisual, index: Tensor) -> Tensor:
        """See `ReadsLeftOut`."""
        return best_covering(tokens, index)


def best_covering(tokens: AudioVisual, index: Tensor) -> Tensor:
    """(left out,) int64: for each token that `index` leaves out, in order, the entering one of its modality with the
    highest K (see `omnidrop.policies.coverage`), at whatever distance in time; -1 where none of its modality enters."""
    device = index.device
    enters = torch.zeros(tokens.count, dtype=torch.bool, device=device).index_fill_(0, index, True)
    nearest = torch.full((tokens.count,), -1, dtype=torch.int64, device=device)
    for kind in (AUDIO, VIDEO):
        is_kind = tokens.modality == kind
        sources, targets = torch.nonzero(is_kind & ~enters).flatten(), torch.nonzero(is_kind & enters).flatten()
        if not sources.numel() or not targets.numel():
            continue
        unit, of = likeness.unit_and_scale(tokens.features[is_kind], tokens.is_own[is_kind])
        rank = torch.cumsum(is_kind, 0) - 1
        of_targets, there = unit[rank[targets]], tokens.seconds[targets]
        for block in torch.split(sources, BLOCK):
            alike = (unit[rank[block]] @ of_targets.T).div_(of).clamp_max_(1.0)
            apart = (tokens.seconds[block][:, None] - there[None]).abs_()
            log_k = alike.sub_(1.0).mul_(likeness.CONCENTRATION).sub_(apart)
            nearest[block] = targets[log_k.argmax(dim=1)]
    return nearest[~enters]
