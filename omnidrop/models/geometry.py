"""The shape of a checkpoint, read from its configuration files, and how many tokens a clip becomes in it.

Promises: `read_geometry` loads no weights, and `count_tokens` gives exactly the tokens that `processing.py` lays out,
so that a plan can be priced before any model exists. Knows nothing about pruning, FLOPs or archives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omnidrop.errors import CheckpointError, ModelError
from omnidrop.models.checkpoints import (
    family_of,
    loading,
    read_json,
    resolve_checkpoint,
    thinker_config_dict,
    video_bounds,
)

SAMPLE_RATE = 16_000
"""Samples a second of every waveform in this package."""
SHORTEST_AUDIO_HOPS = 3
"""Sound of fewer hops (30 ms at the published 160 samples a hop) gives no token in Qwen2.5-Omni and cannot be mirrored
for the STFT: it is left out."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model and of its inputs. Widths are the projections' real ones (heads x head size)."""

    family: str
    """`qwen2_5_omni` or `qwen3_omni_moe`."""
    layers: int
    width: int
    query_width: int
    kv_width: int
    """Width of the keys of one layer; the values have the same."""
    mlp_width: int
    """Of a dense layer's MLP or of one expert."""
    active_experts: int
    """Experts a token passes through; 1 for a dense model."""
    vocabulary: int
    patch: int
    """Pixels on a side of a spatial patch."""
    merge: int
    """Spatial patches on a side that become one token."""
    temporal_patch: int
    """Frames that become one temporal patch."""
    min_pixels: int
    max_pixels: int
    """A frame is scaled to between so many pixels, its sides to multiples of patch x merge."""
    positions_per_second: int
    """Temporal rotary positions a second; one per audio token."""
    seconds_per_chunk: float
    audio_window: int
    """Half an audio encoder chunk, in mel frames."""
    hop: int = 160
    """Samples from one mel frame to the next: 160 (100 mel frames a second) in the published checkpoints."""

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that a frame is scaled to. Raises ModelError for a sliver."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        try:
            tall, wide = smart_resize(height, width, self.patch * self.merge, self.min_pixels, self.max_pixels)
        except (ValueError, ZeroDivisionError) as error:
            raise ModelError(f"a frame of {width}x{height} pixels cannot be used: {error}") from error
        return int(tall), int(wide)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Temporal patches, rows and columns of tokens (after merging); an odd last frame is repeated."""
        tall, wide = self.resized(height, width)
        side = self.patch * self.merge
        return -(-frames // self.temporal_patch), tall // side, wide // side

    def mel_frames(self, samples: int) -> int:
        """Mel frames of `samples` samples, neither padded to nor cut at 300 s; 0 where the sound is too short.

        A last hop that is begun counts in Qwen2.5-Omni, whose stock processor pads before the transform, and not in
        Qwen3-Omni, whose does not.
        """
        if samples < SHORTEST_AUDIO_HOPS * self.hop:
            return 0
        return -(-samples // self.hop) if self.family == "qwen2_5_omni" else samples // self.hop

    def audio_tokens(self, samples: int) -> int:
        """Audio tokens of `samples` samples at 16 kHz: 25 a second in Qwen2.5-Omni, 13 in Qwen3-Omni."""
        mel = self.mel_frames(samples)
        if not mel:
            return 0
        if self.family == "qwen2_5_omni":
            # One convolution of stride 2, then pairs are averaged.
            return ((mel - 1) // 2 + 1 - 2) // 2 + 1
        # Three convolutions of stride 2 inside each encoder chunk of 100 mel frames: 13 tokens a chunk.
        whole, rest = divmod(mel, 2 * self.audio_window)
        for _ in range(3):
            rest = (rest + 1) // 2
        return rest + whole * 13

    def count_tokens(self, frames: int, height: int, width: int, audio_samples: int) -> tuple[int, int]:
        """(video tokens, audio tokens) of `frames` frames of `height` x `width` pixels and so many samples of sound."""
        video = 0
        if frames > 0:
            patches, rows, columns = self.grid(frames, height, width)
            video = patches * rows * columns
        return video, self.audio_tokens(audio_samples)


def read_geometry(model: str) -> Geometry:
    """The geometry of `model` (see `resolve_checkpoint`), from its configuration files alone."""
    return geometry_of(resolve_checkpoint(model))


def geometry_of(directory: Path) -> Geometry:
    """The geometry of the checkpoint in `directory`. Raises CheckpointError where the configuration is not usable."""
    family = family_of(directory)
    with loading(directory):
        try:
            return _from_config(family, thinker_config(directory), video_bounds(directory), hop_length(directory))
        except (AttributeError, KeyError, TypeError) as error:
            where = directory / "config.json"
            raise CheckpointError(f"{where} is not a usable {family} configuration: {error}") from error


def thinker_config(directory: Path) -> object:
    """The thinker's configuration as an object of transformers, defaults filled in."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen3OmniMoeThinkerConfig

    classes = {"qwen2_5_omni": Qwen2_5OmniThinkerConfig, "qwen3_omni_moe": Qwen3OmniMoeThinkerConfig}
    config: object = classes[family_of(directory)].from_dict(thinker_config_dict(directory))
    return config


def hop_length(directory: Path) -> int:
    """Samples between mel frames as the feature extractor's settings state, 160 where they do not."""
    return int(read_json(directory / "preprocessor_config.json").get("hop_length", 160))


def _from_config(family: str, config: object, bounds: tuple[int, int] | None, hop: int) -> Geometry:
    text, vision, audio = config.text_config, config.vision_config, config.audio_config  # type: ignore[attr-defined]
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    mixture = family == "qwen3_omni_moe" and text.num_experts > 0
    side = vision.patch_size * vision.spatial_merge_size
    # The stock processors' own bounds for videos, `videos_kwargs` of Qwen2_5OmniProcessor and Qwen3OmniMoeProcessor.
    low, high = bounds or (128 * side * side, 768 * side * side)
    return Geometry(
        family=family,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        query_width=heads * head,
        kv_width=kv_heads * head,
        mlp_width=text.moe_intermediate_size if mixture else text.intermediate_size,
        active_experts=text.num_experts_per_tok if mixture else 1,
        vocabulary=text.vocab_size,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        temporal_patch=vision.temporal_patch_size,
        min_pixels=low,
        max_pixels=high,
        positions_per_second=config.position_id_per_seconds,  # type: ignore[attr-defined]
        seconds_per_chunk=getattr(config, "seconds_per_chunk", 2),
        audio_window=audio.n_window,
        hop=hop,
    )
