"""Whether every clip of a file holds the source's seconds that it should: read off the decoded pictures and sound.

Promises: a list of what is wrong, empty where nothing is. Knows nothing about how a file was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.config.sections import ClipsConfig
from pipeline.planning.cutting import cut_media
from tests.support.media_oracle import BARS, HZ, heard, second_of
from workers.errors import MediaError
from workers.media.clip_reader import decode_clip
from workers.media.probing import ProbePool
from workers.media.tracks import chosen
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings, MediaInfo

PICTURE_S = 0.13
"""Three frames of 25 a second: where a picture is read between two, in a container that begins with the sound."""
SOUND_S = 0.03
COLOUR_LEVELS = 9
LENGTH_S = 0.25
EDGE_S = 0.07
"""Around a gap: a packet of sound, and what codecs smear."""
SURE_S = 0.6
"""Shorter sound is not looked for."""


@dataclass(frozen=True)
class Right:
    """What a file must come out as: its continuous parts in the source's seconds, or the class of its refusal."""

    parts: tuple[tuple[float, float], ...] = ()
    error: str | None = None
    silent: tuple[tuple[float, float], ...] = ()
    """Source seconds without sound."""
    skip: tuple[tuple[float, float], ...] = ()
    """Source seconds of which nothing is said."""
    still: tuple[tuple[float, float], ...] = ()
    """Source seconds without new pictures."""
    missing: tuple[tuple[float, float], ...] = ()
    """Source seconds of which pictures cannot be decoded: the clips must count them as missing."""
    sound_shift_s: float = 0.0
    picture_shift_s: float = 0.0
    """What sound and pictures are of another second by."""
    moved: tuple[tuple[float, float], ...] = ()
    """From when on both are of a second that lies by how much later in the source: ascending."""
    colours: bool = False
    has: str = "both"
    """`pictures`, `sound` or `both`."""
    gain: float | None = None
    correlation: float = 0.94
    notes: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    failing: tuple[str, ...] = ()
    """Classes that some clips may end in."""
    sound_s: float = SOUND_S
    length_s: float = LENGTH_S


def examine(path: Path, right: Right, pool: ProbePool, clip_s: float = 4.0) -> tuple[str, list[str]]:
    """(what came out in a line, what is wrong)."""
    ((_, info),) = pool.probe_many([(0, str(path))])
    if isinstance(info, ClipFailure):
        return info.error_class, [] if info.error_class == right.error else [f"{info.error_class}: {info.message}"]
    if right.error:
        return "read", [f"should be refused as {right.error}"]
    try:
        info = chosen(info, right.settings.get("audio_track", "auto"), right.settings.get("video_track", "auto"))
    except MediaError as error:
        return error.error_class, [str(error)]
    wrong: list[str] = []
    clips: list[DecodedClip] = []
    for number, span in enumerate(cut_media(info, ClipsConfig(length_s=clip_s))):
        try:
            clips.append(decode_clip(path, info, Clip("c", number, *span), DecodeSettings()))
        except MediaError as error:
            if error.error_class not in right.failing:
                wrong.append(f"{span[0]:g}-{span[1]:g}: {error.error_class}: {error}")
    wrong += _parts(info, right)
    for clip in clips:
        wrong += [f"{clip.clip.start_s:g}-{clip.clip.end_s:g}: {what}" for what in _clip(info, clip, right)]
    said = " ".join((*info.notes, *(note for clip in clips for note in clip.notes)))
    wrong += [f"nothing is said of {note!r}" for note in right.notes if note not in said]
    sums = {n: sum(getattr(c.noticed, n) for c in clips) for n in ("silent_s", "held_s", "missing_s")}
    if sums["missing_s"] < (least := 0.9 * sum(end - start for start, end in right.missing)):
        wrong.append(f"{sums['missing_s']:.2f} s are counted as missing, should be {least:.2f} or more")
    line = f"{info.duration_s:.2f} s in {len(info.parts)}, {len(clips)} clips"
    return line + "".join(f", {n} {v:.2f}" for n, v in sums.items() if v > 0.1), wrong


def _parts(info: MediaInfo, right: Right) -> list[str]:
    lengths = [round(part.end_s - part.start_s, 2) for part in info.parts]
    wanted = [round(end - start, 2) for start, end in right.parts]
    if len(lengths) == len(wanted) and all(abs(a - b) <= right.length_s for a, b in zip(lengths, wanted, strict=True)):
        return []
    return [f"parts of {lengths} s, should be {wanted}"]


def _clip(info: MediaInfo, clip: DecodedClip, right: Right) -> list[str]:
    number = clip.noticed.segment
    if number >= len(right.parts):
        return ["a part too many"]
    base = info.parts[number].start_s
    begin = right.parts[number][0] + clip.clip.start_s - base
    wrong: list[str] = []
    if right.has != "sound":
        if clip.frames is None:
            return ["no pictures"]
        wrong += _pictures(clip, begin, right)
    elif clip.frames is not None:
        wrong.append("pictures where there are none")
    if right.has != "pictures":
        if clip.audio is None:
            middle = begin + clip.clip.length_s / 2
            return [*wrong, *([] if _within(middle, right.silent) else ["no sound"])]
        wrong += _sound(clip.audio, begin, right)
    return wrong


def _pictures(clip: DecodedClip, begin: float, right: Right) -> list[str]:
    off = []
    assert clip.frames is not None
    for k, frame in enumerate(clip.frames):
        wanted = begin + k / clip.fps
        if _within(wanted, (*right.still, *right.skip, *right.missing)) or wanted > max(end for _, end in right.parts):
            continue
        try:
            found = second_of(frame)
        except AssertionError:
            off.append(f"{wanted:.2f} unreadable")
            continue
        # The first picture may come after the sound has begun.
        if right.colours and (worst := _colour_error(frame)) > COLOUR_LEVELS:
            off.append(f"{wanted:.2f} has colours {worst:.0f} levels off")
        if abs(found - wanted - right.picture_shift_s - _moved_s(wanted, right)) > PICTURE_S:
            off.append(f"{wanted:.2f} shows {found:.2f}")
    return [f"pictures: {', '.join(off[:4])}"] if off else []


def _sound(sound: np.ndarray, begin: float, right: Right) -> list[str]:
    wrong = []
    at = 0.0
    length = len(sound) / HZ
    moves = [(t, t) for t, _ in right.moved]
    edges = sorted(
        {
            0.0,
            length,
            *(min(length, max(0.0, t - begin)) for span in (*right.silent, *right.skip, *moves) for t in span),
        }
    )
    for first, last in pairwise(edges):
        middle = begin + (first + last) / 2
        inner = sound[round((first + EDGE_S) * HZ) : round((last - EDGE_S) * HZ)]
        at = begin + first + EDGE_S
        if last - first < 0.2 or _within(middle, right.skip) or middle > max(end for _, end in right.parts):
            continue
        if _within(middle, right.silent):
            if np.abs(inner).max() > 0.02:
                wrong.append(f"sound at {at:.2f} of {np.abs(inner).max():.2f}, should be silent")
        elif last - first >= SURE_S:
            place = heard(inner)
            late_s = place.second - at - right.sound_shift_s - _moved_s(at, right)
            if abs(late_s) > right.sound_s or place.correlation < right.correlation:
                wrong.append(f"sound at {at:.2f} is of {place.second:.3f}, correlation {place.correlation:.3f}")
            if right.gain is not None and abs(place.gain - right.gain) > 0.05 * abs(right.gain) + 0.01:
                wrong.append(f"gain {place.gain:.3f}, should be {right.gain}")
    return wrong


def _moved_s(wanted: float, right: Right) -> float:
    return next((by for at, by in reversed(right.moved) if wanted >= at), 0.0)


def _colour_error(frame: np.ndarray) -> float:
    height, width = frame.shape[:2]
    seen = [frame[height // 8, width * (2 * n + 1) // 6].astype(int) for n in range(len(BARS))]
    return float(max(np.abs(np.array(a) - b).max() for a, b in zip(BARS, seen, strict=True)))


def _within(second: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(start - 0.05 <= second <= end + 0.05 for start, end in spans)
