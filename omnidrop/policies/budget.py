"""How many tokens each part of a clip may keep, and schedules of methods that prune at fixed places.

Promises: counts are host integers that sum exactly and never exceed what is there. Knows nothing about which tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omnidrop.errors import PolicyError
from omnidrop.policies.base import Counted
from omnidrop.policies.schedule import Schedule


def checked(retained_ratio: float | None, name: str) -> float:
    """The ratio, which methods without a schedule of their own must be given. Raises PolicyError."""
    if retained_ratio is None:
        raise PolicyError(f"policy {name!r} needs a retained_ratio (for example 0.3)")
    if not 0.0 < retained_ratio <= 1.0:
        raise PolicyError(f"retained_ratio must be above 0 and at most 1, got {retained_ratio:g}")
    return retained_ratio


def solve(
    schedule: Callable[[float], Schedule], low: float, high: float, tokens: Counted, ratio: float, name: str
) -> Schedule:
    """The member of a family of schedules, rising with its parameter, whose mean over layers is nearest to `ratio`.

    Raises PolicyError, naming the floor, where even `low` keeps more.
    """
    least = schedule(low)
    layers = len(least.entering)
    wanted = ratio * tokens.count * layers
    if sum(least.entering) > wanted + layers:
        raise PolicyError(
            f"policy {name!r} cannot reach retained_ratio {ratio:g} with {layers} decoder layers: its floor is "
            f"{least.retained_ratio:.3f}; ask for at least that, or use a policy that prunes before the decoder"
        )
    for _ in range(48):
        middle = (low + high) / 2
        if sum(schedule(middle).entering) <= wanted:
            low = middle
        else:
            high = middle
    return min((schedule(low), schedule(high)), key=lambda s: abs(sum(s.entering) - wanted))


def apportion(score: Tensor, group: Tensor, quota: Tensor, keep: int) -> Tensor:
    """(keep,) ascending indices of n tokens, taken from groups in proportion to `quota`, the best of each group.

    `score` (n,) float32, higher is better; `group` (n,) int64; `quota` (groups,) float32. On the device from start to
    end: a token's rank r in its group and the group's quota q give the order (r + 1/2) / q, of which the `keep` lowest
    stay (Sainte-Laguë), so the sum is exact and a group that runs out leaves its seats to the others.
    """
    n, groups = score.shape[0], quota.shape[0]
    best_first = torch.argsort(score, descending=True, stable=True)
    by_group = best_first[torch.argsort(group[best_first], stable=True)]
    sizes = torch.zeros(groups, dtype=torch.int64, device=score.device).scatter_add_(0, group, torch.ones_like(group))
    starts = torch.cumsum(sizes, 0) - sizes
    rank = torch.empty_like(group)
    rank[by_group] = torch.arange(n, device=score.device) - starts[group[by_group]]
    order = (rank + 0.5) / quota.clamp_min(1e-9)[group]
    return torch.sort(torch.topk(order, keep, largest=False).indices).values
