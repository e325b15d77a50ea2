"""Moments as subtitles: WebVTT and SRT, which players show over the video. Written by pysubs2."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pysubs2

from pipeline.export.base import Format
from pipeline.export.moments import Video

_NO_MARKUP = str.maketrans({"{": "(", "}": ")", "\\": "/"})
"""pysubs2 reads these as styles of its own, and so do players of SRT."""
_NO_TAGS = str.maketrans({"<": "‹", ">": "›"})
"""SRT has no escapes: `<i>` and `-->` are what they are, so these characters have stand-ins."""


def _vtt(videos: Sequence[Video]) -> bytes:
    return _write(videos, "vtt")


def _srt(videos: Sequence[Video]) -> bytes:
    return _write(videos, "srt")


def _write(videos: Sequence[Video], form: str) -> bytes:
    (video,) = videos
    subtitles = pysubs2.SSAFile()
    for moment in video.moments:
        text = moment.title.translate(_NO_MARKUP)
        text = html.escape(text, quote=False) if form == "vtt" else text.translate(_NO_TAGS)
        start, end = (round(1000 * seconds) for seconds in (moment.start_s, moment.end_s))
        subtitles.append(pysubs2.SSAEvent(start=start, end=max(end, start + 1), text=text))
    return subtitles.to_string(form).encode()


VTT = Format("WebVTT subtitles, for browsers and players", ".vtt", _vtt)
SRT = Format("SubRip subtitles, for players and editors", ".srt", _srt)
