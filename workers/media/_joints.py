"""Finds recordings that were joined end to end in one file, from the container's structure.

Promises: ascending byte offsets at which a demuxer can start as if at the beginning of a file. Knows nothing about
time: `_timeline` finds times that run backwards or jump within one recording. Runs in the probing process.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from workers.media._bytes import EMPTY_BYTES, Bytes, Window, is_empty, read_up_to
from workers.media._structure import (
    MXF_PARTITION,
    RIFFS,
    UNITS,
    WALKS,
    another_kind,
    boxes,
    chunks,
    form_end,
    hole,
    id3_bytes,
    mxf_end,
    mxf_footer,
    riff_ends,
)

ENDLESS = frozenset({"flac", "mp3", "aac", "ac3", "eac3", "amr", "dv"})
"""Containers that do not say where they end, so that another file behind them would be taken for more of them."""

UNTIMED = frozenset({"mp3", "aac", "ac3", "eac3", "amr"})
"""Containers whose frames do not say of which second they are: behind a hole they are counted on from before it."""

UNREAD_BYTES, UNREAD_SHARE = 1 << 16, 0.01
"""Fewer bytes, or a smaller share of the file, behind its end are tags that someone appended."""


def joints(file: Bytes, size: int, container: str) -> list[int]:
    """Offsets above 0 at which another recording begins."""
    walk, read = WALKS.get(container), Window(file)
    head = read(0, 10)
    first = 10 + id3_bytes(head) if head[:3] == b"ID3" else 0  # a tag is no recording
    return [] if walk is None else [at for at in walk(read, size) if at > first]


def recordings(file: Bytes, size: int, container: str) -> list[tuple[int, int]]:
    """Where each of joined recordings begins and ends. What begins and ends with many zeros is none: room that was
    taken."""
    found = list(pairwise([0, *joints(file, size, container), size]))
    if container == "au":  # of which libav reads the last to the end of the file
        found[-1] = found[-1][0], min(form_end(Window(file), found[-1][0], container) or size, size)
    return [(first, end) for first, end in found if not first or not is_empty(file, first, end)]


def restarts(file: Bytes, size: int, container: str, packets: Sequence[int]) -> tuple[int, list[int]]:
    """(length of the recording's header, offsets at which a demuxer can start behind a copy of it) for packets at these
    ascending offsets, each at which time begins anew; a packet where none can start has no offset."""
    walk = UNITS.get(container)
    waiting, found, head, last = list(packets), [], 0, 0
    for at, coded_at in walk(Window(file), size) if walk is not None else ():
        head = head or coded_at
        while waiting and waiting[0] < at:
            waiting.pop(0)
            found.append(last)
        last = at
    found += [last for _ in waiting]
    return head, [at for at in dict.fromkeys(found) if at > head]


def first_end(file: Bytes, size: int) -> int:
    """Where the first recording ends, if libav cannot do without knowing: it would look for an MXF's tables at the end
    of them all, and for more of an AVI or WAV in the zeros of a file whose room was taken beforehand."""
    file.seek(0)
    head = read_up_to(file, 16)
    is_riff = head[:4] in RIFFS
    container = {MXF_PARTITION[:12]: "mxf", b"AVI ": "avi", b"WAVE": "wav"}.get(
        head[8:12] if is_riff else head[:12], ""
    )
    return next((end for _, end in recordings(file, size, container)), size) if container else size


def own_end(file: Bytes, container: str) -> int:
    """Where a file of another kind begins behind one that does not say where it ends, or its size. Reads it whole."""
    end = another_kind(Window(file), file.size, container) if container in ENDLESS else None
    return file.size if end is None else end


def holes_said(file: Bytes, end: int, container: str) -> list[str]:
    """What to say of a hole behind which nobody knows the time. Reads the file whole."""
    found = hole(Window(file), end) if container in UNTIMED else None
    if found is None:
        return []
    return [f"bytes {found[0]} to {found[1]} are zeros: what lies behind them is of another second than said"]


def unread_bytes(file: Bytes, last: tuple[int, int], container: str) -> int:
    """How many bytes lie behind what the structure of a file accounts for, where nobody looks; 0 for zeros and a few,
    and where every packet is read. `last`: where the last recording begins and ends."""
    read, size = Window(file), file.size
    if container == "mp4":
        ends = [at + length for at, length, _ in boxes(read, size)]
    elif container == "avi":
        ends = list(riff_ends(read, last[0]))
    elif container in ("wav", "caf", "w64"):
        ends = [at + length for at, kind, length in chunks(read, *last) if kind.isascii()]
    elif container in ("aiff", "au"):
        ends = [form_end(read, last[0], container) or size]
    elif container == "mxf":
        footer = mxf_footer(read, last[0])
        ends = [] if footer is None else [mxf_end(read, footer, size)]
    elif container in ENDLESS:
        return size - last[1]  # a file of another kind, however small
    else:
        return 0
    return left_over(file, min(max(ends, default=size), size), size)


def pieces(file: Bytes, last: tuple[int, int], container: str) -> int:
    """In how many chunks the samples of a WAV file lie, of which libav reads the last."""
    return sum(kind == b"data" for _, kind, _ in chunks(Window(file), *last)) if container == "wav" else 1


def left_over(file: Bytes, first: int, end: int) -> int:
    """How many bytes lie in a range; 0 for a few, and for room whose end nobody used."""
    is_much = end - first > max(UNREAD_BYTES, UNREAD_SHARE * file.size)
    return end - first if is_much and not is_empty(file, max(first, end - EMPTY_BYTES), end) else 0
