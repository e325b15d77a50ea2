"""Tokens that do not enter the decoder and are read all the same: their hidden states, which follow those that enter.

Promises: a token left out costs a layer its keys and values alone; its hidden state moves as that of the entering token
that covers it best, until that one leaves. Nothing waits for the device after `of`. Knows nothing about attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnidrop.models.base import Adapter, Prefix


@dataclass(frozen=True, eq=False)
class LeftOut:
    """L tokens that did not enter, before some layer. Never changed in place: questions may share them."""

    places: Tensor
    """(L,) int64: where they are in the prefix."""
    hidden: Tensor
    """(1, L, D)."""
    rotary: tuple[Tensor, Tensor]
    """cos and sin of their own positions, (1, L, d) each."""
    follows: Tensor
    """(L,) int64: the entering token that each moves with, numbered among those before any pruning; -1: none."""

    @classmethod
    def of(cls, adapter: Adapter, prefix: Prefix, places: Tensor, follows: Tensor) -> LeftOut:
        """Before layer 0: each with its own features, which nothing has joined."""
        hidden = prefix.embeddings.index_select(0, places)[None]
        positions = prefix.positions.index_select(1, places)
        return cls(places, hidden, adapter.rotary(hidden, positions[:, None, :]), follows)

    @property
    def count(self) -> int:
        """L."""
        return self.places.shape[0]

    def after(self, moves: Tensor, index: Tensor, deepstack: Tensor | None) -> LeftOut:
        """Behind a layer that changed the hidden states of the tokens numbered `index` (n,), ascending, by `moves`
        (n, D). `deepstack` (N, D), of the whole prefix, is added as to those that entered: each token's own."""
        hidden = self.hidden
        if index.shape[0]:
            at = torch.searchsorted(index, self.follows).clamp_max_(index.shape[0] - 1)
            is_there = index.index_select(0, at) == self.follows
            # Whoever follows nobody that is still there moves by a last row of zeros.
            moves = torch.cat((moves, torch.zeros_like(moves[:1])))
            hidden = moves.index_select(0, torch.where(is_there, at, index.shape[0])).add_(hidden[0])[None]
        if deepstack is not None:
            hidden = hidden + deepstack.index_select(0, self.places)
        return replace(self, hidden=hidden)
