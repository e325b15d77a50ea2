"""Pages of writing to pixels: words set in a typeface, line under line, before a still camera.

Promises: deterministic by generator; every word of a page lies wholly inside the frame, and no line touches another.
The faces that ship are pictures of the words in typefaces that training never sees; training brings faces of its own.
Knows nothing about who set the words or who reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.toy_world.truth import WORDS, Event

FACES = Path(__file__).parent / "takes" / "held_out_faces.png"
"""Made by `python -m training.tiny.faces`; the index beside it says where each word lies."""
SHEET_LINE, SHEET_BASE, SHEET_EM = 60, 44, 44
"""Pixels of a sheet: the height of a line, from its top to the baseline, and of the type (the body of a letter)."""
LETTERS = 0.72
"""A capital's height as a share of the type's: what a word is counted as covering above its baseline."""
SMALLEST, LARGEST, TITLE = 0.15, 0.21, 1.15
"""Height of the type as a share of the frame's shorter side; a title is larger."""
PITCH = (0.26, 0.31)
"""From one line to the next, as a share of the frame's shorter side."""


@dataclass(frozen=True, eq=False)
class Faces:
    """Pictures of all words in several typefaces."""

    sheet: npt.NDArray[np.uint8]
    """(faces * SHEET_LINE, width): how much ink covers each pixel, a line of words for every face."""
    spans: npt.NDArray[np.int64]
    """(faces, words, 2): first column of a word and the one after its last."""

    def word(self, face: int, word: str) -> npt.NDArray[np.uint8]:
        """(SHEET_LINE, width) of one word."""
        left, right = self.spans[face, WORDS.index(word)]
        return self.sheet[face * SHEET_LINE : (face + 1) * SHEET_LINE, left:right]


@cache
def shipped_faces() -> Faces:
    """The faces that come with the package: held out from training."""
    from PIL import Image

    spans = json.loads(FACES.with_suffix(".json").read_text())["spans"]
    with Image.open(FACES) as picture:
        return Faces(np.asarray(picture.convert("L")), np.asarray(spans, np.int64))


@dataclass(frozen=True)
class Page:
    """How one event's lines are set; shares are of the frame's shorter side or of the free way."""

    event: Event
    face: int
    size: float
    pitch: float
    place: tuple[float, float]
    """Where the block of lines stands, each 0..1 of the free way."""
    is_centred: bool
    ink: tuple[float, float, float]
    paper: tuple[float, float, float]


def pages_of(events: Sequence[Event], rng: np.random.Generator, faces: Faces) -> tuple[Page, ...]:
    """Draw the looks of every event that shows a page: dark writing on light paper or, less often, light on dark."""
    pages = []
    for event in events:
        if event.lines:
            face = int(rng.integers(len(faces.spans)))
            size, pitch = float(rng.uniform(SMALLEST, LARGEST)), float(rng.uniform(*PITCH))
            place = (float(rng.uniform()), float(rng.uniform()))
            dark, light = rng.uniform(0, 70, 3), rng.uniform(185, 255, 3)
            ink, paper = (dark, light) if rng.random() < 0.65 else (light, dark)
            colours = tuple(map(float, ink)), tuple(map(float, paper))
            pages.append(Page(event, face, size, pitch, place, bool(rng.random() < 0.4), *colours))  # type: ignore[arg-type]
    return tuple(pages)


@dataclass(frozen=True)
class Set:
    """One word as it is set: the box in pixels of its line as in the sheet, and of its letters."""

    word: str
    line: int
    """Counted from 0."""
    left: int
    top: int
    width: int
    height: int

    @property
    def letters(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what a reader sees of it."""
        base, tall = self.top + self.height * SHEET_BASE / SHEET_LINE, self.height * SHEET_EM / SHEET_LINE
        return self.left, base - LETTERS * tall, self.left + self.width, base


def set_lines(page: Page, faces: Faces, height: int, width: int) -> Iterator[Set]:
    """Where every line of a page stands in a frame of `height` x `width`."""
    lines, short = page.event.lines, min(height, width)
    ems = [page.size * short * (TITLE if not number and len(lines) > 1 else 1.0) for number in range(len(lines))]
    wide = [faces.word(page.face, word).shape[1] * em / SHEET_EM for word, em in zip(lines, ems, strict=True)]
    shrink = min(1.0, 0.94 * width / max(wide))
    ems, wide = [em * shrink for em in ems], [one * shrink for one in wide]
    tall = [em * SHEET_LINE / SHEET_EM for em in ems]
    pitch = page.pitch * short
    block, block_wide = pitch * (len(lines) - 1) + max(tall), max(wide)
    left, top = page.place[0] * (width - block_wide), page.place[1] * max(0.0, height - block)
    for number, (word, own, high) in enumerate(zip(lines, wide, tall, strict=True)):
        start = left + (block_wide - own) / 2 if page.is_centred else left
        # Baselines, not tops, are one pitch apart.
        above = top + number * pitch + (max(tall) - high) * SHEET_BASE / SHEET_LINE
        box = (max(1, round(own)), max(1, round(high)))
        yield Set(word, number, min(round(start), width - box[0]), max(0, min(round(above), height - box[1])), *box)


def write_page(
    canvas: npt.NDArray[np.float32],
    page: Page,
    faces: Faces,
    covered: dict[tuple[Page, int, int], npt.NDArray[np.float32]],
) -> None:
    """Set a page's words on `canvas` (height, width, 3), which holds its paper. `covered` keeps what was set before: a
    page is still."""
    height, width = canvas.shape[:2]
    if (page, height, width) not in covered:
        covered[page, height, width] = _ink(page, faces, height, width)
    canvas += covered[page, height, width][..., None] * (np.asarray(page.ink, np.float32) - canvas)


def _ink(page: Page, faces: Faces, height: int, width: int) -> npt.NDArray[np.float32]:
    """(height, width) in 0..1: how much ink covers each pixel."""
    from PIL import Image

    ink = np.zeros((height, width), np.float32)
    for one in set_lines(page, faces, height, width):
        letters = Image.fromarray(faces.word(page.face, one.word)).resize(
            (one.width, one.height), Image.Resampling.BICUBIC
        )
        small = np.asarray(letters, np.float32) / 255
        place = ink[one.top : one.top + one.height, one.left : one.left + one.width]
        np.maximum(place, small[: place.shape[0], : place.shape[1]], out=place)
    return ink
