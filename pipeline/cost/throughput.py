"""Model seconds from counted work: a throughput model with four coefficients, fitted to passes that were measured.

Promises: coefficients are never negative, and a fit to few or alike passes falls back to fewer of them rather than
to guesses. Knows nothing about where the measurements come from, about money, or about what a pass answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omnidrop.answers import PassCost

TFLOP = 1e12
PASSES_PER_COEFFICIENT = 4
"""Fewer measured passes than this for each coefficient fit their own noise."""


@dataclass(frozen=True)
class MeasuredPass:
    """One clip's question set as it ran: what it cost and how long it took."""

    cost: PassCost
    seconds: float


@dataclass(frozen=True)
class Throughput:
    """Seconds of a clip's pass: `clip_s + encoder + decoder + decode`, each of the three linear in its FLOPs."""

    clip_s: float
    """Of every clip, whatever its size: inputs, launching kernels, reading answers."""
    encoder_s_per_tflop: float
    prefill_s_per_tflop: float
    """Decoder layers, LM head and selection."""
    decode_s_per_tflop: float
    """Text, token by token."""

    def seconds(self, cost: PassCost) -> float:
        """What a pass of this cost takes."""
        return float(_features(cost) @ np.array(self._coefficients))

    @property
    def is_complete(self) -> bool:
        """Whether encoders and decoder take time: every clip has work for both, which noise may hide from the fit."""
        return self.encoder_s_per_tflop > 0 and self.prefill_s_per_tflop > 0

    @property
    def _coefficients(self) -> tuple[float, float, float, float]:
        return self.clip_s, self.encoder_s_per_tflop, self.prefill_s_per_tflop, self.decode_s_per_tflop


def fit(measured: Sequence[MeasuredPass]) -> Throughput:
    """Least squares of the relative error, so that short clips count as much as long ones.

    Coefficients that would be negative, and those of work that no pass had, are left at zero. Where there are fewer
    than `PASSES_PER_COEFFICIENT` passes for each, FLOPs of all kinds share one rate. Raises ValueError without a pass
    that took time.
    """
    passes = [one for one in measured if one.seconds > 0]
    if not passes:
        raise ValueError("a throughput cannot be fitted to no measured pass")
    seconds = np.array([one.seconds for one in passes])
    features = np.array([_features(one.cost) for one in passes])
    if len(passes) < PASSES_PER_COEFFICIENT * np.count_nonzero(features.any(axis=0)):
        rate = _non_negative(features[:, 1:].sum(axis=1, keepdims=True), seconds)[0]
        return Throughput(0.0, rate, rate, rate)
    return Throughput(*_non_negative(features, seconds))


def _features(cost: PassCost) -> npt.NDArray[np.float64]:
    prefill = cost.prefill_flops + cost.selection_flops
    return np.array([1.0, cost.encoder_flops / TFLOP, prefill / TFLOP, cost.decode_flops / TFLOP])


def _non_negative(features: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> list[float]:
    """Coefficients of the relative least squares, the most negative one taken out until none is left."""
    rows = features / seconds[:, None]
    # Columns of like size: seconds per clip and per TFLOP differ by orders of magnitude.
    scale = np.abs(rows).max(axis=0)
    active = np.flatnonzero(scale)
    found = np.zeros(features.shape[1])
    while len(active):
        solution = np.linalg.lstsq(rows[:, active] / scale[active], np.ones(len(rows)), rcond=None)[0]
        if (solution >= 0).all():
            found[active] = solution / scale[active]
            break
        active = np.delete(active, solution.argmin())
    return [float(one) for one in found]
