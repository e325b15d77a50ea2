"""Closed captions (EIA-608) of an opened file, as broadcasters carry them: inside the video (ATSC A/53) or as a track.

Promises: only packets of one stream are read, in bounded memory, and no picture is decoded; what a viewer of CC1 sees
becomes cues, each line once although captions roll. Knows nothing about DTVCC (708), cleaning text or choosing a
stream. Runs in the probing process.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from workers.records import RawCue

CODEC = "eia_608"
_MARK = b"\xb5\x00\x31GA94\x03"
"""Before captions in the user data of H.264 and HEVC (SEI, ITU-T T.35); MPEG-2 has the last five bytes alone."""
_MPEG2_MARK = b"\x00\x00\x01\xb2GA94\x03"
REORDERED = 32
"""Pictures that are shown at most so many packets after they were sent."""
_PADDING = (0, 0)
_CHANGES = {(0x14, 0x2C), (0x14, 0x2D), (0x14, 0x2F)}
"""Control codes after which the screen is another: erase, carriage return, end of caption."""
_ROLLS, _OTHERS = {(0x14, 0x25), (0x14, 0x26), (0x14, 0x27)}, {(0x14, 0x20), (0x14, 0x29)}
"""Control codes that begin captions which roll, and other ones."""
_POSITION = re.compile(r"\{[^{}]*\}")
_ERASE = b"\xfc\x94\x2c"


def cues(container: InputContainer, stream: Any) -> Iterator[RawCue]:
    """(start, end, text) of each caption, in container seconds, in the order of time."""
    decoder: Any = av.CodecContext.create("cc_dec", "r")
    before: list[str] = []
    rolls, changed_s = False, None
    for at_s, triplet in _in_order(container, stream):
        pair = (triplet[1] & 0x7F, triplet[2] & 0x7F)
        if pair == _PADDING:
            continue
        rolls = pair in _ROLLS or (rolls and pair not in _OTHERS)
        changed_s = at_s if changed_s is None else changed_s
        packet = av.Packet(triplet)
        packet.pts = packet.dts = round(at_s * 1000)
        packet.time_base = Fraction(1, 1000)
        # The decoder gives a screen out when the next one takes its place.
        lines = [line for one in decoder.decode(packet) for line in _lines(one)]
        if lines:
            yield changed_s, at_s, "\\N".join(line for line in lines if not (rolls and line in before))
            before = lines
        if pair in _CHANGES:
            changed_s = at_s
    if changed_s is not None:
        lines = [line for one in decoder.decode(av.Packet(_ERASE)) for line in _lines(one)]
        yield changed_s, None, "\\N".join(line for line in lines if not (rolls and line in before))


def _lines(one: Any) -> list[str]:
    # ReadOrder, Layer, Style, Name, MarginL, MarginR, MarginV, Effect, Text
    text = _POSITION.sub("", one.ass.decode("utf-8", "replace").split(",", 8)[-1])
    return [line.strip() for line in text.split("\\N") if line.strip()]


def _in_order(container: InputContainer, stream: Any) -> Iterator[tuple[float, bytes]]:
    """(time, three bytes) of field 1, in the order in which pictures are shown."""
    waiting: list[tuple[float, int, bytes]] = []
    for number, packet in enumerate(container.demux(stream)):
        if packet.pts is None or packet.time_base is None or not packet.size:
            continue
        content = bytes(packet)
        found = content if stream.type == "subtitle" else _of_picture(content)
        if found:
            heapq.heappush(waiting, (float(packet.pts * packet.time_base), number, found))
        if len(waiting) > REORDERED:
            yield from _triplets(*heapq.heappop(waiting))
    while waiting:
        yield from _triplets(*heapq.heappop(waiting))


def _triplets(at_s: float, _: int, found: bytes) -> Iterator[tuple[float, bytes]]:
    for at in range(0, len(found) - 2, 3):
        if found[at] & 0x07 == 0x04:  # valid, field 1
            yield at_s, found[at : at + 3]


def _of_picture(content: bytes) -> bytes:
    """The caption bytes of one coded picture, empty without any."""
    for mark in (_MARK, _MPEG2_MARK):
        at = content.find(mark)
        if at >= 0:
            data = content[at + len(mark) : at + len(mark) + 140]
            if mark is _MARK:
                data = data.replace(b"\0\0\x03", b"\0\0")  # emulation prevention
            return data[2 : 2 + 3 * (data[0] & 0x1F)] if data else b""
    return b""
