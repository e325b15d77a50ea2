"""Training samples for the encoders: pairs of frames and stretches of sound with a label for every token.

Promises: samples are painted and synthesised by the toy world's own renderer, roughened as encoders of files would, and
depend on the seed alone. Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.toy_world.render import SAMPLE_RATE, Painter, Sprite, cover, wave_of
from pipeline.toy_world.speech import Placed, Takes, spoken_wave
from pipeline.toy_world.truth import COLOURS, PLACES, SHAPES, SOUNDS, VOICES, WORDS, Event
from pipeline.toy_world.world import SLOT_S, events_of
from pipeline.toy_world.writing import Faces, Set, set_lines
from training.tiny.encoders import CELL, frame_size

ASPECTS = ((16, 9), (9, 16), (1, 1), (4, 3), (3, 4))
ASPECT_SHARES = (0.45, 0.2, 0.15, 0.1, 0.1)
IGNORED = -100
NOTHING_SHAPE, NOTHING_COLOUR, NOTHING_SOUND = len(SHAPES), len(COLOURS), len(SOUNDS)
FIRST_WORD = NOTHING_SOUND + 1
"""Words of world v3 are numbered behind the sounds and silence."""
FIRST_WRITTEN = NOTHING_SHAPE + 1
"""Written words are numbered behind the shapes and background; the lines that they stand in, behind the places."""
AUDIO_TOKENS_A_SECOND = 10


@dataclass(frozen=True, eq=False)
class Pictures:
    """A batch of frame pairs of one size. Labels are per cell; the class after the last one is the background."""

    frames: Tensor
    """(B, 2, H, W, 3) uint8."""
    shapes: Tensor
    """(B, 2, cells) int64: what each frame shows, the other frame's where only that one shows something. A cell in
    which one shape gives way to another has two names. IGNORED where a sliver of a shape shows."""
    colours: Tensor
    places: Tensor
    """IGNORED in world v1 and on background."""
    columns: Tensor | None = None
    """(B, cells) int64, of tables: 0 or 1 where a word is written in one of two columns, else IGNORED."""

    def to(self, device: torch.device) -> Pictures:
        """The same on `device`."""
        return Pictures(*(part if part is None else part.to(device) for part in vars(self).values()))


@dataclass(frozen=True, eq=False)
class Sounds:
    """A batch of waves of one length with a label for every audio token."""

    waves: Tensor
    """(B, samples) float32."""
    sounds: Tensor
    """(B, tokens) int64: a sound, silence, or from FIRST_WORD on a word. IGNORED where one starts or ends within the
    token."""
    voices: Tensor
    """(B, tokens) int64: which kind of voice says the word, IGNORED elsewhere."""

    def to(self, device: torch.device) -> Sounds:
        """The same on `device`."""
        return Sounds(*(part.to(device) for part in vars(self).values()))


def random_event(rng: np.random.Generator, start: float, end: float) -> Event:
    """An event with uniformly drawn attributes."""
    shape, colour, sound = (str(rng.choice(names)) for names in (SHAPES, COLOURS, SOUNDS))
    return Event(start, end, shape, colour, sound)


def picture_batch(rng: np.random.Generator, count: int, cut: bool = False) -> Pictures:
    """`count` frame pairs of world v1: mostly one shape, sometimes none, sometimes a change between the two frames.

    `cut` gives 3 x 3 cells out of a frame, with the shape at its usual size in pixels: three times cheaper.
    """
    finer = float(rng.uniform(1.0, 1.35))
    if cut:
        height = width = 3 * CELL
        source, zoom = (round(height * finer * float(rng.uniform(0.95, 1.08))), round(width * finer)), 4 / 3
    else:
        source, zoom = frame_source(rng, finer), 1.0
        height, width = frame_size(source[0] * 4, source[1] * 4)

    def drawn() -> tuple[Painter, float, float]:
        kind, apart, start = rng.random(), _apart(rng), float(rng.uniform(1, 4))
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
        return painter, start, apart

    return _painted(rng, [drawn() for _ in range(count)], source, height, width)


def busy_picture_batch(rng: np.random.Generator, count: int) -> Pictures:
    """`count` frame pairs of world v2: three to five shapes in their places, whole frames."""
    source = frame_source(rng, float(rng.uniform(1.0, 1.35)))
    height, width = frame_size(source[0] * 4, source[1] * 4)
    moments = []
    for _ in range(count):
        length_s, events = events_of("v2", int(rng.integers(1 << 40)))
        moments.append((Painter("v2", events, rng), float(rng.uniform(0, length_s - 1)), _apart(rng)))
    return _painted(rng, moments, source, height, width)


def page_batch(rng: np.random.Generator, count: int, faces: Faces, cut: bool = False) -> Pictures:
    """`count` frame pairs of pages of one to three lines, one in eight turned between the two frames.

    `cut` gives 2 x 5 cells out of a frame with one word at its usual size: three times cheaper.
    """
    finer = float(rng.uniform(1.0, 1.35))
    if cut:
        height, width = 2 * CELL, 5 * CELL
        source, larger = (round(height * finer), round(width * finer)), 2.0
    else:
        source, larger = frame_source(rng, finer), 1.0
        height, width = frame_size(source[0] * 4, source[1] * 4)

    def drawn() -> tuple[Painter, float, float]:
        apart, start = _apart(rng), float(rng.uniform(1, 4))
        turned = start + apart / 2 if rng.random() < 0.125 else 9.0
        events = [Event(0, turned, lines=_lines(rng, cut)), Event(turned, 10, lines=_lines(rng, cut))]
        painter = Painter("v3", events, rng, faces)
        if larger != 1:
            painter.pages = tuple(replace(page, size=page.size * larger) for page in painter.pages)
        return painter, start, apart

    return _painted(rng, [drawn() for _ in range(count)], source, height, width)


def _lines(rng: np.random.Generator, one: bool) -> tuple[str, ...]:
    count = 1 if one else int(rng.choice(3, p=[0.15, 0.35, 0.5])) + 1
    return tuple(str(word) for word in rng.choice(WORDS, count, replace=False))


def frame_source(rng: np.random.Generator, finer: float) -> tuple[int, int]:
    """Height and width to paint at before resizing."""
    across, down = ASPECTS[int(rng.choice(len(ASPECTS), p=ASPECT_SHARES))]
    scale = finer * (32 * CELL**2 / (across * down)) ** 0.5
    return round(down * scale), round(across * scale)


def _apart(rng: np.random.Generator) -> float:
    """Seconds between the two frames of a pair."""
    return float(rng.choice([0.5, 1.0, 0.25], p=[0.75, 0.2, 0.05]))


def _painted(
    rng: np.random.Generator,
    moments: Sequence[tuple[Painter, float, float]],
    source: tuple[int, int],
    height: int,
    width: int,
) -> Pictures:
    """Paint pairs of frames (painter, start, seconds apart) at `source` size, roughen, resize and label them."""
    frames = np.empty((len(moments), 2, *source, 3), np.uint8)
    seen = np.empty((len(moments), 2, 3, height // CELL * (width // CELL)), np.int64)
    for number, (painter, start, apart) in enumerate(moments):
        for which, time_s in enumerate((start, start + apart)):
            frames[number, which] = painter.frame(time_s, *source)
            seen[number, which] = cell_names(painter, time_s, *source, height // CELL, width // CELL)
    resized = resize(roughen(torch.from_numpy(frames), rng), height, width)
    return Pictures(resized, *(torch.from_numpy(part) for part in np.moveaxis(either_frame(seen), 2, 0)))


NOTHING = np.array([[NOTHING_SHAPE], [NOTHING_COLOUR], [IGNORED]])
INKED, UNTOUCHED = 0.14, 0.03
"""Share of a cell that a word's letters (from their baseline to a capital's height) must cover to be its name; with
less than the second it is background."""
CLEAR, SLIVER, RIVAL = 0.10, 0.01, 0.6
"""Share of a cell that a shape must cover to be its name; less than a sliver is background; another shape that covers
more than RIVAL of what the first one does leaves a cell without a name."""


def cell_names(
    painter: Painter, time_s: float, height: int, width: int, rows: int, columns: int
) -> npt.NDArray[np.int64]:
    """(3, cells): shape, colour and place (v2 alone) of every cell at one time, IGNORED where it is not clear. On
    a page the written word, no colour, and its line."""
    for page in painter.pages:
        if painter.faces and page.event.start <= time_s < page.event.end:
            return names_on(set_lines(page, painter.faces, height, width), height, width, rows, columns)
    names = np.empty((3, rows * columns), np.int64)
    names[...] = NOTHING
    most = np.zeros(rows * columns, np.float32)
    second = most.copy()
    for sprite in painter.sprites:
        if sprite.event.start <= time_s < sprite.event.end:
            covered = cell_cover(sprite, time_s, height, width, rows, columns).ravel()
            more = covered > most
            second = np.where(more, most, np.maximum(second, covered))
            most = np.where(more, covered, most)
            names[0, more] = SHAPES.index(sprite.event.shape or "")
            names[1, more] = COLOURS.index(sprite.event.colour or "")
            names[2, more] = PLACES.index(sprite.event.place) if sprite.event.place else IGNORED
    names[:, (most < CLEAR) | (second > RIVAL * most)] = IGNORED
    names[:, most < SLIVER] = NOTHING
    return names


def names_on(words: Iterable[Set], height: int, width: int, rows: int, columns: int) -> npt.NDArray[np.int64]:
    """The names of a page's cells."""
    names = np.empty((3, rows, columns), np.int64)
    names[...] = NOTHING[..., None]
    most = np.zeros((rows, columns))
    second = most.copy()
    for one in words:
        left, top, right, bottom = one.letters
        across = _share(left, right, width / columns, columns)
        covered = _share(top, bottom, height / rows, rows)[:, None] * across
        more = covered > most
        second = np.where(more, most, np.maximum(second, covered))
        most = np.where(more, covered, most)
        names[:, more] = [[FIRST_WRITTEN + WORDS.index(one.word)], [IGNORED], [len(PLACES) + one.line]]
    unclear = ((most >= UNTOUCHED) & (most < INKED)) | (second > RIVAL * most)
    names[:, unclear] = IGNORED
    names[:, (most < UNTOUCHED) & ~unclear] = NOTHING
    return names.reshape(3, -1)


def _share(start: float, end: float, size: float, count: int) -> npt.NDArray[np.float64]:
    """How much of each of `count` stretches of `size` lies between `start` and `end`."""
    edges = np.arange(count + 1) * size
    return np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, size) / size


def either_frame(names: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(B, 2 frames, 3, cells) names: where one frame shows something and the other does not, both get its name."""
    shape = names[..., :1, :]
    nothing, unclear = shape == NOTHING_SHAPE, shape == IGNORED
    something, other = ~(nothing | unclear), names[:, ::-1]
    taken = np.where(something[:, ::-1] & ~something, other, names)
    return np.where(nothing & unclear[:, ::-1], IGNORED, taken)


def cell_cover(
    sprite: Sprite, time_s: float, height: int, width: int, rows: int, columns: int
) -> npt.NDArray[np.float32]:
    """Share of every cell of a rows x columns grid that the sprite covers."""
    fine = 5
    x = (np.arange(columns * fine, dtype=np.float32) + 0.5)[None, :] * (width / (columns * fine))
    y = (np.arange(rows * fine, dtype=np.float32) + 0.5)[:, None] * (height / (rows * fine))
    shares = cover(sprite, time_s, x, y, height, width).reshape(rows, fine, columns, fine)
    return np.asarray(shares.mean((1, 3)), np.float32)


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


def sound_batch(rng: np.random.Generator, count: int, length_s: float = 8.0, world: str = "v1") -> Sounds:
    """`count` clips of sounds, not aligned to chunks: at least 2 s with gaps in v1, 1 to 2 s in v2."""
    samples = round(length_s * SAMPLE_RATE)
    waves = np.empty((count, samples), np.float32)
    found = np.full((count, round(length_s * AUDIO_TOKENS_A_SECOND)), NOTHING_SOUND, np.int64)
    for number in range(count):
        if world == "v2":
            events = [
                event for event in events_of("v2", int(rng.integers(1 << 40)), length_s=length_s)[1] if event.sound
            ]
            now = length_s
        else:
            events, now = [], float(rng.uniform(0, 1.5))
            while now < length_s - 1:
                long = rng.uniform(2.0, 4.0) if rng.random() < 0.7 else rng.uniform(4.0, 12.0)
                events.append(random_event(rng, now, now + float(long)))
                now = events[-1].end + (float(rng.uniform(0, 1.5)) if rng.random() < 0.5 else 0.0)
        waves[number] = wave_of(events, max(now, length_s), rng)[:samples]
        for event in events:
            label_tokens(found[number], event)
    labels = torch.from_numpy(found)
    return Sounds(torch.from_numpy(waves), labels, torch.full_like(labels, IGNORED))


def word_batch(rng: np.random.Generator, count: int, takes: Takes, length_s: float = 8.0) -> Sounds:
    """`count` clips of words said in rooms, closer together than in world v3 and not aligned to anything."""
    waves = np.empty((count, round(length_s * SAMPLE_RATE)), np.float32)
    labels = np.empty((2, count, round(length_s * AUDIO_TOKENS_A_SECOND)), np.int64)
    for number in range(count):
        events, now = [], float(rng.uniform(0, 0.5))
        while now + SLOT_S[1] < length_s:
            end = now + float(rng.uniform(*SLOT_S))
            events.append(Event(now, end, word=str(rng.choice(WORDS)), voice=str(rng.choice(VOICES))))
            now = end + float(rng.choice([rng.uniform(0.05, 0.4), rng.uniform(0.4, 1.5)]))
        waves[number], placed = spoken_wave(events, length_s, rng, takes)
        labels[:, number] = labels_of_words(placed, labels.shape[-1])
    return Sounds(torch.from_numpy(waves), *torch.from_numpy(labels))


def labels_of_words(placed: Sequence[Placed], tokens: int) -> npt.NDArray[np.int64]:
    """(2, tokens): the word of every 0.1 s token and the kind of voice that says it. A token that a word fills by half
    is the word's; one that it only touches is IGNORED."""
    labels = np.full((2, tokens), IGNORED, np.int64)
    labels[0] = NOTHING_SOUND
    a_token = SAMPLE_RATE / AUDIO_TOKENS_A_SECOND
    for one in placed:
        start, end = one.start / a_token, one.end / a_token
        labels[0, int(start) : int(np.ceil(end))] = IGNORED
        own = slice(round(start), max(round(start) + 1, round(end)))
        labels[0, own] = FIRST_WORD + WORDS.index(one.event.word or "")
        labels[1, own] = VOICES.index(one.event.voice or "")
    return labels


def label_tokens(tokens: npt.NDArray[np.int64], event: Event) -> None:
    """Write one event's sound into the labels of the 0.1 s tokens it covers; ragged ends become IGNORED."""
    first, last = event.start * AUDIO_TOKENS_A_SECOND, event.end * AUDIO_TOKENS_A_SECOND
    if event.sound is None:
        return
    tokens[max(0, int(np.floor(first))) : int(np.ceil(last))] = IGNORED
    tokens[int(np.ceil(first)) : int(np.floor(last))] = SOUNDS.index(event.sound)
