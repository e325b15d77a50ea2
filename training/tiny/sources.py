"""Where the decoder's training features come from: ideal sums of word embeddings, or the trained encoders.

Promises: both sources give the same `Clip` for the same events, so that the decoder can begin before the encoders are
ready and go on with them. Knows nothing about prompts or questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.toy_world.render import SAMPLE_RATE, Painter, wave_of
from pipeline.toy_world.speech import Placed, Takes, spoken_wave
from pipeline.toy_world.truth import Event
from pipeline.toy_world.writing import Faces
from training.tiny.architecture import CHUNK_S, POSITIONS_PER_S
from training.tiny.encoders import CELL, hear, mels_of
from training.tiny.optim import mixed
from training.tiny.perception import Words, view
from training.tiny.samples import (
    IGNORED,
    NOTHING_SHAPE,
    NOTHING_SOUND,
    cell_names,
    either_frame,
    label_tokens,
    labels_of_words,
    resize,
    roughen,
)


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
    cells: npt.NDArray[np.int64] | None = None
    """(3, patches, rows * columns): shape, colour and place that each cell shows (IGNORED where it is not clear)."""
    world: str = "v1"


@dataclass(frozen=True)
class Shape:
    """How a training clip is cut: the curriculum turns these. Small grids and fewer patches make cheap clips."""

    count: int
    length_s: float
    rows: int
    columns: int
    seconds_per_patch: float
    world: str = "v1"


class Source(Protocol):
    """Where features come from."""

    def clip(self, events: tuple[Event, ...], shape: Shape, rng: np.random.Generator) -> Clip:
        """Features of `events`."""
        ...


def cells_of(painter: Painter, shape: Shape) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(patches, 2 frames, 3, cells) names in both frames of every patch, and (3, patches, cells) of one of them."""
    size = shape.rows * CELL, shape.columns * CELL, shape.rows, shape.columns
    names = np.stack(
        [
            np.stack([cell_names(painter, (patch + half) * shape.seconds_per_patch, *size) for half in (0.0, 0.5)])
            for patch in range(patches_of(shape))
        ]
    )
    both = either_frame(names)
    return both, np.ascontiguousarray(np.moveaxis(both[:, 1], 1, 0))


def patches_of(shape: Shape) -> int:
    """Temporal patches of a clip."""
    return max(1, round(shape.length_s / shape.seconds_per_patch))


def said_within(
    events: tuple[Event, ...], tokens: int, rng: np.random.Generator
) -> tuple[tuple[Event, ...], npt.NDArray[np.int64]]:
    """Takes of usual lengths within their slots: the events as they would be heard, and the labels of audio tokens."""
    placed = []
    for event in events:
        if event.word:
            long = min(event.end - event.start, float(rng.uniform(0.28, 0.55)))
            start = event.start + float(rng.uniform(0, event.end - event.start - long))
            placed.append(Placed(event, round(start * SAMPLE_RATE), round((start + long) * SAMPLE_RATE)))
    return as_placed(events, placed), labels_of_words(placed, tokens)


def as_placed(events: tuple[Event, ...], placed: Sequence[Placed]) -> tuple[Event, ...]:
    """The events, words with the span in which they are really heard: what tokens should know of them."""
    spans = {one.event: (one.start / SAMPLE_RATE, one.end / SAMPLE_RATE) for one in placed}
    return tuple(replace(e, start=spans[e][0], end=spans[e][1]) if e in spans else e for e in events)


class IdealSource:
    """Features as a perfect encoder would give: sums of word embeddings over the cells a shape covers, plus noise."""

    def __init__(self, words: Words, noise: float = 0.25) -> None:
        self.words, self.noise = words, noise

    def clip(self, events: tuple[Event, ...], shape: Shape, rng: np.random.Generator) -> Clip:
        """Features of `events`."""
        both, cells = cells_of(Painter(shape.world, events, rng), shape)
        shapes, colours, places = np.moveaxis(both, 2, 0)
        seen = self.words.seen[shapes.clip(0)]
        seen += self.words.colours[colours.clip(0)] * torch.from_numpy(colours != IGNORED)[..., None]
        seen += self.words.places[places.clip(0)] * torch.from_numpy(places != IGNORED)[..., None]
        empty = torch.from_numpy((shapes == NOTHING_SHAPE) | (shapes == IGNORED))[..., None]
        video = torch.where(empty, self.words.shapes[-1], seen).mean(1)
        labels = np.full(round(shape.length_s * POSITIONS_PER_S), NOTHING_SOUND, np.int64)
        for event in events:
            label_tokens(labels, event)
        audio = torch.zeros(len(labels), self.words.sounds.shape[1])
        if shape.world == "v3":
            events, (labels, voices) = said_within(events, len(labels), rng)
            said = torch.from_numpy(voices != IGNORED)[:, None]
            audio = self.words.voices[voices.clip(0)] * said
        labels[labels == IGNORED] = NOTHING_SOUND
        audio = audio + self.words.heard[labels]
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
        video = video + self.noise * torch.randn(video.shape, generator=generator)
        audio = audio + self.noise * torch.randn(audio.shape, generator=generator)
        return Clip(events, video, shape.rows, shape.columns, shape.seconds_per_patch, audio, cells, shape.world)


class EncodedSource:
    """Features from the trained encoders: the clip is painted and synthesised whole, roughened and encoded."""

    def __init__(
        self, model: torch.nn.Module, device: torch.device, takes: Takes | None = None, faces: Faces | None = None
    ) -> None:
        """`takes` say the words of world v3 and `faces` write them; without them what ships does."""
        self.model, self.device, self.takes, self.faces = model, device, takes, faces

    @torch.no_grad()
    def clip(self, events: tuple[Event, ...], shape: Shape, rng: np.random.Generator) -> Clip:
        """Features of `events`; the picture's grid follows `shape` (its rows and columns times 28 pixels)."""
        patches = patches_of(shape)
        painter = Painter(shape.world, events, rng, self.faces)
        height, width = shape.rows * CELL, shape.columns * CELL
        between = shape.seconds_per_patch / 2
        times = [number * between for number in range(patches * 2)]
        frames = np.stack([painter.frame(time_s, height, width) for time_s in times])
        pairs = roughen(torch.from_numpy(frames).view(patches, 2, height, width, 3), rng)
        # Encoders see whole chunks; a clip that ends within one is cut afterwards.
        whole = -int(-shape.length_s // CHUNK_S) * CHUNK_S
        if shape.world == "v3":
            wave, placed = spoken_wave(events, shape.length_s, rng, self.takes)
            events = as_placed(events, placed)
        else:
            wave = wave_of(events, shape.length_s, rng)
        padded = np.zeros(whole * 16_000, np.float32)
        padded[: len(wave)] = wave
        mels = mels_of(torch.from_numpy(padded)[None].to(self.device))
        with mixed(self.device):
            video = view(self.model, resize(pairs, height, width).to(self.device)).float().cpu()
            heard = hear(self.model.model.audio_tower, mels)[0].float().cpu()
        audio = heard[: round(shape.length_s * POSITIONS_PER_S)]
        _, cells = cells_of(painter, shape)
        return Clip(events, video, shape.rows, shape.columns, shape.seconds_per_patch, audio, cells, shape.world)
