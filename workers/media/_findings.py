"""What is found out about one file, each time more exactly: by its headers, by its index, by all its packets.

Promises: descriptions with the fields of `MediaInfo`, or `Refused`; packets are read only where no index bears out how
long the file is. Knows nothing about where the bytes come from. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import av
import av.error
from av.container import InputContainer

from workers.media import _channels
from workers.media._bytes import Bytes, Part
from workers.media._container import LONGEST_S, Refused, about, heard, opened
from workers.media._gaps import Span, indexed, spans, uncounted
from workers.media._gaps import said as gaps_said
from workers.media._headers import has_mxf_index, is_indexed_mp4, stated_s
from workers.media._joints import first_end, holes_said, own_end, pieces, recordings, unread_bytes
from workers.media._keys import apart_s
from workers.media._segments import CUT_OFF_S, Recording, joined, parts_of
from workers.media._shapes import said, sampled
from workers.media._timeline import FILE_GAP_S, LEAST_BYTES_PER_S

INDEXED = frozenset({"wav", "w64", "aiff", "caf", "au", "flac", "avi", "mxf", "gxf", "dv"})
"""Containers whose header states the length and that cannot be concatenated, besides an indexed MP4."""

STATED = frozenset({"wav", "w64", "caf", "avi"})
"""Of these libav tells only what is there, not what the header says."""

RATED = frozenset({"wav", "w64"})
MISCOUNTED = frozenset({"g722", "adpcm_swf", "ac3", "eac3"})
"""Codecs of which libav seeks to another second than it says where a place is told by the rate of bytes."""

LPCM_HEAD, LPCM_BLOCK, FIRST_LPCM = 3, 12, 8
"""Bytes of an LPCM packet's header and of a block of its samples, and how many packets are looked at."""

PALETTED = frozenset({"avi", "mp4"})
"""Containers whose palette libav hands out only once, with the file's first picture."""

FAR_S = 60.0
"""Where the last packets of an index end so much earlier than it says, or `CUT_OFF_S` later, every packet is read."""

END_PACKETS = 20_000
"""Maximum number of packets read to find where the readable part ends."""


def findings(file: Bytes, read_timeout_s: float, *, scans: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the fields of `MediaInfo`, first as declared, then more exact. Raises Refused.

    With `scans`, files without an index have all their packets read; the last findings include the result.
    """
    content = Part(file, 0, first_end(file, file.size))
    with opened(content, read_timeout_s) as container:
        info = about(container, content)
        name = info["container"]
        end = own_end(file, name) if scans else file.size
        info["notes"] += holes_said(file, end, name) if scans else []
        recorded = recordings(file, end, name)
        if count := unread_bytes(file, recorded[-1], name):
            behind = f"{count} bytes at the end of the file lie behind the end of its recording, and are not read"
            info["notes"].append(behind)
        if (count := pieces(file, recorded[-1], name)) > 1:
            info["notes"].append(f"the samples lie in {count} chunks, of which only the last is read")
        is_indexed = _is_indexed(file, container, info, recorded)
        is_blind = _is_blind(file, container, info, recorded)
        key_s = max((apart_s(container, track["index"]) for track in info["tracks"]), default=0.0)
        info["lag_s"] = key_s  # seeking ends up at pictures that need others
        known = dict(info)
        seconds = _length_s(file, info)
        if seconds is not None:
            info["duration_s"] = seconds
            if is_blind:
                info["lag_s"] = seconds  # seeking ends up at another second than it says: nothing is skipped
            yield info
            if name == "avi" and is_indexed and scans:
                chunks = indexed(file, container)
                present = spans(file, chunks, seconds)
                if is_blind:
                    info["notes"] += uncounted(present)
                elif len(present) > 1:
                    yield joined(info, [_part_of(info | heard(container, info), span) for span in present])
                    return
                info["notes"] += gaps_said(file, chunks, seconds)
            if (is_indexed and not is_blind) or not scans:
                info |= _last_ends(container, info["tracks"], seconds, info["start_s"])
                last_s = max(info["video_end_s"] or 0.0, info["audio_end_s"] or 0.0)
                if name == "matroska" and info["start_s"] > 0:
                    # Some writers declare the length, as they should.
                    info["duration_s"] = max(seconds, min(seconds + info["start_s"], last_s))
                is_borne_out = is_indexed and not is_blind and -FAR_S < last_s - seconds < CUT_OFF_S
                more = heard(container, info)
                if is_borne_out:
                    more["notes"] += _shown(container, info)
                yield info | more | {"is_checked": is_borne_out and (scans or name != "avi")}
                if is_borne_out or not scans:
                    return
    stated = seconds if is_indexed else None
    is_known = recorded == [(0, content.size)]
    ranges = [
        Recording(file, *one, read_timeout_s, stated_s=stated, info=known if is_known else None) for one in recorded
    ]
    try:
        found = joined(info, list(parts_of(ranges, name)))
    except Refused:
        if stated is not None:
            return  # what cannot be read is planned by the header, and each clip says what is wrong with it
        raise
    for one in (found, *(part["info"] for part in found.get("segments", ()))):
        one["lag_s"] = one["duration_s"] if is_blind else max(one["lag_s"], key_s)
    yield found


def _length_s(file: Bytes, info: dict[str, Any]) -> float | None:
    """The length in seconds by the file's headers, None if they state none. Raises Refused if it is too long."""
    seconds: float | None = info["duration_s"]
    if seconds is None:
        return None
    if info["container"] in STATED:
        cut_off_s = stated_s(file, info["container"], seconds) or 0.0
        seconds = max(seconds, cut_off_s if cut_off_s * LEAST_BYTES_PER_S <= file.size else 0.0)
    if seconds > LONGEST_S:
        raise Refused("too_large", f"{seconds:.0f} s long; up to {LONGEST_S:.0f} s are allowed")
    return seconds


def _is_indexed(file: Bytes, container: InputContainer, info: dict[str, Any], recorded: list[tuple[int, int]]) -> bool:
    """Whether an index or a header describes the whole timeline, which has no pauses."""
    if info["container"] == "mp4":
        is_steady = not info["has_damaged_times"] and not _pauses(container, info["tracks"])
        return is_steady and is_indexed_mp4(file, file.size)
    return info["container"] in INDEXED and recorded == [(0, file.size)]


def _is_blind(file: Bytes, container: InputContainer, info: dict[str, Any], recorded: list[tuple[int, int]]) -> bool:
    """Whether seeking ends up at another second than it says, or without what decoding needs."""
    name, tracks = info["container"], info["tracks"]
    if name == "mxf":
        return not all(has_mxf_index(Part(file, first, end), end - first) for first, end in recorded)
    if name in RATED:
        return any(track["codec"] in MISCOUNTED for track in tracks)
    if name == "mpeg":
        return any(_splits_blocks(container, track) for track in tracks)
    return name in PALETTED and any(_has_palette(container, track) for track in tracks)


def _part_of(info: dict[str, Any], span: Span) -> dict[str, Any]:
    """A span of an AVI as a segment; where nothing is there, its clips say so."""
    length_s = span.end_s - span.begin_s
    ends = dict.fromkeys(("video_end_s", "audio_end_s"), length_s if span.hole is None else 0.0)
    here = {**info, **ends, "start_s": info["start_s"] + span.begin_s, "duration_s": length_s, "is_checked": True}
    where = dict.fromkeys(("video_bytes", "audio_bytes"), span.hole or (0, None))
    return {**where, "head_bytes": (0, 0), "info": here}


def _shown(container: InputContainer, info: dict[str, Any]) -> list[str]:
    """What changes of the pictures and of the sound."""
    begin_s, length_s = info["start_s"], info["duration_s"]
    pictures, sounds = ([t["index"] for t in info["tracks"] if t["kind"] == kind] for kind in ("video", "audio"))
    return [
        *said([sampled(container, index, begin_s, length_s) for index in pictures], begin_s),
        *_channels.said([_channels.sampled(container, index, begin_s, length_s) for index in sounds], begin_s),
    ]


def _splits_blocks(container: InputContainer, track: dict[str, Any]) -> bool:
    """Whether packets of a disc's LPCM of 24 bits begin inside a block of samples, which a decoder cannot know."""
    if track["codec"] != "pcm_dvd":
        return False
    stream: Any = container.streams[track["index"]]
    with contextlib.suppress(av.error.FFmpegError):
        packets = islice(container.demux(stream), FIRST_LPCM)
        is_split = any(packet.size and (packet.size - LPCM_HEAD) % LPCM_BLOCK for packet in packets)
        return bool(stream.codec_context.format.name == "s32" and is_split)
    return False


def _has_palette(container: InputContainer, track: dict[str, Any]) -> bool:
    codec: Any = container.streams[track["index"]].codec_context
    return bool(track["kind"] == "video" and codec.pix_fmt == "pal8" and codec.name != "png")


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
