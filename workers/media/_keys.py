"""Finds out how far apart the pictures are at which decoding can truly start, where a container names others.

A decoder of H.264, HEVC, MPEG-2, VP8, VP9 or AV1 waits for such a picture; these begin with any, and show grey or what
was there before. Promises: a container is believed if its first packets bear it out. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import av.error
from av.container import InputContainer

FIRST_PACKETS = 50
"""So many packets of a stream are looked at before its key pictures are believed."""


def _mpeg4(picture: bytes) -> bool:
    coded = picture.partition(b"\0\0\x01\xb6")[2]
    return not coded or coded[0] < 0x40


def _h263(picture: bytes) -> bool:
    is_extended = len(picture) > 4 and picture[4] & 0x1C == 0x1C
    return len(picture) < 5 or is_extended or not picture[4] & 2


def _sorenson(picture: bytes) -> bool:
    bits = int.from_bytes(picture[:10].ljust(10, b"\0"), "big")
    size = bits >> 47 & 7
    more = (16, 32)[size] if size < 2 else 0
    return bits >> 45 - more & 3 == 0


def _theora(picture: bytes) -> bool:
    return not picture or not picture[0] & 0x40


STANDS_ALONE: dict[str, Callable[[bytes], bool]] = {
    "mpeg4": _mpeg4,
    "h263": _h263,
    "flv": _sorenson,
    "theora": _theora,
}
"""Whether a coded picture needs no other, by codec."""


def apart_s(container: InputContainer, index: int) -> float:
    """The longest time in seconds from one picture of a stream that needs no other to the next, if the container calls
    others so, too; 0 where it is to be believed."""
    stream: Any = container.streams[index]
    stands_alone = STANDS_ALONE.get(stream.codec_context.name)
    if stands_alone is None:
        return 0.0
    seen = whole = longest = 0
    last = None
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        container.seek(0, backward=True, any_frame=False)
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        for packet in container.demux(stream):
            time = packet.dts if packet.dts is not None else packet.pts
            if not packet.size or time is None:
                continue
            seen += 1
            if seen == FIRST_PACKETS and _named(stream, time) <= whole + 1:
                return 0.0
            longest = max(longest, time - (time if last is None else last))
            if stands_alone(bytes(packet)):
                whole, last = whole + 1, time
            elif last is None:
                last = time
    return float(longest * stream.time_base) if seen >= FIRST_PACKETS else 0.0


def _named(stream: Any, until: int) -> int:
    """How many key pictures the container names up to a time, as far as libav has read it."""
    return sum(entry.is_keyframe for entry in takewhile(lambda entry: entry.timestamp <= until, stream.index_entries))
