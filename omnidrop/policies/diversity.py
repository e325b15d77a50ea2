"""The temporal diversity score: in deep layers, of the least important tokens those far from the best moment stay.

Promises: exact counts, no wait for the device. Knows nothing about layers, schedules or how importance was measured.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep(score: Tensor, chunk: Tensor, count: int, weight: float, chunks: int, *, normalised: bool) -> Tensor:
    """(count,) ascending indices of the tokens that stay, of n with `score` (n,) float32 and `chunk` (n,) int64.

    arXiv 2605.14458, temporal diversity: with k = n - count to go, the candidates are the 2 k lowest; of these the k
    lowest of `score + weight * |c_max - c| / max(chunk)` go, where c_max is the chunk of the best token.

    As printed, attention over n tokens averages 1 / n while the distance term reaches `weight` = 0.2, so the distance
    alone decides. `normalised` scales the candidates' scores to 0..1 first, so that both terms count.
    """
    n = score.shape[0]
    going = n - count
    if not going or not count:
        return torch.arange(count, device=score.device)
    candidates = torch.topk(score, min(2 * going, n), largest=False).indices
    of_candidates = score[candidates]
    if normalised:
        low, high = of_candidates.amin(), of_candidates.amax()
        of_candidates = (of_candidates - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    key_chunk = chunk.index_select(0, score.argmax().view(1))
    distance = (chunk.index_select(0, candidates) - key_chunk).abs().float() / max(chunks - 1, 1)
    goes = candidates[torch.topk(of_candidates + weight * distance, going, largest=False).indices]
    gone = torch.zeros(n, dtype=torch.int8, device=score.device).scatter_(0, goes, 1)
    return torch.argsort(gone, stable=True)[:count]
