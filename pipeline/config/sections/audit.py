"""`audit`: what is measured of pruning while a job runs."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.sections.section import Section


class AuditConfig(Section):
    """What is measured of pruning while a job runs."""

    share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of clips that are also run with dense_shared, to measure what pruning saves and changes. 0 "
        "turns the audit off.",
    )
    min_agreement: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="List the questions whose answers agree with the dense answers less often than this.",
    )
