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
from omnidrop.policies.tokens import left_out

BLOCK = 1024
"""Tokens compared with all that enter at once."""


def best_covering(tokens: AudioVisual, index: Tensor) -> Tensor:
    """(left out,) int64: for each token that `index` leaves out, in order, the entering one of its modality with the
    highest K (see `omnidrop.policies.coverage`), at whatever distance in time; -1 where none of its modality enters."""
    left = left_out(tokens, index)
    follows = torch.full_like(left, -1)
    for kind in (AUDIO, VIDEO):
        is_kind = tokens.modality == kind
        numbers = torch.nonzero(is_kind[left]).flatten()
        targets = index[is_kind[index]]
        if not numbers.numel() or not targets.numel():
            continue
        compared = tokens.compared[kind]
        unit, rank = compared.unit, compared.rank
        of_targets, there = unit[rank[targets]], tokens.seconds[targets]
        for block in torch.split(numbers, BLOCK):
            sources = left[block]
            alike = (unit[rank[sources]] @ of_targets.T).float().div_(compared.scale).clamp_max_(1.0)
            apart = (tokens.seconds[sources][:, None] - there[None]).abs_()
            follows[block] = targets[likeness.log_kernel_(alike, apart).argmax(dim=1)]
    return follows
