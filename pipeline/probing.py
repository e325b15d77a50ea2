"""Probes media for the planner: containers and streams in confined children, scene cuts where the job asks for them.

Promises: every item asked about is yielded once, as what was found or as a named failure. Knows nothing about caching
(the planner's) or how a probe works (`workers.probing`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.job import JobConfig
from pipeline.planning import Prober
from pipeline.savings_index import Probed
from workers.probing import ProbePool
from workers.records import ClipFailure, Media

CHILDREN = max(2, min(16, os.cpu_count() or 2))
"""Probing processes: a probe waits for the disk or the network most of the time."""


@contextmanager
def prober(job: JobConfig) -> Iterator[Prober]:
    """A prober for one run; its processes end with the block."""
    with ProbePool(CHILDREN, timeout_s=job.execution.probe_timeout_s) as pool:

        def probe(items: Sequence[Media]) -> Iterator[tuple[Media, Probed]]:
            for media, found in pool.probe_many((m, m.uri) for m in items):
                yield media, Probed(None, found) if isinstance(found, ClipFailure) else Probed(found)

        yield probe
