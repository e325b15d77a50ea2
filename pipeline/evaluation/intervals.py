"""How sure a figure is: standard errors clustered by clip, and intervals that stay honest near 0 and 1.

Promises: plain numbers in, plain numbers out; questions of one clip are never treated as independent. Knows nothing
about what is measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 1_000
"""Of a bootstrap: percentiles of 2.5 % rest on the 25 outermost."""


@dataclass(frozen=True)
class Mean:
    """A mean over questions with its uncertainty over clips."""

    value: float
    standard_error: float | None
    """Clustered by clip; None with a single clip, which says nothing about others."""
    low: float
    high: float
    """95 % interval."""
    count: int
    clusters: int


def clustered_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean of `values` where values of one cluster may go together.

    sqrt(G / (G - 1) * sum over clusters of (sum of residuals)^2) / n: the linearised ratio estimator, as in cluster
    sampling (Cochran, Sampling Techniques, ch. 9) and in regressions with cluster-robust errors.
    """
    by_cluster: dict[Hashable, float] = defaultdict(float)
    mean = sum(values) / len(values)
    for value, cluster in zip(values, clusters, strict=True):
        by_cluster[cluster] += value - mean
    groups = len(by_cluster)
    if groups < 2:
        return None
    return math.sqrt(groups / (groups - 1) * sum(total**2 for total in by_cluster.values())) / len(values)


def proportion(values: Sequence[bool], clusters: Sequence[Hashable]) -> Mean:
    """A share of right answers with Wilson's interval at the effective sample size p (1 - p) / error^2.

    Where all values agree the error is 0 but nothing is certain: then the clusters count as the sample.
    """
    numbers = [float(value) for value in values]
    mean, groups = sum(numbers) / len(numbers), len(set(clusters))
    error = clustered_error(numbers, clusters)
    size = float(groups)
    if error and 0 < mean < 1:
        size = min(float(len(numbers)), mean * (1 - mean) / error**2)
    low, high = wilson(mean, max(size, 1.0))
    return Mean(mean, error, low, high, len(numbers), groups)


def difference(values: Sequence[float], clusters: Sequence[Hashable]) -> Mean:
    """A mean of paired differences with a normal interval; without an error the interval is all there can be."""
    mean, error = sum(values) / len(values), clustered_error(values, clusters)
    half = math.inf if error is None else Z_95 * error
    return Mean(mean, error, max(-1.0, mean - half), min(1.0, mean + half), len(values), len(set(clusters)))


def bootstrap_ratio(
    over: Sequence[float], under: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """sum(`over`) / sum(`under`) with its 95 % percentile interval; `under` is above 0 in every cluster.

    As many clusters are drawn with replacement as there are, `RESAMPLES` times (Davison and Hinkley, Bootstrap Methods,
    ch. 3.8). No interval with a single cluster.
    """
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    of, groups = [numbers[cluster] for cluster in clusters], len(numbers)
    sums = np.array([np.bincount(of, weights=values, minlength=groups) for values in (over, under)])
    value = float(sums[0].sum() / sums[1].sum())
    if groups < 2:
        return value, None, None
    random = np.random.default_rng(seed)
    drawn = [sums[:, random.integers(0, groups, groups)].sum(axis=1) for _ in range(RESAMPLES)]
    low, high = np.percentile([top / bottom for top, bottom in drawn], [2.5, 97.5])
    return value, float(low), float(high)


def wilson(share: float, size: float) -> tuple[float, float]:
    """95 % interval of a share seen in a sample of `size` (Wilson 1927)."""
    squared = Z_95**2
    middle = (share + squared / (2 * size)) / (1 + squared / size)
    half = Z_95 / (1 + squared / size) * math.sqrt(share * (1 - share) / size + squared / (4 * size**2))
    # Exact at the ends, where rounding would leave a digit of the sixteenth.
    return (0.0 if share == 0 else max(0.0, middle - half)), (1.0 if share == 1 else min(1.0, middle + half))
