"""Reads from an MP4's edit lists what libav does not follow: pauses inside a track, other speeds, no length.

Promises: a note for each kind; nothing for edits that are followed (a late start, a trimmed start or end, parts
that are left out, repeated or exchanged). Runs in the probing process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MOST_EDITS = 10_000
NORMAL_RATE = 1 << 16


def unfollowed(moov: bytes) -> list[str]:
    """What to say of an MP4's `moov`."""
    lists = list(_edit_lists(moov))
    notes = []
    if any(media_time == -1 for edits in lists for _, media_time, _ in edits[1:]):
        notes.append(
            "an edit list pauses inside a track: what comes there and behind it may be of another second, or lack"
        )
    if any(rate != NORMAL_RATE and media_time != -1 for edits in lists for _, media_time, rate in edits):
        notes.append("an edit list plays a track at another speed, which is not followed")
    if b"mvex" not in moov and any(not length for edits in lists for length, *_ in edits):
        notes.append("an edit list states a length of 0: nothing of its track is read but the first packet")
    return notes


def edited_s(moov: bytes) -> float | None:
    """Until when the edit lists play, in seconds, if every track has one and each edit has a length."""
    lists, header = list(_edit_lists(moov)), moov.find(b"mvhd") + 4
    is_long = moov[header : header + 1] == b"\1"
    units = int.from_bytes(moov[header + (20 if is_long else 12) :][:4], "big")
    lengths = [[length for length, *_ in edits] for edits in lists]
    if b"mvex" in moov or not units or len(lists) != moov.count(b"mdhd") or not all(map(all, lengths)):
        return None
    return max(map(sum, lengths), default=0) / units or None


def _edit_lists(moov: bytes) -> Iterator[list[tuple[int, int, int]]]:
    """(duration, time in the track or -1 for a pause, rate in 1/65536) of the edits of each track that has some."""
    at = moov.find(b"elst")
    while at >= 0:
        form = ">QqI" if moov[at + 4 : at + 5] == b"\1" else ">IiI"
        count, begin = int.from_bytes(moov[at + 8 : at + 12], "big"), at + 12
        end = begin + count * struct.calcsize(form)
        if count <= MOST_EDITS and end <= len(moov):
            yield list(struct.iter_unpack(form, moov[begin:end]))
        at = moov.find(b"elst", at + 4)
