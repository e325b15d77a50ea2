"""Training samples for the encoders: pairs of frames and stretches of sound with a label for every token.

Promises: samples are painted and synthesised by the toy world's own renderer, roughened as encoders of files would, and
depend on the seed alone. Knows nothing about models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.train_tiny.encoders import CELL, frame_size
from pipeline.toy_world.render import SAMPLE_RATE, Painter, Sprite, cover, wave_of
from pipeline.toy_world.truth import COLOURS, SHAPES, SOUNDS, Event

ASPECTS = ((16, 9), (9, 16), (1, 1), (4, 3), (3, 4))
ASPECT_SHARES = (0.45, 0.2, 0.15, 0.1, 0.1)
IGNORED = -100
NOTHING_SHAPE, NOTHING_COLOUR, NOTHING_SOUND = len(SHAPES), len(COLOURS), len(SOUNDS)
AUDIO_TOKENS_A_SECOND = 10


@dataclass(frozen=True, eq=False)
class Pictures:
    """A batch of frame pairs of one size. Labels are per cell; the class after the last one is the background."""

    frames: Tensor
    """(B, 2, H, W, 3) uint8."""
    shapes: Tensor
    """(B, cells) int64, IGNORED where a sliver of a shape shows."""
    colours: Tensor


@dataclass(frozen=True, eq=False)
class Sounds:
    """A batch of waves of one length with a label for every audio token."""

    waves: Tensor
    """(B, samples) float32."""
    sounds: Tensor
    """(B, tokens) int64, IGNORED where a sound starts or ends within the token."""


def random_event(rng: np.random.Generator, start: float, end: float) -> Event:
    """An event with uniformly drawn attributes."""
    shape, colour, sound = (str(rng.choice(names)) for names in (SHAPES, COLOURS, SOUNDS))
    return Event(start, end, shape, colour, sound)


def picture_batch(rng: np.random.Generator, count: int, cut: bool = False) -> Pictures:
    """`count` frame pairs: mostly one shape, sometimes none, sometimes a change between the two frames.

    `cut` gives 3 x 3 cells out of a frame, with the shape at its usual size in pixels: three times cheaper.
    """
    finer = float(rng.uniform(1.0, 1.35))
    if cut:
        height = width = 3 * CELL
        source, zoom = (round(height * finer * float(rng.uniform(0.95, 1.08))), round(width * finer)), 4 / 3
    else:
        across, down = ASPECTS[int(rng.choice(len(ASPECTS), p=ASPECT_SHARES))]
        scale = finer * (32 * CELL**2 / (across * down)) ** 0.5
        source, zoom = (round(down * scale), round(across * scale)), 1.0
        height, width = frame_size(source[0] * 4, source[1] * 4)
    frames = np.empty((count, 2, *source, 3), np.uint8)
    covers = np.zeros((count, 2, height // CELL, width // CELL), np.float32)
    names = np.empty((count, 2, 2), np.int64)
    names[...] = NOTHING_SHAPE, NOTHING_COLOUR
    for number in range(count):
        kind = rng.random()
        apart = float(rng.choice([0.5, 1.0, 0.25], p=[0.75, 0.2, 0.05]))
        start = float(rng.uniform(1, 4))
        if kind < 0.82:
            events = [random_event(rng, 0, 6)]
        elif kind < 0.88:
            events = []
        else:
            events = [random_event(rng, 0, start + apart / 2), random_event(rng, start + apart / 2, 8)]
            if kind < 0.94:
                del events[int(rng.integers(2))]
        painter = Painter("v1", events, rng)
        if zoom != 1:
            painter.sprites = tuple(replace(one, half_size=one.half_size * zoom) for one in painter.sprites)
        for which, time_s in enumerate((start, start + apart)):
            frames[number, which] = painter.frame(time_s, *source)
            for sprite in painter.sprites:
                if sprite.event.start <= time_s < sprite.event.end:
                    covers[number, which] = cell_cover(sprite, time_s, *source, *covers.shape[2:])
                    names[number, which] = SHAPES.index(sprite.event.shape), COLOURS.index(sprite.event.colour)
    resized = resize(roughen(torch.from_numpy(frames), rng), height, width)
    return Pictures(resized, *labels(covers.reshape(count, 2, -1), names))


def cell_cover(
    sprite: Sprite, time_s: float, height: int, width: int, rows: int, columns: int
) -> npt.NDArray[np.float32]:
    """Share of every cell of a rows x columns grid that the sprite covers."""
    fine = 5
    x = (np.arange(columns * fine, dtype=np.float32) + 0.5)[None, :] * (width / (columns * fine))
    y = (np.arange(rows * fine, dtype=np.float32) + 0.5)[:, None] * (height / (rows * fine))
    shares = cover(sprite, time_s, x, y, height, width).reshape(rows, fine, columns, fine)
    return np.asarray(shares.mean((1, 3)), np.float32)


def labels(covers: npt.NDArray[np.float32], names: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Shape and colour of every cell from both frames' covers (B, 2, cells) and names (B, 2, 2)."""
    clear, sliver = 0.10, 0.01
    stronger = covers.argmax(1)
    weaker = np.take_along_axis(covers, 1 - stronger[:, None], 1)[:, 0]
    most = covers.max(1)
    same = (names[:, 0] == names[:, 1]).all(-1)[:, None]
    found = []
    for field, nothing in enumerate((NOTHING_SHAPE, NOTHING_COLOUR)):
        label = np.take_along_axis(names[:, :, field], stronger, 1)
        label = np.where(most >= clear, label, IGNORED)
        label = np.where(most < sliver, nothing, label)
        # Two different shapes in one cell within a second: no right answer.
        label = np.where(~same & (weaker >= sliver), IGNORED, label)
        found.append(torch.from_numpy(label))
    return found[0], found[1]


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """(B, 2, h, w, 3) uint8 -> (B, 2, height, width, 3) uint8, bicubic with antialiasing as the processor does."""
    batch, two = frames.shape[:2]
    planes = frames.reshape(batch * two, *frames.shape[2:]).permute(0, 3, 1, 2)
    done = functional.interpolate(planes, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return done.permute(0, 2, 3, 1).reshape(batch, two, height, width, 3)


def roughen(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """What a lossy codec leaves: colour at half the resolution, sometimes softened, sometimes blocky; uint8 in and out.

    Strength is drawn per batch; a fifth of the batches stays clean.
    """
    if rng.random() < 0.2:
        return frames
    shape = frames.shape
    pixels = frames.reshape(-1, *shape[2:]).permute(0, 3, 1, 2).float()
    light = (pixels * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    colour = functional.avg_pool2d(pixels - light, 2, ceil_mode=True)
    colour = functional.interpolate(colour, shape[2:4], mode="bilinear", align_corners=False)
    if rng.random() < 0.4:
        small = [max(8, round(side * rng.uniform(0.6, 1.0))) for side in shape[2:4]]
        light = functional.interpolate(light, small, mode="bilinear", antialias=True, align_corners=False)
        light = functional.interpolate(light, shape[2:4], mode="bilinear", align_corners=False)
    pixels = light + colour
    if rng.random() < 0.5:
        pixels = _blocky(pixels, float(rng.uniform(4, 24)))
    return pixels.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).reshape(shape)


def _blocky(pixels: Tensor, step: float) -> Tensor:
    """Round the 8 x 8 cosine coefficients to multiples of `step`, coarser for fine detail."""
    height, width = pixels.shape[-2:]
    padded = functional.pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
    number = torch.arange(8.0)
    basis = torch.cos(torch.pi * (number + 0.5) * number[:, None] / 8) * (2 / 8) ** 0.5
    basis[0] /= 2**0.5
    rows, columns = padded.shape[-2] // 8, padded.shape[-1] // 8
    blocks = padded.view(*padded.shape[:2], rows, 8, columns, 8).transpose(-3, -2)
    steps = step * (1 + (number[:, None] + number) / 3)
    coefficients = basis @ blocks @ basis.T
    rough = basis.T @ (torch.round(coefficients / steps) * steps) @ basis
    return rough.transpose(-3, -2).reshape(padded.shape)[..., :height, :width]


def sound_batch(rng: np.random.Generator, count: int, length_s: float = 8.0) -> Sounds:
    """`count` clips of sounds of at least 2 s with gaps, not aligned to chunks."""
    samples = round(length_s * SAMPLE_RATE)
    waves = np.empty((count, samples), np.float32)
    found = np.full((count, round(length_s * AUDIO_TOKENS_A_SECOND)), NOTHING_SOUND, np.int64)
    for number in range(count):
        events, now = [], float(rng.uniform(0, 1.5))
        while now < length_s - 1:
            long = rng.uniform(2.0, 4.0) if rng.random() < 0.7 else rng.uniform(4.0, 12.0)
            events.append(random_event(rng, now, now + float(long)))
            now = events[-1].end + (float(rng.uniform(0, 1.5)) if rng.random() < 0.5 else 0.0)
        waves[number] = wave_of(events, now, rng)[:samples] if now >= length_s else _padded(events, samples, rng)
        for event in events:
            label_tokens(found[number], event)
    return Sounds(torch.from_numpy(waves), torch.from_numpy(found))


def _padded(events: list[Event], samples: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return wave_of(events, samples / SAMPLE_RATE, rng)


def label_tokens(tokens: npt.NDArray[np.int64], event: Event) -> None:
    """Write one event's sound into the labels of the 0.1 s tokens it covers; ragged ends become IGNORED."""
    first, last = event.start * AUDIO_TOKENS_A_SECOND, event.end * AUDIO_TOKENS_A_SECOND
    if event.sound is None:
        return
    tokens[max(0, int(np.floor(first))) : int(np.ceil(last))] = IGNORED
    tokens[int(np.ceil(first)) : int(np.floor(last))] = SOUNDS.index(event.sound)
