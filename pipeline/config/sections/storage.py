"""`storage`: how results are stored."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config.locations import EndpointUrl
from pipeline.config.sections.section import Section


class StorageConfig(Section):
    """How results are stored where the output lies in S3."""

    endpoint_url: EndpointUrl | None = Field(
        default=None,
        description="URL of an S3 server other than AWS, for example http://host:9000.",
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None,
        description="Server-side encryption of the objects that are written.",
    )
    sse_kms_key_id: str | None = Field(
        default=None,
        description="KMS key for sse: aws:kms. Default: the account's own key.",
    )
    max_retries: int = Field(
        default=5, ge=0, le=50, description="Maximum retries of a storage request after a transient failure."
    )
    patience_s: float = Field(
        default=300.0,
        ge=0,
        description="Seconds that a run waits during an outage (store, index or credentials not working, disk full) "
        "before it stops. It starts no new work meanwhile.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError("sse_kms_key_id goes with sse: aws:kms")
        return self
