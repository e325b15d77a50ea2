"""The probing process: for each request on stdin it opens one file with libav and writes its findings as JSON lines.

Promises: for each line `scan SIZE` or `glance SIZE`, lines `{"info": ...}`, each more exact than the one before, then
`{"done": true}`; or `{"error_class": ..., "message": ...}`. For `subtitles:N SIZE` (N: stream index), lines
`{"cues": ...}`. The process requests bytes with `{"read": [offset, length]}` and gets them on stdin, so it needs no
path, network or credentials. Knows nothing about pools, limits or retries: `probing.py` keeps it alive, ends it on time
and trusts only the JSON it parses, since a hostile file may crash this process or take it over.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import av
import av.error
import av.logging
from av.container import InputContainer

from workers.media._cropping import cropped
from workers.media._edits import unfollowed
from workers.media._joints import (
    Bytes,
    Part,
    encrypted_streams,
    first_end,
    has_mxf_index,
    header,
    is_indexed_mp4,
    is_still,
    new_tables,
    programmes,
    recordings,
    restarts,
    scrambled_share,
    stated_s,
    unread_bytes,
)
from workers.media._shapes import said
from workers.media._subtitles import Unreadable, cues
from workers.media._subtitles import described as subtitles
from workers.media._timeline import FILE_GAP_S, LEAST_BYTES_PER_S, Stretch, Timeline, scan
from workers.media._tracks import TooManyPixels, codecs_of, described, listen, look, unread
from workers.media.confinement import DECODERS, DEMUXERS, MAX_STREAMS, PROTOCOLS
from workers.media.tracks import ONE_PICTURE, OTHER_PROGRAMME
from workers.records import RawCue

LONGEST_S = 7 * 24 * 3600.0
"""A longer file is refused: its declared length would make more clips than anyone intends to ask about."""

MOST_CHAPTERS = 1000

INDEXED = frozenset({"wav", "w64", "aiff", "caf", "au", "flac", "avi", "mxf", "gxf", "dv"})
"""Containers whose header states the length and that cannot be concatenated, besides an indexed MP4."""

STATED = frozenset({"wav", "w64", "caf", "avi"})
"""Of these libav tells only what is there, not what the header says."""

RATED = frozenset({"wav", "w64"})
MISCOUNTED = frozenset({"g722", "adpcm_swf", "ac3", "eac3"})
"""Codecs of which libav seeks to another second than it says where a place is told by the rate of bytes."""

PALETTED = frozenset({"avi", "mp4"})
"""Containers whose palette libav hands out only once, with the file's first picture."""

BROADCAST = frozenset({"mpegts", "mpeg"})
"""Containers whose clock may jump by design."""

SAME_START_S = 0.5
"""If a container's stated start is this close to its first packet, it is used: audio may begin with samples to skip."""

MOST_SCRAMBLED, LEAST_SCRAMBLED = 0.9, 0.01
"""Shares of scrambled packets: with more a broadcast cannot be read, with more it is noted."""

CUT_OFF_S = 1.0
"""A file whose packets end this much before its stated length was truncated."""

FAR_S = 60.0
"""Where the last packets of an index end so much earlier than it says, or `CUT_OFF_S` later, every packet is read."""

END_PACKETS = 20_000
"""Maximum number of packets read to find where the readable part ends."""

SERVED_BYTES = 1 << 20
"""Maximum size of one read request to the parent."""

BUFFER_BYTES = 1 << 17
"""libav's read size: a request costs 50 us, and without an index the whole file is read."""

ALLOWED = "mp4/mov, matroska/webm, avi, mpegts, mpeg, flv, asf, ogg, mxf, wav, mp3, flac, aac and a few more"

NO_DURATION = "the file declares no duration, and no packet has a timestamp; remux it, for example with ffmpeg -c copy"

_NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")


class Refused(Exception):
    """The file cannot be used; carries the error class and message for the parent."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class Served(io.RawIOBase):
    """A file whose bytes the parent delivers on request."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The offset of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Up to `SERVED_BYTES`."""
        length = min(SERVED_BYTES if size < 0 else size, SERVED_BYTES, max(0, self.size - self._at))
        if not length:
            return b""
        _say({"read": [self._at, length]})
        content = sys.stdin.buffer.read(length)
        if len(content) != length:
            raise EOFError("the parent is gone")
        self._at += length
        return content


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


def findings(file: Served, read_timeout_s: float, *, scans: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the fields of `MediaInfo`, first as declared, then more exact. Raises Refused.

    With `scans`, files without an index have all their packets read; the last findings include the result.
    """
    size = file.size
    content = Part(file, 0, first_end(file, size))
    with _opened(content, read_timeout_s) as container:
        info = _about(container, content)
        declared_s = _declared_s(container, info, size)
        is_indexed = info["container"] in INDEXED and recordings(file, size, info["container"]) == [(0, size)]
        if info["container"] == "mp4":
            is_indexed = is_indexed_mp4(file, size) and not _pauses(container, info["tracks"])
        stated = None
        is_blind = info["container"] == "mxf" and not all(
            has_mxf_index(Part(file, first, end), end - first) for first, end in recordings(file, size, "mxf")
        )
        is_blind |= info["container"] in RATED and any(track["codec"] in MISCOUNTED for track in info["tracks"])
        is_blind |= info["container"] in PALETTED and any(_has_palette(container, track) for track in info["tracks"])
        if declared_s is not None:
            if info["container"] in STATED:
                cut_off_s = stated_s(file, info["container"], declared_s) or 0.0
                declared_s = max(declared_s, cut_off_s if cut_off_s * LEAST_BYTES_PER_S <= size else 0.0)
            if declared_s > LONGEST_S:
                raise Refused("too_large", f"{declared_s:.0f} s long; up to {LONGEST_S:.0f} s are allowed")
            info["duration_s"], stated = declared_s, declared_s if is_indexed else None
            if is_blind:
                info["lag_s"] = declared_s  # seeking ends up at another second than it says: nothing is skipped
            yield info
            if (is_indexed and not is_blind) or not scans:
                info |= _last_ends(container, info["tracks"], declared_s, info["start_s"])
                last_s = max(info["video_end_s"] or 0.0, info["audio_end_s"] or 0.0)
                if info["container"] == "matroska" and info["start_s"] > 0:
                    # Some writers declare the length, as they should.
                    info["duration_s"] = max(declared_s, min(declared_s + info["start_s"], last_s))
                is_borne_out = is_indexed and not is_blind and -FAR_S < last_s - declared_s < CUT_OFF_S
                heard = _heard(container, info)
                heard["notes"] += _of_file(file, info["container"])
                yield info | heard | {"is_checked": is_borne_out}
                if is_borne_out or not scans:
                    return
    try:
        found = _joined(info, list(_parts(file, info["container"], read_timeout_s, stated=stated)))
    except Refused:
        if stated is not None:
            return  # what cannot be read is planned by the header, and each clip says what is wrong with it
        raise
    for one in (found, *(part["info"] for part in found.get("segments", ()))):
        one["lag_s"] = one["duration_s"] if is_blind else one["lag_s"]
    found["notes"] = [*found["notes"], *_of_file(file, info["container"])]
    yield found


def _of_file(file: Served, container: str) -> list[str]:
    """What to say of bytes that nobody reads."""
    notes = []
    share = scrambled_share(file) if container == "mpegts" else 0.0
    if share >= LEAST_SCRAMBLED:
        notes.append(f"about {share:.0%} of the broadcast is scrambled and cannot be read")
    if count := unread_bytes(file, file.size, container):
        notes.append(f"{count} bytes at the end of the file lie behind the end that it states, and are not read")
    if container == "mp4":
        notes += unfollowed(header(file, container))
    return notes


def _about(container: InputContainer, content: Bytes) -> dict[str, Any]:
    """What headers and first frames say, without a duration."""
    name = _NAMES.get(container.format.name, container.format.name.split(",")[0])
    head = header(content, name)
    is_scrambled = name == "mpegts" and scrambled_share(content) > MOST_SCRAMBLED
    locked = {None} if is_scrambled else encrypted_streams(head, name)
    try:
        tracks = described(container, cropped(head, name))
    except TooManyPixels as error:
        raise Refused("too_large", str(error)) from error
    if locked and (None in locked or all(track["index"] in locked for track in tracks)):
        raise Refused("encrypted", "the video and audio are encrypted; decrypt the file")
    captioned = [track["index"] for track in tracks if track.pop("has_captions", False)]
    tracks = [track for track in tracks if track["index"] not in locked]
    if name == "mpegts":
        tracks = _of_one_programme(container, tracks, programmes(content))
    if not tracks:
        what = f"a {container.format.name} file without a video or audio stream that can be decoded"
        raise Refused("no_streams", what + codecs_of(container))
    return {
        "container": name,
        "start_s": (container.start_time or 0) / av.time_base,
        "tags": _tags(container),
        "chapters": _chapters(container),
        "subtitles": subtitles(container, [index for index in captioned if index not in locked]),
        "tracks": tracks,
        "unread": [track for track in unread(container) if track["index"] not in locked],
        "mixes_mono": name == "mxf" or container.metadata.get("major_brand") == "qt  ",
    }


def _of_one_programme(
    container: InputContainer, tracks: list[dict[str, Any]], all_programmes: list[set[int]]
) -> list[dict[str, Any]]:
    """The tracks, with those outside the programme with the largest picture marked: other programmes have other
    clocks."""
    if len(all_programmes) < 2:
        return tracks

    def size(programme: set[int]) -> int:
        mine = [track for track in tracks if container.streams[track["index"]].id in programme]
        return max((track.get("width", 0) * track.get("height", 0) for track in mine), default=-1)

    main = max(all_programmes, key=size)
    return [
        track if container.streams[track["index"]].id in main else {**track, "flags": [OTHER_PROGRAMME]}
        for track in tracks
    ]


def _has_palette(container: InputContainer, track: dict[str, Any]) -> bool:
    codec: Any = container.streams[track["index"]].codec_context
    return bool(track["kind"] == "video" and codec.pix_fmt == "pal8" and codec.name != "png")


def _with_one_picture(track: dict[str, Any]) -> dict[str, Any]:
    return {**track, "flags": [*track["flags"], ONE_PICTURE]} if track["kind"] == "video" else track


def _is_other(track: dict[str, Any]) -> bool:
    return OTHER_PROGRAMME in track["flags"]


def _pauses(container: InputContainer, tracks: list[dict[str, Any]]) -> bool:
    """Whether the index has a gap in both video and audio that is too long to be a frozen picture."""
    gaps: dict[str, list[tuple[float, float]]] = {"video": [], "audio": []}
    for track in tracks:
        stream = container.streams[track["index"]]
        unit, before = float(stream.time_base or 0), None
        for entry in stream.index_entries:
            at = entry.timestamp * unit
            if before is not None and at - before > FILE_GAP_S:
                gaps[track["kind"]].append((before, at))
            before = at
    return any(min(a, b) - max(c, d) > FILE_GAP_S for c, a in gaps["video"] for d, b in gaps["audio"])


def _declared_s(container: InputContainer, info: dict[str, Any], size: int) -> float | None:
    """The duration that the container states or libav estimates; None if there is none or it is implausible."""
    if not container.duration:
        return None
    declared_s = container.duration / av.time_base
    if info["container"] == "matroska" and info["start_s"] > 0:
        declared_s -= info["start_s"]  # Matroska declares the last time stamp, not the duration
    return float(declared_s) if declared_s > 0 and declared_s * LEAST_BYTES_PER_S <= size else None


def _heard(container: InputContainer, info: dict[str, Any]) -> dict[str, Any]:
    """Which tracks are blank, and which tracks and channels are silent."""
    begin_s, length_s = info["start_s"], info["duration_s"]
    tracks = look(container, info["tracks"], begin_s, length_s)
    tracks, notes = listen(container, tracks, begin_s, length_s, mixes_mono=info["mixes_mono"])
    return {"tracks": tracks, "notes": notes}


def _parts(file: Served, container: str, read_timeout_s: float, *, stated: float | None) -> Iterator[dict[str, Any]]:
    """Yield the continuous parts of the file, each a segment whose `info` describes it like a file.

    A segment without `info` stands for a part that cannot be read. `stated` is an index's length, in seconds.
    """
    recorded = recordings(file, file.size, container)
    for first, end in recorded:
        try:
            yield from _recordings(file, first, end, container, read_timeout_s, stated)
        except Refused:
            if len(recorded) == 1:
                raise
            yield {"info": None}


def _recordings(
    file: Served, first: int, end: int, container: str, read_timeout_s: float, stated: float | None
) -> Iterator[dict[str, Any]]:
    """Yield the continuous parts between two byte offsets, at the first of which a header lies."""
    parts = list(_stretches(file, first, end, read_timeout_s, stated))
    backs = sorted(part["first_byte"] for part in parts if part.get("first_byte") is not None)
    length, begins = restarts(Part(file, first, end), end - first, container, backs) if backs else (0, [])
    if not begins:
        yield from parts
        return
    # The header is that of all parts: each is read once more behind it, and nothing it counts is a part's.
    for begin, stop in pairwise([0, *begins, end - first]):
        head = (first, first + length) if begin else (0, 0)
        try:
            yield from _stretches(file, first + begin, first + stop, read_timeout_s, 0.0, head)
        except Refused:
            yield {"info": None}


def _stretches(
    file: Served, first: int, end: int, read_timeout_s: float, stated: float | None, head: tuple[int, int] = (0, 0)
) -> Iterator[dict[str, Any]]:
    """Yield the continuous parts between two byte offsets: one recording, or a broadcast whose clock jumps.

    `stated` is its length in seconds by an index, 0 if none can tell; `head` is where its header lies, if elsewhere.
    """
    content = Part(file, first, end, head)
    with _opened(content, read_timeout_s) as container:
        info = _about(container, content)
    # Decoding first frames has consumed some packets.
    with _opened(content, read_timeout_s) as container:
        is_broadcast = info["container"] in BROADCAST
        kinds = {track["index"]: track["kind"] for track in info["tracks"]}
        if is_broadcast:
            # A programme that begins later is announced here, but its audio format is not known yet.
            kinds |= {s.index: s.type for s in container.streams if s.type in ("video", "audio")}
            for track in info["tracks"]:
                if _is_other(track):
                    del kinds[track["index"]]
        declared_s = (container.duration or 0) / av.time_base
        says_s = stated
        if says_s is None:
            says_s = stated_s(content, info["container"], _declared_s(container, info, end - first)) or 0.0
            says_s -= info["start_s"] if info["container"] == "asf" else 0.0  # it states the last time stamp
        try:
            timeline = scan(container, is_broadcast=is_broadcast, kinds=kinds, size=end - first, declared_s=declared_s)
        except ValueError as error:
            raise Refused("too_large", str(error)) from error
        if not timeline.stretches:
            raise Refused("no_duration", NO_DURATION)
        whole = (first, None if end == file.size else end)
        known = {track["index"] for track in (*info["tracks"], *info["unread"])}
        for number, stretch in enumerate(timeline.stretches):
            if number and not is_broadcast and not stretch.jumps_ahead:
                # Only a demuxer that starts there could read it.
                starts = [byte for byte in map(stretch.first_byte, ("video", "audio")) if byte is not None]
                yield {"info": None, "first_byte": min(starts, default=None)}
                continue
            part = {"video_bytes": whole, "audio_bytes": whole, "head_bytes": head}
            if is_broadcast and len(timeline.stretches) > 1:
                part |= {
                    f"{kind}_bytes": _bytes_of(file, kind, timeline, number, first, whole[1])
                    for kind in ("video", "audio")
                }
            begin_s, here = stretch.start_s, info
            if is_broadcast:
                here = {**info, "tracks": [t for t in info["tracks"] if t["index"] in stretch.streams or _is_other(t)]}
            if is_broadcast and number:
                has = {kind for kind in ("video", "audio") if stretch.first_byte(kind) is not None}
                at = min(part[f"{kind}_bytes"][0] for kind in has) if has else first
                if stretch.is_continued:  # streams are counted from the same place, then
                    part |= {f"{kind}_bytes": (at, part[f"{kind}_bytes"][1]) for kind in ("video", "audio")}
                # If it cannot be opened there, it is planned like the first part, and its clips fail by name.
                with (
                    contextlib.suppress(Refused),
                    _opened(Part(file, at, end), read_timeout_s) as again,
                ):
                    here = _about(again, Part(file, at, end))
                    if stretch.is_continued:
                        pids = {container.streams[index].id for index in stretch.streams}
                        own = [track for track in here["tracks"] if again.streams[track["index"]].id in pids]
                        here = {**here, "tracks": own}
                # From there on, packets of the other kind belong to another recording.
                here = {**here, "tracks": [track for track in here["tracks"] if not has or track["kind"] in has]}
                with _opened(Part(file, at, end), read_timeout_s) as again:
                    begin_s += _clock_shift(again, at, stretch)
            elif not number and abs(begin_s - info["start_s"]) < SAME_START_S:
                begin_s = info["start_s"]
            if not is_broadcast:
                alone = [index for index, seen in stretch.streams.items() if seen.packets == 1]
                here = {**here, "tracks": [_with_one_picture(t) if t["index"] in alone else t for t in here["tracks"]]}
            ends = {
                f"{kind}_end_s": max((e - begin_s for e in stretch.ends_s(kind)), default=None)
                for kind in ("video", "audio")
            }
            duration_s = stretch.end_s - stretch.start_s + (stretch.start_s - begin_s if not number else 0.0)
            if len(timeline.stretches) == 1 and says_s > duration_s + CUT_OFF_S:
                duration_s = says_s  # the missing rest is planned, and reported as missing
            here = {**here, **ends, "start_s": begin_s, "duration_s": duration_s, "lag_s": timeline.lag_s}
            if number == 0 or not is_broadcast:
                here |= _heard(container, here)
            if number == 0:
                late = [seen.start_s - begin_s for index, seen in stretch.streams.items() if index not in known]
                here["notes"] = [*here["notes"], *said(timeline.aspects_s, begin_s), *_left_out(late)]
            if duration_s > 0:
                yield {**part, "info": here | {"is_checked": True}}


def _left_out(begin_s: list[float]) -> list[str]:
    """What to say of streams that begin inside a part, beside those that are read; `begin_s` in seconds from its
    start."""
    if not begin_s:
        return []
    return [f"{len(begin_s)} more video or audio streams, the first from {min(begin_s):.1f} s on, are left out"]


def _bytes_of(
    file: Served, kind: str, timeline: Timeline, number: int, first: int, end: int | None
) -> tuple[int, int | None]:
    """Byte range of a part's packets of one kind: from its first packet, or its tables, to the next part's."""
    after = (_begin_of(file, kind, timeline, later, first) for later in range(number + 1, len(timeline.stretches)))
    begin = _begin_of(file, kind, timeline, number, first) if number else first
    last, stop = timeline.stretches[number].last_byte(kind), next((byte for byte in after if byte is not None), end)
    # A stream that goes on in the next part is read from a key frame there, which this part may show, too.
    stop = stop if stop is None or last is None else max(stop, first + last)
    return first if begin is None else begin, stop


def _begin_of(file: Served, kind: str, timeline: Timeline, number: int, first: int) -> int | None:
    here, before = timeline.stretches[number].first_byte(kind), timeline.stretches[number - 1].last_byte(kind)
    if here is None:
        return None
    # Where the codec changes with the recording, what precedes the tables' end is taken for the codec before.
    tables = None if before is None or before >= here else new_tables(file, first + before, first + here)
    return first + here if tables is None else tables


def _clock_shift(container: InputContainer, at: int, stretch: Stretch) -> float:
    """Time of the same packet if the file is read from byte `at`, minus its time if read from the start, in seconds.

    libav unwraps a broadcast's clock relative to where it began to read.
    """
    known = {seen.first_byte: seen.start_s for seen in stretch.streams.values() if seen.is_first_start}
    with contextlib.suppress(av.error.FFmpegError):
        for number, packet in enumerate(container.demux()):
            if number >= END_PACKETS:
                break
            if packet.pts is not None and packet.pos is not None and (packet.pos + at) in known:
                return float(packet.pts * packet.time_base) - known[packet.pos + at]
    return 0.0


def _joined(info: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole file, made of its segments; seconds of content are counted across them."""
    readable = [part for part in parts if part["info"] is not None]
    if not readable:
        raise Refused("no_duration", NO_DURATION)
    at_s = 0.0
    for part in readable:
        part["start_s"], part["pts_s"] = at_s, part["info"]["start_s"]
        at_s += part["info"]["duration_s"]
        part["end_s"] = at_s
    if at_s > LONGEST_S:
        raise Refused("too_large", f"{at_s:.0f} s long; up to {LONGEST_S:.0f} s are allowed")
    notes = list(readable[0]["info"].get("notes", ()))
    if lost := len(parts) - len(readable):
        notes.append(f"{lost} parts of the file cannot be read, because decoding cannot start inside the file")
    found = {**info, **readable[0]["info"], "notes": notes}
    if len(readable) > 1 or readable[0]["video_bytes"] != (0, None):
        ends = {
            name: max((p["start_s"] + p["info"][name] for p in readable if p["info"][name] is not None), default=None)
            for name in ("video_end_s", "audio_end_s")
        }
        found |= {**ends, "duration_s": at_s, "segments": readable}
    return found


def _opened(file: Served | Part, read_timeout_s: float) -> InputContainer:
    head = _head(file)
    if is_still(head):
        raise Refused("not_media", f"a photo ({head[8:12].decode(errors='replace')}), not video or audio")
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
            message = "the broadcast is scrambled; descramble the file"
            raise Refused("encrypted", message) from error
        if head[4:8] in _MP4_BOXES:
            message = "an MP4 file whose index (moov) is missing or damaged, probably cut off; copy it again"
            raise Refused("truncated", message) from error
        if head[:4] == b"\x1a\x45\xdf\xa3":
            raise Refused("truncated", "a Matroska or WebM file that ends inside its header; copy it again") from error
        raise Refused("not_media", f"not a media file in a supported container ({ALLOWED})") from error


def _head(file: Served | Part) -> bytes:
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    return head


def _ends(
    container: InputContainer, kinds: dict[int, str], from_s: float, start_s: float, most: int
) -> dict[str, float | None]:
    """Where the last packet of each kind ends, in seconds from the start, reading from `from_s`."""
    ends: dict[str, float | None] = {"video_end_s": None, "audio_end_s": None}
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        container.seek(round((start_s + from_s) * av.time_base), backward=True, any_frame=False)
        for number, packet in enumerate(container.demux([container.streams[index] for index in kinds])):
            if number >= most:
                break
            if packet.pts is None or packet.time_base is None or not packet.size or packet.is_discard:
                continue
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - start_s
            name = f"{kinds[packet.stream_index]}_end_s"
            if math.isfinite(end):
                ends[name] = max(end, ends[name] or 0.0)
    return ends


def _last_ends(
    container: InputContainer, tracks: list[dict[str, Any]], duration_s: float, start_s: float
) -> dict[str, float | None]:
    """The same for a file with a declared duration: read near its end or, if that fails, by bisection."""
    kinds = {track["index"]: track["kind"] for track in tracks}
    low_s, high_s = 0.0, max(0.0, duration_s - 2.0)
    ends = _ends(container, kinds, high_s, start_s, END_PACKETS)
    if all(end is None for end in ends.values()):
        while high_s - low_s > 2.0:
            middle_s = (low_s + high_s) / 2
            readable = any(end is not None for end in _ends(container, kinds, middle_s, start_s, 1).values())
            low_s, high_s = (middle_s, high_s) if readable else (low_s, middle_s)
        ends = _ends(container, kinds, low_s, start_s, END_PACKETS)
    return ends


def words(file: Served, read_timeout_s: float, index: int) -> Iterator[list[RawCue]]:
    """The cues of a text subtitle stream, in container time. Raises Refused."""
    with _opened(file, read_timeout_s) as container:
        try:
            yield from cues(container, index)
        except Unreadable as error:
            raise Refused("media_error", str(error)) from error


def main() -> None:
    """Serve until stdin ends."""
    av.logging.set_level(None)
    read_timeout_s = float(sys.argv[1])
    while line := sys.stdin.buffer.readline():
        how, size = line.decode().split()
        file = Served(int(size))
        try:
            if how.startswith("subtitles:"):
                for said in words(file, read_timeout_s, int(how.partition(":")[2])):
                    _say({"cues": said})
            else:
                for found in findings(file, read_timeout_s, scans=how == "scan"):
                    _say({"info": found})
            _say({"done": True})
        except Refused as error:
            _say({"error_class": error.error_class, "message": str(error)})
        except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError) as error:
            _say({"error_class": "not_media", "message": f"{type(error).__name__}: {error}"[:300]})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
