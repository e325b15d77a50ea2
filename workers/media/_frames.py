"""Tells coded sound that has no header by its frames: MPEG audio of layer 3, AAC (ADTS), AC-3 and E-AC-3.

Promises: only where several frames of one kind follow each other exactly, which does not happen by chance. Runs in the
probing process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from workers.media._bytes import Window

IN_A_ROW = 8
"""So many frames tell what they are: 0.2 s."""

HEAD_BYTES = 7

_MP3_KBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
"""By whether it is MPEG-1, and the header's number."""
_MP3_HZ = (44_100, 48_000, 32_000)
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_HZ = (48_000, 44_100, 32_000)

Frame = tuple[int, bytes]
"""Its length, and what the next one has in common with it."""


def _mp3(head: bytes) -> Frame | None:
    version, number, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or version == 1 or not 0 < number < 15 or rate == 3:
        return None
    is_first, halved = version == 3, {3: 0, 2: 1, 0: 2}[version]
    hz = _MP3_HZ[rate] >> halved
    length = (144 if is_first else 72) * _MP3_KBITS[is_first][number] * 1000 // hz + (head[2] >> 1 & 1)
    return length, bytes((head[1], head[2] & 0x0C))


def _aac(head: bytes) -> Frame | None:
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 0xF > 12 or length <= HEAD_BYTES:
        return None
    return length, bytes((head[1], head[2] & 0xFC))


def _ac3(head: bytes) -> Frame | None:
    if head[:2] != b"\x0b\x77" or not 0 < (version := head[5] >> 3) <= 16:
        return None
    if version > 10:
        return 2 * (((head[2] & 7) << 8 | head[3]) + 1), bytes((version,))
    rate, size = head[4] >> 6, head[4] & 0x3F
    if rate == 3 or size >= 2 * len(_AC3_KBITS):
        return None
    words = _AC3_KBITS[size // 2] * 96_000 // _AC3_HZ[rate]
    return 2 * (words + (size & 1 if rate == 1 else 0)), bytes((head[4], version))


_KINDS: tuple[tuple[frozenset[str], Callable[[bytes], Frame | None], tuple[bytes, ...]], ...] = (
    (frozenset({"mp3"}), _mp3, (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xe3")),
    (frozenset({"aac"}), _aac, (b"\xff\xf1", b"\xff\xf9")),
    (frozenset({"ac3", "eac3"}), _ac3, (b"\x0b\x77",)),
)
"""The containers of each kind, how a frame is read, and with which bytes one begins."""


def beginnings(read: Window, first: int, content: bytes, end: int, container: str) -> Iterator[int]:
    """Where frames of other kinds than a container's begin in bytes of a file that lie at `first`."""
    for containers, frame, marks in _KINDS:
        for mark in marks if container not in containers else ():
            at = content.find(mark)
            while at >= 0:
                if _goes_on(read, first + at, end, frame):
                    yield first + at
                    break
                at = content.find(mark, at + 1)


def _goes_on(read: Window, at: int, end: int, frame: Callable[[bytes], Frame | None]) -> bool:
    same = None
    for _ in range(IN_A_ROW):
        head = read(at, HEAD_BYTES)
        found = frame(head) if len(head) == HEAD_BYTES and at < end else None
        if found is None or (same is not None and found[1] != same):
            return False
        length, same = found
        at += length
    return True
