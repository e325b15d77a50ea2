"""Random tokens: the baseline that every method must beat.

Promises: each modality keeps the same share, drawn uniformly over the clip before the decoder. Knows nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnidrop.policies.at_input import AtInput
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.max_min_selection import split
from omnidrop.policies.merging import Merging
from omnidrop.policies.reading import Reading


@dataclass(frozen=True)
class Random(AtInput, Reading, Merging):
    """Uniform sampling without replacement, per modality. The same `seed` keeps the same places of clips of one size.

    The "Random" row of the comparison tables in SEATS (arXiv 2605.20035), where it costs 1 to 2.6 points at 25-35 %.
    """

    name: ClassVar[str] = "random"
    seed: int = 0

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """A draw per modality, made on the host so that every device keeps the same tokens."""
        draw = torch.Generator().manual_seed(self.seed)
        kept = []
        shares = split(keep, [tokens.audio, tokens.video])
        for is_audio, size, keep in zip((True, False), (tokens.audio, tokens.video), shares, strict=True):
            places = torch.nonzero(tokens.is_audio == is_audio).flatten()
            kept.append(places[torch.randperm(size, generator=draw)[:keep].to(places.device)])
        return torch.sort(torch.cat(kept)).values
