"""Frames and sound of a clip turned into what the model's encoders take, and where they stand among the words.

Promises: the numbers and tokens of the stock `Qwen2_5OmniProcessor` and `Qwen3OmniMoeProcessor` without torchvision,
for sound of any length (neither padded to nor cut at 300 s). Knows nothing about weights, devices, pruning or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.errors import CheckpointError, ModelError
from omnidrop.models.base import ClipPrompt
from omnidrop.models.checkpoints import read_json
from omnidrop.models.clip_layout import ClipLayout, MediaTokens, lay_out
from omnidrop.models.geometry import SAMPLE_RATE, Geometry
from omnidrop.models.prompts import Prompts


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


class ClipProcessor(Prompts):
    """And the feature extractor: clips themselves, beside the words around them."""

    def __init__(self, directory: Path, geometry: Geometry) -> None:
        from transformers import WhisperFeatureExtractor

        super().__init__(directory, geometry)
        try:
            self._features: Any = WhisperFeatureExtractor.from_pretrained(str(directory))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"the feature extractor of {directory} cannot be loaded: {error}") from error
        if self._features.hop_length != geometry.hop:
            raise CheckpointError(
                f"{directory} wants a hop of {self._features.hop_length} samples; supported is the hop of "
                f"{geometry.hop} that preprocessor_config.json states"
            )
        _ = self.media_tokens  # here, where what is wrong is the checkpoint's
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
        self, frames: npt.NDArray[np.uint8] | None, audio: npt.NDArray[np.float32] | None, prompt: ClipPrompt
    ) -> ModelInputs:
        """Everything before the first question. Arguments as `Adapter.prefix`; raises ModelError for unusable media."""
        grid = mel = None
        if frames is not None:
            check_picture(frames, prompt.fps)
            grid = self.geometry.grid(*frames.shape[:3])
        if audio is not None:
            mel = self.mel(audio)
        if grid is None and mel is None:
            raise self.too_short(0 if audio is None else len(audio))
        audio_tokens = self.geometry.audio_tokens(len(audio)) if audio is not None and mel is not None else 0
        return ModelInputs(self._laid_out(grid, audio_tokens, prompt), grid, mel)

    def _laid_out(self, grid: tuple[int, int, int] | None, audio_tokens: int, prompt: ClipPrompt) -> ClipLayout:
        head, tail = self.prompt(prompt.system_prompt, prompt.instruction, has_video=grid is not None)
        self.check_reach(grid, audio_tokens, prompt.fps, lambda: len(head) + len(tail))
        return lay_out(
            self.geometry,
            self.media_tokens,
            head=head,
            tail=tail,
            grid=grid,
            seconds_per_patch=self.geometry.temporal_patch / prompt.fps if grid else 0.0,
            audio_tokens=audio_tokens,
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

    def _special_id(self, name: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.mark(name)))


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


def _image_settings(directory: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels (0..1), CLIP's where the checkpoint does not say."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    settings = read_json(directory / "preprocessor_config.json")
    return settings.get("image_mean") or OPENAI_CLIP_MEAN, settings.get("image_std") or OPENAI_CLIP_STD
