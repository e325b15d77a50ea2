"""Batches, and reading ahead in a thread."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches import ahead, batches


@given(items=st.lists(st.integers(), max_size=40), size=st.integers(1, 50))
def test_batches_hold_everything_in_order(items, size):
    found = list(batches(items, size))
    assert [i for batch in found for i in batch] == items
    assert all(len(batch) == size for batch in found[:-1])


@given(items=st.lists(st.integers(), max_size=40), most=st.integers(1, 5))
def test_reading_ahead_changes_nothing(items, most):
    # None says only that the next one took a while.
    assert [item for item in ahead(items, most) if item is not None] == items


def test_errors_come_after_the_items_before_them():
    def items():
        yield 1
        raise ValueError("broken")

    reader = ahead(items(), 3)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reader)


def test_the_reader_is_never_further_ahead_than_allowed_and_leaves_when_unwanted():
    taken = []

    def items():
        for number in range(1_000_000):
            taken.append(number)
            yield number

    reader = ahead(items(), 4)
    assert next(reader) == 0
    reader.close()
    # One is being put, one is being made.
    assert len(taken) <= 4 + 3
    assert "read-ahead" not in [t.name for t in threading.enumerate()]
