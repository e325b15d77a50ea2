"""FastV for audio and video: one cut after an early decoder layer, by the last token's attention.

Promises: one global ranking over both modalities ("-om" in later tables). Knows nothing about features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from omnidrop.errors import PolicyError
from omnidrop.policies.base import AudioVisual, Counted, Guide, LayerTokens
from omnidrop.policies.budget import checked, solve
from omnidrop.policies.schedule import Schedule, full
from omnidrop.policies.tokens import everything, keep_highest


@dataclass(frozen=True)
class FastV:
    """FastV (arXiv 2403.06764, its method section): after decoder layer K = 2 the tokens with the lowest attention from
    the last token go.

    Differs: audio tokens are ranked with the video tokens, as later papers' "FastV-om"; the share kept after the cut is
    solved for the mean over layers, so with L layers nothing below 2 / L can be reached; run for a question set, the
    last tokens of all questions are aggregated by the set's guidance.
    """

    name: ClassVar[str] = "fastv"
    guide: ClassVar[Guide] = "last"
    after: int = 2
    """Decoder layers that see every token."""

    def __post_init__(self) -> None:
        if self.after < 1:
            raise PolicyError(f"after must be 1 or more decoder layers, got {self.after!r}")

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """Everything in the first `after` layers, one smaller count in all others."""
        ratio = checked(retained_ratio, self.name)
        if ratio == 1.0:
            return full(tokens.count, layers)
        if self.after >= layers:
            raise PolicyError(f"after must be below the decoder's {layers} layers, got {self.after}")

        def cut(share: float) -> Schedule:
            rest = (round(share * tokens.count),) * (layers - self.after)
            return Schedule(tokens.count, (tokens.count,) * self.after + rest)

        return solve(cut, 0.0, 1.0, tokens, ratio, self.name)

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """Every token."""
        return everything(tokens)

    def joins(self, tokens: AudioVisual, index: Tensor) -> None:
        """Nothing is left out."""

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """The highest attention from the last token stays."""
        return keep_highest(tokens.importance, keep)
