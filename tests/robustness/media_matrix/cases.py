"""Files of the kinds that archives hold, each with what it must come out as: container x codec x fault.

Promises: every case makes one file out of one source with ffmpeg, and says which of its seconds it holds. Knows nothing
about how a file is probed or decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.robustness.media_matrix import (
    archives,
    forms,
    inside,
    kinds,
    pictures,
    siblings,
    sounds,
    stamps,
    timelines,
    tracks,
    writers,
)
from tests.robustness.media_matrix.made_of import Builder


def cases() -> Iterator[tuple[str, Builder]]:
    """All of them: (name, builder)."""
    modules = (timelines, sounds, tracks, pictures, writers, siblings, archives, inside, kinds, stamps, forms)
    for make_cases in (case for module in modules for case in module.CASES):
        yield from make_cases()
