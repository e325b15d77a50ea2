"""Probing children that outlive the pool they were started for, so that the next test's first file finds one."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.media._children import Child, Children, children_from
from workers.media._prober import FILES_PER_CHILD


class HandedOn(Children):
    """A child that is given back between two files is kept for the next prober with the same time limit in this
    process. It knows nothing of the files before, by which `FILES_PER_CHILD` goes."""

    def __init__(self, starter: ThreadPoolExecutor) -> None:
        self._starter = starter
        self._spare = defaultdict[tuple[int, float], list[Child]](list)

    def get(self, timeout_s: float) -> Child:
        spare = self._spare[os.getpid(), timeout_s]
        while spare:
            if (child := spare.pop()).is_running:
                return child
            child.end()
        # It ends with the thread that starts it.
        return self._starter.submit(super().get, timeout_s).result()

    def give_back(self, child: Child) -> None:
        if child.is_running and child.is_silent and child.served < FILES_PER_CHILD:
            self._spare[os.getpid(), child.timeout_s].append(child)
        else:
            child.end()

    def end_all(self) -> None:
        """End those that are kept in this process."""
        for (pid, _), spare in self._spare.items():
            for child in spare if pid == os.getpid() else ():
                child.end()


@contextlib.contextmanager
def handed_on_probers() -> Iterator[None]:
    """While the block runs, children are handed on; none where a test has them come from elsewhere."""
    with ThreadPoolExecutor(1) as starter:
        source = HandedOn(starter)
        try:
            with children_from(source):
                yield
        finally:
            source.end_all()


@pytest.fixture(scope="module", autouse=True)
def probers_handed_on():
    """For a module of many runs: a child takes 0.25 s of a core to start, and a run looks at four files."""
    with handed_on_probers():
        yield
