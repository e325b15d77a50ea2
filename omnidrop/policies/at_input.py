"""What policies share that prune before the decoder and nowhere else.

Promises: the ratio's share of all tokens enters, and stays. Knows nothing about which tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from omnidrop.policies.base import AudioVisual, Counted, Guide, LayerTokens
from omnidrop.policies.budget import checked
from omnidrop.policies.schedule import Schedule, full
from omnidrop.policies.tokens import everything, keep_highest


@dataclass(frozen=True)
class AtInput:
    """Base of such policies: they say what is `chosen`."""

    name: ClassVar[str]
    guide: ClassVar[Guide] = "nothing"

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """(keep,) ascending indices of the tokens that enter, int64; fewer than all."""
        raise NotImplementedError

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """The same number of tokens in every layer, at least one."""
        ratio = checked(retained_ratio, self.name)
        if ratio == 1.0 or not tokens.count:
            return full(tokens.count, layers)
        return Schedule(tokens.count, (max(1, round(ratio * tokens.count)),) * layers)

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """What is chosen; everything where nothing is to be left out."""
        keep = schedule.entering[0]
        return everything(tokens) if keep == tokens.count else self.chosen(tokens, keep)

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """Never called: nothing leaves inside the decoder."""
        return keep_highest(tokens.importance, keep)
