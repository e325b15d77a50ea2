"""Qwen2.5-Omni (3B and 7B as published): integer rotary positions, 25 audio tokens a second, 2-second chunks.

Promises: the `Adapter` protocol on `Qwen2_5OmniThinkerForConditionalGeneration`. Knows nothing beyond this family.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omnidrop.models.qwen_omni import QwenOmniAdapter


class Qwen2_5Omni(QwenOmniAdapter):
    """A loaded Qwen2.5-Omni thinker."""

    family = "qwen2_5_omni"

    @staticmethod
    def thinker_class() -> Any:
        """The transformers class that holds the thinker."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    def pooled_importance(self, received: Tensor) -> Tensor:
        """Means of neighbouring columns: the encoder averages pairs into a token, without an odd last one."""
        pairs = received.numel() // 2
        return received[: 2 * pairs].view(pairs, 2).mean(dim=1)
