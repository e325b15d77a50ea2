"""Finds the frames of a span that need no decoding, from its packets.

Promises: a skipped frame is neither shown in the clip nor a reference of one that is, so the clip's frames are the same
bit for bit; if that is not certain, nothing is skipped. Damage in a skipped frame goes unnoticed, like damage outside
the clip. Knows codecs only by their picture headers (ITU-T H.264 7.3.1, H.265 7.3.1.2, H.262 6.2.3), and nothing about
how frames are used.

At 2 fps, one frame in twelve of a 25 fps file is shown. Skipped are: frames neither shown nor referred to (most B
frames), frames before the last key frame at or before the clip, and frames between the last one shown and the next
key frame.
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
"""Minimum source pixels of a span (half a minute of 640 x 360); below, listing packets costs more than decoding."""

LISTED_BYTES = 256 << 20
"""Maximum number of packets examined; they are held in memory."""

HEAD_BYTES = 1 << 16
"""Bytes of a packet searched for the picture header, which follows parameter sets, captions and encoder notes."""

CLOSE_S = 0.002
"""Times that differ by less (seconds) may be rounded either way."""

MOST_BYTES_OF_FILTER = 100_000
"""Maximum length of the filter expression: Linux limits an argument to 128 KiB."""

WHOLE = frozenset({"mjpeg", "prores", "dnxhd", "dvvideo", "v210"})
"""Codecs in which every frame is coded independently."""

ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""The muxer that writes a codec's packets in the form read here."""

CODECS = WHOLE | ANNEX_B.keys() | {"mpeg2video"}
"""Not VP8 and VP9: there a frame that is not a reference may still change the state of the decoder."""

_LINE = re.compile(rb"^0, *-?\d+, *(-?\d+), *-?\d+, *(\d+), *0x[0-9a-f]+(, F=0x([0-9a-f]+))?", re.MULTILINE)
_BASE = re.compile(rb"^#tb 0: (\d+)/(\d+)$", re.MULTILINE)
_NO_TIME = -(1 << 63)
_START = b"\0\0\1"


@dataclass(frozen=True)
class Packet:
    """One coded frame, in file order."""

    time_s: float
    """Presentation time in seconds from the clip's start."""
    is_start: bool
    """Frames that follow it in file order and are shown after it refer to nothing before it."""
    is_used: bool
    """Other frames may refer to it."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The frames that need no decoding."""

    times: npt.NDArray[np.float64]
    """Times of the skipped frames, ascending, in seconds from the clip's start."""
    kept: npt.NDArray[np.float64]
    """Times of the decoded frames, from the first one shown to the last."""
    filter: str
    """The bitstream filter that drops the skipped frames."""

    def with_decoded(self, decoded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """Times of all frames, skipped ones included, up to the last decoded one; None if a frame that was kept did not
        come out of the decoder."""
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
    """The frames that need no decoding to show the newest frame at each of the `wanted` times (ascending, seconds from
    the clip's start); None if there are none or it is not certain. `pts_s` is the container time of that start."""
    times = np.array([packet.time_s for packet in packets])
    order = np.argsort(times, kind="stable")
    shown = times[order]
    if len(shown) < 2 or (np.diff(shown) < CLOSE_S).any():
        return None
    # The newest frame at each time, by either rounding. The fps filter outputs a frame when the next one
    # arrives, and ends with the last one before the end: keep that one and all after it.
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
    """Shown frames and all they may refer to. Frames after the last packet are unknown and may refer to it."""
    needed = is_shown.copy()
    starts = [n for n, packet in enumerate(packets) if packet.is_start]
    end, goes_on = len(packets), True
    for first in (*reversed(starts), None):
        begin = first or 0
        # Leading pictures (shown before the key frame they follow) may also refer to frames before it.
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
    """An expression in `pts` and `tb` that is 1 for frames to drop, otherwise 0; `times` ascending."""
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
    """Parse ffmpeg's `framecrc` listing of a span's packets and their concatenated bytes, both given as descriptors;
    None if not understood. `pts_s` as for `left_out`."""
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
    """(is_start, is_used) of each packet; None if one is not understood."""
    if codec in WHOLE:
        # JPEGs without tables use those of the previous one.
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
    # Even types below 16 are not references within their sub-layer; higher sub-layers may refer to them.
    layers = [one[1] & 7 for one in slices]
    types = [one[0] >> 1 & 63 for one in slices]
    return [
        (16 <= kind <= 23, not (kind < 16 and kind % 2 == 0 and layer == max(layers)))
        for kind, layer in zip(types, layers, strict=True)
    ]


def _first_slice(head: bytes, codec: str) -> bytes:
    """The first two bytes of a packet's first slice NAL unit; empty if there is none."""
    at = head.find(_START)
    while 0 <= at < len(head) - 4:
        unit = head[at + 3 : at + 5]
        if (1 <= unit[0] & 31 <= 5) if codec == "h264" else (unit[0] >> 1 & 63 < 32):
            return unit
        at = head.find(_START, at + 3)
    return b""
