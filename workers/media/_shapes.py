"""Notices that pictures of one size change their aspect ratio inside a stream, which way up they are, or their range.

ffmpeg gives all pictures the aspect ratio that it found first, and, where an H.264 stream began in full range, reads
what follows so. Promises: reads the headers that repeat in a stream, and
decodes one picture where they change. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av.error
from av import CodecContext, Packet
from av.container import InputContainer
from av.sidedata.sidedata import Type

MOST_LOOKED_AT = 20
"""Changed headers of which a picture is decoded: a damaged broadcast has many."""

PLACES = 16
"""Key pictures that are looked at where an index makes it needless to read all packets."""

_START = b"\x00\x00\x01"
_HEADERS = {"mpeg1video": (0xFF, 0xB3), "mpeg2video": (0xFF, 0xB3), "h264": (0x1F, 7), "hevc": (0x7E, 33 << 1)}
"""Of the byte behind a start code: its bits that tell, and those of a sequence's header."""
_MESSAGES = {"h264": (6, 1), "hevc": (39 << 1, 2)}
"""The same byte of a message (SEI), and where its type stands."""
_ORIENTATION = 47
"""Type of the message that says how pictures are turned."""
_WIDTH_BITS = {"h264": 4, "hevc": 21}
"""Where in a header without start codes the length of the lengths is stated, as 2 bits."""

_FULL_RANGE = 2
"""AVColorRange."""

_Shape = tuple[int, int, Fraction, bytes, bool]
"""Width, height, shape of a pixel, the matrix that turns the picture, and whether an H.264 picture has full range."""


class Shapes:
    """Of one stream: look at its packets in their order."""

    def __init__(self, stream: Any) -> None:
        self._codec = stream.codec_context.name
        self._setup = bytes(stream.codec_context.extradata or b"")
        self._header = self._message = b""
        self._first: _Shape | None = None
        self._looked_at = 0
        self.aspects_s: list[float] = []
        """When the aspect ratio became another than the first, or the first again."""
        self.turns_s: list[float] = []
        """The same for which way up the pictures are."""
        self.ranges_s: list[float] = []
        """The same for full range that ends."""

    @staticmethod
    def can_read(stream: Any) -> bool:
        """Whether a stream's codec repeats headers that are known here."""
        return stream.codec_context is not None and stream.codec_context.name in _HEADERS

    @property
    def repeats(self) -> bool:
        """Whether a header was found in the stream."""
        return self._first is not None

    def look(self, packet: Any, at_s: float) -> None:
        """At a packet from which decoding can start."""
        header, message = self._headers_in(_head(packet))
        # Neither need stand before each of them.
        header, message = header or self._header, message or self._message
        if (header, message) == (self._header, self._message) or self._looked_at >= MOST_LOOKED_AT:
            return
        self._header, self._message, self._looked_at = header, message, self._looked_at + 1
        found = self._decoded(packet)
        if found is None:
            return
        self._first = self._first or found
        # Another size is scaled as it should be.
        is_same = found[:2] != self._first[:2] or found[2] == self._first[2]
        is_turned_so = found[3] in (b"", self._first[3])
        is_ranged_so = found[4] or not self._first[4]
        seen = (self.aspects_s, is_same), (self.turns_s, is_turned_so), (self.ranges_s, is_ranged_so)
        for changes_s, is_first in seen:
            if is_first != (len(changes_s) % 2 == 0):
                changes_s.append(at_s)

    def _headers_in(self, content: bytes) -> tuple[bytes, bytes]:
        """Of a packet: the header of its sequence, and the message that says how it is turned."""
        mask, kind = _HEADERS.get(self._codec, (0, 1))
        message_kind, at = _MESSAGES.get(self._codec, (-1, 0))
        header = message = b""
        for unit in self._units(content):
            if unit[0] & mask == kind:
                header += unit[1:5] if mask == 0xFF else unit  # an MPEG-2 header's bit rate says nothing of shapes
            elif unit[0] & mask == message_kind:
                message += b"".join(said for type_, said in _messages(unit[at:]) if type_ == _ORIENTATION)
        return header, message

    def _units(self, content: bytes) -> Iterator[bytes]:
        """The coded units of a packet, which begin with their kind."""
        at = _WIDTH_BITS.get(self._codec)
        if at is not None and len(self._setup) > at and self._setup[0] == 1:
            width, at = (self._setup[at] & 3) + 1, 0
            while at + width < len(content):
                length = int.from_bytes(content[at : at + width], "big")
                if length:
                    yield content[at + width : at + width + length]
                at += width + length
            return
        at = content.find(_START)
        while 0 <= at < len(content) - 3:
            end = content.find(_START, at + 3)
            yield content[at + 3 : end if end >= 0 else len(content)]
            at = end

    def _decoded(self, packet: Any) -> _Shape | None:
        codec: Any = CodecContext.create(self._codec, "r")
        if self._setup:
            codec.extradata = self._setup
        with contextlib.suppress(av.error.FFmpegError):
            for frame in (*codec.decode(Packet(bytes(packet))), *codec.decode(None)):
                matrix = frame.side_data.get(Type.DISPLAYMATRIX)
                aspect = codec.sample_aspect_ratio or Fraction(1)
                is_full = self._codec == "h264" and frame.color_range == _FULL_RANGE
                return frame.width, frame.height, aspect, b"" if matrix is None else bytes(matrix), is_full
        return None


def says_how_turned(stream: Any, packet: Any) -> bool:
    """Whether a picture says itself which way up it is, in the coded stream."""
    return bool(Shapes(stream)._headers_in(_head(packet))[1])


def _head(packet: Any) -> bytes:
    """Its first bytes, where headers stand."""
    return bytes(memoryview(packet)[: 1 << 12]) if packet.size else b""


def _messages(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the messages of a unit."""
    at = 0
    while at + 2 < len(content):
        numbers = []
        for _ in range(2):
            more = len(content[at:]) - len(content[at:].lstrip(b"\xff"))
            numbers.append(255 * more + sum(content[at + more : at + more + 1]))
            at += more + 1
        yield numbers[0], content[at : at + numbers[1]]
        at += numbers[1]


def sampled(container: InputContainer, index: int, start_s: float, duration_s: float) -> Shapes:
    """Of a stream of which not all packets are read: a few of its key pictures, if its first one repeats a header."""
    stream = container.streams[index]
    shapes = Shapes(stream)
    for number in range(PLACES if Shapes.can_read(stream) else 0):
        with contextlib.suppress(av.error.FFmpegError, ValueError, OSError):
            container.seek(round((start_s + duration_s * number / PLACES) * av.time_base), backward=True)
            packet = next(packet for packet in container.demux(stream) if packet.is_keyframe or not packet.size)
            if packet.size and packet.pts is not None:
                shapes.look(packet, float(packet.pts * packet.time_base))
        if not shapes.repeats:
            break
    return shapes


def said(streams: Iterable[Shapes], start_s: float) -> list[str]:
    """What to say of the changes; nothing where there are none. `start_s`: when the container begins."""
    notes = []
    for shapes in streams:
        if shapes.aspects_s:
            when = _times(shapes.aspects_s, start_s)
            notes.append(f"the aspect ratio of the pictures changes at {when}: all are given in the first one")
        if shapes.turns_s:
            when = _times(shapes.turns_s, start_s)
            notes.append(f"which way up the pictures are changes at {when}: all are turned as the first")
        if shapes.ranges_s:
            when = _times(shapes.ranges_s, start_s)
            notes.append(f"the range of brightness changes at {when}: pictures behind it may lack contrast")
    return notes


def _times(changes_s: list[float], start_s: float) -> str:
    return ", ".join(f"{at - start_s:.1f} s" for at in changes_s[:5]) + (", ..." if len(changes_s) > 5 else "")
