"""The setting of every policy that prunes before the decoder: whether what it leaves out joins what enters.

Promises: loads no torch until tokens are there to be joined. Knows nothing about which tokens join which (`joining`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from omnidrop.policies.base import AudioVisual
    from omnidrop.policies.joined import Joined


@dataclass(frozen=True)
class Merging:
    """Base of policies that drop tokens before the decoder: whether those join the ones that enter."""

    merge: bool = False
    """Tokens of the picture that are left out join the most alike that enter; off, they are dropped."""

    def joins(self, tokens: AudioVisual, index: Tensor) -> Joined | None:
        """See Policy."""
        from omnidrop.policies.joining import by_likeness

        return by_likeness(tokens, index) if self.merge else None
