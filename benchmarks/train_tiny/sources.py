"""Where the decoder's training features come from: ideal sums of word embeddings, or the trained encoders.

Promises: both sources give the same `Clip` for the same events, so that the decoder can begin before the encoders are
ready and go on with them. Knows nothing about prompts or questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.train_tiny.architecture import CHUNK_S, POSITIONS_PER_S
from benchmarks.train_tiny.encoders import CELL, hear, mels_of
from benchmarks.train_tiny.perception import Words, named, view
from benchmarks.train_tiny.samples import (
    IGNORED,
    NOTHING_SHAPE,
    NOTHING_SOUND,
    cell_cover,
    label_tokens,
    resize,
    roughen,
)
from pipeline.toy_world.render import Painter, sprites_of, wave_of
from pipeline.toy_world.truth import COLOURS, SHAPES, Event


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip's features, where they stand in time, and what is true of it."""

    events: tuple[Event, ...]
    video: Tensor
    """(patches, rows * columns, width)."""
    rows: int
    columns: int
    seconds_per_patch: float
    audio: Tensor
    """(tokens, width)."""
    there: npt.NDArray[np.bool_] | None = None
    """(patches, rows * columns): cells that show a shape, where the source knows."""


@dataclass(frozen=True)
class Shape:
    """How a training clip is cut: the curriculum turns these. Small grids and fewer patches make cheap clips."""

    count: int
    length_s: float
    rows: int
    columns: int
    seconds_per_patch: float


class Source(Protocol):
    """Where features come from."""

    def clip(self, events: tuple[Event, ...], shape: Shape, rng: np.random.Generator) -> Clip:
        """Features of `events`."""
        ...


class IdealSource:
    """Features as a perfect encoder would give: sums of word embeddings over the cells a shape covers, plus noise."""

    def __init__(self, words: Words, noise: float = 0.25) -> None:
        self.words, self.noise = words, noise

    def clip(self, events: tuple[Event, ...], shape: Shape, rng: np.random.Generator) -> Clip:
        """Features of `events`."""
        patches = max(1, round(shape.length_s / shape.seconds_per_patch))
        cells = shape.rows * shape.columns
        height, width = shape.rows * CELL, shape.columns * CELL
        shares = np.zeros((patches, cells), np.float32)
        names = np.full((patches, 2), -1, np.int64)
        for sprite in sprites_of(events, rng):
            event = sprite.event
            for patch in range(patches):
                time_s = (patch + float(rng.uniform(0.1, 0.6))) * shape.seconds_per_patch
                if event.start <= time_s < event.end:
                    found = cell_cover(sprite, time_s, height, width, shape.rows, shape.columns).ravel()
                    shares[patch] = np.clip(found * 4, 0, 1)
                    names[patch] = SHAPES.index(event.shape or ""), COLOURS.index(event.colour or "")
        nothing = self.words.shapes[-1]
        there = torch.from_numpy(shares)[..., None]
        seen = self.words.shapes[names[:, 0]] + self.words.colours[names[:, 1]]
        video = there * seen[:, None] + (1 - there) * nothing
        labels = np.full(round(shape.length_s * POSITIONS_PER_S), NOTHING_SOUND, np.int64)
        for event in events:
            label_tokens(labels, event)
        labels[labels == IGNORED] = NOTHING_SOUND
        audio = self.words.sounds[labels]
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
        video = video + self.noise * torch.randn(video.shape, generator=generator)
        audio = audio + self.noise * torch.randn(audio.shape, generator=generator)
        return Clip(events, video, shape.rows, shape.columns, shape.seconds_per_patch, audio, shares > 0)


class EncodedSource:
    """Features from the trained encoders: the clip is painted and synthesised whole, roughened and encoded."""

    def __init__(self, model: torch.nn.Module, words: Words, device: torch.device) -> None:
        self.model, self.words, self.device = model, words, device

    @torch.no_grad()
    def clip(self, events: tuple[Event, ...], shape: Shape, rng: np.random.Generator) -> Clip:
        """Features of `events`; the picture's grid follows `shape` (its rows and columns times 28 pixels)."""
        patches = max(1, round(shape.length_s / shape.seconds_per_patch))
        painter = Painter("v1", events, rng)
        height, width = shape.rows * CELL, shape.columns * CELL
        between = shape.seconds_per_patch / 2
        times = [number * between for number in range(patches * 2)]
        frames = np.stack([painter.frame(time_s, height, width) for time_s in times])
        pairs = roughen(torch.from_numpy(frames).view(patches, 2, height, width, 3), rng)
        video = view(self.model, resize(pairs, height, width).to(self.device)).cpu()
        # Encoders see whole chunks; a clip that ends within one is cut afterwards.
        whole = -int(-shape.length_s // CHUNK_S) * CHUNK_S
        wave = wave_of(events, shape.length_s, rng)
        padded = np.zeros(whole * 16_000, np.float32)
        padded[: len(wave)] = wave
        heard = hear(self.model.model.audio_tower, mels_of(torch.from_numpy(padded)[None].to(self.device)))[0].cpu()
        audio = heard[: round(shape.length_s * POSITIONS_PER_S)]
        there = named(video, self.words.shapes).argmax(-1) < NOTHING_SHAPE
        return Clip(events, video, shape.rows, shape.columns, shape.seconds_per_patch, audio, there.numpy())
