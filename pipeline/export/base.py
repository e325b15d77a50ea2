"""What a format of moments is: a name for files, a sentence, and a function from videos to bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.export.moments import Video


@dataclass(frozen=True)
class Format:
    """One way to write moments."""

    says: str
    suffix: str
    write: Callable[[Sequence[Video]], bytes]
    """Gets one video, or all of them where `holds_many`."""
    holds_many: bool = False
    """One file holds the moments of all videos."""
    counts_frames: bool = False
    """Videos come with their clock, and one without a rate is refused."""
    is_for_editors: bool = False
    """Its frames mean nothing at a rate that editors have no timelines of."""
    holds_whole: bool = False
    """It has a place for answers about a video as a whole."""
