"""Pages of writing in front of a camera that does not move: slides with a title, lines of text and a table.

Promises: the same page for the same seed, drawn with the font that comes with Pillow. Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from omnidrop.answers import Trace
from omnidrop.models.base import VIDEO

WORDS = ("budget", "heat", "river", "export", "index", "notes", "vector", "clinic", "margin", "signal", "archive")


def page(seed: int, lines: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3): a title, `lines` lines from edge to edge, and a small table below them."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (250, 250, 246))
    draw = ImageDraw.Draw(image)
    rows = lines + 3
    size = height // (rows + 1)

    def words(count: int) -> str:
        return " ".join(WORDS[n] for n in random.integers(0, len(WORDS), count))

    draw.text((6, 2), words(3), fill=(20, 30, 90), font=ImageFont.load_default(size + 2))
    for line in range(lines):
        draw.text((6, (line + 1.5) * size), words(14), fill=(25, 25, 25), font=ImageFont.load_default(size - 2))
    for column in range(5):
        for row in range(2):
            at = (6 + column * width // 5, (lines + 1.7 + row) * size)
            draw.text(at, str(random.integers(10, 9999)), fill=(90, 25, 25), font=ImageFont.load_default(size - 2))
    return np.asarray(image)


def still(pages: Sequence[npt.NDArray[np.uint8]], frames_each: int, noise: float = 0.0) -> npt.NDArray[np.uint8]:
    """Each page in turn for so many frames; `noise` is the standard deviation of a still camera's, in 8-bit levels."""
    shown = np.repeat(np.stack(list(pages)), frames_each, axis=0)
    if not noise:
        return shown
    grain = np.random.default_rng(0).normal(0, noise, shown.shape)
    return np.clip(np.round(shown + grain), 0, 255).astype(np.uint8)


def written(picture: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """(rows, columns): which cells of a page have something written in them."""
    grey: Any = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)
    tall, wide = grey.shape[0] // rows, grey.shape[1] // columns
    cells = grey[: rows * tall, : columns * wide].reshape(rows, tall, columns, wide)
    dark: npt.NDArray[np.bool_] = (cells < 160).mean(axis=(1, 3)) > 0.01
    return dark


def coverage(trace: Trace, tokens: npt.NDArray[np.int64], shown: Sequence[npt.NDArray[np.uint8]]) -> float:
    """Share of the written cells of all pages, each `shown` for as long, that are among `tokens` while it is."""
    patches, rows, columns = (int(n) + 1 for n in trace.grid[trace.modality == VIDEO].max(axis=0))
    at = np.zeros((len(shown), rows, columns), dtype=np.bool_)
    grid = trace.grid[tokens[trace.modality[tokens] == VIDEO]]
    at[grid[:, 0] * len(shown) // patches, grid[:, 1], grid[:, 2]] = True
    text = np.stack([written(one, rows, columns) for one in shown])
    return float((at & text).sum() / text.sum())
