"""Qwen3-Omni: a mixture of experts with deepstack, float rotary positions, 13 audio tokens a second.

Promises: the `Adapter` protocol on `Qwen3OmniMoeThinkerForConditionalGeneration`; the vision features of three encoder
depths, to be added to the hidden states after the first decoder layers, are in `Prefix.deepstack`. Knows nothing beyond
this family.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omnidrop.models.qwen_omni import QwenOmniAdapter


class Qwen3Omni(QwenOmniAdapter):
    """A loaded Qwen3-Omni thinker."""

    family = "qwen3_omni_moe"

    @staticmethod
    def thinker_class() -> Any:
        """The transformers class that holds the thinker."""
        from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

        return Qwen3OmniMoeThinkerForConditionalGeneration

    def pooled_importance(self, received: Tensor) -> Tensor:
        """The encoder's columns are the tokens."""
        return received
