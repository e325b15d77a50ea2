"""EVS: before the decoder, what equals the frame before is left out. The video pruning that vLLM ships.

Promises: looks at features alone, never at a question. Knows nothing about layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.policies.at_input import AtInput
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.max_min_selection import split
from omnidrop.policies.merging import Merging
from omnidrop.policies.reading import Reading


@dataclass(frozen=True)
class EVS(AtInput, Reading, Merging):
    """Efficient Video Sampling (arXiv 2510.14624, its method section).

    A video token's score is 1 - cosine with the token at the same place of the temporal patch before; the first patch
    comes first. The highest scores of the clip stay, whatever patch they are in.

    Differs: EVS leaves audio whole, which no small ratio allows. Here each modality keeps the same share, and audio is
    scored alike, by its change since the token before ("-om").
    """

    name: ClassVar[str] = "evs"

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """What changed most, per modality."""
        shares = split(keep, [tokens.audio, tokens.video])
        heard, seen = (torch.nonzero(tokens.is_audio == is_audio).flatten() for is_audio in (True, False))
        sound = changes(tokens.features[heard], (1,) * tokens.audio)
        picture = changes(tokens.features[seen], tokens.frame_sizes)
        kept = [
            places[torch.topk(score, keep).indices]
            for places, score, keep in ((heard, sound, shares[0]), (seen, picture, shares[1]))
        ]
        return torch.sort(torch.cat(kept)).values


def changes(features: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(n,) float32: 1 - cosine of each token of (n, D) with that at the same place of the patch before.

    The first patch, and one of another size than that before it, count as wholly changed.
    """
    score = torch.full((features.shape[0],), 3.0, device=features.device)
    at = 0
    for before, size in zip((0, *sizes), sizes, strict=False):
        if at and before == size:
            here, there = features[at : at + size].float(), features[at - size : at].float()
            score[at : at + size] = 1.0 - functional.cosine_similarity(here, there, dim=-1)
        at += size
    return score
