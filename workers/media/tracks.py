"""Chooses the streams of a file to decode: `auto`, or as the job says, with the reason for each.

Promises: the same tracks and settings give the same choice; every track that is not chosen has a reason. Knows nothing
about how tracks are found or decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from workers.errors import TrackMissing
from workers.records import MediaInfo, Segment, Track

ASIDE = ("comment", "visual_impaired", "hearing_impaired", "karaoke", "lyrics", "clean_effects", "dependent")
"""Dispositions of a track that accompanies the programme instead of being it."""

OTHER_PROGRAMME = "other_programme"
"""Flag of a broadcast's track that belongs to another programme than the one that is read."""

ONE_PICTURE = "one_picture"
"""Flag of a track of pictures that has one only: a cover or a preview, whatever it is said to be."""

BLANK = "blank"
"""Flag of a track whose pictures are of one colour wherever it was sampled: a camera that was not plugged in."""

UNREAD = "not_decoded"
"""Flag of a track of which nothing can be asked: no decoder of ours reads its codec, or its samples are no sound."""

_ASIDE_TITLE = re.compile(
    r"\b(commentary|audio.?(descri|deskri|kommentar)\w*|descriptive|video.?descri\w*|commentaires? audio|hörfilm\w*)\b",
    re.IGNORECASE,
)

# ISO 639-2 has two codes for some languages, and users write the two-letter one.
_SAME_LANGUAGE = (
    *("en eng", "de deu ger", "fr fra fre", "es spa", "it ita", "pt por", "nl nld dut", "ja jpn", "zh zho chi cmn"),
    *("ko kor", "ru rus", "ar ara", "hi hin", "pl pol", "sv swe", "da dan", "fi fin", "no nor nob nno", "cs ces cze"),
    *("el ell gre", "he heb", "hu hun", "tr tur", "uk ukr", "ro ron rum", "sk slk slo", "cy cym wel", "fa fas per"),
)


def titled_aside(title: str) -> bool:
    """Whether a track's title marks it as commentary or audio description."""
    return bool(_ASIDE_TITLE.search(title))


def chosen(info: MediaInfo, audio: str = "auto", video: str = "auto") -> MediaInfo:
    """`info` with the requested tracks chosen: `auto`, a number counted from 0 among the tracks of its kind, or
    `lang:xx`; for audio also `all`. In a file of several recordings, the same in each.

    Raises TrackMissing if a file has tracks of the kind, but not the requested one.
    """
    if info.segments:
        parts = tuple(replace(part, info=chosen(part.info, audio, video)) for part in info.segments)
        return _as_first(info, parts)
    if not info.tracks or (audio == "auto" and video == "auto"):
        return info
    pictures, sounds = _of_the_programme(info, "video"), _of_the_programme(info, "audio")
    picked_video, picked_audio = _asked(pictures, video, _auto_video), _asked(sounds, audio, _auto_audio)
    return with_choice(info, picked_video, picked_audio)


def with_auto_choice(info: MediaInfo, *, mixes_mono: bool) -> MediaInfo:
    """`info` with the tracks that `auto` chooses. `mixes_mono`: the container stores single channels as tracks."""
    pictures, sounds = _of_the_programme(info, "video"), _of_the_programme(info, "audio")
    picked = _auto_audio(sounds)
    heard = [track for track in sounds if not track.is_silent and not _aside(track)]
    languages = {track.language for track in heard}
    if mixes_mono and len(heard) > 1 and len(languages) == 1 and all(track.channels == 1 for track in heard):
        picked = {track.number: "one channel of the recording" for track in heard}
    return with_choice(info, _auto_video(pictures), picked)


def with_choice(info: MediaInfo, video: dict[int, str], audio: dict[int, str]) -> MediaInfo:
    """`info` with the tracks of these numbers chosen; the values are the reasons."""
    tracks = []
    for track in info.tracks:
        why = (video if track.kind == "video" else audio).get(track.number)
        tracks.append(replace(track, chosen=why is not None, why=why or _why_not(track, video, audio)))
    info = replace(info, tracks=tuple(tracks), audio_streams=sum(track.kind == "audio" for track in tracks))
    shown = next((track for track in tracks if track.kind == "video" and track.chosen), None)
    if shown is not None:
        info = replace(
            info,
            video_codec=shown.codec,
            video_stream=shown.number,
            width=shown.width,
            height=shown.height,
            frame_rate=shown.frame_rate,
            variable_rate=shown.variable_rate,
            rotation_deg=shown.rotation_deg,
            is_turned_by_codec=shown.is_turned_by_codec,
            hdr=shown.hdr,
            interlaced=shown.interlaced,
            is_untagged_hd=shown.is_untagged_hd,
        )
    heard = [track for track in tracks if track.kind == "audio" and track.chosen]
    if heard:
        info = replace(
            info,
            audio_codec=heard[0].codec,
            audio_stream=heard[0].number,
            audio_mix=tuple(track.number for track in heard) if len(heard) > 1 else (),
            sample_rate=heard[0].sample_rate,
            channels=heard[0].channels,
        )
    return info


def _of_the_programme(info: MediaInfo, kind: str) -> list[Track]:
    left_out = {OTHER_PROGRAMME, UNREAD}
    return [track for track in info.tracks if track.kind == kind and not left_out & set(track.flags)]


def _as_first(info: MediaInfo, parts: tuple[Segment, ...]) -> MediaInfo:
    """Describe a file of several recordings by its first one."""
    of_file = ("duration_s", "start_s", "tags", "chapters", "subtitles", "is_checked", "notes")
    kept = (*of_file, "video_end_s", "audio_end_s", "lag_s")
    first = replace(parts[0].info, **{name: getattr(info, name) for name in kept})
    return replace(first, segments=parts)


def _auto_video(tracks: Sequence[Track]) -> dict[int, str]:
    if not tracks:
        return {}
    if len(tracks) == 1:
        return {tracks[0].number: "the only one"}
    for passed_over in (ONE_PICTURE, BLANK):
        tracks = [track for track in tracks if passed_over not in track.flags] or tracks
    best = max(tracks, key=lambda t: ((t.width or 0) * (t.height or 0), "default" in t.flags, -t.number))
    same = [t for t in tracks if (t.width or 0) * (t.height or 0) == (best.width or 0) * (best.height or 0)]
    reason = "the largest picture" if len(same) == 1 else "the default" if "default" in best.flags else "the first"
    return {best.number: reason}


def _auto_audio(tracks: Sequence[Track]) -> dict[int, str]:
    if not tracks:
        return {}
    best = min(
        tracks, key=lambda t: (t.is_silent, _aside(t), "default" not in t.flags, "original" not in t.flags, t.number)
    )
    if len(tracks) == 1:
        return {best.number: "the only one"}
    reason = next((name for name in ("default", "original") if name in best.flags), "first")
    return {best.number: f"the {reason} track"}


def _asked(tracks: Sequence[Track], wish: str, auto: Callable[[Sequence[Track]], dict[int, str]]) -> dict[int, str]:
    if not tracks or wish == "auto":
        return {track.number: track.why for track in tracks if track.chosen} or auto(tracks)
    kind = tracks[0].kind
    if wish == "all":
        return {t.number: "all are asked for" for t in tracks if not t.is_silent} or {
            tracks[0].number: "all are silent"
        }
    if wish.startswith("lang:"):
        wanted = languages_of(wish.removeprefix("lang:"))
        found = auto([track for track in tracks if languages_of(track.language) & wanted])
        if not found:
            have = ", ".join(track.language or "not said" for track in tracks)
            raise TrackMissing(f"there is no {kind} track with {wish}; the tracks have: {have}")
        return dict.fromkeys(found, f"{wish} is asked for")
    if int(wish) not in (numbers := [track.number for track in tracks]):
        have = ", ".join(map(str, numbers))
        raise TrackMissing(f"there is no {kind} track {wish}; there are {have}, counted from 0")
    return {int(wish): "asked for"}


def languages_of(code: str) -> frozenset[str]:
    """All equivalent codes of a language; empty for an empty code."""
    plain = code.lower().split("-")[0]
    same = next((names.split() for names in _SAME_LANGUAGE if plain in names.split()), [plain])
    return frozenset(same) - {""}


def _aside(track: Track) -> bool:
    return any(flag in track.flags for flag in ASIDE)


def _why_not(track: Track, video: dict[int, str], audio: dict[int, str]) -> str:
    if OTHER_PROGRAMME in track.flags:
        return "of another programme"
    if UNREAD in track.flags:
        return f"cannot be decoded: {track.codec}"
    if track.is_silent:
        return "digital silence"
    if ONE_PICTURE in track.flags:
        return "one picture only"
    if BLANK in track.flags:
        return "pictures of one colour"
    beside = next((flag for flag in ASIDE if flag in track.flags), None)
    if beside is not None:
        return f"flagged {beside}"
    picked = video if track.kind == "video" else audio
    return f"another track was chosen: {next(iter(picked.values()))}" if picked else "no track was chosen"
