"""Frames and sound of a clip, and the words around them, turned into what the model's encoders and decoder take.

Promises: the numbers and tokens of the stock `Qwen2_5OmniProcessor` and `Qwen3OmniMoeProcessor` without torchvision,
for sound of any length (neither padded to nor cut at 300 s). Knows nothing about weights, devices, pruning or files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.errors import CheckpointError, ClipTooLong, ModelError, SoundTooShort
from omnidrop.models import chat_template
from omnidrop.models.base import Prefix
from omnidrop.models.checkpoints import read_chat_template, read_json
from omnidrop.models.clip_layout import ClipLayout, MediaTokens, lay_out
from omnidrop.models.geometry import SAMPLE_RATE, SHORTEST_AUDIO_HOPS, Geometry

QUESTION_MARK = "\u2063question\u2063"
"""Stands for the question while the chat template is rendered; invisible separators keep it from meeting real text."""


MOST_OF_A_TRANSFORM = {"feature_size": 1024, "n_fft": 1 << 16, "hop_length": 1 << 16}
"""Mel bins, samples of a window, samples from one to the next; the published checkpoints have 128, 400 and 160."""


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """One clip, ready for the encoders, and its place in the prompt. Tensors on the CPU."""

    layout: ClipLayout
    grid: tuple[int, int, int] | None
    """Temporal patches, rows and columns of video tokens; None without a picture. The pixels are left to `pixels`, so
    that frames whose features are known need not be prepared."""
    mel: Tensor | None
    """(mel bins, mel frames) float32; None without sound."""


def resize_frames(frames: Tensor, height: int, width: int) -> Tensor:
    """(T, 3, H, W) uint8 -> (T, 3, `height`, `width`) uint8, bicubic with antialiasing.

    On the uint8 tensor, not on floats: that is what torchvision's resize does, bit for bit.
    """
    if frames.shape[-2:] == (height, width):
        return frames
    return functional.interpolate(frames, size=(height, width), mode="bicubic", antialias=True)


def patchify(frames: Tensor, geometry: Geometry, mean: Tensor, std: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Frames (T, 3, H, W) uint8, already resized -> rows of pixels in the vision encoder's order, and their grid.

    `mean` and `std` (3,) are in 0..255. An odd number of frames is filled up with the last one. Rows run through time,
    blocks of `merge` x `merge` patches, and the patches of a block; columns through channel, time, height and width.
    """
    if short := -len(frames) % geometry.temporal_patch:
        frames = torch.cat([frames, frames[-1:].expand(short, -1, -1, -1)])
    normal = (frames.to(torch.float32) - mean[:, None, None]) / std[:, None, None]
    patch, merge, step = geometry.patch, geometry.merge, geometry.temporal_patch
    times, rows, columns = len(frames) // step, frames.shape[-2] // patch, frames.shape[-1] // patch
    blocks = normal.view(times, step, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    ordered = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(times * rows * columns, 3 * step * patch * patch), (times, rows, columns)


class ClipProcessor:
    """Tokenizer, feature extractor and chat template of one checkpoint directory."""

    def __init__(self, directory: Path, geometry: Geometry) -> None:
        from transformers import Qwen2Tokenizer, WhisperFeatureExtractor

        self.geometry = geometry
        self._template = read_chat_template(directory)
        _check_transform(directory)
        try:
            self.tokenizer: Any = Qwen2Tokenizer.from_pretrained(str(directory))
            self._features: Any = WhisperFeatureExtractor.from_pretrained(str(directory))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the tokenizer or feature extractor of {directory} cannot be loaded: {error}"
            ) from error
        if (self._features.hop_length, self._features.sampling_rate) != (geometry.hop, SAMPLE_RATE):
            raise CheckpointError(
                f"{directory} wants a hop of {self._features.hop_length} samples at {self._features.sampling_rate} Hz; "
                f"supported is the hop of {geometry.hop} that preprocessor_config.json states, at {SAMPLE_RATE} Hz"
            )
        # Used once where what is wrong is the checkpoint's: a token it lacks, a setting of the tokenizer that is none.
        _ = self.media_tokens, self.ids("a")
        image = _image_settings(directory)
        self._mean = torch.tensor(image[0]) * 255.0
        self.deviation = torch.tensor(image[1]) * 255.0
        """(3,): 8-bit levels of one unit of the pixels that the vision encoder takes, by channel."""

    @cached_property
    def media_tokens(self) -> MediaTokens:
        """Ids of the media placeholders and their marks."""
        return MediaTokens(
            video=self._special_id("video_token"),
            audio=self._special_id("audio_token"),
            vision_start=self._special_id("vision_bos_token"),
            vision_end=self._special_id("vision_eos_token"),
            audio_start=self._special_id("audio_bos_token"),
            audio_end=self._special_id("audio_eos_token"),
        )

    def inputs(
        self,
        frames: npt.NDArray[np.uint8] | None,
        audio: npt.NDArray[np.float32] | None,
        *,
        fps: float,
        system_prompt: str | None,
        instruction: str,
    ) -> ModelInputs:
        """Everything before the first question. Arguments as `Adapter.prefix`; raises ModelError for unusable media.

        `system_prompt` None leaves the system turn to the chat template (Qwen2.5 adds its default, Qwen3 none).
        """
        grid = mel = None
        if frames is not None:
            check_picture(frames, fps)
            grid = self.geometry.grid(*frames.shape[:3])
        if audio is not None:
            mel = self.mel(audio)
        if grid is None and mel is None:
            raise self._too_short(0 if audio is None else len(audio))
        audio_tokens = self.geometry.audio_tokens(len(audio)) if audio is not None and mel is not None else 0
        return ModelInputs(self._laid_out(grid, audio_tokens, fps, system_prompt, instruction), grid, mel)

    def _too_short(self, samples: int) -> SoundTooShort:
        least_ms = 1000 * SHORTEST_AUDIO_HOPS * self.geometry.hop / SAMPLE_RATE
        given = f"{1000 * samples / SAMPLE_RATE:.1f} ms of sound" if samples else "no sound"
        return SoundTooShort(f"no frames and {given}; this model needs frames or at least {least_ms:g} ms of sound")

    def _laid_out(
        self,
        grid: tuple[int, int, int] | None,
        audio_tokens: int,
        fps: float,
        system_prompt: str | None,
        instruction: str,
    ) -> ClipLayout:
        head, tail = self.prompt(system_prompt, instruction, has_video=grid is not None)
        self._check_reach(grid, audio_tokens, fps, len(head) + len(tail))
        return lay_out(
            self.geometry,
            self.media_tokens,
            head=head,
            tail=tail,
            grid=grid,
            seconds_per_patch=self.geometry.temporal_patch / fps if grid else 0.0,
            audio_tokens=audio_tokens,
        )

    def _check_reach(self, grid: tuple[int, int, int] | None, audio_tokens: int, fps: float, words: int) -> None:
        """Rotary positions beyond the model's own are numbers too: it would answer, and worse."""
        most: int | None = getattr(self.geometry.config.text_config, "max_position_embeddings", None)
        a_second = self.geometry.positions_per_second
        seconds = max(grid[0] * self.geometry.temporal_patch / fps if grid else 0.0, audio_tokens / a_second)
        if most is not None and seconds * a_second + words > most:
            raise ClipTooLong(
                f"a clip of {seconds:,.0f} s with {words} tokens of text takes {a_second} positions a second, "
                f"and the model was made to read {most:,}: {(most - words) / a_second:,.0f} s; use shorter clips, "
                "or frames less far apart"
            )

    def outline(
        self, shape: tuple[int, int, int], samples: int, *, fps: float, system_prompt: str | None, instruction: str
    ) -> Prefix:
        """See `omnidrop.models.base.Processor.outline`."""
        frames, height, width = shape
        grid = self.geometry.grid(frames, height, width) if frames else None
        audio_tokens = self.geometry.audio_tokens(samples)
        if grid is None and not audio_tokens:
            raise self._too_short(samples)
        made = self._laid_out(grid, audio_tokens, fps, system_prompt, instruction)
        encoders = self.geometry.vision_flops(*grid) if grid else 0
        if (mel := self.geometry.mel_frames(samples)) > 0:
            encoders += self.geometry.audio_flops(mel)
        return Prefix(
            input_ids=made.input_ids,
            embeddings=torch.empty(made.input_ids.shape[0], 0),
            positions=made.positions,
            next_position=made.next_position,
            modality=made.modality,
            chunk=made.chunk,
            grid=made.grid,
            seconds=made.seconds,
            audio_importance=None,
            encoder_flops=encoders,
            encoder_flops_dense=encoders,
        )

    def pixels(
        self, frames: npt.NDArray[np.uint8], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, tuple[int, int, int]]:
        """`pixel_values_videos` on `device` and `video_grid_thw` of (T, H, W, 3) uint8 frames."""
        return self.patches(self.resized(frames), device)

    def resized(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """(T, 3, h, w) uint8: (T, H, W, 3) frames at the size that is encoded. On the CPU, where torchvision's numbers
        are known bit for bit; what follows happens on the device, to which a quarter of the bytes travel that way."""
        _check_frames(frames)
        tall, wide = self.geometry.resized(frames.shape[1], frames.shape[2])
        # Negative strides and read-only buffers (Ray's object store) are both met here; torch takes neither.
        upright = torch.from_numpy(np.require(frames, requirements=["C", "W"])).permute(0, 3, 1, 2).contiguous()
        return resize_frames(upright, tall, wide)

    def patches(self, resized: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, tuple[int, int, int]]:
        """As `pixels`, of frames that are resized."""
        return patchify(resized.to(device), self.geometry, self._mean.to(device), self.deviation.to(device))

    def mel(self, audio: npt.NDArray[np.float32]) -> Tensor | None:
        """Log-mel spectrogram (mel bins, mel frames) of a waveform, None where it is too short to give a token."""
        if audio.ndim != 1 or audio.dtype != np.float32:
            raise ModelError(
                f"audio must be (samples,) float32 from -1 to 1, got {audio.shape} {audio.dtype}; divide int16 by "
                "32768, and take the mean of several channels"
            )
        frames = self.geometry.mel_frames(len(audio))
        if not frames:
            return None
        if not np.isfinite(audio).all():
            raise ModelError("the audio holds samples that are not finite numbers")
        # A stock processor that pads does so to 300 s before the STFT, and masks afterwards; one window of zeros gives
        # the same frames up to the last.
        padding = self._features.n_fft if self.geometry.pads_sound else 0
        features = self._features(
            audio,
            sampling_rate=SAMPLE_RATE,
            padding="max_length",
            max_length=len(audio) + padding,
            truncation=False,
            return_tensors="pt",
        )
        mel: Tensor = features["input_features"][0, :, :frames]
        return mel

    def prompt(self, system_prompt: str | None, instruction: str, *, has_video: bool) -> tuple[list[int], list[int]]:
        """Token ids before the clip's first mark, and after its last one up to the first question."""
        before, between, _ = self._rendered(system_prompt, has_video)
        text = self.plain(instruction).strip()
        # A newline ends every pre-token of Qwen's pattern that precedes a word, so the prompt may be cut behind it.
        return self.ids(before), self.ids(between + (text + "\n" if text else ""))

    def text_ids(self, text: str, system_prompt: str | None, instruction: str) -> list[int]:
        """Token ids of a turn that holds a text and no media, up to the first question: the text, then the instruction.

        Raises CheckpointError where the chat template ends such a turn otherwise than one with a clip.
        """
        rendered = self._turn(system_prompt, [{"type": "text", "text": QUESTION_MARK}])
        before, found, after = rendered.partition(QUESTION_MARK)
        if not found or after != self._rendered(None, True)[2]:
            raise CheckpointError(f"the chat template does not lay out a user turn of text alone: it gave {rendered!r}")
        parts = (self.plain(part).strip() for part in (text, instruction))
        return self.ids(before + "".join(part + "\n" for part in parts if part))

    def question_ids(self, text: str) -> list[int]:
        """Token ids of a question up to and including the start of the assistant's turn."""
        _, _, after = self._rendered(None, True)
        return self.ids(self.plain(text).strip() + after)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer as it would follow the assistant's start, without an end token."""
        return self.ids(self.plain(text).strip())

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens recognised."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def plain(self, text: str) -> str:
        """`text` with special tokens broken up: titles and tags of untrusted media reach questions through
        templates, and `<|im_end|>` in one of them must stay a word."""
        return self._special_pattern.sub(lambda found: found[0][0] + " " + found[0][1:], text)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer: the tokenizer's end token and ChatML's two."""
        ids = {self.tokenizer.eos_token_id}
        known = self.tokenizer.get_vocab()
        ids |= {known[token] for token in ("<|im_end|>", "<|endoftext|>") if token in known}
        return tuple(sorted(i for i in ids if i is not None))

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        # Also `<think>` and `<tool_call>`, which are not called special; a word that was added stays one.
        added = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special or t.content[:1] == "<"}
        special = sorted(added | set(self.tokenizer.all_special_tokens), key=len, reverse=True)
        return re.compile("|".join(re.escape(token) for token in special) or r"(?!)")

    def _special_id(self, name: str) -> int:
        token = getattr(self.tokenizer, name, None)
        if token is None:
            raise CheckpointError(
                f"the tokenizer has no {name}: it must name the media tokens (`extra_special_tokens` in "
                "tokenizer_config.json), as the published Omni checkpoints do"
            )
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def _rendered(self, system_prompt: str | None, has_video: bool) -> tuple[str, str, str]:
        """The chat template's text before the clip's first mark, between its last mark and the question, and after."""
        kind = "video" if has_video else "audio"
        rendered = self._turn(system_prompt, [{"type": kind, kind: kind}, {"type": "text", "text": QUESTION_MARK}])
        first, last = ("vision_bos_token", "vision_eos_token") if has_video else ("audio_bos_token", "audio_eos_token")
        before, _, rest = rendered.partition(str(getattr(self.tokenizer, first)))
        _, found_clip, rest = rest.partition(str(getattr(self.tokenizer, last)))
        between, found_question, after = rest.partition(QUESTION_MARK)
        if not (found_clip and found_question):
            raise CheckpointError(
                f"the chat template does not lay out a user turn of a {kind} and a text: it rendered {rendered!r}"
            )
        return before, between, after

    def _turn(self, system_prompt: str | None, content: list[dict[str, str]]) -> str:
        """A user's turn of this content as the chat template renders it, up to the assistant's start."""
        turns: list[dict[str, Any]] = []
        if system_prompt is not None:
            turns.append({"role": "system", "content": [{"type": "text", "text": self.plain(system_prompt)}]})
        turns.append({"role": "user", "content": content})
        named = {
            name: str(token) for name, token in self.tokenizer.special_tokens_map.items() if isinstance(token, str)
        }
        return chat_template.render(
            self._template, messages=turns, tools=None, documents=None, add_generation_prompt=True, **named
        )


def check_picture(frames: npt.NDArray[np.uint8], fps: float) -> None:
    """Raises ModelError for frames or a rate that cannot be used."""
    _check_frames(frames)
    if not (math.isfinite(fps) and fps > 0):
        raise ModelError(f"fps must be the positive number of frames a second really sampled, got {fps!r}")


def _check_frames(frames: npt.NDArray[np.uint8]) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ModelError(
            f"frames must be (T, H, W, 3) uint8 with at least one frame, got {frames.shape} {frames.dtype}; multiply "
            "floats from 0 to 1 by 255, and put channels last"
        )


def _check_transform(directory: Path) -> None:
    """The feature extractor makes a table of bins by frequencies when it is made: 200 bytes can ask for all memory."""
    settings = read_json(directory / "preprocessor_config.json")
    for name, most in MOST_OF_A_TRANSFORM.items():
        value = settings.get(name, 1)
        if not isinstance(value, int) or not 0 < value <= most:
            raise CheckpointError(
                f"{directory / 'preprocessor_config.json'} says {name}: {value!r}; whole numbers from 1 to {most:,} "
                "are taken"
            )


def _image_settings(directory: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels (0..1), CLIP's where the checkpoint does not say."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    settings = read_json(directory / "preprocessor_config.json")
    return settings.get("image_mean") or OPENAI_CLIP_MEAN, settings.get("image_std") or OPENAI_CLIP_STD
