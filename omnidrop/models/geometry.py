"""The shape of a checkpoint, read from its configuration files: how many tokens a clip becomes in it and what encoding
it takes.

Promises: no weights are loaded, and `count_tokens` gives exactly the tokens that `processing.py` lays out, so that a
plan can be priced before any model exists. What differs by family is declared here and said in the family's file.
Knows nothing about pruning or archives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from omnidrop.errors import CheckpointError, ModelError
from omnidrop.models.checkpoints import family_of, read_json, thinker_config_dict, video_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from omnidrop.models.configuration import ThinkerFields

SAMPLE_RATE = 16_000
"""Samples a second of every waveform in this package."""
SHORTEST_AUDIO_HOPS = 3
"""Sound of fewer hops (30 ms at the published 160 samples a hop) gives no token in Qwen2.5-Omni and cannot be mirrored
for the STFT: it is left out."""
MOST_OF_A_SIZE = 1 << 31
"""Of a width, a number of pixels or any other that a configuration states."""
MOST_ELONGATED = 200
"""How many times as wide as high a frame may be, or as high as wide."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model and of its inputs. Widths are the projections' real ones (heads x head size).

    A family subclasses it and fills in what is not said here.
    """

    family: ClassVar[str]
    """As `families` names it."""
    fields: ClassVar[type[ThinkerFields]]
    """What is read of the configuration."""
    position_dtype: ClassVar[str]
    """Of rotary positions, as torch names it."""
    marks_apart: ClassVar[bool]
    """Whether the two marks before (and after) a picture with sound stand at two positions, or both at one."""
    pads_sound: ClassVar[bool]
    """Whether the stock processor pads a waveform with zeros before the transform."""

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
    config: Any = field(default=None, compare=False, repr=False)
    """The configuration it was read from, with the family's own fields."""

    def whole_hops(self, samples: int) -> int:
        """Mel frames of `samples` samples."""
        raise NotImplementedError

    def tokens_of(self, mel_frames: int) -> int:
        """Audio tokens of so many mel frames, at least one."""
        raise NotImplementedError

    def interleave(self, seen: Tensor, sound: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt order of a picture with sound, from the positions (3, n) of its video and of its audio tokens and the
        position at which the clip starts: (a rank for every token, video before audio, sorted by it stably; the
        positions of the model's last block of them)."""
        raise NotImplementedError

    def vision_flops(self, patches: int, rows: int, columns: int, cells: int | None = None, embedded: int = 0) -> int:
        """Of encoding `patches` temporal patches of `rows` x `columns` tokens, or `cells` of these alone; `embedded`
        cells had their pixels embedded once more, to choose by."""
        raise NotImplementedError

    def audio_flops(self, mel_frames: int) -> int:
        """Of encoding so many mel frames."""
        raise NotImplementedError

    @classmethod
    def read(cls, directory: Path) -> Self:
        """From the configuration of the checkpoint in `directory`. Raises CheckpointError where it is not usable."""
        if (found := family_of(directory)) != cls.family:
            raise CheckpointError(f"{directory} is a {found} checkpoint, not {cls.family}")
        thinker = thinker_config_dict(directory)
        try:
            geometry = cls._from_config(cls.fields.read(thinker), video_bounds(directory), hop_length(directory))
            geometry._try()
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{directory / 'config.json'} is not a usable {cls.family} configuration: {error}"
            ) from error
        return geometry

    def _try(self) -> None:
        """Raises what sizes lead to with which no clip can be counted or priced: here, where the file can be named."""
        for name, value in ((one.name, getattr(self, one.name)) for one in fields(self) if one.name != "config"):
            allowed = (int, float) if name == "seconds_per_chunk" else int
            if not isinstance(value, allowed) or isinstance(value, bool) or not 0 < value < MOST_OF_A_SIZE:
                raise ValueError(f"{name.replace('_', ' ')} {value!r}")
        self.count_tokens(1, 64, 64, SAMPLE_RATE)
        self.vision_flops(1, 1, 1)
        self.audio_flops(self.mel_frames(SAMPLE_RATE))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that a frame is scaled to. Raises ModelError for a sliver."""
        # As transformers' `smart_resize`, whose import takes 2.4 CPU s and 110 MB of a driver; equal to it in a test.
        if not height or not width or max(height, width) > MOST_ELONGATED * min(height, width):
            raise ModelError(
                f"a frame of {width}x{height} pixels cannot be used: one side may be {MOST_ELONGATED} times the other, "
                "no more"
            )
        side = self.patch * self.merge
        tall, wide = round(height / side) * side, round(width / side) * side
        if tall * wide > self.max_pixels:
            shrunk = math.sqrt(height * width / self.max_pixels)
            tall, wide = (max(side, math.floor(edge / shrunk / side) * side) for edge in (height, width))
        elif tall * wide < self.min_pixels:
            grown = math.sqrt(self.min_pixels / (height * width))
            tall, wide = (math.ceil(edge * grown / side) * side for edge in (height, width))
        return tall, wide

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Temporal patches, rows and columns of tokens (after merging); an odd last frame is repeated."""
        tall, wide = self.resized(height, width)
        side = self.patch * self.merge
        return -(-frames // self.temporal_patch), tall // side, wide // side

    def mel_frames(self, samples: int) -> int:
        """Mel frames of `samples` samples, neither padded to nor cut at 300 s; 0 where the sound is too short."""
        return 0 if samples < SHORTEST_AUDIO_HOPS * self.hop else self.whole_hops(samples)

    def audio_tokens(self, samples: int) -> int:
        """Audio tokens of `samples` samples at 16 kHz."""
        mel = self.mel_frames(samples)
        return self.tokens_of(mel) if mel else 0

    def count_tokens(self, frames: int, height: int, width: int, audio_samples: int) -> tuple[int, int]:
        """(video tokens, audio tokens) of `frames` frames of `height` x `width` pixels and so many samples of sound."""
        video = 0
        if frames > 0:
            patches, rows, columns = self.grid(frames, height, width)
            video = patches * rows * columns
        return video, self.audio_tokens(audio_samples)

    @classmethod
    def _from_config(cls, config: Any, bounds: tuple[int, int] | None, hop: int) -> Self:
        text, vision = config.text_config, config.vision_config
        heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
        head = text.head_dim or text.hidden_size // heads
        mixture = (getattr(text, "num_experts", 0) or 0) > 0
        side = vision.patch_size * vision.spatial_merge_size
        # The stock processors' own bounds for videos, `videos_kwargs` of Qwen2_5OmniProcessor and of Qwen3's.
        low, high = bounds or (128 * side * side, 768 * side * side)
        return cls(
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
            positions_per_second=config.position_id_per_seconds,
            seconds_per_chunk=config.seconds_per_chunk,
            audio_window=config.audio_config.n_window,
            hop=hop,
            config=config,
        )


def hop_length(directory: Path) -> int:
    """Samples between mel frames as the feature extractor's settings state, 160 where they do not."""
    return int(read_json(directory / "preprocessor_config.json").get("hop_length", 160))
