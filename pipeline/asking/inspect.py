"""What the product makes of one file: its segments, its tracks, and every clip as the model would get it.

Promises: the clips are those of a run with the same settings, decoded by the same code; a file or a clip that cannot be
used says so by its class. Knows nothing about questions, models or where a dump goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipeline.asking.one_file import AskError, as_media, spans_of
from pipeline.config.sections import ClipsConfig, ContextConfig, ExecutionConfig
from pipeline.config.worker_settings import decode_settings
from pipeline.context.tracks import chosen as transcript_track
from pipeline.identity import clip_id, content_id
from pipeline.planning.cutting import cut_media
from workers.errors import MediaError, NotMedia, Sidecar
from workers.media.decode import decode_one
from workers.media.probing import probe
from workers.media.tracks import chosen
from workers.records import REPEATS, Clip, ClipFailure, DecodedClip, Media, MediaInfo, Noticed


@dataclass(frozen=True)
class Inspected:
    """A file that was looked at; `failure` where nothing of it can be asked."""

    media: Media
    info: MediaInfo | None
    spans: tuple[tuple[float, float], ...]
    failure: ClipFailure | None = None


def inspect_file(path: str, clips: ClipsConfig, at_s: float | None = None) -> Inspected:
    """Look at a file: all clips of a run, or with `at_s` the one of `clips.length_s` that begins there.

    Raises AskError for what is no file, or a second beyond its end.
    """
    media = as_media(path)
    try:
        info = chosen(probe(media.uri), clips.audio_track, clips.video_track)
    except MediaError as error:
        # A file that is asked for by its name lies beside nothing.
        is_beside = isinstance(error, Sidecar)
        found = NotMedia.error_class if is_beside else error.error_class
        said = str(error.__cause__ or "not video or audio, by its content") if is_beside else str(error)
        return Inspected(media, None, (), ClipFailure(None, "probe", found, said))
    if at_s is None:
        return Inspected(media, info, tuple(cut_media(info, clips)))
    if at_s < 0:
        raise AskError(f"--at {at_s:g}: give a time in seconds, 0 or later")
    start, end = spans_of(info, clips, (at_s, at_s + clips.length_s), path)[0]
    return Inspected(media, info, ((start, end),))


def clips_of(inspected: Inspected, clips: ClipsConfig) -> Iterator[DecodedClip | ClipFailure]:
    """Its clips, decoded one after the other."""
    assert inspected.info is not None
    version = content_id("inspect", inspected.media.media_id, inspected.media.etag)
    settings = decode_settings(clips, ExecutionConfig())
    before = Noticed()
    for number, (start, end) in enumerate(inspected.spans):
        clip = Clip(clip_id(version, start, end), number, start, end)
        one = decode_one(inspected.media, inspected.info, clip, settings)
        if isinstance(one, DecodedClip):
            yield replace(one, notes=(*one.notes, REPEATS)) if one.noticed.repeats(before) else one
            before = one.noticed
        else:
            yield one
            before = Noticed()


def about_file(inspected: Inspected) -> dict[str, Any]:
    """Everything but the clips, as JSON has it."""
    info = inspected.info
    about: dict[str, Any] = {"duration_s": None, "segments": [], "tracks": []}
    if info is not None:
        about = {
            "duration_s": round(info.duration_s, 6),
            "segments": [
                {"start_s": round(p.start_s, 6), "end_s": round(p.end_s, 6), "pts_s": round(p.pts_s, 6)}
                for p in info.parts
            ],
            "tracks": [
                {"index": t.index, "kind": t.kind, "codec": t.codec, "chosen": t.chosen, "why": t.why}
                for t in info.tracks
            ]
            + list(_subtitles(info)),
        }
    failure = inspected.failure
    if failure is not None:
        about |= {"error_class": failure.error_class, "message": failure.message}
    if info is not None and info.notes:
        about |= {"notes": list(info.notes)}
    return about


def _subtitles(info: MediaInfo) -> Iterator[dict[str, Any]]:
    """Which track is the transcript where a job names none and no sidecar has one."""
    picked, why_none = transcript_track(info, ContextConfig())
    for track in info.subtitles or ():
        if track == picked:
            why = "the transcript, unless a sidecar has one"
        elif not track.is_text:
            why = "not text; to use it, put its words beside the file as a .srt with the same stem"
        else:
            why = why_none or "another track was chosen"
        marks = ", ".join(filter(None, (f"s:{track.number}", track.language, *track.flags)))
        yield {
            **{"index": track.index, "kind": "subtitle", "codec": track.codec},
            **{"chosen": track == picked, "why": f"{marks}: {why}"},
        }


def about_clip(one: DecodedClip | ClipFailure, info: MediaInfo) -> dict[str, Any]:
    """One clip, as JSON has it."""
    clip = one.clip
    assert clip is not None
    number = info.part_at(clip.start_s)
    part = info.parts[number]
    about: dict[str, Any] = {
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "segment": number,
        "segment_pts_s": round(part.pts_s + clip.start_s - part.start_s, 6),
        "frames": 0,
        "samples": 0,
        "silent_s": 0.0,
        "held_s": 0.0,
        "missing_s": round(clip.length_s, 6),
        "notes": [],
        "error_class": None,
    }
    if isinstance(one, ClipFailure):
        return about | {"error_class": one.error_class, "notes": [one.message]}
    return about | {
        "frames": 0 if one.frames is None else len(one.frames),
        "samples": 0 if one.audio is None else len(one.audio),
        "silent_s": one.noticed.silent_s,
        "held_s": one.noticed.held_s,
        "missing_s": one.noticed.missing_s,
        "notes": list(one.notes),
    }
