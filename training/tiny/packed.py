"""The decoder on packed rows, without the work that the mask would throw away: questions never look at each other.

Promises: the same numbers as the stock layers under the batch's mask (tested), in about two thirds of the time: a
prefix attends to itself, a question to the prefix and itself. Knows nothing about losses or what rows mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LONG = 32
"""Suffixes of more tokens (timelines) are padded apart from questions."""


@dataclass(frozen=True, eq=False)
class Suffixes:
    """Suffixes of like length: where their tokens stand, and what they may look at."""

    index: Tensor
    """(B, Q, L): columns of the batch; padding points at column 0."""
    mask: Tensor
    """(B * Q, 1, L, P + L) bool: prefix columns, then the suffix's own."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How a batch of packed rows falls into prefixes and suffixes."""

    prefix: int
    """Columns of the longest prefix."""
    suffixes: tuple[Suffixes, ...]
    source: Tensor
    """(B * N): for each token its row among the outputs of the prefix, then of all suffixes."""

    def to(self, device: torch.device) -> Layout:
        """The same on `device`."""
        suffixes = tuple(Suffixes(one.index.to(device), one.mask.to(device)) for one in self.suffixes)
        return Layout(self.prefix, suffixes, self.source.to(device))


def layout_of(group: Tensor) -> Layout:
    """The layout of rows whose tokens belong to `group` (B, N): 0 the prefix, 1.. suffixes, -1 padding."""
    batch, width = group.shape
    lengths = (group == 0).sum(1)
    prefix = int(lengths.max())
    source = torch.zeros(batch, width, dtype=torch.long)
    source[:, :prefix] = torch.arange(batch)[:, None] * prefix + torch.arange(prefix)
    counts = [row[row > 0].bincount()[1:].tolist() for row in group]
    starts = [
        (torch.tensor([0, *found]).cumsum(0)[:-1] + length).tolist()
        for found, length in zip(counts, lengths, strict=True)
    ]
    offset, kinds = batch * prefix, []
    for long in (False, True):
        chosen = [
            [(start, count) for start, count in zip(*row, strict=True) if (count > LONG) == long]
            for row in zip(starts, counts, strict=True)
        ]
        most = max(len(row) for row in chosen)
        if not most:
            continue
        size = max(count for row in chosen for _, count in row)
        index = torch.zeros(batch, most, size, dtype=torch.long)
        real = torch.zeros(batch, most, size, dtype=torch.bool)
        for number, row in enumerate(chosen):
            for which, (start, count) in enumerate(row):
                index[number, which, :count] = torch.arange(start, start + count)
                real[number, which, :count] = True
                source[number, start : start + count] = offset + (number * most + which) * size + torch.arange(count)
        seen = (torch.arange(prefix) < lengths[:, None])[:, None, None].expand(-1, most, size, -1)
        own = torch.ones(size, size, dtype=torch.bool).tril().expand(batch, most, -1, -1)
        mask = torch.cat([seen, own], -1).flatten(0, 1)[:, None]
        kinds.append(Suffixes(index, mask))
        offset += batch * most * size
    return Layout(prefix, tuple(kinds), source.flatten())


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """(B, N, heads, size) queries, (B, N, kv heads, size) keys and values, rotated -> (B, N, heads * size)."""
    batch, width, heads, size = query.shape
    kv_heads = key.shape[2]
    groups = heads // kv_heads
    first = layout.prefix
    query = query.view(batch, width, kv_heads, groups, size)
    ahead = (
        query[:, :first].flatten(2, 3).transpose(1, 2),
        key[:, :first].repeat_interleave(groups, 2).transpose(1, 2),
        value[:, :first].repeat_interleave(groups, 2).transpose(1, 2),
    )
    outputs = [
        _attention(*ahead, torch.ones(first, first, dtype=torch.bool, device=query.device).tril())
        .transpose(1, 2)
        .reshape(-1, heads * size)
    ]
    rows = torch.arange(batch, device=query.device)[:, None, None] * width
    for suffixes in layout.suffixes:
        count, length = suffixes.index.shape[1:]
        chosen = (suffixes.index + rows).flatten()
        asking = query.flatten(0, 1).index_select(0, chosen).view(batch * count, length, kv_heads, groups, size)
        # Heads that share keys become rows of one query.
        asking = asking.permute(0, 2, 3, 1, 4).reshape(batch * count, kv_heads, groups * length, size)
        looked_at = [
            torch.cat(
                [
                    part[:, None, :first].expand(-1, count, -1, -1, -1),
                    part.flatten(0, 1).index_select(0, chosen).view(batch, count, length, kv_heads, size),
                ],
                2,
            )
            .flatten(0, 1)
            .transpose(1, 2)
            for part in (key, value)
        ]
        found = _attention(asking, *looked_at, suffixes.mask.repeat(1, 1, groups, 1))
        found = found.view(batch * count, kv_heads, groups, length, size).permute(0, 3, 1, 2, 4)
        outputs.append(found.reshape(-1, heads * size))
    return torch.cat(outputs).index_select(0, layout.source).view(batch, width, heads * size)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention written out: on CPUs the fused kernel's backward pass takes several times longer."""
    with torch.autocast(query.device.type, enabled=False):
        value = value.to(query.dtype)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value


def layer_forward(layer: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
    """One stock decoder layer; `rotary` as `rotary_of` gives it."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    query, key, value = (
        part(normed).unflatten(-1, (-1, attention.head_dim))
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    hidden = hidden + attention.o_proj(attend(_rotated(query, rotary), _rotated(key, rotary), value, layout))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def rotary_of(decoder: nn.Module, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, N, 1, size) of positions (3, B, N), in the number type that projections come in."""
    kind = torch.bfloat16 if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
    cosines, sines = decoder.rotary_emb(hidden, positions)
    return cosines[:, :, None].to(kind), sines[:, :, None].to(kind)


def _rotated(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cosines, sines = rotary
    left, right = states.chunk(2, -1)
    return states * cosines + torch.cat([-right, left], -1) * sines
