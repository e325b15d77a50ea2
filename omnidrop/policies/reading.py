"""The setting of every policy that prunes before the decoder: whether questions read what it leaves out.

Promises: loads no torch until tokens are there to be read. Knows nothing about which token follows which (`following`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from omnidrop.policies.base import AudioVisual


@dataclass(frozen=True)
class Reading:
    """Base of policies that drop tokens before the decoder: whether questions read those all the same."""

    read_left_out: bool = False
    """Questions attend to the keys and values of tokens that do not enter. Nothing else of a layer is computed for
    these."""

    def followed(self, tokens: AudioVisual, index: Tensor) -> Tensor:
        """See `ReadsLeftOut`."""
        from omnidrop.policies.following import best_covering

        return best_covering(tokens, index)
