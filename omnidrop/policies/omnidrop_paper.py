"""OmniDrop as published, for comparison with ours and for reproducing the paper's tables.

Promises: what the paper describes and no change of ours. Knows nothing about modes or how attention is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from omnidrop.errors import PolicyError
from omnidrop.policies.base import AudioVisual, Counted, Guide
from omnidrop.policies.entry import GROUP, Way
from omnidrop.policies.joined import Joined
from omnidrop.policies.omnidrop import Diversity, OmniDrop
from omnidrop.policies.schedule import Schedule, Sigmoid

RATES = {
    (28, 0.3): Sigmoid(0.0, 0.2),
    (28, 0.2): Sigmoid(0.02, 0.5),
    (36, 0.3): Sigmoid(0.0, 0.15),
    (36, 0.2): Sigmoid(0.02, 0.5, t_mid=0.55),
}
"""By decoder layers and the share the paper names: its settings for the 7B and 3B model."""
DIVERSE_FROM = {28: 14, 36: 19}
"""First layer with the temporal diversity score, by decoder layers."""


@dataclass(frozen=True)
class OmniDropPaper(OmniDrop):
    """OmniDrop (arXiv 2605.14458) without our changes.

    The question's words alone guide. What enters: audio by attention received in its encoder, video by temporal token
    merging. Scores are a layer's own, and the diversity score is as printed. At the ratios and depths the paper names
    its own rates are used, which keep about that share (the measured one is reported); elsewhere they are solved.
    """

    name: ClassVar[str] = "omnidrop_paper"
    guide: ClassVar[Guide] = "words"
    merge: bool = False
    entry: Way = "merged"
    memory: float = 0.0
    diversity: Diversity = "printed"
    temporal_tokens: Literal["delete", "merge"] = "delete"
    """What becomes of tokens that equal their anchor's: the paper's "merging" may mean either."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temporal_tokens not in ("delete", "merge"):
            raise PolicyError(f"temporal_tokens must be delete or merge, got {self.temporal_tokens!r}")

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """The paper's rates where it names them, or those that meet `retained_ratio` at this depth."""
        rates = RATES.get((layers, retained_ratio)) if retained_ratio is not None and self.p_init is None else None
        if rates is not None and tokens.count:
            return rates.schedule(tokens.count, self._entry(tokens).count(1.0), layers)
        return super().plan(tokens, layers, retained_ratio)

    def joins(self, tokens: AudioVisual, index: Tensor) -> Joined | None:
        """With `temporal_tokens` "merge", what a frame leaves out into the anchor's token at the same place."""
        if self.temporal_tokens == "merge":
            return joined_anchors(tokens, index)
        return super().joins(tokens, index)

    def diverse_from(self, layers: int) -> float:
        """Layer 14 of 28, 19 of 36."""
        return DIVERSE_FROM.get(layers, super().diverse_from(layers))


def joined_anchors(tokens: AudioVisual, index: Tensor) -> Joined | None:
    """Every picture token that `index` leaves out, into the token at the same place of its group's first patch."""
    seen = torch.nonzero(~tokens.is_audio).flatten()
    enters = torch.full((tokens.count,), -1, dtype=torch.int64, device=index.device)
    enters[index] = torch.arange(index.shape[0], device=index.device)
    starts = [0]
    for size in tokens.frame_sizes:
        starts.append(starts[-1] + size)
    sources, targets = [], []
    for number, size in enumerate(tokens.frame_sizes):
        anchor = number - number % GROUP
        if anchor == number or tokens.frame_sizes[anchor] != size:
            continue
        here, there = seen[starts[number] : starts[number + 1]], seen[starts[anchor] : starts[anchor] + size]
        joins = (enters[here] < 0) & (enters[there] >= 0)
        sources.append(here[joins])
        targets.append(enters[there[joins]])
    if not sources:
        return None
    source = torch.cat(sources)
    return Joined(source, torch.cat(targets), torch.ones(source.shape[0], device=source.device))
