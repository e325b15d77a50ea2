"""What a model actor loads and how it answers, as plain data that loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from omnidrop.pruning import Pruning


@dataclass(frozen=True)
class AnswererSettings:
    """What is loaded, and how it answers."""

    model: str
    """A directory, a hub id or the name of an embedded checkpoint."""
    device: str = "auto"
    dtype: str = "auto"
    pruning: Pruning = field(default_factory=Pruning)
    weights_hash: str | None = None
    """What was planned with: another checkpoint under the same name is not loaded. None takes what is there."""
    system_prompt: str | None = None
    torch_threads: int | None = None
    """None leaves torch's own choice."""
    audit_share: float = 0.0
    """Share of clips that are also run dense with prefix reuse, to measure what pruning saves and changes."""
