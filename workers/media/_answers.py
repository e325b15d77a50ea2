"""Parses what a probing process says of a file, which may have taken it over: nothing is trusted.

Promises: a `MediaInfo` or cue whose every field has been checked, or ValueError, TypeError or KeyError. Knows nothing
about processes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from workers.media.confinement import DEMUXERS
from workers.media.tracks import UNREAD, with_auto_choice
from workers.records import MediaInfo, RawCue, Segment, SubtitleTrack, Track


def info_of(fields: dict[str, Any], depth: int = 0) -> MediaInfo:
    """Parse a description and check every field: the child is not trusted."""
    mixes_mono = bool(fields.pop("mixes_mono", False))
    tags = tuple((str(name), str(value)) for name, value in fields.pop("tags", ()))
    notes = tuple(str(note)[:300] for note in fields.pop("notes", ()))
    found = sorted((*fields.pop("tracks"), *fields.pop("unread", ())), key=lambda given: int(given["index"]))
    tracks = tuple(Track(**{**given, "flags": tuple(map(str, given["flags"]))}) for given in found)
    notes = (*notes, *_unread(tracks))
    segments = tuple(_segment(given, depth) for given in fields.pop("segments", ()))
    chapters = tuple((float(start), float(end), str(title)[:1000]) for start, end, title in fields.pop("chapters", ()))
    if not all(0 <= start < end < math.inf for start, end, _ in chapters):
        raise ValueError(f"not chapters: {chapters!r}"[:300])
    subtitles = tuple(_subtitles(given) for given in fields.pop("subtitles"))
    info = MediaInfo(**fields, tags=tags, notes=notes, tracks=tracks, chapters=chapters, subtitles=subtitles)
    times = (info.duration_s, info.start_s, info.video_end_s, info.audio_end_s, info.lag_s)
    are_typed = all(map(_is_number, times)) and isinstance(info.has_damaged_times, bool)
    if not (info.container in DEMUXERS and info.duration_s > 0 and are_typed and info.lag_s >= 0):
        raise ValueError(f"not a media description: {fields!r}"[:300])
    for track in tracks:
        sizes = (track.width, track.height, track.sample_rate, track.channels)
        places = (track.index, track.number, track.rotation_deg)
        if not (
            track.kind in ("video", "audio")
            and all(isinstance(text, str) for text in (track.codec, track.language))
            and all(isinstance(n, int) and n > 0 for n in sizes if n is not None)
            and all(isinstance(n, int) and n >= 0 for n in places)
            and _is_number(track.frame_rate)
        ):
            raise ValueError(f"not the description of a track: {track!r}"[:300])
    return replace(with_auto_choice(info, mixes_mono=mixes_mono), segments=segments)


def _unread(tracks: tuple[Track, ...]) -> list[str]:
    """What to say of the tracks that cannot be decoded."""
    return [
        f"{track.kind} track {track.number} ({track.codec}) cannot be decoded and is left out"
        for track in tracks
        if UNREAD in track.flags
    ]


def _subtitles(given: dict[str, Any]) -> SubtitleTrack:
    codec, language = (str(given[name])[:64] for name in ("codec", "language"))
    return SubtitleTrack(int(given["index"]), int(given["number"]), codec, language, tuple(map(str, given["flags"])))


def cue_of(given: Any) -> RawCue:
    start_s, end_s, text = given
    if not (isinstance(start_s, float) and _is_number(start_s) and _is_number(end_s)):
        raise ValueError(f"not a subtitle: {given!r}"[:300])
    return start_s, end_s, str(text)


def _segment(given: dict[str, Any], depth: int) -> Segment:
    if depth:
        raise ValueError("a segment has no segments")
    video, audio = (
        (int(first), None if end is None else int(end)) for first, end in (given["video_bytes"], given["audio_bytes"])
    )
    head = int(given["head_bytes"][0]), int(given["head_bytes"][1])
    times = (given["start_s"], given["end_s"], given["pts_s"])
    if not all(map(_is_number, times)) or min(video[0], audio[0], *head) < 0:
        raise ValueError(f"not a segment: {times}")
    start_s, end_s, pts_s = map(float, times)
    return Segment(start_s, end_s, pts_s, info_of(given["info"], depth + 1), video, audio, head)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))
