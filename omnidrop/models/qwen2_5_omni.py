"""Qwen2.5-Omni (3B and 7B as published): integer rotary positions, 25 audio tokens a second, 2-second chunks.

Promises: the `Adapter` protocol on `Qwen2_5OmniThinkerForConditionalGeneration`. Knows nothing beyond this family.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from omnidrop.models.qwen_omni import QwenOmniAdapter
from omnidrop.models.some_cells import window_words


class Qwen2_5Omni(QwenOmniAdapter):
    """A loaded Qwen2.5-Omni thinker."""

    @staticmethod
    def config_class() -> Any:
        """The transformers class of the configuration."""
        from transformers import Qwen2_5OmniThinkerConfig

        return Qwen2_5OmniThinkerConfig

    @staticmethod
    def thinker_class() -> Any:
        """The transformers class that holds the thinker."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    def pooled_importance(self, received: Tensor) -> Tensor:
        """Means of neighbouring columns: the encoder averages pairs into a token, without an odd last one."""
        pairs = received.numel() // 2
        return received[: 2 * pairs].view(pairs, 2).mean(dim=1)

    def last_full_attention(self) -> nn.Module:
        """Most blocks attend inside windows; some, by index, to the whole temporal patch."""
        visual: Any = self.model.model.visual
        attention: nn.Module = visual.blocks[max(visual.fullatt_block_indexes)].attn
        return attention

    def token_order(self, received: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Back from the encoder's order, window by window, to rows and columns."""
        visual: Any = self.model.model.visual
        order, _ = get_vision_window_index(
            torch.tensor([grid], device=received.device),
            spatial_merge_size=visual.spatial_merge_size,
            window_size=visual.window_size,
            patch_size=visual.patch_size,
        )
        return received[torch.argsort(order).to(received.device)]

    def encoder_words(self, grid: tuple[int, int, int], chosen: Tensor) -> dict[str, Any]:
        """And the order of the windows."""
        visual: Any = self.model.model.visual
        windows = window_words(grid, chosen, visual.spatial_merge_size, visual.window_size, visual.patch_size)
        return super().encoder_words(grid, chosen) | windows
