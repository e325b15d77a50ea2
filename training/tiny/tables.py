"""Pages with rules and columns, for the picture encoder alone: lines of a word or two, a rule under the title or under
every line, one between the columns.

Promises: labels as for other pages, and the column of every cell of a written word. World v3 shows no such page and
asks nothing about one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from pipeline.toy_world.truth import WORDS
from pipeline.toy_world.writing import SHEET_EM, SHEET_LINE, Faces, Set
from training.tiny.encoders import CELL, frame_size
from training.tiny.samples import FIRST_WRITTEN, IGNORED, Pictures, frame_source, names_on, resize, roughen

RULES = ("none", "title", "lines", "lines and columns")


def table_batch(
    rng: np.random.Generator, count: int, faces: Faces, rules: str | None = None, columns: int | None = None
) -> Pictures:
    """`count` still frame pairs, all wider than high, of one or two columns and two or three lines; `rules` (one of
    RULES) and `columns` fix what is otherwise drawn."""
    source = (1, 1)
    while source[1] <= source[0]:
        source = frame_source(rng, float(rng.uniform(1, 1.35)))
    height, width = frame_size(source[0] * 4, source[1] * 4)
    down, across = height // CELL, width // CELL
    frames, names, found = [], [], np.full((count, down * across), IGNORED, np.int64)
    for number in range(count):
        ruled = RULES[int(rng.integers(len(RULES)))] if rules is None else rules
        frame, cells = _table(rng, faces, ruled, columns or int(rng.choice([1, 2])), *source)
        frames.append(frame)
        names.append(names_on([one for one, _ in cells], *source, down, across))
        if any(column for _, column in cells):
            for one, column in cells:
                found[number, names[-1][0] == FIRST_WRITTEN + WORDS.index(one.word)] = column
    pairs = torch.from_numpy(np.stack(frames))[:, None].expand(-1, 2, -1, -1, -1).contiguous()
    shapes, colours, places = torch.from_numpy(np.stack(names, 1))[:, :, None].expand(-1, -1, 2, -1)
    pictures = Pictures(resize(roughen(pairs, rng), height, width), shapes, colours, places)
    return replace(pictures, columns=torch.from_numpy(found))


def _table(
    rng: np.random.Generator, faces: Faces, rules: str, columns: int, height: int, width: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[Set, int]]]:
    """One frame (height, width, 3), and where each word stands in it, with its column."""
    from PIL import Image

    short, face = min(height, width), int(rng.integers(len(faces.spans)))
    em = rng.uniform(0.15, 0.19 if columns == 1 else 0.17) * short
    lines = int(rng.integers(2, 4))
    words = [str(word) for word in rng.choice(WORDS, lines * columns, replace=False)]
    pitch, thick = rng.uniform(0.27, 0.31) * short, max(1, round(rng.uniform(0.008, 0.018) * short))
    top = rng.uniform(0.02 * height, max(0.03 * height, height - pitch * (lines - 1) - em * 1.4))
    left, tall = rng.uniform(0.01, 0.05), SHEET_LINE * em / SHEET_EM
    ink, cells = np.zeros((height, width), np.float32), []
    for line in range(lines):
        for column in range(columns):
            word = words[line * columns + column]
            drawn = faces.word(face, word)
            wide = drawn.shape[1] * em / SHEET_EM
            shrink = min(1, (0.46 if columns == 2 else 0.92) * width / wide)
            box = round(wide * shrink), round(tall * shrink)
            x = min(round(width * (left + column * 0.5)), width - box[0])
            y = min(max(0, round(top + line * pitch)), height - box[1])
            small = Image.fromarray(drawn).resize(box, Image.Resampling.BICUBIC)
            place = ink[y : y + box[1], x : x + box[0]]
            np.maximum(place, np.asarray(small, np.float32) / 255, out=place)
            cells.append((Set(word, line, x, y, *box), column))
        below = round(top + line * pitch + em * 1.32)
        if rules != "none" and (line == 0 or rules != "title") and below < height - thick:
            ink[below : below + thick, round(0.01 * width) : round(0.99 * width)] = 1
    if rules == "lines and columns" and columns == 2:
        between = round(width * (left + 0.485))
        ink[round(top) : min(height, round(top + pitch * lines)), between : between + thick] = 1
    dark, light = rng.uniform(0, 70, 3), rng.uniform(185, 255, 3)
    pen, paper = (dark, light) if rng.random() < 0.65 else (light, dark)
    return (paper + (pen - paper) * ink[..., None]).clip(0, 255).astype(np.uint8), cells
