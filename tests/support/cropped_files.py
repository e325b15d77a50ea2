"""Files whose container says that a border of their pictures is to be cut off, which our ffmpeg does not write.

Knows nothing about the product.
"""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.media_files import make
from tests.support.media_oracle import cut

COLUMNS, LINES = 80, 8
"""What is to be cut off, half of it at each side."""
PADDED = ("-vf", f"pad=iw+{COLUMNS}:ih+{LINES}:{COLUMNS // 2}:{LINES // 2}")


def cropped_file(source: Path, target: Path, start: float, end: float, *more: object) -> Path:
    """Seconds of the source behind a black border that Matroska's PixelCrop or QuickTime's `clap` cuts off."""
    whole = cut(source, target.with_stem("whole"), start, end, *PADDED, *more)
    if target.suffix == ".mkv":
        # Without the ids that are drawn by chance, whose bytes may be those that are looked for.
        make("-i", whole, "-c", "copy", "-live", 1, "-fflags", "+bitexact", whole.with_stem("live"))
        target.write_bytes(_pixel_cropped(whole.with_stem("live").read_bytes()))
    else:
        target.write_bytes(_with_aperture(whole.read_bytes()))
    return target


def _pixel_cropped(mkv: bytes) -> bytes:
    border = {b"\x54\xaa": LINES, b"\x54\xbb": LINES, b"\x54\xcc": COLUMNS, b"\x54\xdd": COLUMNS}
    added = b"".join(kind + b"\x81" + bytes([count // 2]) for kind, count in border.items())
    tracks = mkv.rfind(b"\x16\x54\xae\x6b", 0, mkv.find(b"\x1f\x43\xb6\x75"))  # not where the seek head names it
    track = mkv.find(b"\xae", tracks + 4)
    video = mkv.find(b"\xe0", mkv.find(b"V_MPEG4", track))
    found = bytearray(mkv)
    for at in (tracks + 4, track + 1, video + 1):
        width = 9 - mkv[at].bit_length()
        length = int.from_bytes(mkv[at : at + width], "big") + len(added)
        found[at : at + width] = length.to_bytes(width, "big")
    begin = video + 1 + 9 - mkv[video + 1].bit_length()
    return bytes(found[:begin]) + added + bytes(found[begin:])


def _with_aperture(mov: bytes) -> bytes:
    entry = mov.rfind(b"avc1") - 4
    length, (width, height) = int.from_bytes(mov[entry : entry + 4], "big"), struct.unpack_from(">HH", mov, entry + 32)
    clap = struct.pack(">I4s8I", 40, b"clap", width - COLUMNS, 1, height - LINES, 1, 0, 1, 0, 1)
    found, end = bytearray(mov), entry + length
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = mov.rfind(kind, 0, entry + 8) - 4
        found[at : at + 4] = (int.from_bytes(mov[at : at + 4], "big") + len(clap)).to_bytes(4, "big")
    return bytes(found[:end]) + clap + bytes(found[end:])
