"""What Qwen2.5-Omni's configuration says, and how many tokens and FLOPs a clip is in it.

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
    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4


class _Vision(Fields):
    depth: int = Field(default=32, validation_alias=AliasChoices("depth", "num_hidden_layers"))
    hidden_size: int = 3584
    intermediate_size: int = 3420
    in_channels: int = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    window_size: int = 112
    out_hidden_size: int = 3584
    fullatt_block_indexes: list[int] = Field(default=[7, 15, 23, 31])


class _Audio(Fields):
    num_mel_bins: int = 128
    encoder_layers: int = Field(default=32, validation_alias=AliasChoices("encoder_layers", "num_hidden_layers"))
    encoder_ffn_dim: int = Field(default=5120, validation_alias=AliasChoices("encoder_ffn_dim", "intermediate_size"))
    d_model: int = Field(default=1280, validation_alias=AliasChoices("d_model", "hidden_size"))
    n_window: int = 100
    output_dim: int = 3584


class _Thinker(ThinkerFields):
    text_config: _Text
    vision_config: _Vision = _Vision()
    audio_config: _Audio = _Audio()


class Qwen2_5OmniGeometry(Geometry):
    """25 audio tokens a second; chunk by chunk, a chunk's video before its audio."""

    family = "qwen2_5_omni"
    fields = _Thinker
    position_dtype = "int64"
    marks_apart = False
    pads_sound = True

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
        rank = seen.new_tensor(seen_chunk + sound_chunk)
        if seen_chunk[-1] > sound_chunk[-1]:
            return rank, seen[:, seen.new_tensor(seen_chunk) == seen_chunk[-1]]
        return rank, sound[:, sound.new_tensor(sound_chunk) == sound_chunk[-1]]

    def vision_flops(self, patches: int, rows: int, columns: int, cells: int | None = None, embedded: int = 0) -> int:
        """Patch embedding, window and full attention, gated MLPs, and the merger into tokens."""
        vision: _Vision = self.config.vision_config
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
        audio: _Audio = self.config.audio_config
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
