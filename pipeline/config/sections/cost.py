"""`cost`: what a GPU hour costs, and how many of them one run may spend."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline.config.sections.section import Section


class CostConfig(Section):
    """What a GPU hour costs, and how many of them one run may spend. No answer depends on it."""

    usd_per_gpu_hour: float | None = Field(
        default=None,
        gt=0,
        description="Price of one GPU hour in USD. Without GPUs, the price of one model-actor hour.",
        json_schema_extra={"option": "--usd-per-gpu-hour"},
    )
    budget_usd: float | None = Field(
        default=None,
        gt=0,
        description="Spending limit of one run in USD. The run takes no more clips once those in progress would use it "
        "up.",
        json_schema_extra={"option": "--budget-usd"},
    )
    budget_gpu_hours: float | None = Field(
        default=None,
        gt=0,
        description="Spending limit of one run in GPU hours. If both limits are set, the one reached first counts.",
        json_schema_extra={"option": "--budget-gpu-hours"},
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget_usd is not None and self.usd_per_gpu_hour is None:
            raise ValueError(
                f"budget_usd ({self.budget_usd:g}) needs a price: set usd_per_gpu_hour, for example 2.5, or use "
                "budget_gpu_hours"
            )
        return self

    @property
    def gpu_hours_cap(self) -> float | None:
        """GPU hours that one run may spend, by whichever budget is lower; None without one."""
        caps = [] if self.budget_gpu_hours is None else [self.budget_gpu_hours]
        if self.budget_usd is not None and self.usd_per_gpu_hour is not None:
            caps.append(self.budget_usd / self.usd_per_gpu_hour)
        return min(caps, default=None)

    def usd(self, gpu_hours: float | None) -> float | None:
        """What so many GPU hours cost; None without a price or hours."""
        return None if gpu_hours is None or self.usd_per_gpu_hour is None else gpu_hours * self.usd_per_gpu_hour
