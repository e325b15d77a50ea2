"""A decoder layer's keys and values without the rest of it: what a token costs that is read and does not look itself.

Promises: what the stock layer would compute for the same rows, in both families. Knows nothing about who reads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def keys_and_values(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, S, D) that enter `layer`, cos and sin (B, S, d) -> keys after rotary embedding and values, (B, Hkv, S, d)."""
    attention = layer.self_attn
    rows = layer.input_layernorm(hidden)
    by_head = (*hidden.shape[:2], -1, attention.head_dim)
    keys, values = attention.k_proj(rows).view(by_head), attention.v_proj(rows).view(by_head)
    if (norm := getattr(attention, "k_norm", None)) is not None:  # Qwen3-Omni's
        keys = norm(keys)
    keys = keys.transpose(1, 2)
    first, second = keys.chunk(2, dim=-1)
    cos, sin = (part[:, None] for part in rotary)
    return keys * cos + torch.cat((-second, first), dim=-1) * sin, values.transpose(1, 2)
