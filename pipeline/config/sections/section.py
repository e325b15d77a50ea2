"""What all sections of a job file share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Scalar = str | bool | int | float


class Section(BaseModel):
    """Base of all parts of a job file: frozen, and a field that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        # Python takes true for 1: `retained_ratio: true` would drop nothing.
        for name, value in given.items() if isinstance(given, Mapping) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not _may_be_true(field.annotation):
                raise ValueError(f"{name} cannot be {str(value).lower()}")
        return given


def _may_be_true(kind: Any) -> bool:
    return kind in (bool, Any) or any(map(_may_be_true, get_args(kind)))
