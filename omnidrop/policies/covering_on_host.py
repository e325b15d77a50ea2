"""Tokens chosen one by one where the tensors are the host's own, which then knows at every step what was chosen.

Promises: the tokens that `covering_on_device` chooses, but for how sums are rounded. What a token adds only falls while
others are chosen, so few are looked at again (lazy greedy, Minoux 1978). In NumPy, because each step takes
microseconds, and a call of torch's as many as the step. Knows nothing about modalities or devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omnidrop.policies.covering import REACH, STILL, Band, highest_alone, lowered

LOOKED_AT = 16
"""Tokens of a window that are looked at together, those that could add most."""


def greedy_on_host(bands: list[Band], keep: int, *, first: bool = True) -> Tensor:
    """(keep,) indices; see `covering_on_device.greedy_on_device`."""
    covering = [_Covering(band, first=first) for band in bands]
    left = min(keep, sum(band.count for band in bands))
    accepted = most = highest_alone(bands)
    while left:
        before, highest = left, -1.0
        for one in covering:
            for windows in one.phases:
                gains = sorted(((*one.best(window, accepted), window) for window in windows), reverse=True)
                highest = max(highest, gains[0][0])
                for _, slot, window in [gain for gain in gains if gain[0] >= accepted][:left]:
                    one.take(window, slot)
                    left -= 1
        if left == before:
            accepted = lowered(accepted, highest, covering, most)
    return torch.tensor([token for one in covering for token in one.chosen], dtype=torch.int64)


class _Covering:
    """What of one band is chosen, and how far it covers."""

    def __init__(self, band: Band, *, first: bool) -> None:
        self.chosen: list[int] = []
        """Indices into the clip's tokens."""
        self.phases = [range(start, len(band.real), REACH + 1) for start in range(min(REACH + 1, len(band.real)))]
        """Windows of which none covers another's tokens."""
        self._members, self._kernel = band.members.numpy(), band.kernel.numpy()
        self._weight = band.weight.numpy().reshape(-1)
        self._covered = np.zeros_like(self._weight)
        self._most = np.full(band.real.shape, -1.0, dtype=np.float32)
        """(W, M): what each token added when it was last looked at; -1 of those that may not be chosen."""
        self._is_known = np.ones(band.real.shape, dtype=np.bool_)
        """(W, M): whether nothing near it was chosen since."""
        may = (band.first_moments() if first else band.real).numpy()
        self._alone, self._later = band.alone.numpy(), band.real.numpy() & ~may
        self._most[may] = self._alone[may]
        self._moments = None if band.version is None else _Moments(band.version)

    def best(self, window: int, accepted: float) -> tuple[float, int]:
        """The most that a token of the window would add, -1 where none can be chosen, and its place; the most that it
        could add where not even that is accepted."""
        most, is_known = self._most[window], self._is_known[window]
        while True:
            slot = int(most.argmax())
            gain = float(most[slot])
            if is_known[slot] or gain < accepted:
                return gain, slot
            unsure = np.where(is_known, -2.0, most)
            at = unsure.argpartition(-LOOKED_AT)[-LOOKED_AT:] if len(unsure) > LOOKED_AT else np.arange(len(unsure))
            most[at] = np.where(most[at] < 0.0, -1.0, self._added(window, at))
            is_known[at] = True

    def take(self, window: int, slot: int) -> None:
        """Choose a token."""
        token = int(self._members[window, slot])
        self.chosen.append(token)
        self._most[window, slot] = -1.0
        near = self._near(self._covered, window)
        np.maximum(near, self._kernel[window, slot], out=near)
        if self._moments is None:
            self._is_known[max(0, window - REACH) : window + REACH + 1] = False
        else:
            again = self._moments.of(token)
            self._covered[again] = np.maximum(self._covered[again], STILL)
            self._is_known[:] = False

    def go_on(self) -> None:
        """See `covering.GoesOn`."""
        self._most[self._later] = self._alone[self._later]
        self._is_known[self._later] = False

    def _added(self, window: int, at: npt.NDArray[Any]) -> np.ndarray:
        """(k,) float32: what each token `at` (k,) of a window would add."""
        left = self._kernel[window, at]
        np.subtract(left, self._near(self._covered, window), out=left)
        np.maximum(left, 0.0, out=left)
        added: npt.NDArray[Any] = left @ self._near(self._weight, window)
        return added

    def _near(self, values: npt.NDArray[Any], window: int) -> np.ndarray:
        """((2 REACH + 1) M,) of `values` ((W + 2 REACH) M,): of a window and those around it, a view."""
        fullest = self._most.shape[1]
        return values[window * fullest : (window + 2 * REACH + 1) * fullest]


class _Moments:
    """Where the later moments of each token are."""

    def __init__(self, version: Tensor) -> None:
        of = version.numpy().reshape(-1)
        self._places = np.argsort(of, kind="stable")
        self._of = of[self._places]

    def of(self, token: int) -> npt.NDArray[Any]:
        """Its own place and those of its later moments; none of a token that is a later moment itself."""
        begin, end = np.searchsorted(self._of, [token, token + 1])
        return self._places[begin:end]
