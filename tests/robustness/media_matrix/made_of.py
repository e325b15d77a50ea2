"""What all cases are made of: spans of the source, and what a case is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.robustness.media_matrix.checks import Right

Builder = Callable[[Path, Path], tuple[Path, Right]]
"""Makes a file out of the source in a folder: (the file, what must come out)."""

A, B, C = (2.0, 8.0), (12.0, 17.0), (19.0, 23.0)
"""Spans of the source that recordings are made of."""
FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov+default_base_moof")
