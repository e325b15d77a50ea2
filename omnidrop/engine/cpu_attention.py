"""Attention in bfloat16 on a CPU, written out as large matrix products over blocks of rows.

Promises: what `scaled_dot_product_attention` gives to the rounding of scores and weights to bfloat16 (as transformers'
eager attention rounds them), in a third of its time: torch's kernel multiplies in small tiles that AVX-512's bfloat16
products do not fill, 0.81 s against 0.26 s a layer of Qwen2.5-Omni-3B at 4,040 tokens. Used where that was measured:
`is_faster`. What keys receive from some rows is summed from the same weights. Knows nothing about pruning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 1024
"""Of one product: 128 tokens of 8 heads. Scores of so many rows over 4,000 keys stay in a core's caches."""


def is_faster(query: Tensor) -> bool:
    """Whether attention for `query` is faster this way. AMX fills the tiles of torch's kernel, so it is not there."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.12 does not say
    return bool(has.get("avx512_bf16")) and not has.get("amx_bf16")


def causal(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """(B, H, S, d) over (B, Hkv, S, d): each row sees the rows up to itself -> (B, H, S, d)."""
    later = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu_(1)
    return _in_blocks(query, key, value, later, scaling, is_causal=True)[0]


@dataclass(frozen=True, eq=False)
class Looked:
    """Which rows' attention is looked at, and at which keys."""

    owner: Tensor
    """(Q, M) float32: averages the M rows into questions."""
    first: int
    """The first key of which it is asked what it receives."""


def branches(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scaling: float, looked: Looked | None = None
) -> tuple[Tensor, Tensor | None]:
    """(B, H, M, d) over (B, Hkv, K, d): `hidden` (M, T) bool says which of the last T keys a row does not see; all see
    those before -> (B, H, M, d).

    And (B, Q, K - first) float32, where it is looked at: what each of these keys receives from each question, mean over
    heads. As `omnidrop.engine.importance.attention_received`, but for weights rounded as they are used.
    """
    return _in_blocks(query, key, value, hidden, scaling, is_causal=False, looked=looked)


def _in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor,
    scaling: float,
    *,
    is_causal: bool,
    looked: Looked | None = None,
) -> tuple[Tensor, Tensor | None]:
    clips, heads, rows, width = query.shape
    kv, before = key.shape[1], key.shape[2] - hidden.shape[1]
    groups = heads // kv
    step = max(64, ROWS // groups)
    out = torch.empty((clips, rows, kv, groups, width), dtype=query.dtype)
    received = (
        None if looked is None else looked.owner.new_zeros(clips, looked.owner.shape[0], key.shape[2] - looked.first)
    )
    none = query.new_empty(1)
    for start in range(0, rows, step):
        end = min(start + step, rows)
        count = before + end if is_causal else key.shape[2]
        own = hidden[start:end, start if is_causal else 0 : count - before]
        for clip in range(clips):
            for head in range(kv):
                of_group = query[clip, head * groups : (head + 1) * groups, start:end].reshape(-1, width)
                # `alpha` scales within the product, in float32.
                scores = torch.addmm(none, of_group, key[clip, head, :count].T, beta=0, alpha=scaling)
                seen = scores.view(groups, end - start, count)
                seen[..., count - own.shape[1] :].masked_fill_(own, float("-inf"))
                weights = scores.softmax(dim=-1)
                if looked is not None and received is not None:
                    of_heads = weights.view(groups, end - start, count)[..., looked.first :]
                    of_rows = of_heads.sum(dim=0, dtype=torch.float32)
                    received[clip].addmm_(looked.owner[:, start:end], of_rows, alpha=1.0 / heads)
                weighted = torch.mm(weights, value[clip, head, :count])
                out[clip, start:end, head] = weighted.view(groups, end - start, width).transpose(0, 1)
    return out.view(clips, rows, heads, width).transpose(1, 2), received
