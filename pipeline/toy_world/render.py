"""Events to pixels and samples: the painter and the synthesiser of all worlds.

Promises: deterministic by generator, shapes fully inside the frame with anti-aliased edges, channels of the v1
background below 60, sound exactly within its event. Knows nothing about files, codecs or how events were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.toy_world.truth import Event
from pipeline.toy_world.writing import Faces, Page, pages_of, shipped_faces, write_page

SAMPLE_RATE = 16_000
Frame = npt.NDArray[np.uint8]
Wave = npt.NDArray[np.float32]
Plane = npt.NDArray[np.floating[Any]]

HUES = {
    # Lowest and highest value of each channel: from what people call pure red to what they still call red.
    "red": ((190, 0, 0), (255, 45, 45)),
    "green": ((0, 120, 0), (60, 255, 60)),
    "blue": ((0, 0, 190), (60, 95, 255)),
    "yellow": ((205, 190, 0), (255, 255, 60)),
    "purple": ((110, 0, 120), (185, 60, 255)),
    "white": ((225, 225, 225), (255, 255, 255)),
}
ANCHORS = {"left": (0.18, 0.5), "right": (0.82, 0.5), "top": (0.5, 0.18), "bottom": (0.5, 0.82), "centre": (0.5, 0.5)}
"""Centres of the v2 places as shares of width and height."""


@dataclass(frozen=True)
class Sprite:
    """How one event's shape looks and moves; positions are shares of the free way: it never leaves the frame."""

    event: Event
    colour: tuple[float, float, float]
    half_size: float
    """Share of the frame's shorter side."""
    turn: float
    """Radians."""
    proportion: float
    """0..1: a cross's arm width, a triangle's slimness."""
    path: tuple[float, float, float, float]
    """Start x, y and end x, y, each 0..1; in v2 a small drift round the place."""


def sprites_of(events: Sequence[Event], rng: np.random.Generator) -> tuple[Sprite, ...]:
    """Draw the looks of every event that shows a shape."""
    sprites = []
    for event in events:
        low, high = HUES[event.colour or "white"]
        shade = rng.uniform(0, 1, 3) if event.colour != "white" else np.full(3, rng.uniform())
        if event.colour == "purple":
            shade[2] = max(shade[2], shade[0])
        if event.colour == "yellow":
            shade[1] = shade[0]
        colour = tuple(float(a + (b - a) * s) for a, b, s in zip(low, high, shade, strict=True))
        start = rng.uniform(0, 1, 2)
        end = start if rng.random() < 0.4 else rng.uniform(0, 1, 2)
        turn = float(rng.uniform(-0.3, 0.3)) if rng.random() < 0.35 else 0.0
        half_size = float(rng.uniform(0.10, 0.15) if event.place else rng.uniform(0.13, 0.24))
        proportion, path = float(rng.uniform()), (*map(float, start), *map(float, end))
        if event.shape is not None:
            sprites.append(Sprite(event, colour, half_size, turn, proportion, path))  # type: ignore[arg-type]
    return tuple(sprites)


def distance(shape: str, x: Plane, y: Plane, proportion: float) -> Plane:
    """Signed distance to the outline of a shape of half-size 1, in half-sizes (negative inside, y downwards)."""
    if shape == "circle":
        round_: Plane = np.hypot(x, y) - 1
        return round_
    if shape == "square":
        box: Plane = np.maximum(np.abs(x), np.abs(y)) - 0.92
        return box
    if shape == "triangle":
        half_base, base = 0.85 + 0.15 * proportion, 0.85
        side = np.abs(x) * (1 + base) - (y + 1) * half_base
        sides: Plane = np.maximum(y - base, side / np.hypot(1 + base, half_base))
        return sides
    arm = 0.24 + 0.16 * proportion
    ax, ay = np.abs(x), np.abs(y)
    arms: Plane = np.minimum(np.maximum(ax - arm, ay - 1), np.maximum(ax - 1, ay - arm))
    return arms


def place(sprite: Sprite, time_s: float, height: int, width: int) -> tuple[float, float, float]:
    """Centre x and y and half-size, in pixels, of a sprite at `time_s` in a frame of `height` x `width`."""
    event, radius = sprite.event, sprite.half_size * min(height, width)
    share = (time_s - event.start) / (event.end - event.start)
    along, down = (a + (b - a) * share for a, b in zip(sprite.path[:2], sprite.path[2:], strict=True))
    if event.place:
        anchor, drift = ANCHORS[event.place], 0.03 * min(height, width)
        return anchor[0] * width + (along - 0.5) * drift, anchor[1] * height + (down - 0.5) * drift, radius
    reach = _reach(sprite, radius)
    return reach + along * (width - 2 * reach), reach + down * (height - 2 * reach), radius


def _reach(sprite: Sprite, radius: float) -> float:
    """Pixels from the centre within which a sprite stays: the corners of a turned square stand out."""
    return radius * (1.0 + 0.45 * min(1.0, 4 * abs(sprite.turn))) + 1


def cover(sprite: Sprite, time_s: float, x: Plane, y: Plane, height: int, width: int) -> Wave:
    """How much of the pixels centred at `x` (1, n) and `y` (m, 1) the sprite covers: (m, n) float32 in 0..1."""
    centre_x, centre_y, radius = place(sprite, time_s, height, width)
    right, below = (x - centre_x) / radius, (y - centre_y) / radius
    cos, sin = np.cos(sprite.turn), np.sin(sprite.turn)
    apart = distance(sprite.event.shape or "", right * cos + below * sin, below * cos - right * sin, sprite.proportion)
    covered: Wave = np.clip(0.5 - apart * radius, 0, 1).astype(np.float32)
    return covered


def _paint(canvas: npt.NDArray[np.float32], sprite: Sprite, time_s: float) -> None:
    height, width = canvas.shape[:2]
    centre_x, centre_y, radius = place(sprite, time_s, height, width)
    reach = _reach(sprite, radius)
    x0, x1 = max(0, int(centre_x - reach)), min(width, int(centre_x + reach) + 2)
    y0, y1 = max(0, int(centre_y - reach)), min(height, int(centre_y + reach) + 2)
    x = (np.arange(x0, x1, dtype=np.float32) + 0.5)[None, :]
    y = (np.arange(y0, y1, dtype=np.float32) + 0.5)[:, None]
    box = canvas[y0:y1, x0:x1]
    box += cover(sprite, time_s, x, y, height, width)[..., None] * (np.asarray(sprite.colour, np.float32) - box)


@cache
def _grain() -> Wave:
    """One plane of noise for all clips, shifted for every frame: new noise would take half of the time."""
    return np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)


class Painter:
    """Paints the frames of one clip at any time and size; the looks are drawn once, from `rng`."""

    def __init__(
        self, world: str, events: Sequence[Event], rng: np.random.Generator, faces: Faces | None = None
    ) -> None:
        """Pages are set in `faces`; without them in those that ship."""
        self.sprites = sprites_of(events, rng)
        self.world = world
        self.base = rng.uniform(0, 32, 3).astype(np.float32)
        self.slope = rng.uniform(-12, 12, (2, 3)).astype(np.float32) * (rng.random() < 0.6)
        self.grain = float(rng.uniform(0, 5)) if rng.random() < 0.8 else 0.0
        self.waves = rng.uniform(-1, 1, (6, 6)).astype(np.float32)
        self.rng = rng
        self.faces = faces or (shipped_faces() if any(event.lines for event in events) else None)
        self.pages = pages_of(events, rng, self.faces) if self.faces else ()
        self.covered: dict[tuple[Page, int, int], npt.NDArray[np.float32]] = {}
        self.grounds: dict[tuple[int, int], tuple[Wave, Wave, npt.NDArray[np.float32]]] = {}

    def frame(self, time_s: float, height: int, width: int) -> Frame:
        """One (height, width, 3) uint8 RGB frame at `time_s`."""
        x, y, ground = self._ground(height, width)
        canvas = ground.copy()
        if self.world == "v2":
            for along, down, speed, red, green, blue in self.waves:
                phase = 40 * (along * x + down * y) + 6 * speed * time_s
                canvas += 9 * np.sin(phase) * np.asarray([red, green, blue], np.float32)
        if self.grain:
            shift = self.rng.integers(0, 256, 2)
            rows = (np.arange(height) + shift[0]) % 256
            columns = (np.arange(width) + shift[1]) % 256
            canvas += (self.grain * _grain()[rows].take(columns, axis=1))[..., None]
        np.clip(canvas, 0, 59, out=canvas)
        for page in self.pages:
            if self.faces and page.event.start <= time_s < page.event.end:
                canvas += np.asarray(page.paper, np.float32) - 30
                write_page(canvas, page, self.faces, self.covered)
        for sprite in self.sprites:
            if sprite.event.start <= time_s < sprite.event.end:
                _paint(canvas, sprite, time_s)
        np.clip(canvas, 0, 255, out=canvas)
        painted: Frame = np.rint(canvas, out=canvas).astype(np.uint8)
        return painted

    def _ground(self, height: int, width: int) -> tuple[Wave, Wave, npt.NDArray[np.float32]]:
        """Where pixels are, across and down, and what lies behind everything: the same in all frames of a size."""
        if (height, width) not in self.grounds:
            x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :, None]
            y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None]
            ground = np.broadcast_to(self.base + x * self.slope[0] + y * self.slope[1], (height, width, 3)).copy()
            self.grounds[height, width] = x, y, ground
        return self.grounds[height, width]

    def frames(self, times_s: Sequence[float], height: int, width: int) -> Iterator[Frame]:
        """The frames at `times_s`, one by one."""
        for time_s in times_s:
            yield self.frame(time_s, height, width)


def wave_of(events: Sequence[Event], length_s: float, rng: np.random.Generator) -> Wave:
    """(samples,) float32 mono at 16 kHz in -1..1: every event's sound within its span, silence elsewhere."""
    wave = np.zeros(round(length_s * SAMPLE_RATE), np.float32)
    loudness = float(rng.uniform(0.15, 0.7))
    for event in events:
        if event.sound is not None:
            start, end = round(event.start * SAMPLE_RATE), min(len(wave), round(event.end * SAMPLE_RATE))
            heard = sound(event.sound, max(0, end - start), rng)
            wave[start:end] += (loudness * rng.uniform(0.6, 1.0) * heard).astype(np.float32)
    if rng.random() < 0.4:
        wave += (10 ** rng.uniform(-4, -2.7) * rng.standard_normal(len(wave))).astype(np.float32)
    return np.clip(wave, -1, 1)


def sound(name: str, samples: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """`samples` values of one sound at amplitude 1, faded over 5 to 30 ms at both ends."""
    time = np.arange(samples) / SAMPLE_RATE
    if name == "noise":
        wave = np.clip(rng.standard_normal(samples) * 0.35, -1, 1)
        if rng.random() < 0.3:
            wave = np.convolve(wave, np.ones(3) / 2, mode="same")[:samples]
    elif name == "clicks":
        period, length = 1 / rng.uniform(7.2, 8.8), rng.uniform(0.006, 0.03)
        since = time % period
        wave = np.sin(2 * np.pi * 1000 * since) * np.where(since < length, np.exp(-2 * since / length), 0)
    else:
        if name in ("low tone", "high tone"):
            pitch = rng.uniform(180, 260) if name == "low tone" else rng.uniform(1800, 2600)
            phase = pitch * time
        else:
            # One sweep over the whole event, or one every 1 to 3 s; straight in hertz or in octaves.
            period = samples / SAMPLE_RATE if rng.random() < 0.6 else float(rng.uniform(1, 3))
            way = (time / period) % 1.0
            way = way if name == "rising sweep" else 1 - way
            pitches = 300 * (2500 / 300) ** way if rng.random() < 0.4 else 300 + 2200 * way
            phase = np.cumsum(pitches) / SAMPLE_RATE
        wave = np.sin(2 * np.pi * (phase + rng.random()))
        if rng.random() < 0.2 and name == "low tone":
            wave = 0.8 * wave + 0.2 * np.sin(4 * np.pi * phase)
    fade = max(1, round(rng.uniform(0.005, 0.03) * SAMPLE_RATE))
    edge = np.minimum(1, np.minimum(np.arange(samples), np.arange(samples)[::-1]) / fade)
    return np.asarray(wave * edge, np.float64)
