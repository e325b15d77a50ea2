"""Walks over the structure of each container: boxes, pages, elements, chunks and tags.

Promises: ascending byte offsets; reading is bounded and stops at the first structure that is not understood. Knows
nothing about what they mean for a file: `_joints` and `_headers` say that. Runs in the probing process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from workers.media._bytes import EMPTY_BYTES, WINDOW_BYTES, Window
from workers.media._frames import beginnings

MOST_ELEMENTS = 5_000_000
"""Maximum number of boxes, pages or elements read in one file: enough for a day of live WebM, one element a packet."""

RIFFS = (b"RIFF", b"RF64", b"BW64")
MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_MXF_HEADER, _MXF_FOOTER = 2, 4
UNKNOWN_AU = 0xFFFFFFFF
_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


def boxes(read: Window, size: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset, length, kind) of the outermost boxes."""
    at = 0
    for _ in range(MOST_ELEMENTS):
        header = read(at, 16)
        if len(header) < 8:
            return
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            length = size - at
        if length < 8 or not all(32 <= letter < 127 for letter in kind):
            return
        yield at, length, kind
        at += length


def _mp4(read: Window, size: int) -> Iterator[int]:
    seen: set[bytes] = set()
    for at, _, kind in boxes(read, size):
        if (kind == b"ftyp" and seen & {b"moov", b"mdat", b"moof"}) or (kind == b"moov" and b"moov" in seen):
            yield at
            seen = set()
        seen.add(kind)


def _fragments(read: Window, size: int) -> Iterator[tuple[int, int]]:
    """Fragments of an MP4, each from its `moof` on; none if they count by offsets in the whole file."""
    for at, length, kind in boxes(read, size):
        if kind == b"moof":
            head = read(at, min(length, WINDOW_BYTES))
            flags = head.find(b"tfhd") + 7
            if flags < 7 or head[flags] & 1:
                return
            yield at, at


def _clusters(read: Window, size: int) -> Iterator[tuple[int, int]]:
    for at, kind, _ in elements(read, size, descends_always=True):
        if kind == b"\x1f\x43\xb6\x75":
            yield at, at


def _flv_tags(read: Window, size: int) -> Iterator[tuple[int, int]]:
    """Tags of pictures and sound of an FLV file, each from the codec headers before it on."""
    begin: int | None = None
    at = int.from_bytes(read(0, 9)[5:9], "big") + 4
    for _ in range(MOST_ELEMENTS):
        head = read(at, 13)
        kind = head[0] & 0x1F if len(head) == 13 else 0
        if kind not in (8, 9, 18):
            return
        begin = at if begin is None else begin
        if not _is_flv_header(kind, head[11], head[12]):
            yield begin, at
            begin = None
        at += 11 + int.from_bytes(head[1:4], "big") + 4


def _is_flv_header(kind: int, format_: int, step: int) -> bool:
    """Whether a tag has no pictures or sound, but what their decoder needs first."""
    if kind == 8:
        return format_ >> 4 == 10 and step == 0  # AAC
    if kind == 9 and format_ & 0x80:
        return format_ & 0xF == 0  # a codec named by four letters
    return kind == 18 or (format_ & 0xF in (7, 12) and step == 0)  # H.264, HEVC


UNITS: dict[str, Callable[[Window, int], Iterator[tuple[int, int]]]] = {
    "mp4": _fragments,
    "matroska": _clusters,
    "flv": _flv_tags,
}


def _matroska(read: Window, size: int) -> Iterator[int]:
    return (at for at, kind, _ in elements(read, size) if kind == b"\x1a\x45\xdf\xa3")


def elements(read: Window, size: int, *, descends_always: bool = False) -> Iterator[tuple[int, bytes, int]]:
    """(offset, kind, length) of the outer elements, and of those of a Segment whose end is not known, or always."""
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if len(head) < 2 or not head[0]:
            return
        id_length = 9 - head[0].bit_length()
        if id_length > 4 or len(head) <= id_length or not head[id_length]:
            return
        length_length = 9 - head[id_length].bit_length()
        coded = int.from_bytes(head[id_length : id_length + length_length], "big")
        length = coded & ((1 << 7 * length_length) - 1)
        is_unknown = length == (1 << 7 * length_length) - 1
        kind = head[:id_length]
        yield at, kind, length
        # Descend into elements of unknown size, and into a segment that ends beyond the end of the file.
        descends = is_unknown or (kind == b"\x18\x53\x80\x67" and (descends_always or at + length > size))
        at += id_length + length_length + (0 if descends else length)


def _ogg(read: Window, size: int) -> Iterator[int]:
    at, were_beginnings = 0, True
    for _ in range(MOST_ELEMENTS):
        header = read(at, 27)
        if len(header) < 27 or header[:4] != b"OggS":
            return
        is_beginning = bool(header[5] & 2)
        if is_beginning and not were_beginnings:
            yield at
        were_beginnings = is_beginning
        at += 27 + header[26] + sum(read(at + 27, header[26]))


def _flv(read: Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 13)
        if head[:3] == b"FLV":
            yield at
            at += int.from_bytes(head[5:9], "big") + 4
        elif len(head) >= 11 and head[0] & 0x1F in (8, 9, 18):
            at += 11 + int.from_bytes(head[1:4], "big") + 4
        else:
            return


def chunks(read: Window, first: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """(where the content begins, kind, length of the content) of the chunks of a recording."""
    head = read(first, 16)
    is_caf, is_w64, is_large = head[:4] == b"caff", head[:16] == _W64, head[:4] in RIFFS[1:]
    at, name, number = (8, 4, 8) if is_caf else (40, 16, 8) if is_w64 else (12, 4, 4)
    at, large = first + at, 0
    while at + name + number <= end:
        chunk = read(at, name + number)
        kind, begin = chunk[:4], at + name + number
        length = int.from_bytes(chunk[name:], "big" if is_caf else "little")
        length -= begin - at if is_w64 else 0  # counted with its own header
        if length < 0 or not all(32 <= letter < 127 for letter in kind):
            return
        yield begin, kind, length
        if kind == b"ds64":
            large = int.from_bytes(read(begin + 8, 8), "little")
        length = large if is_large and kind == b"data" and length == 0xFFFFFFFF else length
        at = begin + length + (-length % 8 if is_w64 else 0 if is_caf else length % 2)


def id3_bytes(head: bytes) -> int:
    """How long an ID3 tag is, without its header of ten bytes."""
    return sum((byte & 0x7F) << 7 * (3 - n) for n, byte in enumerate(head[6:10]))


def _riff(read: Window, size: int) -> Iterator[int]:
    at, may_have_room = 0, False
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if may_have_room and len(head) == 12 and not any(head):
            yield at
        if len(head) < 12 or head[:4] not in RIFFS:
            return
        if head[8:12] in (b"AVI ", b"WAVE"):  # AVIX continues the recording before it
            yield at
        length = int.from_bytes(head[4:8], "little")
        if length == 0xFFFFFFFF and read(at + 12, 4) == b"ds64":
            length = int.from_bytes(read(at + 20, 8), "little")
        if length in (0, 0xFFFFFFFF):
            return
        may_have_room = length >= EMPTY_BYTES  # less is the length of a header that nobody finished
        at += 8 + length + length % 2


def riff_ends(read: Window, first: int) -> Iterator[int]:
    """Where each part of an AVI ends: large ones have several."""
    at = first
    for _ in range(MOST_ELEMENTS):
        head = read(at, 8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] not in RIFFS or length in (0, 0xFFFFFFFF):
            return
        at += 8 + length + length % 2
        yield at


_AVI_CHUNKS = frozenset({b"RIFF", b"LIST", b"JUNK", b"idx1", b"_PMX", b"IDIT", b"PAD "})


def avi_breaks_off(read: Window, size: int) -> int | None:
    """Where something else lies than one of an AVI's chunks; None if they go on to the end of the file."""
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if len(head) < 12 or at >= size:
            return None
        if not (head[:2].isdigit() or head[:2] == b"ix" or head[:4] in _AVI_CHUNKS):
            return at
        length = int.from_bytes(head[4:8], "little")
        descends = head[:4] == b"RIFF" or (head[:4] == b"LIST" and head[8:12] in (b"movi", b"rec "))
        at += 12 if descends else 8 + length + length % 2
    return None


def _aiff(read: Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if head[:4] != b"FORM" or head[8:12] not in (b"AIFF", b"AIFC"):
            return
        yield at
        at += 8 + (length := int.from_bytes(head[4:8], "big")) + length % 2


def _caf(read: Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if head[:6] == b"caff\0\1":
            yield at
            at += 8
        elif len(head) == 12 and all(32 <= letter < 127 for letter in head[:4]) and head[4] < 0x80:
            at += 12 + int.from_bytes(head[4:12], "big")
        else:
            return


def _au(read: Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if head[:4] != b".snd" or len(head) < 12:
            return
        yield at
        at += int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")


def _adts(read: Window, size: int) -> Iterator[int]:
    """Where AAC goes on at another sample rate: libav would count its time by the first one."""
    at, rate = 0, -1
    for _ in range(MOST_ELEMENTS):
        head = read(at, 10)
        if head[:3] == b"ID3" and len(head) == 10:
            at += 10 + id3_bytes(head)
            continue
        if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
            return
        if rate >= 0 and head[2] >> 2 & 0xF != rate:
            yield at
        rate = head[2] >> 2 & 0xF
        at += max(7, (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5)


_BEGINNINGS: dict[str, tuple[int, bytes, bytes]] = {
    "mp4": (4, b"ftyp", rb"\0\0\0[\x0c-\x80]ftyp[ -~]{4}"),
    "matroska": (0, b"\x1a\x45\xdf\xa3", rb".{4}.{1,48}(?:matroska|webm)"),
    "wav": (8, b"WAVE", rb"(?:RIFF|RF64|BW64)"),
    "avi": (8, b"AVI LIST", rb"RIFF"),
    "ogg": (0, b"OggS\0\x02\0\0\0\0\0\0\0\0", b""),
    "flac": (0, b"fLaC\0\0\0\x22", b""),
    "amr": (0, b"#!AMR", rb"#!AMR(?:-WB)?\n"),
    "flv": (0, b"FLV\x01", rb".{4}[\x01\x04\x05]\0\0\0\x09\0{4}"),
    "asf": (0, _ASF, b""),
    "aiff": (8, b"AIF", rb"FORM"),
    "caf": (0, b"caff\0\x01", rb".{8}desc"),
    "mxf": (0, MXF_PARTITION + b"\x02", b""),
    "mpegts": (0, b"\x47\x40\0", rb".{3}[\x10-\x1f](?:.{184}\x47.{2}[\x10-\x3f]){4}"),
    "mpeg": (0, b"\0\0\x01\xba", rb".{4}[\x44-\x47].{9}\0\0\x01\xbb"),
    "mp3": (0, b"ID3", rb"ID3[\x02-\x04]\0[\0\x80][\0-\x7f]{4}[TWACP][A-Z0-9]{3}\0"),
}
"""What a whole file of each kind begins with, long enough never to occur by chance: where in it its rarest bytes lie,
these, and all of it."""
_LONGEST_BEGINNING = 1 << 10

HOLE_BYTES = 1 << 12
"""So many zeros one after the other are no sound of any codec, but a hole: what a disk lost, or a copy left out."""

TS_BYTES, _TS_TABLE = 188, b"\x47\x40\0"
"""The length of a packet of a transport stream, and how one begins that has a table's beginning, but for its number."""


def another_kind(read: Window, end: int, container: str) -> int | None:
    """Where a file of another kind begins behind the first bytes of one of these, before `end`."""
    others = [beginning for kind, beginning in _BEGINNINGS.items() if kind != container]
    head = read(0, 10)
    first = 10 + id3_bytes(head) if head[:3] == b"ID3" else 1  # covers and other files lie in a tag
    for begin in range(first, end, WINDOW_BYTES):
        content = read(begin, min(end - begin, WINDOW_BYTES + _LONGEST_BEGINNING))
        found = []
        for before, mark, whole in others:
            at = content.find(mark)
            while at >= 0:
                if at >= before and re.compile(whole, re.DOTALL).match(content, at - before):
                    found.append(begin + at - before)
                at = content.find(mark, at + 1)
        for at in sorted({*found, *beginnings(read, begin, content, end, container)}):
            while read(at, 1) == _TS_TABLE[:1] and at - TS_BYTES >= first and _is_table(read(at - TS_BYTES, 3)):
                at -= TS_BYTES  # others may lie before the programmes'
            tag = read(at, 10)
            if tag[:3] != b"ID3" or _is_mp3(read(at + 10 + id3_bytes(tag), 2)):
                return at
    return None


def hole(read: Window, end: int) -> tuple[int, int] | None:
    """Where the first long run of zeros begins and ends that lies between other bytes and in no tag."""
    at, is_led = 0, False
    while at < end:
        content = read(at, min(end - at, WINDOW_BYTES + HOLE_BYTES))
        found = content.find(bytes(HOLE_BYTES))
        before = content if found < 0 else content[:found]
        is_led = is_led or any(before)
        if found < 0:
            at += WINDOW_BYTES
            continue
        tag, behind = before.rfind(b"ID3"), at + found
        while behind < end and not (rest := read(behind, min(end - behind, WINDOW_BYTES)).lstrip(b"\0")):
            behind += WINDOW_BYTES
        if behind >= end:
            return None
        behind = min(end, behind + WINDOW_BYTES) - len(rest)
        if is_led and (tag < 0 or tag + 10 + id3_bytes(before[tag : tag + 10]) <= found):
            return at + found, behind
        at = behind
    return None


def _is_table(packet: bytes) -> bool:
    """Whether a packet of a transport stream begins so in which one of its own tables begins."""
    return packet[:2] == _TS_TABLE[:2] and packet[2:] < b"\x20" and len(packet) == 3


def _is_mp3(frame: bytes) -> bool:
    """Whether a frame of MPEG audio begins so, of layer 3; tags stand before AAC and FLAC, too."""
    return frame[:1] == b"\xff" and frame[1:2] in b"\xfb\xfa\xf3\xf2\xe3\xe2" and len(frame) == 2


def _w64(read: Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 24)
        if head[:16] != _W64 or len(head) < 24:
            return
        yield at
        at += max(24, int.from_bytes(head[16:24], "little"))


def form_end(read: Window, first: int, container: str) -> int:
    """Where an AIFF or AU recording ends by its header, 0 if that does not say it."""
    head = read(first, 12)
    if container == "aiff":
        length = int.from_bytes(head[4:8], "big")
        return first + 8 + length + length % 2 if head[:4] == b"FORM" else 0
    length = int.from_bytes(head[8:12], "big")
    return first + int.from_bytes(head[4:8], "big") + length if head[:4] == b".snd" and length < UNKNOWN_AU else 0


def mxf_end(read: Window, footer: int, size: int) -> int:
    """Where the keys behind an MXF's footer end."""
    at = footer
    for _ in range(MOST_ELEMENTS):
        head = read(at, 25)
        if at >= size or head[:4] != MXF_PARTITION[:4] or len(head) < 17:
            return at
        more = head[16] & 0x7F if head[16] & 0x80 else 0
        at += 17 + more + (int.from_bytes(head[17 : 17 + more], "big") if more else head[16])
    return at


def mxf_footer(read: Window, first: int) -> int | None:
    """Where the footer lies that an MXF's first partition names, None if it is not there."""
    head = read(first, 64)
    value = 17 + (head[16] & 0x7F if len(head) == 64 and head[16] & 0x80 else 0)
    footer = first + int.from_bytes(head[value + 24 : value + 32], "big")
    found = read(footer, 14) if len(head) == 64 and head[:13] == MXF_PARTITION and footer > first else b""
    return footer if found[:13] == MXF_PARTITION and found[13:] == bytes([_MXF_FOOTER]) else None


def _mxf(read: Window, size: int) -> Iterator[int]:
    """Steps from each header to the footer that it names, and over what follows it; without a footer nobody knows."""
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 64)
        if head[:4] != MXF_PARTITION[:4] or len(head) < 26:
            return
        more = head[16] & 0x7F if head[16] & 0x80 else 0
        value = 17 + more
        end = at + value + (int.from_bytes(head[17:value], "big") if more else head[16])
        if head[:13] == MXF_PARTITION and head[13] == _MXF_HEADER:
            yield at
            footer = mxf_footer(read, at)
            if footer is None:
                return
            end = footer
        at = end


def _marked(mark: bytes) -> Callable[[Window, int], Iterator[int]]:
    """Finds the mark at the start of each recording, for formats whose frames do not state their length."""

    def walk(read: Window, size: int) -> Iterator[int]:
        for first in range(0, size, WINDOW_BYTES):
            content, at = read(first, min(size - first, WINDOW_BYTES + len(mark) - 1)), -1
            while (at := content.find(mark, at + 1)) >= 0:
                yield first + at

    return walk


WALKS: dict[str, Callable[[Window, int], Iterator[int]]] = {
    "mp4": _mp4,
    "matroska": _matroska,
    "ogg": _ogg,
    "flv": _flv,
    "avi": _riff,
    "wav": _riff,
    "flac": _marked(b"fLaC\0\0\0\x22"),
    "amr": _marked(b"#!AMR"),
    "aac": _adts,
    "aiff": _aiff,
    "caf": _caf,
    "au": _au,
    "w64": _w64,
    "asf": _marked(_ASF),
    "nut": _marked(b"nut/multimedia container\0"),
    "ivf": _marked(b"DKIF\0\0\x20\0"),
    "rm": _marked(b".RMF\0\0\0\x12\0"),
    "mxf": _mxf,
}
