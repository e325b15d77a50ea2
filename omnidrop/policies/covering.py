"""The tokens of one modality in windows of time, and how far each covers the others: what `coverage` chooses from.

Promises: nothing here depends on where the choice is made, on a device or on its host. Knows nothing about features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

REACH = 3
"""Windows on either side that a token can cover: farther off, K is below e^-3."""
FALL = 0.85
"""What the least gain accepted is multiplied with when no window has one above it any more."""
ALMOST = 1.0 - 1e-5
"""The least gain accepted at first, of the highest: a sum may round otherwise when it is made again."""
STILL = 0.8
"""How much of a token that is like one at another moment the moment does not change: a page that stands still is seen
whole before anything of it is seen again."""


@dataclass(frozen=True, eq=False)
class Band:
    """One modality's tokens in W windows of time, padded to the M of the fullest one."""

    members: Tensor
    """(W, M) int64: indices into the clip's n tokens."""
    real: Tensor
    """(W, M) bool: which of `members` are tokens."""
    kernel: Tensor
    """(W, M, (2 REACH + 1) M) float32: K of a window's tokens and those of the windows around it."""
    weight: Tensor
    """(W + 2 REACH, M) float32, 0 where there is no token."""
    alone: Tensor
    """(W, M) float32: what each token would add if none were chosen, which is the most that it ever adds."""
    version: Tensor | None = None
    """(W + 2 REACH, M) int64: the token that each is a later moment of, or itself (`AudioVisual.versions`); -1 where
    there is no token. None where each is its own."""
    tokens: int = 0
    """n."""
    count: int = 0
    """How many of them are the modality's, on the host."""

    def first_moments(self) -> Tensor:
        """(W, M) bool: the tokens that are no later moment of another."""
        if self.version is None:
            return self.real
        return self.real & (self.version[REACH:-REACH] == self.members)


class GoesOn(Protocol):
    """What of one band is chosen."""

    def go_on(self) -> None:
        """Every first moment is chosen: now later ones may be."""
        ...


def highest_alone(bands: list[Band]) -> float:
    """The least gain accepted at first: nearly the most that any token adds."""
    return max((float(band.alone.amax()) for band in bands), default=0.0) * ALMOST


def lowered(accepted: float, reached: float, covering: Iterable[GoesOn], most: float) -> float:
    """The least gain accepted after a round in which no token had it: fallen until `reached`, the highest there is, is;
    where even nothing gained was accepted, `most` again, for the later moments."""
    if accepted == 0.0:
        for one in covering:
            one.go_on()
        return most
    highest = torch.tensor(reached, dtype=torch.float32)
    while True:
        accepted = accepted * FALL if accepted > 1e-6 else 0.0
        if accepted == 0.0 or highest >= accepted:
            return accepted
