"""Which cells of a picture stand still: cells of one place that look like the last one encoded there are its versions.

Promises: a cell is compared with the very cell whose features it would take, so that slow change does not drift past
unseen; only pixels decide. Knows nothing about how many are encoded, or about features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 2
"""A cell is compared by the means of SIDE x SIDE parts of each of its patches, 7 x 7 pixels in the published encoders:
large enough to average out a camera's noise, small enough that a changed letter is not."""


def looks(pixels: Tensor, cells: int, frames: int, deviation: Tensor) -> Tensor:
    """(cells, numbers) float32, in 8-bit levels: the means of the parts of each cell, by channel and frame.

    `pixels` (patches, values) are normalised, as the vision encoder takes them, a cell's patches one after another,
    each of 3 channels of `frames` square frames; `deviation` (3,) is what they were divided by.
    """
    side = round((pixels.shape[1] / (3 * frames)) ** 0.5)
    means = functional.avg_pool2d(pixels.float().view(-1, 3 * frames, side, side), -(-side // SIDE), ceil_mode=True)
    levels = means.view(-1, 3, frames * SIDE * SIDE) * deviation.to(pixels.device)[:, None]
    return levels.reshape(cells, -1)


def versions(looks: Tensor, levels: float) -> Tensor:
    """(T x cells,) int64: for every cell of (T, cells, numbers) `looks` the number of the one that stands for it.

    That is the last one of its place that stood for itself, where no part of it differs by more than `levels` from it;
    else itself.
    """
    patches, cells, _ = looks.shape
    every = torch.arange(patches * cells, device=looks.device).view(patches, cells)
    reference, standing = looks[0], every[0]
    found = [standing]
    for patch in range(1, patches):
        is_still = (looks[patch] - reference).abs().amax(dim=1) <= levels
        reference = torch.where(is_still[:, None], reference, looks[patch])
        standing = torch.where(is_still, standing, every[patch])
        found.append(standing)
    return torch.cat(found)
