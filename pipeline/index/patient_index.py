"""The savings index of a run: trouble of its database that may pass is waited for.

Promises: a call is given up after the run's patience, with what is wrong and what to do; a call that is made again
changes what the first one would have changed, since each is one transaction that may be repeated. What streams rows
(generators) is not waited for: its reader starts over. Knows nothing about SQL.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.index.savings_index import SavingsIndex
from pipeline.storage.outage import Patience

BUSY_S = 5.0
"""How long SQLite itself waits for a lock: shorter than the run's patience, and a stop is noticed."""


class PatientIndex(SavingsIndex):
    """A `SavingsIndex` whose calls wait."""

    def __init__(self, url: str, output_id: str, patience: Patience) -> None:
        """Raises UserError at once where the database cannot be used, unless it is only locked or starting."""
        self._patience = patience
        patience.call(lambda: SavingsIndex.__init__(self, url, output_id, busy_s=min(BUSY_S, patience.limit_s)))


def _waiting(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(index: PatientIndex, *given: Any, **named: Any) -> Any:
        # What can be read once only would be gone when the call is made again.
        given = tuple(list(one) if isinstance(one, Iterator) else one for one in given)
        return index._patience.call(lambda: method(index, *given, **named))

    return call


for _name, _method in inspect.getmembers(SavingsIndex, inspect.isfunction):
    if not _name.startswith("_") and not inspect.isgeneratorfunction(_method):
        setattr(PatientIndex, _name, _waiting(_method))
