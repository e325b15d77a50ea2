"""Which clips are audited, and in which order their two runs go: drawn from the clip's id alone.

Promises: the same clip is drawn by every run on every machine, a larger share draws the same clips and more, and the
three draws of a clip have nothing to do with each other. Knows nothing about models or results.
"""

from __future__ import annotations

from hashlib import blake2b


def is_audited(clip_id: str, share: float) -> bool:
    """Whether a clip is among the `share` (0 to 1) that is also run dense."""
    return _draw("audited", clip_id) < share


def is_dense_first(clip_id: str) -> bool:
    """Whether dense goes first, as it does for half of all clips."""
    return _draw("order", clip_id) < 0.5


def is_fitted(clip_id: str) -> bool:
    """Whether a clip is in the half that coefficients are fitted to; the other half judges them."""
    return _draw("half", clip_id) < 0.5


def _draw(what: str, clip_id: str) -> float:
    """Even in 0..1."""
    drawn = blake2b(f"{what}/{clip_id}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn) / 2**64
