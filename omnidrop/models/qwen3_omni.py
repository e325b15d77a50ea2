"""Qwen3-Omni: a mixture of experts with deepstack, float rotary positions, 13 audio tokens a second.

Promises: the `Adapter` protocol on `Qwen3OmniMoeThinkerForConditionalGeneration`; the vision features of three encoder
depths, to be added to the hidden states after the first decoder layers, are in `Prefix.deepstack`. Knows nothing beyond
this family.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from omnidrop.models.encoders import attention_flops, linear_flops
from omnidrop.models.geometry import Geometry
from omnidrop.models.qwen_omni import QwenOmniAdapter
from omnidrop.models.some_cells import block_flops


class Qwen3OmniGeometry(Geometry):
    """13 audio tokens a second; video and audio tokens follow each other by time."""

    family = "qwen3_omni_moe"
    position_dtype = torch.float32
    marks_apart = True
    pads_sound = False

    @staticmethod
    def config_class() -> Any:
        """The transformers class of the configuration."""
        from transformers import Qwen3OmniMoeThinkerConfig

        return Qwen3OmniMoeThinkerConfig

    def whole_hops(self, samples: int) -> int:
        """A last hop that is begun does not count: the stock processor does not pad."""
        return samples // self.hop

    def tokens_of(self, mel_frames: int) -> int:
        """Three convolutions of stride 2 inside each encoder chunk of 100 mel frames: 13 tokens a chunk."""
        whole, rest = divmod(mel_frames, 2 * self.audio_window)
        for _ in range(3):
            rest = (rest + 1) // 2
        return rest + whole * 13

    def interleave(self, seen: Tensor, sound: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """By time, a temporal patch before the audio token of its instant."""
        rank = torch.cat([seen[0], sound[0]])
        # What is left once one of the two has run out is the model's last block.
        if seen[0, -1] <= sound[0, -1]:
            return rank, sound[:, sound[0] >= seen[0, -1]]
        return rank, seen[:, seen[0] > sound[0, -1]]

    def vision_flops(self, patches: int, rows: int, columns: int, cells: int | None = None, embedded: int = 0) -> int:
        """Patch embedding, full attention, MLPs, and the mergers: the input's and one per deepstack depth."""
        vision: Any = self.config.vision_config
        width, per_token = vision.hidden_size, vision.spatial_merge_size**2
        tokens = patches * rows * columns if cells is None else cells
        seen = tokens * per_token
        pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        block = linear_flops(seen, (width, 4 * width), (width, 2 * vision.intermediate_size))
        block += block_flops(tokens, patches, rows * columns, [rows * columns], per_token, width)
        merged = width * per_token
        merger = linear_flops(tokens, (merged, merged), (merged, vision.out_hidden_size))
        mergers = 1 + len(vision.deepstack_visual_indexes)
        entering = linear_flops(seen + embedded * per_token, (pixels, width))
        total: int = entering + vision.depth * block + mergers * merger
        return total

    def audio_flops(self, mel_frames: int) -> int:
        """Three convolutions over mel bins and time, attention inside windows, MLPs, and the output projections."""
        audio: Any = self.config.audio_config
        width, depth = audio.d_model, audio.downsample_hidden_size
        chunk = 2 * audio.n_window
        whole, rest = divmod(mel_frames, chunk)
        flops, bins, channels, lengths = 0, audio.num_mel_bins, 1, [chunk] * whole + [rest] * (rest > 0)
        for _ in range(3):
            bins, lengths = (bins + 1) // 2, [(length + 1) // 2 for length in lengths]
            flops += linear_flops(sum(lengths) * bins, (9 * channels, depth))
            channels = depth
        columns = sum(lengths)
        window = lengths[0] * (audio.n_window_infer // chunk) if whole else columns
        windows = [window] * (columns // window) + [columns % window] * (columns % window > 0)
        layer = linear_flops(columns, (width, 4 * width), (width, 2 * audio.encoder_ffn_dim))
        layer += attention_flops(windows, width)
        total: int = (
            flops
            + linear_flops(columns, (bins * depth, width), (width, width), (width, audio.output_dim))
            + audio.encoder_layers * layer
        )
        return total


class Qwen3Omni(QwenOmniAdapter):
    """A loaded Qwen3-Omni thinker."""

    geometry_class: ClassVar[type[Geometry]] = Qwen3OmniGeometry

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
