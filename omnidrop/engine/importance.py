"""How much the questions attend to every audio and video token in one layer, and one score for the whole set.

Promises: full-row softmax in float32 over exactly the keys a row sees, without the weights of any other row being
computed. Knows nothing about schedules, policies or how many tokens go.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidrop.pruning import Guidance


def attention_received(
    query: Tensor, key: Tensor, visible: Tensor, owner: Tensor, columns: Tensor, scaling: float, first: int = 0
) -> Tensor:
    """(Q, n) float32: attention each of n tokens receives from each question, mean over its rows and all heads.

    `query` (H, G, d) and `key` (Hkv, K, d) after rotary embedding; `visible` (G, T) bool says which of the last T keys
    a row sees (all see the first K - T); `owner` (Q, G) averages rows into questions; `columns` (n,) are the tokens'
    places among the keys, none before `first`. arXiv 2605.14458: importance is the mean, over the question's text
    tokens and heads, of the post-softmax attention in the current layer.
    """
    heads, rows, width = query.shape
    groups = heads // key.shape[0]
    hidden = ~visible
    received = query.new_zeros((rows, key.shape[1] - first), dtype=torch.float32)
    none = query.new_empty(1)
    # One group of heads at a time bounds memory at (H / Hkv, G, K) floats. These are gone over as seldom as can be:
    # a device spends its time on them. `alpha` scales within the product, in float32.
    for kv in range(key.shape[0]):
        of_group = query[kv * groups : (kv + 1) * groups].reshape(groups * rows, width)
        scores = torch.addmm(none, of_group, key[kv].T, beta=0, alpha=scaling).view(groups, rows, -1)
        scores[..., scores.shape[-1] - hidden.shape[-1] :].masked_fill_(hidden, float("-inf"))
        received += scores.softmax(dim=-1, dtype=torch.float32)[..., first:].sum(dim=0)
    return (owner @ received.index_select(1, columns - first)) / heads


def aggregate(importance: Tensor, guidance: Guidance) -> Tensor:
    """(n,) float32: one score from `importance` (Q, n).

    Questions differ in how much of their attention goes to audio and video at all, so each is first brought to the same
    sum, the questions' mean; one question keeps its values. `max` and `mean` are over questions. `quota` gives each
    question the same share of the budget: a token scores by its best rank with any question, so that the k highest are
    those the questions name when they take turns.
    """
    if importance.shape[0] == 1:
        return importance[0]
    if guidance == "quota":
        order = importance.argsort(dim=1, descending=True, stable=True)
        n = importance.shape[1]
        ranks = torch.empty_like(order).scatter_(1, order, torch.arange(n, device=order.device).expand_as(order))
        best, who = ranks.min(dim=0)
        # Of tokens that several questions rank alike the earlier question's goes first, as in turns.
        return 1.0 - (best * importance.shape[0] + who).float() / (n * importance.shape[0])
    mass = importance.sum(dim=1, keepdim=True)
    even = importance * (mass.mean() / mass.clamp_min(torch.finfo(torch.float32).tiny))
    return even.amax(dim=0) if guidance == "max" else even.mean(dim=0)
