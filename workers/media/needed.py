"""Which pictures of a span need no decoding: found from its packets, before any is decoded.

Promises: what is left out is neither shown in the clip nor used by anything that is, so the pictures of the clip stay
the same bit for bit; where that is not certain, nothing is left out. What is damaged in a picture left out is not
noticed, as it is not in a file's other clips. Knows a codec only by the head of its pictures
(ITU-T H.264 7.3.1, H.265 7.3.1.2, H.262 6.2.3), and nothing of what becomes of the pictures.

At 2 pictures a second a file of 25 has twelve of which one is shown. Pictures that nothing refers to, most of those
predicted in both directions, are left out unless shown; and so is what comes before the last key picture at or before
the clip, and what lies between the last one shown and the next key picture.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_PIXELS = 200_000_000
"""Of a span's source, or listing its packets costs more than decoding all of them: half a minute of 640 x 360."""

LISTED_BYTES = 256 << 20
"""Most packets that are looked at; they lie in memory meanwhile."""

HEAD_BYTES = 1 << 16
"""A picture's own head lies behind parameter sets, captions and notes of the encoder."""

CLOSE_S = 0.002
"""Times that differ by less may be rounded to either side."""

MOST_BYTES_OF_FILTER = 100_000
"""Linux takes an argument of 128 KiB."""

WHOLE = frozenset({"mjpeg", "prores", "dnxhd", "dvvideo", "v210"})
"""Codecs whose every picture stands for itself."""

ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""What writes a codec's packets in the form that is read here."""

CODECS = WHOLE | ANNEX_B.keys() | {"mpeg2video"}
"""VP8 and VP9 are not among them: in these a picture that no other refers to may change how the next ones are read."""

_LINE = re.compile(rb"^0, *-?\d+, *(-?\d+), *-?\d+, *(\d+), *0x[0-9a-f]+(, F=0x([0-9a-f]+))?", re.MULTILINE)
_BASE = re.compile(rb"^#tb 0: (\d+)/(\d+)$", re.MULTILINE)
_NO_TIME = -(1 << 63)
_START = b"\0\0\1"


@dataclass(frozen=True)
class Packet:
    """One coded picture, in the order of the file."""

    time_s: float
    """When it is shown, counted from the clip's start."""
    is_start: bool
    """What follows it in the file and is shown after it refers to nothing before it."""
    is_used: bool
    """Others may refer to it."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What need not be decoded."""

    times: npt.NDArray[np.float64]
    """Of the pictures left out, ascending, counted from the clip's start."""
    kept: npt.NDArray[np.float64]
    """Of those that are decoded, from the first one shown to the last one."""
    filter: str
    """The bitstream filter that drops them."""

    def with_decoded(self, decoded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """The times of all pictures up to the last one that was decoded; None where one that was kept did not come out
        of the decoder."""
        if not len(decoded):
            return None
        after = np.searchsorted(decoded, self.kept).clip(0, len(decoded) - 1)
        nearest = np.minimum(abs(decoded[after] - self.kept), abs(decoded[(after - 1).clip(0)] - self.kept))
        if (nearest >= CLOSE_S).any():
            return None
        return np.sort(np.concatenate([decoded, self.times[self.times < decoded[-1]]]))


def left_out(
    packets: Sequence[Packet], pts_s: float, length_s: float, wanted: npt.NDArray[np.float64]
) -> LeftOut | None:
    """What need not be decoded to show the newest picture at each of the `wanted` times, ascending and counted from the
    clip's start; None where that is nothing or not certain. `pts_s` is the container's own time of that start."""
    times = np.array([packet.time_s for packet in packets])
    order = np.argsort(times, kind="stable")
    shown = times[order]
    if len(shown) < 2 or (np.diff(shown) < CLOSE_S).any():
        return None
    # The newest one at each time by either rounding. The filter that samples gives a picture out when the next one
    # comes, and ends with the last one before the end, so that one and all beyond it stay.
    picks = [np.searchsorted(shown, wanted + sign * CLOSE_S, side="right") - 1 for sign in (-1, 1)]
    last = np.searchsorted(shown, length_s - CLOSE_S) - 1
    is_shown = np.zeros(len(packets), np.bool_)
    is_shown[order[np.concatenate([*picks, [last]]).clip(0)]] = True
    is_shown |= times >= length_s - CLOSE_S
    keeps = _needed(packets, is_shown)
    drops = ~keeps[order]
    if not drops.any():
        return None
    written = f"noise=drop='{_steps(pts_s + shown, drops)}'"
    if len(written) > MOST_BYTES_OF_FILTER:
        return None
    first, end = shown[picks[0].clip(0)[0]], shown[picks[1].clip(0)[-1]]
    kept = shown[~drops]
    return LeftOut(shown[drops], kept[(kept >= first) & (kept <= end)], written)


def _needed(packets: Sequence[Packet], is_shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Those shown and all that they may refer to. What comes after the last one is not known, and may refer to it."""
    needed = is_shown.copy()
    starts = [n for n, packet in enumerate(packets) if packet.is_start]
    end, goes_on = len(packets), True
    for first in (*reversed(starts), None):
        begin = first or 0
        # Shown before the key picture they follow: these may also refer to what lies before it.
        head_s = -np.inf if first is None else packets[first].time_s
        needs_more = goes_on
        leads = False
        for n in range(end - 1, begin - 1, -1):
            packet = packets[n]
            is_leading = packet.time_s < head_s
            if packet.is_used and (needs_more if not is_leading else leads):
                needed[n] = True
            if needed[n]:
                needs_more = True
                leads = leads or is_leading
        if first is not None and needs_more:
            needed[first] = True
        end, goes_on = begin, leads
    return needed


def _steps(times: npt.NDArray[np.float64], drops: npt.NDArray[np.bool_]) -> str:
    """An expression of `pts` and `tb` that is 1 for the pictures to drop and 0 for all others; `times` ascending."""
    changes = [(-np.inf, 0), (times[0] - CLOSE_S / 2, int(drops[0]))]
    changes += [
        ((times[n - 1] + times[n]) / 2, int(drops[n])) for n in range(1, len(times)) if drops[n] != drops[n - 1]
    ]
    changes.append((times[-1] + CLOSE_S / 2, 0))

    def between(begin: int, end: int) -> str:
        if end - begin == 1:
            return str(changes[begin][1])
        middle = (begin + end) // 2
        return f"if(lt(pts*tb,{changes[middle][0]:.6f}),{between(begin, middle)},{between(middle, end)})"

    return between(0, len(changes))


def read_packets(listing: int, content: int, codec: str, pts_s: float) -> list[Packet] | None:
    """From the descriptors of ffmpeg's `framecrc` listing of a span's packets and of their bytes one after the other;
    None where they are not understood. `pts_s` as for `left_out`."""
    said = os.pread(listing, LISTED_BYTES, 0)
    base = _BASE.search(said)
    lines = list(_LINE.finditer(said))
    if base is None or not lines or os.fstat(content).st_size != sum(int(line[2]) for line in lines):
        return None
    tick_s = int(base[1]) / int(base[2])
    with mmap.mmap(content, 0, access=mmap.ACCESS_READ) as packed:
        heads: list[tuple[int, bytes]] = []
        at = 0
        for line in lines:
            size = int(line[2])
            heads.append((int(line[1]), packed[at : at + min(size, HEAD_BYTES)]))
            at += size
    if any(pts == _NO_TIME for pts, _ in heads):
        return None
    times = [pts * tick_s - pts_s for pts, _ in heads]
    is_key = [line[4] is None or bool(int(line[4], 16) & 1) for line in lines]
    kinds = _kinds(codec, [head for _, head in heads], is_key)
    return None if kinds is None else [Packet(t, *kind) for t, kind in zip(times, kinds, strict=True)]


def _kinds(codec: str, heads: Sequence[bytes], is_key: Sequence[bool]) -> list[tuple[bool, bool]] | None:
    """(is_start, is_used) of each packet; None where one is not understood."""
    if codec in WHOLE:
        # JPEGs without tables of their own use those of the one before.
        is_whole = codec != "mjpeg" or all(b"\xff\xdb" in head and b"\xff\xc4" in head for head in heads)
        return [(True, False)] * len(heads) if is_whole and all(is_key) else None
    if codec == "mpeg2video":
        pictures = [head.find(_START + b"\0") for head in heads]
        if not all(0 <= at < len(head) - 5 for at, head in zip(pictures, heads, strict=True)):
            return None
        types = [head[at + 5] >> 3 & 7 for at, head in zip(pictures, heads, strict=True)]
        return [(kind == 1, kind != 3) for kind in types]  # I; B
    slices = [_first_slice(head, codec) for head in heads]
    if not all(slices):
        return None
    if codec == "h264":
        kinds = [(one[0] & 31, one[0] >> 5 & 3) for one in slices]
        return None if any(kind == 2 for kind, _ in kinds) else [(kind == 5, used > 0) for kind, used in kinds]
    # Even types below 16 are used by no picture of their own layer; by those of higher ones they may be.
    layers = [one[1] & 7 for one in slices]
    types = [one[0] >> 1 & 63 for one in slices]
    return [
        (16 <= kind <= 23, not (kind < 16 and kind % 2 == 0 and layer == max(layers)))
        for kind, layer in zip(types, layers, strict=True)
    ]


def _first_slice(head: bytes, codec: str) -> bytes:
    """The first two bytes of a packet's first unit that is a part of a picture; empty where there is none."""
    at = head.find(_START)
    while 0 <= at < len(head) - 4:
        unit = head[at + 3 : at + 5]
        if (1 <= unit[0] & 31 <= 5) if codec == "h264" else (unit[0] >> 1 & 63 < 32):
            return unit
        at = head.find(_START, at + 3)
    return b""
