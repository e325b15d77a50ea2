"""DivPrune, windowed: before the decoder, keep the tokens that are least like each other.

Promises: looks at features alone, never at a question. Knows nothing about layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnidrop.policies.at_input import AtInput
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.max_min_selection import max_min, split, windows
from omnidrop.policies.merging import Merging
from omnidrop.policies.reading import Reading


@dataclass(frozen=True)
class DivPrune(AtInput, Reading, Merging):
    """DivPrune (arXiv 2503.02175, its method section): greedy max-min selection on 1 - cosine of the input features.

    Differs: run per modality inside each time chunk, every window keeping the same share ("-om" of later tables); over
    a whole minute of video the greedy choice would cost a 10,000 x 10,000 matrix and favour the odd moment.
    """

    name: ClassVar[str] = "divprune"

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """Max-min in every window."""
        parts = windows(tokens)
        counts = split(keep, [part.numel() for part in parts])
        return torch.sort(torch.cat(max_min(tokens.features, parts, counts))).values
