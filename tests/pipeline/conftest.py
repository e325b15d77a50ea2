"""What tests of the pipeline share."""

from __future__ import annotations

import pytest

from tests.support.handed_on_probers import handed_on_probers


@pytest.fixture(scope="module", autouse=True)
def probers_handed_on():
    """A probing child takes 0.25 s of a core to start, and a hundred runs of one module look at four files each."""
    with handed_on_probers():
        yield
