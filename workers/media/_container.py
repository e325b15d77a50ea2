"""One range of bytes opened with libav, and what its headers and first frames say of it.

Promises: an open container that reads nothing else, or `Refused`; a description of it with the fields of `MediaInfo`,
whose duration may be None. Knows nothing about times of packets or recordings that are joined. Runs in the probing
process.
"""

from __future__ import annotations

from typing import Any

import av
import av.error
from av.container import InputContainer

from workers.media._broadcast import LOCKED_TYPES, programmes, scrambled_share
from workers.media._bytes import Bytes, Part
from workers.media._cropping import cropped
from workers.media._edits import edited_s, unfollowed
from workers.media._headers import (
    dolby_profile,
    encrypted_streams,
    has_stray_pictures,
    header,
    is_still,
    pixel_shapes,
)
from workers.media._subtitles import described as subtitles
from workers.media._timeline import LEAST_BYTES_PER_S
from workers.media._tracks import TooManyPixels, codecs_of, described, listen, look, unread
from workers.media.confinement import DECODERS, DEMUXERS, MAX_STREAMS, PROTOCOLS
from workers.media.tracks import OTHER_PROGRAMME

LONGEST_S = 7 * 24 * 3600.0
"""A longer file is refused: its declared length would make more clips than anyone intends to ask about."""

MOST_CHAPTERS = 1000

BROADCAST = frozenset({"mpegts", "mpeg"})
"""Containers whose clock may jump by design, and that may be scrambled."""

MOST_SCRAMBLED, LEAST_SCRAMBLED = 0.9, 0.01
"""Shares of scrambled packets: with more a broadcast cannot be read, with more it is noted."""

DOLBY_ALONE = 5
"""The profile of Dolby Vision without pictures that other decoders show as they are meant."""

BUFFER_BYTES = 1 << 17
"""libav's read size: a request costs 50 us, and without an index the whole file is read."""

ALLOWED = "mp4/mov, matroska/webm, avi, mpegts, mpeg, flv, asf, ogg, mxf, wav, mp3, flac, aac and a few more"

_NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")


class Refused(Exception):
    """The file cannot be used; carries the error class and message for the parent."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


def opened(file: Part, read_timeout_s: float) -> InputContainer:
    """The bytes as libav reads them. Raises Refused, with what is wrong with them."""
    head = _head(file)
    if is_still(head):
        raise Refused("not_media", f"a photo ({head[8:12].decode(errors='replace')}), not video or audio")
    if head[:4] == b"RIFX":
        raise Refused("not_media", "a RIFX file: WAV with the first byte of each number first; convert it to WAV")
    options = {
        "protocol_whitelist": PROTOCOLS,
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": DECODERS,
        "max_streams": str(MAX_STREAMS),
    }
    own = Part(file, 0, file.size)  # with a position of its own
    try:
        return av.open(
            own, "r", options=options, metadata_errors="replace", timeout=read_timeout_s, buffer_size=BUFFER_BYTES
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if scrambled_share(own) > MOST_SCRAMBLED:
            message = "the broadcast or disc is scrambled; descramble the file"
            raise Refused("encrypted", message) from error
        if head[4:8] in _MP4_BOXES:
            message = "an MP4 file whose index (moov) is missing or damaged, probably cut off; copy it again"
            raise Refused("truncated", message) from error
        if head[:4] == b"\x1a\x45\xdf\xa3":
            raise Refused("truncated", "a Matroska or WebM file that ends inside its header; copy it again") from error
        raise Refused("not_media", f"not a media file in a supported container ({ALLOWED})") from error


def _head(file: Part) -> bytes:
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    return head


def about(container: InputContainer, content: Bytes) -> dict[str, Any]:
    """What headers and first frames say; `duration_s` is None if they state none. Raises Refused."""
    name = _NAMES.get(container.format.name, container.format.name.split(",")[0])
    head, start_s = header(content, name), (container.start_time or 0) / av.time_base
    scrambled = scrambled_share(content) if name in BROADCAST else 0.0
    locked = {None} if scrambled > MOST_SCRAMBLED else encrypted_streams(head, name)
    all_programmes = programmes(content) if name == "mpegts" else []
    pids = {pid for programme in all_programmes for pid, kind in programme.items() if kind in LOCKED_TYPES}
    locked |= {stream.index for stream in container.streams if stream.id in pids}
    try:
        tracks = described(container, cropped(head, name))
    except TooManyPixels as error:
        raise Refused("too_large", str(error)) from error
    if locked and (None in locked or all(track["index"] in locked for track in tracks)):
        raise Refused("encrypted", "the video and audio are encrypted; decrypt the file")
    captioned = [track["index"] for track in tracks if track.pop("has_captions", False)]
    tracks = [track for track in tracks if track["index"] not in locked]
    if name == "mpegts":
        tracks = _of_one_programme(container, tracks, all_programmes)
    if not tracks:
        what = f"a {container.format.name} file without a video or audio stream that can be decoded"
        raise Refused("no_streams", what + codecs_of(container))
    return {
        "container": name,
        "start_s": start_s,
        "duration_s": _declared_s(container, name, start_s, head, content.size),
        "tags": _tags(container),
        "chapters": _chapters(container),
        "subtitles": subtitles(container, [index for index in captioned if index not in locked]),
        "tracks": tracks,
        "unread": [track for track in unread(container) if track["index"] not in locked],
        "notes": _noted(scrambled, head, name),
        "has_damaged_times": name == "mp4" and has_stray_pictures(head),
        "mixes_mono": name == "mxf" or container.metadata.get("major_brand") == "qt  ",
    }


def _noted(scrambled: float, head: bytes, name: str) -> list[str]:
    notes = unfollowed(head) if name == "mp4" else []
    if name == "mp4" and (shapes := pixel_shapes(head)) > 1:
        notes.append(f"the index tells of pictures of {shapes} aspect ratios: all are given in one")
    if dolby_profile(head) == DOLBY_ALONE:
        notes.append(f"Dolby Vision of profile {DOLBY_ALONE}: nothing here reads its colours, which are wrong")
    if scrambled >= LEAST_SCRAMBLED:
        notes.append(f"about {scrambled:.0%} of the stream is scrambled and cannot be read")
    return notes


def _of_one_programme(
    container: InputContainer, tracks: list[dict[str, Any]], all_programmes: list[dict[int, int]]
) -> list[dict[str, Any]]:
    """The tracks, with those outside the programme with the largest picture marked: other programmes have other
    clocks."""
    if len(all_programmes) < 2:
        return tracks

    def size(programme: dict[int, int]) -> int:
        mine = [track for track in tracks if container.streams[track["index"]].id in programme]
        return max((track.get("width", 0) * track.get("height", 0) for track in mine), default=-1)

    main = max(all_programmes, key=size)
    return [
        track if container.streams[track["index"]].id in main else {**track, "flags": [OTHER_PROGRAMME]}
        for track in tracks
    ]


def _tags(container: InputContainer) -> list[tuple[str, str]]:
    """Container tags, plus the timecode of the first frame, which QuickTime keeps in a separate track."""
    tags = sorted({str(k).lower(): str(v)[:1000] for k, v in container.metadata.items()}.items())[:64]
    tracks = (stream.metadata.get("timecode") for stream in container.streams)
    timecode = next(filter(None, tracks), None)
    return tags if timecode is None or "timecode" in dict(tags) else sorted([*tags, ("timecode", timecode[:1000])])


def _chapters(container: InputContainer) -> list[tuple[float, float, str]]:
    """Chapters with a title: (start, end, title), in seconds from the start of the file."""
    begins_s = (container.start_time or 0) / av.time_base
    found = []
    for chapter in container.chapters()[:MOST_CHAPTERS]:
        title, unit = str(chapter["metadata"].get("title") or "")[:1000], float(chapter["time_base"] or 0)
        start_s, end_s = chapter["start"] * unit - begins_s, chapter["end"] * unit - begins_s
        if title.strip() and max(start_s, 0.0) < end_s < LONGEST_S:
            found.append((max(start_s, 0.0), end_s, title))
    return found


def _declared_s(container: InputContainer, name: str, start_s: float, head: bytes, size: int) -> float | None:
    """The duration that the container states or libav estimates; None if there is none or it is implausible."""
    if not container.duration:
        return None
    seconds = container.duration / av.time_base
    if name == "matroska" and start_s > 0:
        seconds -= start_s  # Matroska declares the last time stamp, not the duration
    if name == "mp4" and (until_s := edited_s(head)) is not None and until_s > start_s:
        seconds = min(seconds, until_s - start_s)  # libav counts what is behind the last edit
    return float(seconds) if seconds > 0 and seconds * LEAST_BYTES_PER_S <= size else None


def heard(container: InputContainer, info: dict[str, Any]) -> dict[str, Any]:
    """Which tracks are blank and which are silent, and what is noted, with what channels are."""
    begin_s, length_s = info["start_s"], info["duration_s"]
    tracks = look(container, info["tracks"], begin_s, length_s)
    tracks, notes = listen(container, tracks, begin_s, length_s, mixes_mono=info["mixes_mono"])
    return {"tracks": tracks, "notes": [*info["notes"], *notes]}
