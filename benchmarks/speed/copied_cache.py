"""The baselines of a decode step: batched dense decoding in which every question holds its own copy of the prefix.

Promises: the same logits as decoding over one shared dense prefix, from the same weights, in two forms: the strongest
one known, written by hand, and transformers' own as `generate` calls it. Knows nothing about pruning or timing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from benchmarks.speed.random_text_model import RandomTextModel
from omnidrop.engine.state import State

GROWTH = 64
"""Tokens that decoding makes room for."""


def _copies(state: State) -> list[tuple[Tensor, Tensor]]:
    """Each layer's keys and values, (Q, Hkv, P + S, d) each: the prefix again for every question, then its own rows."""
    packed = state.packed
    spans = list(zip(packed.starts[:-1], packed.starts[1:], strict=True))

    def copied(prefix: Tensor, suffix: Tensor) -> Tensor:
        return torch.stack([torch.cat((prefix, suffix[:, start:end]), dim=1) for start, end in spans])

    return [(copied(c.prefix_keys, c.suffix_keys), copied(c.prefix_values, c.suffix_values)) for c in state.caches]


class CopiedDecoder:
    """The strongest form: room for new rows is made beforehand, and the heads of a KV group are rows of one query.

    Steps run under `own_attention`.
    """

    def __init__(self, model: RandomTextModel, state: State) -> None:
        self.model = model
        self.caches = [(F.pad(k, (0, 0, 0, GROWTH)), F.pad(v, (0, 0, 0, GROWTH))) for k, v in _copies(state)]
        self.length = state.alive.shape[0] + state.packed.starts[1]
        self.position = state.clip.prefix.next_position + state.packed.starts[1]

    def step(self, ids: Tensor) -> Tensor:
        """(Q,) -> (Q, vocabulary)."""
        hidden = self.model.embed(ids)[:, None]
        rotary = self.model.rotary(hidden, torch.full((3, len(ids), 1), self.position))
        for number, layer in enumerate(self.model.layers):

            def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, number: int = number) -> Tensor:
                keys, values = self.caches[number]
                keys[:, :, self.length], values[:, :, self.length] = key[:, :, 0], value[:, :, 0]
                seen = slice(0, self.length + 1)
                folded = query.view(len(ids), key.shape[1], -1, query.shape[-1])
                out = F.scaled_dot_product_attention(folded, keys[:, :, seen], values[:, :, seen], scale=scaling)
                return out.reshape(len(ids), 1, -1, query.shape[-1])

            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, omnidrop=attend)
        self.length, self.position = self.length + 1, self.position + 1
        logits: Tensor = self.model.lm_head(self.model.norm(hidden[:, 0]))
        return logits.float()


class StockDecoder:
    """Transformers' own: its text model, its `DynamicCache`, its SDPA attention, called as `generate` calls them.

    `padding` columns in front of every prompt are there but not read, as when prompts of different lengths are batched;
    transformers then picks another attention path (heads folded, with a mask) than for prompts of one length (grouped
    queries, no mask). Steps run outside `own_attention`.
    """

    def __init__(self, model: RandomTextModel, state: State, padding: int = 0) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)  # type: ignore[arg-type]
        for layer, pair in enumerate(_copies(state)):
            keys, values = (F.pad(rows, (0, 0, padding, 0)) for rows in pair)
            self.cache.update(keys, values, layer)
        questions, length = keys.shape[0], keys.shape[2]
        self.read = torch.ones(questions, length, dtype=torch.int64)
        self.read[:, :padding] = 0
        self.positions = torch.full((3, questions, 1), state.clip.prefix.next_position + state.packed.starts[1])

    def step(self, ids: Tensor) -> Tensor:
        """(Q,) -> (Q, vocabulary)."""
        self.read = F.pad(self.read, (0, 1), value=1)
        out: Any = self.model.model(
            input_ids=ids[:, None],
            attention_mask=self.read,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions = self.positions + 1
        logits: Tensor = self.model.lm_head(out.last_hidden_state[:, -1])
        return logits.float()
