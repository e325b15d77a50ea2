"""The same clip in fewer tokens, for a device that has too little memory for it as it is.

Promises: every step has clearly fewer tokens than the one before, and says in a note what was left out; sound is left
whole. Knows nothing about models beyond their geometry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from omnidrop.models.geometry import Geometry
from workers.records import DecodedClip

SMALLEST_SIDE = 56
"""Pictures are not scaled below this many pixels a side: two patches of the published vision encoders."""

HALVINGS = 4
"""How often the video tokens are halved when memory runs out."""
HALVED = 0.75
"""A smaller clip that has more than this share of the tokens is not tried: models scale small pictures up to a least
size (128 tokens in the published checkpoints), so that fewer pixels are often no fewer tokens."""
LEAST_PIXEL_SHARE = 0.25


def shrink(decoded: DecodedClip, pixel_share: float, every: int) -> DecodedClip:
    """The same clip with fewer pixels a frame and every `every`-th frame; sound is left whole."""
    assert decoded.frames is not None
    frames = decoded.frames[::every]
    height, width = frames.shape[1:3]
    size = _scaled(height, width, pixel_share)
    if size != (height, width):
        frames = _resized(frames, size)
    return DecodedClip(
        clip=decoded.clip,
        frames=frames,
        audio=decoded.audio,
        fps=decoded.fps / every,
        decoded_share=decoded.decoded_share,
        decode_s=decoded.decode_s,
        notes=decoded.notes,
        noticed=decoded.noticed,
    )


def budgets(decoded: DecodedClip, geometry: Geometry) -> Iterator[tuple[DecodedClip, tuple[str, ...]]]:
    """The clip as it is, then with half the video tokens, a quarter, ...; made one at a time.

    Pixels go first, since they cost detail only, then frames, which cost moments; what saves no tokens is not done.
    """
    yield decoded, ()
    if decoded.frames is None:
        return
    frames, height, width, _ = decoded.frames.shape
    pixel_share, every = 1.0, 1
    tokens = math.prod(geometry.grid(frames, height, width))
    for _ in range(HALVINGS):
        for share, step in ((pixel_share / 2, every), (pixel_share, every * 2)):
            left = math.prod(geometry.grid(-(-frames // step), *_scaled(height, width, share)))
            if share >= LEAST_PIXEL_SHARE and left <= HALVED * tokens:
                break
        else:
            return
        pixel_share, every, tokens = share, step, left
        smaller = shrink(decoded, pixel_share, every)
        assert smaller.frames is not None
        count, tall, wide, _ = smaller.frames.shape
        note = f"memory ran out: answered from {count} of {frames} frames at {wide}x{tall} instead of {width}x{height}"
        yield smaller, (note,)


def _scaled(height: int, width: int, pixel_share: float) -> tuple[int, int]:
    factor = pixel_share**0.5
    tall, wide = (min(side, max(SMALLEST_SIDE, round(side * factor))) for side in (height, width))
    return tall, wide


def _resized(frames: npt.NDArray[np.uint8], size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(T, H, W, 3) uint8 to (T, *size, 3), a frame at a time: memory is what is short."""
    out = np.empty((len(frames), *size, 3), np.uint8)
    for number, frame in enumerate(frames):
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None]
        scaled = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        out[number] = scaled[0].permute(1, 2, 0).numpy()
    return out
