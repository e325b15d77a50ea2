"""What an output's clips cost and saved in all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Totals:
    """Sums over the clips of one job that count."""

    media: int
    units: int
    units_done: int
    clips: int
    clips_partial: int
    quarantined: int
    model_s: float
    """Wall seconds in the model."""
    retained_ratio: float | None
    """Token-weighted mean over clips."""
    as_run_flops: int
    dense_flops: int
    dense_shared_flops: int
    as_run_kv_bytes: int
    dense_kv_bytes: int
    dense_shared_kv_bytes: int
    as_run_tokens: int
    dense_tokens: int
    dense_shared_tokens: int

    @property
    def saved_against_dense_shared(self) -> float | None:
        """Share of FLOPs saved against dense with prefix reuse (negative where pruning cost more)."""
        return 1 - self.as_run_flops / self.dense_shared_flops if self.dense_shared_flops else None

    @property
    def saved_against_dense(self) -> float | None:
        """Share of FLOPs saved against dense per question."""
        return 1 - self.as_run_flops / self.dense_flops if self.dense_flops else None
