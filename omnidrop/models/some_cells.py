"""Encoding a part of a picture's cells with the stock vision encoder: what it must be told, and what that costs.

Promises: a chosen cell keeps its row and column; it attends to the chosen cells of its temporal patch (in windows, of
its window), as if the others had been masked; no forward of the stock encoder is copied. Knows nothing about how cells
are chosen. A cell is a token to be: `merge` x `merge` patches of one temporal patch.

The stock encoder takes what it would compute from the grid as keyword arguments instead, under names that it pops: a
name it does not know is swallowed in silence and the whole grid's value computed, which then does not fit (or, worse,
does). `tests/omnidrop/test_some_cells.py` holds its outcome against an encoder that masks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from omnidrop.models.encoders import PatchPlan


@dataclass(frozen=True, eq=False)
class SeenCells:
    """What is known of a picture's cells before they are encoded, by temporal patch."""

    means: list[Tensor]
    """(cells, D) each: the means of a cell's embedded patches."""
    looks: list[Tensor]
    """(cells, numbers) each: see `still_cells.looks`. Empty if not requested."""
    pixels: Tensor | None
    """(temporal patches x cells, pixels of a cell), model dtype, where they are few."""


@dataclass(frozen=True, eq=False)
class EncodedCells:
    """A picture whose cells were encoded, all or some."""

    plan: PatchPlan
    there: Tensor | None
    """(cells,) bool, on the host: which have features, their own or their version's. None where each has its own."""
    versions: Tensor | None
    """(cells,) int64, on the host: as `Prefix.versions`."""
    features: list[Tensor]
    """(cells that have some, D), those for deepstack, and last the attention received (cells that have some,)."""
    flops: int


def cells_key(patch: bytes, chosen: Tensor) -> bytes:
    """The key of the features that the `chosen` (cells,) of a temporal patch get; `patch` is its pixels' key.

    Features depend on the choice, and that on the whole clip (rarity): another choice is another key.
    """
    return hashlib.sha256(patch + bytes(chosen.to(torch.uint8).tolist())).digest()


def bounds(lengths: Tensor) -> Tensor:
    """(blocks + 1,) int32 cumulated lengths; an empty block, which the stock attention does not bear, is left out."""
    there = lengths[lengths > 0].cumsum(0).to(torch.int32)
    return torch.cat([there.new_zeros(1), there])


def encoder_words(grid: tuple[int, int, int], chosen: Tensor, merge: int) -> dict[str, Any]:
    """Keyword arguments by which a vision encoder places the `chosen` (temporal patches, cells), on the host.

    `grid` counts patches before merging: it stays the whole picture's, since nothing but positions is made of it.
    """
    rows = chosen.flatten().repeat_interleave(merge**2)
    lengths = chosen.sum(dim=1) * merge**2
    return {
        "position_ids": get_vision_position_ids(torch.tensor([grid]), merge)[rows],
        "cu_seqlens": bounds(lengths),
        # Given, because it is fetched from the device where it is not.
        "max_seqlen": int(lengths.max()),
    }


def window_words(grid: tuple[int, int, int], chosen: Tensor, merge: int, window: int, patch: int) -> dict[str, Any]:
    """Those for an encoder with windows of `window` pixels: the chosen cells' order window by window, and bounds."""
    order, ends = get_vision_window_index(
        torch.tensor([grid]), spatial_merge_size=merge, window_size=window, patch_size=patch
    )
    sizes = torch.diff(ends) // merge**2
    of_window = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    there = chosen.flatten()[order]
    # Rows are numbered among the chosen, in the picture's order.
    number = torch.cumsum(chosen.flatten(), dim=0) - 1
    lengths = torch.bincount(of_window[there], minlength=len(sizes)) * merge**2
    return {
        "window_index": number[order[there]],
        "cu_window_seqlens": bounds(lengths),
        "max_window_seqlen": int(lengths.max()),
    }
