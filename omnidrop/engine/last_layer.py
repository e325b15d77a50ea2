"""The last layer of a packed prefill: nobody looks at what leaves it but where answers are read.

Promises: the logits and caches of the whole layer, of which only the rows that answers are read from are computed; of
all others keys and values, because decoding looks at them. Knows nothing about pruning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnidrop.cost import LayerWork
from omnidrop.engine.attention import Guiding, branches
from omnidrop.engine.importance import attention_received
from omnidrop.engine.state import LayerCache, State, together
from omnidrop.models.base import Adapter


def run_last_layer(adapter: Adapter, states: Sequence[State]) -> None:
    """Finish the states, which are before that layer and have the same questions and counts."""
    packed, prefix_rows, layer = states[0].packed, states[0].alive.shape[0], len(adapter.layers) - 1
    entering = together([(state.hidden, *state.rotary) for state in states])
    prefix = torch.arange(prefix_rows, device=packed.unread.device)
    alone = _rows(entering, torch.cat((prefix, packed.unread + prefix_rows)))
    if states[0].left_out is not None:
        left_out = together([(one.hidden, *one.rotary) for state in states if (one := state.left_out) is not None])
        alone = tuple(torch.cat(both, dim=1) for both in zip(left_out, alone, strict=True))
    attend = _LastAttention(states, adapter.keys_and_values(layer, alone[0], (alone[1], alone[2])))
    hidden, cos, sin = _rows(entering, packed.read + prefix_rows)
    hidden = adapter.layers[layer](hidden, attention_mask=None, position_embeddings=(cos, sin), omnidrop=attend)
    work = LayerWork(prefix_rows, packed.rows, packed.pairs, 0, states[0].read)
    for number, state in enumerate(states):
        state.hidden = hidden[number : number + 1]
        state.entered.append(state.index)
        state.work.append(work.as_last(packed.reads[-1], packed.read_pairs))
        state.layer = layer + 1
    if states[0].watched is not None:
        hidden, cos, sin = _rows(entering, packed.guiding + prefix_rows)
        record = _Recording(states)
        adapter.layers[layer](hidden, attention_mask=None, position_embeddings=(cos, sin), omnidrop=record)


class _LastAttention:
    """Attention of the rows that answers are read from, which leaves B clips' caches."""

    def __init__(self, states: Sequence[State], alone: tuple[Tensor, Tensor]) -> None:
        """`alone`: keys and values (B, Hkv, L + P + M - R, d) of what was left out, the prefix and the other rows."""
        self.states, self.alone = states, alone

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        packed = self.states[0].packed
        order = torch.cat((packed.unread, packed.read))
        visible = packed.visible.index_select(0, packed.read).index_select(1, order)
        key, value = (torch.cat(both, dim=2) for both in zip(self.alone, (key, value), strict=True))
        answer, _ = branches(query, key, value, visible, scaling)
        seen_rows, back = key.shape[2] - packed.rows, order.argsort()
        for number, state in enumerate(self.states):
            prefix = (part[number, :, :seen_rows] for part in (key, value))
            suffix = (part[number, :, seen_rows:].index_select(1, back) for part in (key, value))
            state.caches.append(LayerCache(*prefix, *suffix))
        return answer.transpose(1, 2)


class _Recording:
    """In place of attention of the questions' own words: what they look at is written down, and nothing is read."""

    def __init__(self, states: Sequence[State]) -> None:
        self.states = states

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        for state, words in zip(self.states, query, strict=True):
            assert state.watched is not None
            keys = torch.cat((state.caches[-1].prefix_keys, state.caches[-1].suffix_keys), dim=1)
            by, columns = Guiding.words(state.packed, 0), state.places + state.read
            state.watched.append(attention_received(words, keys, by.visible, by.owner, columns, scaling))
        return torch.zeros_like(query).transpose(1, 2)


def _rows(parts: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.index_select(1, rows) for part in parts)
