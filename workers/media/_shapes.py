"""Notices that the shape of a pixel changes inside a broadcast's pictures of one size, as from 4:3 to 16:9.

ffmpeg gives all pictures the shape that it found first, so this must be said. Promises: reads the headers that repeat
in a stream, and decodes one picture where they change. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import av.error
from av import CodecContext, Packet

MOST_LOOKED_AT = 20
"""Changed headers of which a picture is decoded: a damaged broadcast has many."""

_START = b"\x00\x00\x01"
_HEADERS = {"mpeg1video": (0xFF, 0xB3), "mpeg2video": (0xFF, 0xB3), "h264": (0x1F, 7), "hevc": (0x7E, 33 << 1)}
"""Of the byte behind a start code: its bits that tell, and those of a sequence's header."""


class Shapes:
    """Of one stream: look at its packets in their order."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._header = b""
        self._first: tuple[int, int, Fraction] | None = None
        self._looked_at = 0
        self.changes_s: list[float] = []
        """When the shape became another than the first, or the first again."""

    def look(self, packet: Any, at_s: float) -> None:
        """Of a packet from which decoding can start."""
        header = self._header_in(bytes(packet)[: 1 << 12])
        if not header or header == self._header or self._looked_at >= MOST_LOOKED_AT:
            return
        self._header, self._looked_at = header, self._looked_at + 1
        found = self._decoded(packet)
        if found is None:
            return
        self._first = self._first or found
        is_first = found[:2] != self._first[:2] or found[2] == self._first[2]  # another size is scaled as it should be
        if is_first != (len(self.changes_s) % 2 == 0):
            self.changes_s.append(at_s)

    def _header_in(self, content: bytes) -> bytes:
        mask, kind = _HEADERS.get(self._codec, (0, 1))
        at = content.find(_START)
        while 0 <= at < len(content) - 3:
            if content[at + 3] & mask == kind:
                end = content.find(_START, at + 4)
                # An MPEG-2 header's bit rate says nothing of shapes.
                return content[at + 4 : at + 8] if mask == 0xFF else content[at:end]
            at = content.find(_START, at + 3)
        return b""

    def _decoded(self, packet: Any) -> tuple[int, int, Fraction] | None:
        codec: Any = CodecContext.create(self._codec, "r")
        with contextlib.suppress(av.error.FFmpegError):
            for frame in (*codec.decode(Packet(bytes(packet))), *codec.decode(None)):
                return frame.width, frame.height, codec.sample_aspect_ratio or Fraction(1)
        return None


def said(changes_s: tuple[float, ...], start_s: float) -> list[str]:
    """What to say of the changes; nothing where there are none."""
    if not changes_s:
        return []
    times = ", ".join(f"{at - start_s:.1f} s" for at in changes_s[:5]) + (", ..." if len(changes_s) > 5 else "")
    return [f"the aspect ratio of the pictures changes at {times}: all are given in the first one"]
