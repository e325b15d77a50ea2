"""DivPrune, windowed: before the decoder, keep the tokens that are least like each other.

Promises: looks at features alone, never at a question. Knows nothing about layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnidrop.policies.base import AudioVisual, Counted, Guide, LayerTokens
from omnidrop.policies.budget import at_input
from omnidrop.policies.max_min_selection import max_min, split, windows
from omnidrop.policies.merging import Merging
from omnidrop.policies.reading import Reading
from omnidrop.policies.schedule import Schedule
from omnidrop.policies.tokens import everything, keep_highest


@dataclass(frozen=True)
class DivPrune(Reading, Merging):
    """DivPrune (arXiv 2503.02175, its method section): greedy max-min selection on 1 - cosine of the input features.

    Differs: run per modality inside each time chunk, every window keeping the same share ("-om" of later tables); over
    a whole minute of video the greedy choice would cost a 10,000 x 10,000 matrix and favour the odd moment.
    """

    name: ClassVar[str] = "divprune"
    guide: ClassVar[Guide] = "nothing"

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """The ratio's share of all tokens enters, and stays."""
        return at_input(tokens, layers, retained_ratio, self.name)

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """Max-min in every window."""
        if schedule.entering[0] == tokens.count:
            return everything(tokens)
        parts = windows(tokens)
        keep = split(schedule.entering[0], [part.numel() for part in parts])
        return torch.sort(torch.cat(max_min(tokens.features, parts, keep))).values

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """Never called: nothing leaves inside the decoder."""
        return keep_highest(tokens.importance, keep)
