"""What an output's clips cost and saved in all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Totals:
    """Sums over the clips of one job that count; zeros for a job that never ran."""

    media: int = 0
    copies: int = 0
    """Media that are exact copies of others: in no other number."""
    units: int = 0
    units_done: int = 0
    clips: int = 0
    clips_partial: int = 0
    quarantined: int = 0
    model_s: float = 0.0
    """Wall seconds in the model."""
    retained_ratio: float | None = None
    """Token-weighted mean over clips."""
    as_run_flops: int = 0
    dense_flops: int = 0
    dense_shared_flops: int = 0
    as_run_kv_bytes: int = 0
    dense_kv_bytes: int = 0
    dense_shared_kv_bytes: int = 0
    as_run_tokens: int = 0
    dense_tokens: int = 0
    dense_shared_tokens: int = 0

    @property
    def saved_against_dense_shared(self) -> float | None:
        """Share of FLOPs saved against dense with prefix reuse (negative where pruning cost more)."""
        return 1 - self.as_run_flops / self.dense_shared_flops if self.dense_shared_flops else None

    @property
    def saved_against_dense(self) -> float | None:
        """Share of FLOPs saved against dense per question."""
        return 1 - self.as_run_flops / self.dense_flops if self.dense_flops else None
