"""Notices that AAC, of which a file's header says that it has two channels, goes on in one.

ffmpeg then leaves what it decoded last in the other channel, and the mean is of both. Promises: looks at a packet's
first byte. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import av.error
from av.container import InputContainer

PLACES = 16
"""Packets that are looked at where an index makes it needless to read all."""

_SINGLE, _PAIR = 0, 1
"""What a packet begins with: the element of one channel, or of two."""


class Channels:
    """Of one stream: look at its packets in their order."""

    def __init__(self) -> None:
        self.changes_s: list[float] = []
        """When there was one channel where there were two, or two again."""

    @staticmethod
    def can_read(stream: Any) -> bool:
        """Whether a stream is AAC in two channels by its header; in a broadcast each packet has its own."""
        setup = bytes(stream.codec_context.extradata or b"")[:2] if stream.codec_context is not None else b""
        if len(setup) < 2 or stream.codec_context.name != "aac":
            return False
        rate, channels = (setup[0] & 7) << 1 | setup[1] >> 7, setup[1] >> 3 & 0xF
        return rate < 0xF and channels == 2

    def look(self, packet: Any, at_s: float) -> None:
        """At the next packet."""
        element = memoryview(packet)[0] >> 5 if packet.size else None
        if element == (_PAIR if len(self.changes_s) % 2 else _SINGLE):
            self.changes_s.append(at_s)


def sampled(container: InputContainer, index: int, start_s: float, duration_s: float) -> Channels:
    """Of a stream of which not all packets are read: a few of them."""
    stream, channels = container.streams[index], Channels()
    for number in range(PLACES if Channels.can_read(stream) else 0):
        with contextlib.suppress(av.error.FFmpegError, ValueError, OSError):
            container.seek(round((start_s + duration_s * number / PLACES) * av.time_base), backward=True)
            packet = next(packet for packet in container.demux(stream))
            if packet.pts is not None:
                channels.look(packet, float(packet.pts * packet.time_base))
    return channels


def said(streams: Iterable[Channels], start_s: float) -> list[str]:
    """What to say of the changes; nothing where there are none. `start_s`: when the container begins."""
    first_s = [channels.changes_s[0] - start_s for channels in streams if channels.changes_s]
    unsaid = "which the header does not say: remains of earlier sound may be mixed into what follows"
    return [f"sound of two channels goes on in one at {at_s:.1f} s, {unsaid}" for at_s in first_s]
