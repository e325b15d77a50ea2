"""Finds the continuous parts of a file: joined recordings, and within one where times jump or begin again.

Promises: segments in file order, each described like a file and readable by its own byte ranges; every packet is read,
without decoding. Knows nothing about requests, or about what an index says. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import av
import av.error
from av.container import InputContainer

from workers.media._broadcast import new_tables
from workers.media._bytes import Bytes, Part
from workers.media._channels import said as channels_said
from workers.media._container import BROADCAST, LONGEST_S, Refused, about, heard, opened
from workers.media._headers import stated_s
from workers.media._joints import left_over, restarts
from workers.media._shapes import said
from workers.media._timeline import Stretch, Timeline, scan
from workers.media.confinement import MAX_STREAMS
from workers.media.tracks import ONE_PICTURE, OTHER_PROGRAMME

SAME_START_S = 0.5
"""If a container's stated start is this close to its first packet, it is used: audio may begin with samples to skip."""

CUT_OFF_S = 1.0
"""A file whose packets end this much before its stated length was truncated."""

MOST_SEARCHED = 20_000
"""Maximum number of packets read to find one again."""

OUTLIER_SHARE = 0.01
"""More packets than this whose times fit nothing are noted."""

NO_DURATION = "the file declares no duration, and no packet has a timestamp; remux it, for example with ffmpeg -c copy"

KINDS = ("video", "audio")


@dataclass(frozen=True)
class Recording:
    """What is read as if it were a file: bytes of a file, at the first of which a header lies."""

    file: Bytes
    first: int
    end: int
    read_timeout_s: float
    head: tuple[int, int] = (0, 0)
    """Where the header lies, if elsewhere."""
    stated_s: float | None = None
    """Its length by an index in seconds, 0 if none can tell; None: look for it in the header."""
    info: dict[str, Any] | None = None
    """What its headers say, if that is known."""

    @property
    def content(self) -> Part:
        return Part(self.file, self.first, self.end, self.head)

    @property
    def last(self) -> int | None:
        """Where it ends, None at the end of the file."""
        return None if self.end == self.file.size else self.end

    def opened(self, at: int | None = None) -> InputContainer:
        """From its beginning, or from another byte of the file on. Raises Refused."""
        return opened(self.content if at is None else Part(self.file, at, self.end), self.read_timeout_s)

    def described(self) -> dict[str, Any]:
        """What its headers say. Raises Refused."""
        if self.info is not None:
            return self.info
        with self.opened() as container:
            return about(container, self.content)


def parts_of(recorded: list[Recording], container: str) -> Iterator[dict[str, Any]]:
    """Yield the continuous parts of joined recordings, each a segment whose `info` describes it like a file.

    A segment without `info` stands for a part that cannot be read. Raises Refused if that is so of the only one.
    """
    for one in recorded:
        try:
            yield from _parts(one, container)
        except Refused:
            if len(recorded) == 1:
                raise
            yield {"info": None}


def _parts(one: Recording, container: str) -> Iterator[dict[str, Any]]:
    """Yield the continuous parts of a recording, also those that begin again under its header."""
    parts = list(_stretches(one))
    backs = sorted(part["first_byte"] for part in parts if part.get("first_byte") is not None)
    length, begins = restarts(one.content, one.end - one.first, container, backs) if backs else (0, [])
    if not begins:
        yield from parts
        return
    # The header is that of all parts: each is read once more behind it, and nothing it counts is a part's.
    for begin, stop in pairwise([0, *begins, one.end - one.first]):
        head = (one.first, one.first + length) if begin else (0, 0)
        try:
            yield from _stretches(
                Recording(one.file, one.first + begin, one.first + stop, one.read_timeout_s, head, stated_s=0.0)
            )
        except Refused:
            yield {"info": None}


def _stretches(one: Recording) -> Iterator[dict[str, Any]]:
    """Yield the continuous parts of one header: all of it, or the stretches of a broadcast whose clock jumps."""
    info = one.described()
    is_broadcast = info["container"] in BROADCAST
    # Opened again: describing it has consumed some packets.
    with one.opened() as container:
        timeline = _scanned(one, container, info)
        says_s = _stated_s(one, info)
        if not is_broadcast:
            info = _without_empty(info, timeline.present)
        known = {track["index"] for track in (*info["tracks"], *info["unread"])}
        for number, stretch in enumerate(timeline.stretches):
            if number and not is_broadcast and not stretch.jumps_ahead:
                # Only a demuxer that starts there could read it.
                starts = [byte for byte in map(stretch.first_byte, KINDS) if byte is not None]
                yield {"info": None, "first_byte": min(starts, default=None)}
                continue
            where: dict[str, Any] = {f"{kind}_bytes": (one.first, one.last) for kind in KINDS}
            here, begin_s = info, stretch.start_s
            if is_broadcast:
                where, here, begin_s = _in_broadcast(one, container, info, timeline, number)
            else:
                alone = [index for index, seen in stretch.streams.items() if seen.packets == 1]
                here = {**here, "tracks": [_with_one_picture(t) if t["index"] in alone else t for t in here["tracks"]]}
            if not number and abs(begin_s - info["start_s"]) < SAME_START_S:
                begin_s = info["start_s"]
            duration_s = stretch.end_s - stretch.start_s + (stretch.start_s - begin_s if not number else 0.0)
            if len(timeline.stretches) == 1 and says_s > duration_s + CUT_OFF_S:
                duration_s = says_s  # the missing rest is planned, and reported as missing
            ends = {f"{kind}_end_s": max((e - begin_s for e in stretch.ends_s(kind)), default=None) for kind in KINDS}
            here = {**here, **ends, "start_s": begin_s, "duration_s": duration_s, "lag_s": timeline.lag_s}
            here["has_damaged_times"] |= timeline.has_damaged_times
            if number == 0 or not is_broadcast:
                here |= heard(container, here)
            if number == 0:
                late = [seen.start_s - begin_s for index, seen in stretch.streams.items() if index not in known]
                changes = [*said(timeline.shapes, begin_s), *channels_said(timeline.channels, begin_s)]
                here["notes"] += [*changes, *_left_out(late), *_unread(one, timeline), *_ahead(timeline)]
            if duration_s > 0:
                yield {**where, "head_bytes": one.head, "info": here | {"is_checked": True}}


def _scanned(one: Recording, container: InputContainer, info: dict[str, Any]) -> Timeline:
    """When the packets are, of all streams that count. Raises Refused."""
    is_broadcast = info["container"] in BROADCAST
    kinds = {track["index"]: track["kind"] for track in info["tracks"]}
    if is_broadcast:
        # A programme that begins later is announced here, but its audio format is not known yet.
        kinds |= {s.index: s.type for s in container.streams if s.type in KINDS}
        for track in info["tracks"]:
            if _is_other(track):
                del kinds[track["index"]]
    about_s = (container.duration or 0) / av.time_base
    try:
        found = scan(container, is_broadcast=is_broadcast, kinds=kinds, size=one.end - one.first, declared_s=about_s)
    except ValueError as error:
        raise Refused("too_large", str(error)) from error
    if not found.stretches:
        raise Refused("no_duration", NO_DURATION)
    return found


def _stated_s(one: Recording, info: dict[str, Any]) -> float:
    """How long the recording says it is, in seconds; 0 if it says nothing."""
    if one.stated_s is not None:
        return one.stated_s
    says_s = stated_s(one.content, info["container"], info["duration_s"]) or 0.0
    return says_s - (info["start_s"] if info["container"] == "asf" else 0.0)  # it states the last time stamp


def _in_broadcast(
    one: Recording, container: InputContainer, info: dict[str, Any], timeline: Timeline, number: int
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """(byte ranges by kind, description, beginning in seconds as read from there) of a stretch of a broadcast."""
    stretch = timeline.stretches[number]
    here = {**info, "tracks": [t for t in info["tracks"] if t["index"] in stretch.streams or _is_other(t)]}
    where: dict[str, Any] = {f"{kind}_bytes": (one.first, one.last) for kind in KINDS}
    if len(timeline.stretches) > 1:
        where = {f"{kind}_bytes": _bytes_of(one, kind, timeline, number) for kind in KINDS}
    if not number:
        return where, here, stretch.start_s
    has = {kind for kind in KINDS if stretch.first_byte(kind) is not None}
    at = min(where[f"{kind}_bytes"][0] for kind in has) if has else one.first
    if stretch.is_continued:  # streams are counted from the same place, then
        where = {f"{kind}_bytes": (at, where[f"{kind}_bytes"][1]) for kind in KINDS}
    # If it cannot be opened there, it is planned like the first part, and its clips fail by name.
    with contextlib.suppress(Refused), one.opened(at) as again:
        here = about(again, Part(one.file, at, one.end))
        if stretch.is_continued:
            pids = {container.streams[index % MAX_STREAMS].id for index in stretch.streams}
            here = {**here, "tracks": [t for t in here["tracks"] if again.streams[t["index"]].id in pids]}
    # From there on, packets of the other kind belong to another recording.
    here = {**here, "tracks": [track for track in here["tracks"] if not has or track["kind"] in has]}
    with one.opened(at) as again:
        return where, here, stretch.start_s + _clock_shift(again, at, stretch)


def _bytes_of(one: Recording, kind: str, timeline: Timeline, number: int) -> tuple[int, int | None]:
    """Byte range of a stretch's packets of one kind: from its first packet, or its tables, to the next stretch's."""
    after = (_begin_of(one, kind, timeline, later) for later in range(number + 1, len(timeline.stretches)))
    begin = _begin_of(one, kind, timeline, number) if number else one.first
    last, stop = (
        timeline.stretches[number].last_byte(kind),
        next((byte for byte in after if byte is not None), one.last),
    )
    # A stream that goes on in the next stretch is read from a key frame there, which this one may show, too.
    stop = stop if stop is None or last is None else max(stop, one.first + last)
    return one.first if begin is None else begin, stop


def _begin_of(one: Recording, kind: str, timeline: Timeline, number: int) -> int | None:
    here, before = timeline.stretches[number].first_byte(kind), timeline.stretches[number - 1].last_byte(kind)
    if here is None:
        return None
    # Where the codec changes with the recording, what precedes the tables' end is taken for the codec before.
    is_alone = before is None or before >= here
    tables = None if is_alone else new_tables(one.file, one.first + (before or 0), one.first + here)
    return one.first + here if tables is None else tables


def _clock_shift(container: InputContainer, at: int, stretch: Stretch) -> float:
    """Time of the same packet if the file is read from byte `at`, minus its time if read from the start, in seconds.

    libav unwraps a broadcast's clock relative to where it began to read.
    """
    known = {seen.first_byte: seen.start_s for seen in stretch.streams.values() if seen.is_first_start}
    with contextlib.suppress(av.error.FFmpegError):
        for number, packet in enumerate(container.demux()):
            if number >= MOST_SEARCHED:
                break
            if packet.pts is not None and packet.pos is not None and (packet.pos + at) in known:
                return float(packet.pts * packet.time_base) - known[packet.pos + at]
    return 0.0


def _with_one_picture(track: dict[str, Any]) -> dict[str, Any]:
    return {**track, "flags": [*track["flags"], ONE_PICTURE]} if track["kind"] == "video" else track


def _is_other(track: dict[str, Any]) -> bool:
    return OTHER_PROGRAMME in track["flags"]


def _left_out(begin_s: list[float]) -> list[str]:
    """What to say of streams that begin inside a part, beside those that are read; `begin_s` in seconds from its
    start."""
    if not begin_s:
        return []
    return [f"{len(begin_s)} more video or audio streams, the first from {min(begin_s):.1f} s on, are left out"]


def _without_empty(info: dict[str, Any], present: frozenset[int]) -> dict[str, Any]:
    """The description without tracks that are announced and have no packets, if others have some."""
    empty = [track for track in info["tracks"] if track["index"] not in present]
    if not empty or len(empty) == len(info["tracks"]):
        return info
    notes = [f"{track['kind']} track {track['number']} is announced, but empty" for track in empty]
    left = [track for track in info["tracks"] if track not in empty]
    return {**info, "tracks": left, "notes": [*info["notes"], *notes]}


def _unread(one: Recording, timeline: Timeline) -> list[str]:
    """What to say of bytes behind the last packet that was read, and of packets at no time."""
    notes = []
    if left := left_over(one.file, one.first + timeline.end_byte - (one.head[1] - one.head[0]), one.end):
        notes.append(f"no pictures or sound are read from {left} bytes behind the last ones")
    total = sum(seen.packets for stretch in timeline.stretches for seen in stretch.streams.values())
    if timeline.outliers > OUTLIER_SHARE * total:
        notes.append(f"{timeline.outliers} packets have times that fit nothing around them")
    return notes


def _ahead(timeline: Timeline) -> list[str]:
    """What to say of last packets that do not make a part longer."""
    if not timeline.ahead_s:
        return []
    return [
        f"the last packet is said to come {timeline.ahead_s:.1f} s behind all others; its time is taken for damaged"
    ]


def joined(info: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole file, made of its segments; seconds of content are counted across them. Raises Refused."""
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
    notes = [*info["notes"], *readable[0]["info"]["notes"]]
    if lost := len(parts) - len(readable):
        notes.append(f"{lost} parts of the file cannot be read, because decoding cannot start inside the file")
    found = {**info, **readable[0]["info"], "notes": list(dict.fromkeys(notes))}
    if len(readable) > 1 or readable[0]["video_bytes"] != (0, None):
        ends = {
            name: max((p["start_s"] + p["info"][name] for p in readable if p["info"][name] is not None), default=None)
            for name in ("video_end_s", "audio_end_s")
        }
        found |= {**ends, "duration_s": at_s, "segments": readable}
    return found
