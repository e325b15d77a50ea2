"""Qwen3-Omni: a mixture of experts with deepstack, float rotary positions, 13 audio tokens a second.

Promises: the `Adapter` protocol on `Qwen3OmniMoeThinkerForConditionalGeneration`; the vision features of three encoder
depths, to be added to the hidden states after the first decoder layers, are in `Prefix.deepstack`. Knows nothing beyond
this family.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from omnidrop.models.qwen_omni import QwenOmniAdapter


class Qwen3Omni(QwenOmniAdapter):
    """A loaded Qwen3-Omni thinker."""

    @staticmethod
    def config_class() -> Any:
        """The transformers class of the configuration."""
        from transformers import Qwen3OmniMoeThinkerConfig

        return Qwen3OmniMoeThinkerConfig

    @staticmethod
    def thinker_class() -> Any:
        """The transformers class that holds the thinker."""
        from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

        return Qwen3OmniMoeThinkerForConditionalGeneration

    def pooled_importance(self, received: Tensor) -> Tensor:
        """The encoder's columns are the tokens."""
        return received

    def last_full_attention(self) -> nn.Module:
        """Every block attends to the whole temporal patch."""
        visual: Any = self.model.model.visual
        attention: nn.Module = visual.blocks[-1].attn
        return attention

    def token_order(self, received: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The encoder keeps rows and columns in order."""
        return received

    def encoder_words(self, grid: tuple[int, int, int], chosen: Tensor) -> dict[str, Any]:
        """And where the learned positions, a square table, are read for each row."""
        visual: Any = self.model.model.visual
        indices, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([grid]),
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=visual.spatial_merge_size,
        )
        rows = chosen.flatten().repeat_interleave(visual.spatial_merge_size**2)
        return super().encoder_words(grid, chosen) | {"interp_indices": indices[rows], "interp_weights": weights[rows]}
