"""Moments as subtitles: WebVTT and SRT, which players show over the video. Written by pysubs2.

Answers about the whole video are NOTE blocks at the head of a WebVTT file, which players do not show. SRT has no
comments, so it has no place for them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import pysubs2

from pipeline.export.base import Format
from pipeline.export.moments import Video, line

_NO_MARKUP = str.maketrans({"{": "(", "}": ")", "\\": "/"})
"""pysubs2 reads these as styles of its own, and so do players of SRT."""
_NO_TAGS = str.maketrans({"<": "‹", ">": "›"})
"""SRT has no escapes: `<i>` and `-->` are what they are, so these characters have stand-ins."""


def _vtt(videos: Sequence[Video]) -> bytes:
    (video,) = videos
    # Escaped, a note holds no arrow, which would end it.
    notes = "".join(f"NOTE {html.escape(line(one.title, 10_000), quote=False)}\n\n" for one in video.whole)
    head, cues = _write(videos, "vtt").split(b"\n\n", 1)
    return head + b"\n\n" + notes.encode() + cues


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


VTT = Format("WebVTT subtitles, for browsers and players", ".vtt", _vtt, holds_whole=True)
SRT = Format("SubRip subtitles, for players and editors", ".srt", _srt)
