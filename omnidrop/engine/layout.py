"""Where every token of a packed prompt belongs: one clip's prefix, then the rows of a question set.

Promises: a row sees the prefix and what `question_rows` lets it see. Positions restart after the prefix for each
question, so a packed question reads exactly as it would alone. Knows nothing about layers, pruning or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnidrop.engine.question_rows import Asked, arrange
from omnidrop.models.base import Prefix


@dataclass(frozen=True, eq=False)
class Packed:
    """Q questions' M rows, to follow one prefix."""

    asked: tuple[Asked, ...]
    ids: Tensor
    """(M,) int64."""
    positions: Tensor
    """(3, M), dtype of the prefix's positions."""
    visible: Tensor
    """(M, M) bool: which of these rows a row sees; all see the whole prefix."""
    starts: tuple[int, ...]
    """Q + 1 row numbers: question i has the rows starts[i] to starts[i + 1]."""
    read: Tensor
    """(R,) int64: the rows whose logits are needed, question by question."""
    unread: Tensor
    """(M - R,) int64: all others."""
    reads: tuple[int, ...]
    """Q + 1 numbers: question i's reads are reads[i] to reads[i + 1], its last question row first."""
    guiding: Tensor
    """(G,) int64: the rows of the questions' own words."""
    guiding_owner: Tensor
    """(Q, G) float32: row i averages over question i's guiding rows."""
    last: Tensor
    """(Q,) int64: each question's last row, before its options."""
    pairs: float
    """Query-key pairs among these rows, a row's own key counted half: the causal convention of `cost.py`."""
    read_pairs: float
    """Of these, those of the rows in `read`."""

    @property
    def rows(self) -> int:
        """M."""
        return self.starts[-1]


def pack(prefix: Prefix, asked: Sequence[Asked]) -> Packed:
    """Lay out `asked` behind `prefix`, on the prefix's device."""
    device = prefix.positions.device
    rows = arrange(asked)
    positions = torch.as_tensor(rows.depth).to(prefix.positions.dtype) + prefix.next_position
    return Packed(
        asked=tuple(asked),
        ids=torch.as_tensor(rows.ids, dtype=torch.int64).to(device),
        positions=positions.expand(3, -1).to(device),
        visible=torch.from_numpy(rows.visible).to(device),
        starts=rows.starts,
        read=torch.as_tensor(rows.read, dtype=torch.int64).to(device),
        unread=torch.as_tensor(rows.unread, dtype=torch.int64).to(device),
        reads=rows.reads,
        guiding=torch.as_tensor(rows.guiding, dtype=torch.int64).to(device),
        guiding_owner=torch.from_numpy(rows.guiding_owner).to(device),
        last=torch.as_tensor(rows.last, dtype=torch.int64).to(device),
        pairs=rows.pairs,
        read_pairs=rows.read_pairs,
    )
