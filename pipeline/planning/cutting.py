"""Where a media item is cut into clips.

Promises: the same duration, settings and scene cuts give the same spans. Knows nothing about files or units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from omnidrop.errors import OmniDropError
from pipeline.config.sections import ClipsConfig
from workers.records import MediaInfo
from workers.spans import fixed_spans


class TooManyClips(OmniDropError):
    """A media item would be cut into more clips than `clips.max_per_media`."""

    error_class = "too_many_clips"


def cut_media(info: MediaInfo, config: ClipsConfig, scene_cuts_s: Sequence[float] = ()) -> list[tuple[float, float]]:
    """The clips' spans of a whole media item, in order: each of its continuous parts is cut by itself, so that no clip
    holds the end of one recording and the beginning of another. Raises TooManyClips."""
    spans: list[tuple[float, float]] = []
    for part in info.parts:
        cuts = [cut - part.start_s for cut in scene_cuts_s]
        found = cut_spans(part.end_s - part.start_s, config, [cut for cut in cuts if cut > 0])
        spans += [(_micro(part.start_s + start), _micro(part.start_s + end)) for start, end in found]
        if len(spans) > config.max_per_media:
            raise TooManyClips(
                f"its {len(info.parts)} continuous parts make more than {config.max_per_media} clips "
                "(clips.max_per_media); raise it, or cut longer clips"
            )
    return spans


def cut_spans(duration_s: float, config: ClipsConfig, scene_cuts_s: Sequence[float] = ()) -> list[tuple[float, float]]:
    """The clips' spans in seconds from the media's start, in order, covering all of it.

    Fixed: every `length_s - overlap_s` seconds one of `length_s`. Scene: at the cuts, where scenes shorter than
    `min_length_s` join their neighbour and longer ones than `longest_s` are cut evenly. A rest shorter than
    `min_length_s` joins the clip before it; a media item shorter than that is one clip. Raises TooManyClips.
    """
    if duration_s <= 0:
        return []
    step = config.length_s - config.overlap_s if config.cut == "fixed" else config.longest_s
    # Before they are made: a declared length costs a stranger nothing.
    count = max(1, math.ceil((duration_s - config.overlap_s) / step)) if config.cut == "fixed" else duration_s // step
    if count > config.max_per_media:
        raise TooManyClips(
            f"{duration_s:.0f} s would be about {count:.0f} clips, clips.max_per_media is {config.max_per_media}; if "
            "the file is what it says, raise it, or cut longer clips"
        )
    if config.cut == "fixed":
        return fixed_spans(duration_s, config.length_s, step, config.min_length_s)
    edges = [0.0]
    for cut in sorted(scene_cuts_s):
        if cut - edges[-1] >= config.min_length_s and duration_s - cut >= config.min_length_s:
            edges.append(cut)
    edges.append(duration_s)
    spans: list[tuple[float, float]] = []
    for start, end in pairwise(edges):
        parts = -int(-(end - start) // config.longest_s)
        step = (end - start) / parts
        spans += [(_micro(start + i * step), _micro(start + (i + 1) * step)) for i in range(parts)]
    if len(spans) > config.max_per_media:
        raise TooManyClips(
            f"scene cuts make {len(spans)} clips, clips.max_per_media is {config.max_per_media}; raise it, or raise "
            "clips.min_length_s or clips.scene_threshold"
        )
    return spans


def _micro(seconds: float) -> float:
    """Whole microseconds: what ids are made of."""
    return round(seconds, 6)
