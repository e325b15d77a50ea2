"""What attends to what in a packed prefill, and the attention that is looked at to prune.

Promises: the prefix is causal; questions see the prefix, themselves, and what did not enter where the policy has it
read. Weights are computed again only for the rows that guide. Knows nothing about when tokens leave, or about families
beyond `Adapter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from omnidrop.engine import cpu_attention
from omnidrop.engine.importance import attention_received
from omnidrop.engine.layout import Packed
from omnidrop.engine.state import LayerCache, State
from omnidrop.models.base import AUDIO, Adapter

ATTENTION = "omnidrop"
"""Name under which our attention is registered. It has no mask function, so transformers builds no mask."""


class Attend(Protocol):
    """What a layer call brings along: attention over (B, H, S, d) queries, (B, Hkv, S, d) keys -> (B, S, H, d)."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor: ...


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    omnidrop: Attend,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    return omnidrop(query, key, value, scaling), None


@contextmanager
def own_attention(adapter: Adapter) -> Iterator[None]:
    """Route the decoder's attention through the object each layer call brings, and put the model back afterwards."""
    # Here, because it takes three seconds, and planning, which prices what this module would do, needs no model.
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    config = adapter.layers[0].self_attn.config  # type: ignore[union-attr]
    before = config._attn_implementation  # type: ignore[union-attr]
    config._attn_implementation = ATTENTION  # type: ignore[union-attr]
    try:
        yield
    finally:
        config._attn_implementation = before  # type: ignore[union-attr]


@dataclass(frozen=True, eq=False)
class Guiding:
    """The rows whose attention says what matters."""

    rows: Tensor
    """(G,) int64 of all rows."""
    visible: Tensor
    """(G, T) bool: which of the last T keys each sees; all see those before."""
    owner: Tensor
    """(Q, G) float32: averages rows into questions."""
    are_questions: bool = True
    """Whether they are rows of the suffix."""

    def over_suffix(self, prefix_rows: int, suffix: int) -> Tensor:
        """(Q, M) float32: `owner` of all the suffix's M rows, where questions guide."""
        every = self.owner.new_zeros((self.owner.shape[0], suffix))
        return every.index_add_(1, self.rows - prefix_rows, self.owner)

    @classmethod
    def words(cls, packed: Packed, prefix_rows: int) -> Guiding:
        """Every question's own words."""
        return cls(packed.guiding + prefix_rows, packed.visible.index_select(0, packed.guiding), packed.guiding_owner)

    @classmethod
    def questions(cls, packed: Packed, prefix_rows: int) -> Guiding:
        """Every question's own words, and for as much its last row: deep layers read there what is answered."""
        rows = torch.cat((packed.guiding, packed.last))
        answers = torch.eye(len(packed.asked), device=rows.device)
        owner = torch.cat((packed.guiding_owner, answers), dim=1) / 2
        return cls(rows + prefix_rows, packed.visible.index_select(0, rows), owner)

    @classmethod
    def of(cls, state: State, columns: Tensor) -> Guiding | None:
        """What the state's policy looks at; `columns` are the rows of the audio and video tokens still there."""
        packed, prefix_rows = state.packed, state.alive.shape[0]
        if state.policy.guide in ("nothing", "states"):
            return None
        if state.policy.guide == "question":
            return cls.questions(packed, prefix_rows)
        if state.policy.guide == "words":
            return cls.words(packed, prefix_rows)
        if state.policy.guide == "last":
            last = packed.last
            owner = torch.eye(len(packed.asked), device=last.device)
            return cls(last + prefix_rows, packed.visible.index_select(0, last), owner)
        # The audio tokens themselves: an ablation, whose count waits for the device.
        heard = columns[state.clip.av.modality[state.index] == AUDIO]
        everything = torch.arange(prefix_rows + packed.rows, device=heard.device)
        owner = torch.full((1, heard.shape[0]), 1.0 / max(heard.shape[0], 1), device=heard.device)
        before = F.pad(everything[None] <= heard[:, None], (state.read, 0))  # media do not read what was left out
        return cls(heard, before, owner, are_questions=False)


@dataclass(frozen=True, eq=False)
class Left:
    """What one layer's attention leaves behind of one clip."""

    cache: LayerCache
    importance: Tensor | None
    """(Q, n), where the layer's output is to be pruned."""
    watched: Tensor | None
    """(Q, n), where the state records it."""


def branches(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    scaling: float,
    looked: cpu_attention.Looked | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(B, H, R, d) over (B, Hkv, K, d): `visible` (R, T) bool says which of the last T keys a row sees; all see those
    before -> (B, H, R, d). And what is `looked` at, where the kernel has it anyway."""
    if cpu_attention.is_faster(query):
        return cpu_attention.branches(query, key, value, ~visible, scaling, looked)
    # Lower-right alignment written out: with `is_causal` and more keys than queries, SDPA aligns upper-left. The heads
    # of a group stand as rows of one query, because SDPA with a mask and grouped heads falls back to its slowest kernel
    # on CUDA.
    clips, heads, rows, width = query.shape
    kv = key.shape[1]
    seen = F.pad(visible, (key.shape[2] - visible.shape[1], 0), value=True).repeat(heads // kv, 1)
    folded = query.reshape(clips, kv, heads // kv * rows, width)
    answer = F.scaled_dot_product_attention(folded, key, value, attn_mask=seen, scale=scaling)
    return answer.reshape(clips, heads, rows, width), None


class PrefillAttention:
    """Attention of one layer in a packed prefill of B clips that have the same questions and as many rows."""

    def __init__(
        self,
        states: Sequence[State],
        guides: Sequence[Guiding | None],
        columns: Sequence[Tensor],
        read: tuple[Tensor, Tensor] | None,
    ) -> None:
        """`read`: keys and values (B, Hkv, L, d) of what was left out."""
        self.states = states
        self.guides = guides
        self.columns = columns
        self.read = read
        self.left: list[Left] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        packed, rows = self.states[0].packed, self.states[0].alive.shape[0]
        suffix, grouped = packed.rows, query.shape[1] != key.shape[1]
        parts = (query[:, :, :rows], key[:, :, :rows], value[:, :, :rows])
        if self.read is not None:
            key, value = (torch.cat(both, dim=2) for both in zip(self.read, (key, value), strict=True))
        if cpu_attention.is_faster(query):
            prefix = cpu_attention.causal(*parts, scaling)
        else:
            prefix = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scaling, enable_gqa=grouped)
        looked = self._looked(rows, suffix)
        answer, received = branches(query[:, :, rows:], key, value, packed.visible, scaling, looked)
        # One clip after another: few rows guide, and their weights over all keys are what would take memory.
        known = (None,) * len(self.states) if received is None else received.unbind()
        each = zip(range(len(self.states)), query, key, value, known, strict=True)
        self.left = [self._leave(*one, scaling=scaling) for one in each]
        return torch.cat((prefix, answer), dim=2).transpose(1, 2)

    def _looked(self, rows: int, suffix: int) -> cpu_attention.Looked | None:
        """What questions guide by; clips of one pass have the same, so one clip's guide is every one's."""
        guide = self.guides[0]
        if guide is None or not guide.are_questions:
            return None
        return cpu_attention.Looked(guide.over_suffix(rows, suffix), self.states[0].read)

    def _leave(
        self, number: int, query: Tensor, key: Tensor, value: Tensor, known: Tensor | None, *, scaling: float
    ) -> Left:
        """`known` (Q, K - L): what the guides' attention gave to each key behind those read, where it is known."""
        state = self.states[number]
        rows, seen_rows = state.alive.shape[0], key.shape[1] - state.packed.rows
        columns = self.columns[number] + state.read

        def received(by: Guiding | None) -> Tensor | None:
            if by is None:
                return None
            guiding = query.index_select(1, by.rows)
            return attention_received(guiding, key, by.visible, by.owner, columns, scaling, first=state.read)

        guide = self.guides[number]
        importance = received(guide) if known is None else known.index_select(1, self.columns[number])
        return Left(
            cache=LayerCache(key[:, :seen_rows], value[:, :seen_rows], key[:, seen_rows:], value[:, seen_rows:]),
            importance=importance,
            watched=None if state.watched is None else received(Guiding.words(state.packed, rows)),
        )
