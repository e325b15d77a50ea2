"""The border between a model family and the method: what an adapter must offer, and the prefix it hands over.

Promises: `prefill.py`, `decode.py` and the policies need nothing of a model beyond this file. Knows nothing about
pruning, question sets or any particular family. Importing it loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from omnidrop.models.encoders import EncoderSettings, FeatureMemory
    from omnidrop.models.geometry import Geometry
    from omnidrop.models.sent_ahead import SentAhead

TEXT, AUDIO, VIDEO = 0, 1, 2
"""Values of `Prefix.modality`."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """All tokens before the first question: system text, the clip's audio and video, shared instruction text.

    N tokens, of which n are audio or video; every tensor lies on the model's device.
    """

    input_ids: Tensor
    """(N,) int64."""
    embeddings: Tensor
    """(N, D) model dtype; audio and video features already in place."""
    positions: Tensor
    """(3, N) rotary positions (temporal, height, width): int64 for Qwen2.5-Omni, float32 for Qwen3-Omni."""
    next_position: float
    """Where a question's positions start: one after the last token's, as the stock model continues; an int in
    Qwen2.5-Omni, a float (possibly with a fraction) in Qwen3-Omni. In clips of a second or two with many rows or
    columns it may be below the maximum of `positions`; stock decoding goes on at the whole prompt's maximum + 1."""
    modality: Tensor
    """(N,) int8: TEXT, AUDIO or VIDEO."""
    chunk: Tensor
    """(N,) int32: number of the time chunk (2 s in Qwen2.5-Omni) of an audio or video token, -1 for text."""
    grid: Tensor
    """(N, 3) int32: temporal patch, row and column after merging for video tokens; (audio token number, 0, 0) for audio
    tokens; -1 for text. What temporal token merging and the storyboard need."""
    seconds: Tensor
    """(N,) float32: time of an audio or video token since the clip began, -1 for text."""
    audio_importance: Tensor | None
    """(number of audio tokens,) float32, in token order: attention received in the audio encoder's last layer, weighted
    so that columns of a short last encoder chunk are not favoured. None without audio."""
    deepstack: tuple[Tensor, ...] = ()
    """Qwen3: per early decoder layer (N, D) to be added to the hidden states after that layer; zero rows elsewhere."""
    encoder_flops: int = 0
    """Of what was really encoded: repeated frames whose features were known cost nothing."""
    encoder_flops_dense: int = 0
    """What encoding everything would have cost."""
    notes: tuple[str, ...] = ()
    video_importance: Tensor | None = None
    """(number of video tokens,) float32, in token order: attention received in the vision encoder's last full-attention
    layer, mean 1 in every temporal patch, 0 for cells that were not encoded. None without a picture."""
    encoded: Tensor | None = None
    """(number of video tokens,) bool on the host, in token order: the cells that were encoded, themselves or as the
    version they belong to, which alone may enter the decoder; the others' embeddings are zero. None where every cell
    was encoded itself, or without a picture."""
    versions: Tensor | None = None
    """(number of video tokens,) int64 on the host: the number of the cell that stands for each, an earlier one of the
    same place or itself (see `omnidrop.models.still_cells`); those of one version have the same features. None where
    each stands for itself."""


@dataclass(frozen=True)
class ClipPrompt:
    """What a prefix is made of beside the clip."""

    fps: float
    """Frames a second at which the clip was sampled."""
    system_prompt: str | None = None
    """None leaves the system turn to the chat template (Qwen2.5 adds its default, Qwen3 none)."""
    instruction: str = ""
    """Read once, before all questions."""


@dataclass(frozen=True)
class Outline:
    """What a clip's `Prefix` will count, reckoned from the clip's size alone."""

    text: int
    """Text tokens, the marks around picture and sound among them."""
    audio: int
    sizes: tuple[int, ...]
    """Video tokens by temporal patch, in time order."""
    encoder_flops: int
    """Of encoding all of it."""

    @property
    def video(self) -> int:
        """Video tokens."""
        return sum(self.sizes)

    @property
    def count(self) -> int:
        """Audio and video tokens."""
        return self.audio + self.video

    @property
    def tokens(self) -> int:
        """All tokens of the prefix."""
        return self.text + self.count


class Choose(Protocol):
    """How cells are chosen for the vision encoder."""

    def __call__(self, cells: Tensor, patches: int, keep: int, candidates: Tensor | None = None) -> Tensor:
        """Ascending numbers (keep,) of those to encode of (n, D) `cells` of `patches` temporal patches in time order;
        among the `candidates` (u,), ascending on the host, or all."""
        ...


@dataclass(frozen=True)
class SomeOf:
    """Which cells of a picture (tokens to be: 2 x 2 patches of two frames) are encoded."""

    cells: int
    """So many at most: fewer where there are fewer different ones."""
    choose: Choose
    still_levels: float = 0.0
    """Cells of one place that differ by no more from the last encoded one are a version of it; 0: each is its own."""

    def is_part_of(self, cells: int) -> bool:
        """Whether that is other than encoding each of so many cells as itself."""
        return self.cells < cells or self.still_levels > 0


@dataclass(frozen=True, eq=False)
class ReadyClip:
    """What is worked out about a clip before the device computes for it: another clip may have it meanwhile."""

    frames: npt.NDArray[np.uint8] | None
    audio: npt.NDArray[np.float32] | None
    prompt: ClipPrompt
    inputs: object
    """The prompt as tokens, and the sound's spectrogram."""
    digests: tuple[bytes, ...]
    """Per temporal patch, what its pixels hash to."""
    resized: SentAhead | None
    """(T, 3, h, w) uint8: all frames at the size that is encoded, on their way to the device."""

    def fits(
        self, frames: npt.NDArray[np.uint8] | None, audio: npt.NDArray[np.float32] | None, prompt: ClipPrompt
    ) -> bool:
        """Whether it was made of these very arrays and this prompt."""
        return self.frames is frames and self.audio is audio and self.prompt == prompt


class Words(Protocol):
    """Texts as tokens."""

    def question_ids(self, text: str) -> list[int]:
        """Token ids of one question, up to and including the start of the assistant's turn."""
        ...

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer text as it would follow the assistant's start, without an end token."""
        ...


class Processor(Words, Protocol):
    """A checkpoint without its weights: all that pricing a clip takes."""

    geometry: Geometry

    def outline(self, shape: tuple[int, int, int], samples: int, prompt: ClipPrompt) -> Outline:
        """What `Adapter.prefix` would count for a clip of `shape` (frames, height, width; 0 frames: sound only) and so
        many samples of sound, and what encoding it costs."""
        ...

    def media(self, shape: tuple[int, int, int], samples: int, *, fps: float) -> Outline:
        """Picture and sound of `outline` alone, whatever is said around them: its text is 0."""
        ...

    def text_ids(self, text: str, system_prompt: str | None, instruction: str) -> list[int]:
        """Token ids before the first question about a text: the turn's beginning, the text, then the instruction."""
        ...


class Adapter(Words, Protocol):
    """A loaded model of one family."""

    family: str
    geometry: Geometry
    device: torch.device
    dtype: torch.dtype
    weights_hash: str
    """Hash over the weights' content: part of a recipe."""
    stored: str
    """Bytes and form of the weights as they are stored, for people."""
    layers: Sequence[nn.Module]
    """The text decoder's layers, called by `omnidrop/engine/prefill.py`'s own loop."""
    norm: nn.Module
    lm_head: nn.Module
    memory: FeatureMemory
    """Encoder features of clips before: to be cleared where two runs of one clip are timed."""
    rotary: nn.Module
    """`rotary(hidden, positions[:, None, :]) -> (cos, sin)`."""
    config: object
    """The text decoder's configuration (hidden_size, num_hidden_layers, num_key_value_heads, head_dim, ...)."""

    @property
    def processor(self) -> Processor:
        """What lays out clips and questions."""
        ...

    @classmethod
    def load(cls, directory: Path, *, device: torch.device, dtype: torch.dtype, encoders: EncoderSettings) -> Self:
        """The checkpoint in `directory`. Raises CheckpointError."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """(S,) int64 -> (S, D)."""
        ...

    def keys_and_values(self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Of rows (B, S, D) that only others look at in `layer`: keys after rotary embedding and values, (B, Hkv, S, d)
        each; `rotary` cos and sin, (B, S, d)."""
        ...

    def make_ready(
        self, frames: npt.NDArray[np.uint8] | None, audio: npt.NDArray[np.float32] | None, prompt: ClipPrompt
    ) -> ReadyClip:
        """What `prefix` does before the device computes, ahead of it and in any thread; arguments are the same, and so
        are errors, but for torch's RuntimeError where there is no room for what is sent to the device."""
        ...

    def prefix(
        self,
        frames: npt.NDArray[np.uint8] | None,
        audio: npt.NDArray[np.float32] | None,
        prompt: ClipPrompt,
        *,
        some_of: SomeOf | None = None,
        ready: ReadyClip | None = None,
    ) -> Prefix:
        """Encode one clip and lay out everything before the questions; `ready` saves time where it fits the clip.

        `frames` (T, H, W, 3) uint8 RGB sampled at `prompt.fps` a second; `audio` (samples,) float32 mono, 16 kHz, any
        length (neither padded to nor truncated at 300 s); at least one of them. `some_of` encodes a part of the picture
        (lossy); where that is all of it, as without.
        """
        ...

    def text_prefix(self, ids: Sequence[int]) -> Prefix:
        """The tokens of `Processor.text_ids` as what comes before the questions: no audio, no video, nothing encoded.

        Positions count up from 0, as the stock model counts where there are no media.
        """
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids without special tokens."""
        ...

    @property
    def tokenizer_json(self) -> str | None:
        """The tokenizer's whole definition in the format of the `tokenizers` library, None where there is none.

        What holding JSON answers to a schema needs.
        """
        ...
