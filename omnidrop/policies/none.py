"""No pruning: what the dense modes run with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from omnidrop.errors import PolicyError
from omnidrop.policies.base import AudioVisual, Counted, Guide, LayerTokens

if TYPE_CHECKING:
    from torch import Tensor
from omnidrop.policies.schedule import Schedule, full


@dataclass(frozen=True)
class Nothing:
    """No pruning: what the dense modes run with."""

    name: ClassVar[str] = "none"
    guide: ClassVar[Guide] = "nothing"

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """All tokens enter all layers."""
        if retained_ratio not in (None, 1.0):
            raise PolicyError(
                f"policy 'none' keeps everything, got retained_ratio {retained_ratio}; use None or another policy"
            )
        return full(tokens.count, layers)

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """Every token."""
        from omnidrop.policies.tokens import everything

        return everything(tokens)

    def joins(self, tokens: AudioVisual, index: Tensor) -> None:
        """Nothing is left out."""

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """Never called: the schedule drops nothing."""
        import torch

        return torch.arange(keep, device=tokens.importance.device)
