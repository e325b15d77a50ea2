"""Reads the packets and tables of MPEG transport streams: programmes, scrambling, where a recording's tables begin.

Of program streams it reads only what is scrambled. Promises: a bounded number of bytes is read; nothing for anything
else. Knows nothing about time. Runs in the probing process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from workers.media._bytes import WINDOW_BYTES, Bytes, read_up_to

SAMPLE_BYTES = 1 << 20
PLACES = 16
"""Places of a stream that are looked at for scrambled packets."""

_PACK = b"\0\0\1\xba"


LOCKED_TYPES = frozenset({0xC1, 0xC2, 0xCF, 0xDB})
"""Types of streams that are encrypted sample by sample (SAMPLE-AES of HLS): AC-3, E-AC-3, AAC and H.264."""


def programmes(file: Bytes) -> list[dict[int, int]]:
    """The streams of each programme of a transport stream, in the order of its tables: their types by PID."""
    file.seek(0)
    content = read_up_to(file, SAMPLE_BYTES)
    first, step = _ts_packets(content)
    sections: dict[int, bytes] = {}
    maps: list[int] = []
    for at in range(first, len(content) - 187, step) if step else ():
        number, head = (content[at + 1] & 0x1F) << 8 | content[at + 2], content[at + 3]
        if content[at] != 0x47 or not head & 0x10 or (number and number not in maps):
            continue
        payload = content[at + 4 + (1 + content[at + 4] if head & 0x20 else 0) : at + 188]
        if content[at + 1] & 0x40 and payload and number not in sections:
            sections[number] = payload[1 + payload[0] :]
        elif number in sections and not content[at + 1] & 0x40:
            sections[number] += payload
        if number == 0 and not maps and 0 in sections:
            table = sections[0][8 : 3 + _section_length(sections[0]) - 4]
            entries = [table[n : n + 4] for n in range(0, len(table) - 3, 4)]
            maps = [(entry[2] & 0x1F) << 8 | entry[3] for entry in entries if entry[0] << 8 | entry[1]]
    return [_streams_of(sections[number]) for number in maps if number in sections]


def new_tables(file: Bytes, first: int, end: int) -> int | None:
    """Offset in a range of a transport stream where another recording's tables begin: the programme table whose counter
    does not follow the one before it."""
    begin = max(0, first - SAMPLE_BYTES)
    file.seek(begin)
    content = read_up_to(file, min(end - begin, 4 * SAMPLE_BYTES))
    start, step = _ts_packets(content)
    counter = None
    for at in range(start, len(content) - 187, step) if step else ():
        if content[at] == 0x47 and content[at + 1] & 0x1F == 0 == content[at + 2]:
            follows = counter is None or content[at + 3] & 0xF == (counter + 1) % 16
            if not follows and begin + at > first:
                return begin + at - start
            counter = content[at + 3] & 0xF
    return None


def _section_length(section: bytes) -> int:
    return (section[1] & 0x0F) << 8 | section[2] if len(section) > 2 else 0


def _streams_of(section: bytes) -> dict[int, int]:
    end = min(len(section), 3 + _section_length(section) - 4)
    at = 12 + ((section[10] & 0x0F) << 8 | section[11]) if len(section) > 11 else end
    found: dict[int, int] = {}
    while at + 5 <= end:
        found[(section[at + 1] & 0x1F) << 8 | section[at + 2]] = section[at]
        at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
    return found


def _ts_packets(content: bytes) -> tuple[int, int]:
    """(offset of the first packet, packet size) of a transport stream, in bytes; zeros for anything else."""
    if content[4:5] == content[196:197] == b"G":
        return 4, 192
    return 0, next((n for n in (188, 192, 204) if content[4 * n : 4 * n + 1] == b"G" == content[:1]), 0)


def scrambled_share(file: Bytes) -> float:
    """Share of the packets of a transport or program stream that have a scrambling flag: sampled over the file. 0 for
    anything else."""
    size = file.seek(0, io.SEEK_END) or 0
    file.seek(0)
    head = read_up_to(file, WINDOW_BYTES)
    first, step = _ts_packets(head)
    flags: list[bool] = []
    for number in range(PLACES if step or head.startswith(_PACK) else 0):
        at = size * number // PLACES
        file.seek(first + at // step * step if step else at)
        content = read_up_to(file, SAMPLE_BYTES // PLACES)
        flags += _ts_flags(content, step) if step else _program_flags(content)
    return sum(flags) / max(1, len(flags))


def _ts_flags(content: bytes, step: int) -> Iterator[bool]:
    """Whether each packet of a transport stream, other than tables, is scrambled; of one that another follows, as
    behind lost bytes none begins where it should."""
    for at in range(0, len(content) - step, step):
        pid = (content[at + 1] & 0x1F) << 8 | content[at + 2]
        if content[at] == content[at + step] == 0x47 and 0x20 <= pid < 0x1FFF and content[at + 3] & 0x10:
            yield bool(content[at + 3] & 0xC0)


def _program_flags(content: bytes) -> Iterator[bool]:
    """The same for pictures and sound of a program stream, as on a DVD."""
    at = content.find(_PACK)
    while 0 <= at < len(content) - 9:
        kind, length = content[at + 3], content[at + 4] << 8 | content[at + 5]
        if content[at : at + 3] != _PACK[:3] or kind < 0xBA:
            at = content.find(_PACK, at + 1)
            continue
        if (kind == 0xBD or 0xC0 <= kind < 0xF0) and content[at + 6] & 0xC0 == 0x80:
            yield bool(content[at + 6] & 0x30)
        if kind != 0xBA:
            at += 6 + length
        else:
            at += 14 + (content[at + 13] & 7) if content[at + 4] & 0xC0 == 0x40 else 12  # MPEG-2, MPEG-1
