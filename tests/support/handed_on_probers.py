"""Probing children that outlive the pool they were started for, so that the next test's first file finds one."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from workers.media import _prober


@contextlib.contextmanager
def handed_on_probers() -> Iterator[None]:
    """While the block runs, a child that is closed between two files is kept for the next that would be started with
    the same time limit in this process. A child knows nothing of the files before, by which `FILES_PER_CHILD` goes.
    Where a test starts children otherwise (`_prober.start`), none is kept or taken."""
    spare = defaultdict[tuple[int, float], list[_prober.Prober]](list)
    real_start, real_started, real_close = _prober.start, _prober.Prober._started, _prober.Prober.close

    with contextlib.ExitStack() as until_then:
        # A child ends with the thread that started it.
        starter = until_then.enter_context(ThreadPoolExecutor(1))

        def start(*command, **how):
            return starter.submit(real_start, *command, **how).result()

        def started(child):
            kept = spare[os.getpid(), child._timeout_s]
            while child._process is None and kept and _prober.start is start:
                before = kept.pop()
                child._process, child._served = before._process, before._served
            return real_started(child)

        def close(child):
            is_idle = child._process is not None and child._process.poll() is None
            is_idle = is_idle and child._has_ended and not child._rest
            if is_idle and child._served < _prober.FILES_PER_CHILD and _prober.start is start:
                kept = _prober.Prober(child._timeout_s, {}, scans=True)
                kept._process, kept._served = child._process, child._served
                spare[os.getpid(), child._timeout_s].append(kept)
                child._process, child._served = None, 0
            else:
                real_close(child)

        @until_then.callback
        def end_all():
            for child in (child for (pid, _), kept in spare.items() if pid == os.getpid() for child in kept):
                real_close(child)

        for place, name, made in (
            (_prober, "start", start),
            (_prober.Prober, "_started", started),
            (_prober.Prober, "close", close),
        ):
            until_then.enter_context(mock.patch.object(place, name, made))
        yield


@pytest.fixture(scope="module", autouse=True)
def probers_handed_on():
    """For a module of many runs: a child takes 0.25 s of a core to start, and a run looks at four files."""
    with handed_on_probers():
        yield
