"""What tests of the pipeline share."""

from __future__ import annotations

from tests.support.handed_on_probers import probers_handed_on

__all__ = ["probers_handed_on"]
