"""Qwen2.5-Omni (3B and 7B as published): integer rotary positions, 25 audio tokens a second, 2-second chunks.

Promises: the `Adapter` protocol on `Qwen2_5OmniThinkerForConditionalGeneration`. Knows nothing beyond this family.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from omnidrop.models.encoders import attention_flops, linear_flops
from omnidrop.models.geometry import Geometry
from omnidrop.models.qwen_omni import QwenOmniAdapter
from omnidrop.models.some_cells import block_flops, window_words


class Qwen2_5OmniGeometry(Geometry):
    """25 audio tokens a second; chunk by chunk, a chunk's video before its audio."""

    family = "qwen2_5_omni"
    position_dtype = torch.int64
    marks_apart = False
    pads_sound = True

    @staticmethod
    def config_class() -> Any:
        """The transformers class of the configuration."""
        from transformers import Qwen2_5OmniThinkerConfig

        return Qwen2_5OmniThinkerConfig

    def whole_hops(self, samples: int) -> int:
        """A last hop that is begun counts: the stock processor pads before the transform."""
        return -(-samples // self.hop)

    def tokens_of(self, mel_frames: int) -> int:
        """One convolution of stride 2, then pairs are averaged."""
        return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1

    def interleave(self, seen: Tensor, sound: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Chunk by chunk, a chunk's video before its audio."""
        per_chunk = int(self.positions_per_second * self.seconds_per_chunk)
        seen_chunk = _running_chunks((seen[0] - start).tolist(), per_chunk)
        sound_chunk = _running_chunks((sound[0] - start).tolist(), per_chunk)
        rank = torch.tensor(seen_chunk + sound_chunk)
        if seen_chunk[-1] > sound_chunk[-1]:
            return rank, seen[:, torch.tensor(seen_chunk) == seen_chunk[-1]]
        return rank, sound[:, torch.tensor(sound_chunk) == sound_chunk[-1]]

    def vision_flops(self, patches: int, rows: int, columns: int, cells: int | None = None, embedded: int = 0) -> int:
        """Patch embedding, window and full attention, gated MLPs, and the merger into tokens."""
        vision: Any = self.config.vision_config
        width, merge = vision.hidden_size, vision.spatial_merge_size
        per_token = merge * merge
        tokens = patches * rows * columns if cells is None else cells
        seen = tokens * per_token
        pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        side = vision.window_size // vision.patch_size // merge
        windows = [
            min(side, rows - row) * min(side, columns - column)
            for row in range(0, rows, side)
            for column in range(0, columns, side)
        ]
        full = len(vision.fullatt_block_indexes)
        inside = full * block_flops(tokens, patches, rows * columns, [rows * columns], per_token, width)
        inside += (vision.depth - full) * block_flops(tokens, patches, rows * columns, windows, per_token, width)
        blocks = linear_flops(seen, (width, 4 * width), (vision.intermediate_size, 3 * width))
        merged = width * per_token
        total: int = (
            linear_flops(seen + embedded * per_token, (pixels, width))
            + vision.depth * blocks
            + inside
            + linear_flops(tokens, (merged, merged), (merged, vision.out_hidden_size))
        )
        return total

    def audio_flops(self, mel_frames: int) -> int:
        """Two convolutions, attention inside encoder chunks, MLPs, and the projection of the averaged pairs."""
        audio: Any = self.config.audio_config
        width, chunk = audio.d_model, 2 * audio.n_window
        whole, rest = divmod(mel_frames, chunk)
        lengths = [chunk // 2] * whole + [(rest + 1) // 2] * (rest > 0)
        columns = sum(lengths)
        layer = linear_flops(columns, (width, 4 * width), (width, 2 * audio.encoder_ffn_dim))
        layer += attention_flops(lengths, width)
        total: int = (
            linear_flops(mel_frames, (3 * audio.num_mel_bins, width))
            + linear_flops(columns, (3 * width, width))
            + audio.encoder_layers * layer
            + linear_flops(columns // 2, (width, audio.output_dim))
        )
        return total


class Qwen2_5Omni(QwenOmniAdapter):
    """A loaded Qwen2.5-Omni thinker."""

    geometry_class: ClassVar[type[Geometry]] = Qwen2_5OmniGeometry

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


def _running_chunks(values: list[int], per_chunk: int) -> list[int]:
    """Chunk of each token by the stock rule, which moves on by at most one chunk a token.

    Where one temporal patch spans more than a chunk (fps below 1), its later tokens fall into the chunks it skipped:
    kept, because stock prompts look like that.
    """
    chunks, current = [], 0
    for value in values:
        if value >= (current + 1) * per_chunk:
            current += 1
        chunks.append(current)
    return chunks
