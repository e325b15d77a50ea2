"""Which token that enters the decoder each that does not moves with, where questions read what is left out.

Promises: by K, of one modality, at whatever distance in time. Knows nothing about hidden states
(`omnidrop.engine.left_out`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies import likeness
from omnidrop.policies.base import AudioVisual

BLOCK = 1024
"""Tokens compared with all that enter at once."""


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
