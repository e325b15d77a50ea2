"""Reads from a container's header what libav does not tell: photos, encryption, the stated length, what is indexed.

Promises: a bounded number of bytes is read; what is not understood is as if it were not there. Knows nothing about
recordings that are joined. Runs in the probing process.
"""

from __future__ import annotations

import io
import struct
import sys
from array import array
from fractions import Fraction
from itertools import accumulate

from workers.media._bytes import Bytes, Window, read_up_to
from workers.media._structure import RIFFS, boxes, chunks, id3_bytes, mxf_footer

CHEAP_BOXES = 64
"""An indexed MP4 has few outer boxes; one with more is fragmented, so its timeline is spread over the file."""

UNKNOWN_BYTES = 0x7FFF0000
"""What writes a WAV file into a pipe puts a size of this or more into its header."""

MOST_INDEX_BYTES = 64 << 20
MOST_ENTRIES = 1_000
MXF_INDEX_BYTES = 2 << 20
MXF_SEGMENT_BYTES = 1 << 8
_MXF_PICTURE_BYTES = b"\x3f\x05\0\4"
"""The name of the length of each picture, where all are as long, in the first bytes of an index table."""
_MXF_INDEX = bytes.fromhex("060e2b34025301010d01020101100100")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_LOCKS = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
    bytes.fromhex("338505438169e6499b74ad12cb86d58c"),
)
"""The names of the objects that tell how an ASF is encrypted: since version 1, extended, advanced."""
_LOCKED_ENTRIES = frozenset({b"encv", b"enca", b"enct", b"drms", b"drmi", b"drmt", b"drmp", b"aavd"})

STRAY_TIMES = 8
"""A picture that waits so many times longer than most for being shown has a damaged time."""

STILL_BRANDS = frozenset(
    {
        b"avif",
        b"heic",
        b"heix",
        b"heim",
        b"heis",
        b"mif1",
        b"miaf",
        b"jpeg",
        b"jp2 ",
        b"jxl ",
        b"crx ",
        b"avci",
        b"j2ki",
        b"jpx ",
    }
)
"""Major brands of photos in an MP4 structure; image sequences have others (`avis`, `hevc`, `msf1`)."""


def is_still(head: bytes) -> bool:
    """Whether a file with this beginning is a photo."""
    return head[4:8] == b"ftyp" and head[8:12] in STILL_BRANDS


def is_indexed_mp4(file: Bytes, size: int) -> bool:
    """Whether one index describes the whole timeline: a single `moov` without fragments, few boxes."""
    kinds = []
    for number, (*_, kind) in enumerate(boxes(Window(file), size)):
        if number >= CHEAP_BOXES:
            return False
        kinds.append(kind)
    return b"moof" not in kinds and kinds.count(b"moov") == 1 and kinds.count(b"ftyp") <= 1


def header(file: Bytes, container: str) -> bytes:
    """What tells of a file's tracks: an MP4's `moov`, the beginning of a Matroska file."""
    size = file.seek(0, io.SEEK_END) or 0
    if container == "mp4":
        for at, length, kind in boxes(Window(file), size):
            if kind == b"moov":
                file.seek(at)
                return read_up_to(file, min(length, MOST_INDEX_BYTES))
        return b""
    file.seek(0)
    return file.read(1 << 16 if container in ("matroska", "asf") else 0)


def encrypted_streams(header: bytes, container: str) -> set[int | None]:
    """Indexes of encrypted streams of an MP4, Matroska or ASF file; contains None if all streams are encrypted."""
    if container == "mp4":
        return {number for number, entry in enumerate(_sample_entries(header)) if entry in _LOCKED_ENTRIES}
    if container == "matroska":
        tracks = header.partition(b"\x1f\x43\xb6\x75")[0]  # up to the first cluster
        encodings = tracks.partition(b"\x6d\x80")[2]  # ContentEncodings, and ContentEncryption inside
        return {None} if b"\x50\x35" in encodings and b"\x47\xe2" in encodings else set()
    if container == "asf":
        objects = header[: int.from_bytes(header[16:24], "little")]
        return {None} if any(name in objects for name in _ASF_LOCKS) else set()
    return set()


def stated_s(file: Bytes, container: str, found_s: float | None) -> float | None:
    """Duration in seconds that the file itself states, None if it states none; `found_s` is libav's value, which may
    be an estimate. A file that holds less was truncated."""
    file.seek(0)
    head = file.read(1 << 16)
    if container == "asf":
        # libav uses the stated duration only if the file is complete.
        about = head.partition(_ASF_FILE_PROPERTIES)[2][:72]
        length, preroll = int.from_bytes(about[48:56], "little"), int.from_bytes(about[64:72], "little")
        return length / 1e7 - preroll / 1e3 if len(about) == 72 and length else None
    if container in ("wav", "caf", "w64"):
        there, said = _data_bytes(file, file.seek(0, io.SEEK_END) or 0)
        return found_s * said / there if found_s is not None and said > there > 0 else None
    if container == "avi":
        about = head.partition(b"avih")[2][4:24]
        is_cut_off = 8 + int.from_bytes(head[4:8], "little") > (file.seek(0, io.SEEK_END) or 0)
        frame_us, frames = int.from_bytes(about[:4], "little"), int.from_bytes(about[16:20], "little")
        return frame_us * frames / 1e6 if is_cut_off and frames else None
    is_stated = container in ("mxf", "aiff", "au", "flac", "ivf")
    if container == "matroska":
        is_stated = b"\x44\x89" in head.partition(b"\x1f\x43\xb6\x75")[0]
    elif container == "flv":
        is_stated = b"duration" in head[:4096]
    elif container == "mp3":
        if head[:3] == b"ID3":
            file.seek(10 + id3_bytes(head))
            head = file.read(1 << 12)
        found = max(head.find(b"Xing", 0, 1 << 12), head.find(b"Info", 0, 1 << 12))
        is_stated = found >= 0 and len(head) > found + 7 and bool(head[found + 7] & 1)
        if is_stated and head[found + 7] & 2:
            # A tag behind the sound, and libav no longer believes the count; but nothing was cut off.
            is_stated = (file.seek(0, io.SEEK_END) or 0) < int.from_bytes(head[found + 12 : found + 16], "big")
    return found_s if is_stated else None


def _data_bytes(file: Bytes, size: int) -> tuple[int, int]:
    """How many bytes of samples a WAV, CAF or Wave64 file has and says that it has; zeros if it never learned it, or
    counts samples: libav tells that count."""
    read, large, is_counted = Window(file), 0, False
    is_large = read(0, 4) in RIFFS[1:]
    for at, kind, length in chunks(read, 0, size):
        if kind == b"ds64":
            large = int.from_bytes(read(at + 8, 8), "little")
        is_counted |= kind in (b"ds64", b"fact") and any(read(at + (16 if kind == b"ds64" else 0), 4))
        if kind == b"data":
            is_unknown = not is_large and read(0, 4) == b"RIFF" and length >= UNKNOWN_BYTES
            said = large if is_large and length == 0xFFFFFFFF else length
            return (size - at, said) if said < 1 << 62 and not is_unknown and not is_counted else (0, 0)
    return 0, 0


def _sample_entries(moov: bytes) -> list[bytes]:
    """The type of each track's first sample entry, in track order."""
    found, at = [], moov.find(b"stsd")
    while at >= 0:
        found.append(moov[at + 16 : at + 20])
        at = moov.find(b"stsd", at + 4)
    return found


def pixel_shapes(moov: bytes) -> int:
    """How many shapes of pixels the sample entries of one track of an MP4 state, at most."""
    most, at = 1, moov.find(b"stsd")
    while at >= 0:
        shapes, entry = set(), at + 12
        for _ in range(min(int.from_bytes(moov[at + 8 : at + 12], "big"), MOST_ENTRIES)):
            size = int.from_bytes(moov[entry : entry + 4], "big")
            pasp = moov[entry : entry + size].partition(b"pasp")[2][:8]
            shapes.add(Fraction(*struct.unpack(">2I", pasp)) if len(pasp) == 8 and any(pasp[4:]) else Fraction(1))
            entry += size
        most, at = max(most, len(shapes)), moov.find(b"stsd", at + 4)
    return most


def dolby_profile(header: bytes) -> int | None:
    """The profile of Dolby Vision that the header of an MP4 or Matroska file states, None if it states none."""
    for name in (b"dvcC", b"dvvC"):
        said = header.partition(name)[2][:8]
        said = said[3:] if said[:2] == b"\x41\xed" else said  # Matroska names it and says it in two elements
        if len(said) >= 5:
            return said[2] >> 1
    return None


def has_stray_pictures(moov: bytes) -> bool:
    """Whether the index of an MP4 says of single pictures that they are shown far from when they are decoded."""
    at = moov.find(b"ctts")
    while at >= 0:
        count = min(int.from_bytes(moov[at + 8 : at + 12], "big"), (len(moov) - at - 12) // 8)
        table = array("i", moov[at + 12 : at + 12 + 8 * count])  # one picture each, often
        if sys.byteorder == "little":
            table.byteswap()
        waits = table[1::2]
        header = moov.rfind(b"mdhd", 0, at)
        begin = header + (24 if moov[header + 4 : header + 5] == b"\1" else 16)
        rate = int.from_bytes(moov[begin : begin + 4], "big")
        if waits and max(waits) - min(waits) > rate:
            runs = list(zip(table[::2], waits, strict=True))
            middle = _quantile(runs, 0.5)
            off = [(count, abs(wait - middle)) for count, wait in runs]
            if max(far for _, far in off) > max(rate, STRAY_TIMES * _quantile(off, 0.75)):
                return True
        at = moov.find(b"ctts", at + 4)
    return False


def _quantile(runs: list[tuple[int, int]], share: float) -> int:
    """The value that this share of all does not exceed, of runs of so many equal values."""
    ascending = sorted(runs, key=lambda run: run[1])
    passed = accumulate(count for count, _ in ascending)
    least = share * sum(count for count, _ in ascending)
    return next((value for (_, value), so_many in zip(ascending, passed, strict=True) if so_many >= least), 0)


def has_mxf_index(file: Bytes, size: int) -> bool:
    """Whether an index table lies near the head or the end of an MXF file that tells of all of it: without one, places
    in it are guessed. Where pictures differ in size, the last part of it lies in the footer."""
    for first in (0, max(0, size - MXF_INDEX_BYTES)):
        file.seek(first)
        _, index, table = read_up_to(file, MXF_INDEX_BYTES).partition(_MXF_INDEX)
        if index:
            picture_bytes = table[:MXF_SEGMENT_BYTES].partition(_MXF_PICTURE_BYTES)[2][:4]
            return any(picture_bytes) or mxf_footer(Window(file), 0) is not None
    return False
