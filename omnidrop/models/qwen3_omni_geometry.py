"""What Qwen3-Omni's configuration says, and how many tokens and FLOPs a clip is in it.

Promises: exact without weights, torch or transformers. Knows nothing beyond this family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from omnidrop.models.configuration import Fields, TextFields, ThinkerFields
from omnidrop.models.encoder_flops import attention_flops, block_flops, linear_flops
from omnidrop.models.geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor


class _Text(TextFields):
    vocab_size: int = 3584
    hidden_size: int = 2048
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    decoder_sparse_step: int = 1
    moe_intermediate_size: int = 768
    num_experts_per_tok: int = 8
    num_experts: int = 128
    mlp_only_layers: list[int] | None = None


class _Vision(Fields):
    depth: int = Field(default=27, validation_alias=AliasChoices("depth", "num_hidden_layers"))
    hidden_size: int = 1152
    intermediate_size: int = 4304
    in_channels: int = 3
    patch_size: int = 16
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    out_hidden_size: int = 3584
    deepstack_visual_indexes: list[int] = Field(default=[8, 16, 24])


class _Audio(Fields):
    num_mel_bins: int = 128
    encoder_layers: int = Field(default=32, validation_alias=AliasChoices("encoder_layers", "num_hidden_layers"))
    encoder_ffn_dim: int = Field(default=5120, validation_alias=AliasChoices("encoder_ffn_dim", "intermediate_size"))
    d_model: int = Field(default=1280, validation_alias=AliasChoices("d_model", "hidden_size"))
    n_window: int = 50
    n_window_infer: int = 800
    output_dim: int = 3584
    downsample_hidden_size: int = 480


class _Thinker(ThinkerFields):
    text_config: _Text
    vision_config: _Vision = _Vision()
    audio_config: _Audio = _Audio()


class Qwen3OmniGeometry(Geometry):
    """13 audio tokens a second; video and audio tokens follow each other by time."""

    family = "qwen3_omni_moe"
    fields = _Thinker
    position_dtype = "float32"
    marks_apart = True
    pads_sound = False

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
        import torch

        rank = torch.cat([seen[0], sound[0]])
        # What is left once one of the two has run out is the model's last block.
        if seen[0, -1] <= sound[0, -1]:
            return rank, sound[:, sound[0] >= seen[0, -1]]
        return rank, seen[:, seen[0] > sound[0, -1]]

    def vision_flops(self, patches: int, rows: int, columns: int, cells: int | None = None, embedded: int = 0) -> int:
        """Patch embedding, full attention, MLPs, and the mergers: the input's and one per deepstack depth."""
        vision: _Vision = self.config.vision_config
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
        audio: _Audio = self.config.audio_config
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
