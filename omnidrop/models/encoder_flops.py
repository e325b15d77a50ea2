"""What parts of the vision and audio encoders cost in FLOPs, from counts.

Promises: host arithmetic without torch, by the convention of `omnidrop.cost`. Knows nothing about families.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence


def linear_flops(rows: int, *widths: tuple[int, int]) -> int:
    """2 FLOPs per multiply-add of `rows` rows through matrices of (in, out) `widths`."""
    return sum(2 * rows * a * b for a, b in widths)


def attention_flops(lengths: Sequence[int], width: int) -> int:
    """Scores and weighted sums of blocks that attend within themselves, both ways (not causal): 4 L^2 D each."""
    return sum(4 * length * length * width for length in lengths)


def block_flops(cells: int, patches: int, per_patch: int, blocks: Sequence[int], per_cell: int, width: int) -> int:
    """Attention of one layer inside `blocks` (their sizes) of temporal patches of `per_patch` cells, `cells` encoded.

    Which are encoded is not known before; they are counted as close together as they can be: windows of as many
    temporal patches as hold one picture's cells between them get their share, and fill whole patches and whole blocks
    with it. In the published encoder, at 35 %, that is 1 % more than where they are spread evenly.
    """
    if not cells:
        return 0
    total = patches * per_patch
    window = -(-total // cells)
    ends = [min(patches, begin + window) for begin in range(0, patches, window)]
    shares = itertools.pairwise([0, *(cells * end // patches for end in ends)])
    counts = Counter(after - before for before, after in shares)
    return sum(times * _closest_flops(share, per_patch, blocks, per_cell, width) for share, times in counts.items())


def _closest_flops(cells: int, per_patch: int, blocks: Sequence[int], per_cell: int, width: int) -> int:
    whole, rest = divmod(cells, per_patch)
    flops = whole * attention_flops([per_cell * size for size in blocks], width)
    for size in sorted(blocks, reverse=True):
        taken = min(size, rest)
        rest -= taken
        flops += attention_flops([per_cell * taken], width)
    return flops
