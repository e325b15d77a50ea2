"""Subtitles inside a media file as its transcript: which track is read, and its words, cleaned like a sidecar's.

Promises: the same file and settings choose the same track; one that is not read says why. Knows nothing about how a
track is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.sections import ContextConfig
from pipeline.context.sidecars import Context, Cue, HoldsNothing, line_of, without_repeats
from workers.media.tracks import ASIDE, languages_of
from workers.records import MediaInfo, RawCue, SubtitleTrack

NO_END_S = 5.0
"""How long the last subtitle of a track that tells no ends holds; others hold until the next."""
_PARTIAL = ("forced", *(flag for flag in ASIDE if flag != "hearing_impaired"))
"""Flags of tracks that do not hold what is said: the foreign words alone, or another speaker."""


def name_of(key: str, track: SubtitleTrack) -> str:
    """How a track is named beside sidecars, which are named by their keys."""
    return f"{key}#s:{track.number}"


def chosen(info: MediaInfo, config: ContextConfig) -> tuple[SubtitleTrack | None, str]:
    """The track that is a file's transcript; where there is none, why not, empty for a file without subtitles."""
    tracks = info.subtitles or ()
    if not tracks:
        return None, ""
    if config.subtitle_track == "none":
        return None, "context.subtitle_track: none"
    if len(info.parts) > 1:
        return None, "file of several recordings"  # of which a track's times tell only the first
    if config.subtitle_track != "auto":
        found = next((track for track in tracks if track.number == int(config.subtitle_track)), None)
        if found is None:
            return None, f"no track {config.subtitle_track}"
        return (found, "") if found.is_text else (None, found.codec)
    texts = [track for track in tracks if track.is_text]
    whole = [track for track in texts if not set(track.flags) & set(_PARTIAL)]
    if not whole:
        return None, "forced or commentary" if texts else ", ".join(sorted({track.codec for track in tracks}))
    wanted = languages_of(config.language or "")
    return min(whole, key=lambda t: (not languages_of(t.language) & wanted, "default" not in t.flags, t.number)), ""


def words_of(cues: Sequence[RawCue], start_s: float) -> Context:
    """What a track says of a file that begins at `start_s` of the container's own time. Raises HoldsNothing."""
    timed = sorted(((start - start_s, end, text) for start, end, text in cues), key=lambda cue: cue[0])
    found, later, at = list[Cue](), None, None
    for start, end, text in reversed(timed):
        if at is not None and at > start:
            later = at
        at = start
        following = start + NO_END_S if later is None else later
        end_s = following if end is None else end - start_s
        if end_s > max(start, 0.0) and (words := line_of(text)):
            found.append(Cue(max(start, 0.0), end_s, words))
    if not found:
        raise HoldsNothing("it holds no subtitles")
    return Context(cues=tuple(without_repeats(reversed(found))))
