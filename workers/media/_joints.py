"""Finds recordings that were joined end to end in one file, from the container's structure.

Promises: ascending byte offsets at which a demuxer can start as if at the beginning of a file; reading is bounded and
stops at the first structure that is not understood. Knows nothing about time: `_timeline` finds times that run
backwards or jump within one recording. Runs in the probing process.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

MOST_ELEMENTS = 5_000_000
"""Maximum number of boxes, pages or elements read in one file: enough for a day of live WebM, one element a packet."""

WINDOW_BYTES = 1 << 15

EMPTY_BYTES = 1 << 15
"""As many zeros behind a recording are no recording."""

CHEAP_BOXES = 64
"""An indexed MP4 has few outer boxes; one with more is fragmented, so its timeline is spread over the file."""


class Bytes(Protocol):
    """A seekable file of bytes."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of any file."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """As of any file."""
        ...


class Part(io.RawIOBase):
    """A byte range of a file, presented as a file; if it has no header of its own, behind another range (`head`)."""

    def __init__(self, whole: Bytes, first: int, end: int, head: tuple[int, int] = (0, 0)) -> None:
        self._whole, self._first, self._head, self._at = whole, first, head, 0
        self._head_bytes = head[1] - head[0]
        self.size = self._head_bytes + end - first

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The offset of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Up to the end of a range."""
        is_head = self._at < self._head_bytes
        left = max(0, (self._head_bytes if is_head else self.size) - self._at)
        length = left if size < 0 else min(size, left)
        if not length:
            return b""
        self._whole.seek(self._at + (self._head[0] if is_head else self._first - self._head_bytes))
        content = self._whole.read(length)
        self._at += len(content)
        return content


class _Window:
    """Serves small reads at ascending offsets from a large buffer."""

    def __init__(self, file: Bytes) -> None:
        self._file, self._first, self._content = file, 0, b""

    def __call__(self, at: int, length: int) -> bytes:
        if not self._first <= at <= at + length <= self._first + len(self._content):
            self._file.seek(at)
            self._first, self._content = at, self._file.read(2 * WINDOW_BYTES)
        begin = at - self._first
        return self._content[begin : begin + length]


def joints(file: Bytes, size: int, container: str) -> list[int]:
    """Offsets above 0 at which another recording begins."""
    walk = _WALKS.get(container)
    return [] if walk is None else [at for at in walk(_Window(file), size) if at]


def recordings(file: Bytes, size: int, container: str) -> list[tuple[int, int]]:
    """Where each of joined recordings begins and ends. What begins and ends with many zeros is none: room that was
    taken."""
    found = list(pairwise([0, *joints(file, size, container), size]))
    return [(first, end) for first, end in found if not first or not _is_empty(file, first, end)]


def _is_empty(file: Bytes, first: int, end: int) -> bool:
    for at in (first, end - EMPTY_BYTES):
        file.seek(max(first, at))
        if any(_read(file, min(EMPTY_BYTES, end - first))):
            return False
    return end - first >= EMPTY_BYTES


def restarts(file: Bytes, size: int, container: str, packets: Sequence[int]) -> tuple[int, list[int]]:
    """(length of the recording's header, offsets at which a demuxer can start behind a copy of it) for packets at these
    ascending offsets, each at which time begins anew; a packet where none can start has no offset."""
    walk = _UNITS.get(container)
    waiting, found, head, last = list(packets), [], 0, 0
    for at, coded_at in walk(_Window(file), size) if walk is not None else ():
        head = head or coded_at
        while waiting and waiting[0] < at:
            waiting.pop(0)
            found.append(last)
        last = at
    found += [last for _ in waiting]
    return head, [at for at in dict.fromkeys(found) if at > head]


def is_indexed_mp4(file: Bytes, size: int) -> bool:
    """Whether one index describes the whole timeline: a single `moov` without fragments, few boxes."""
    kinds = []
    for number, (*_, kind) in enumerate(_boxes(_Window(file), size)):
        if number >= CHEAP_BOXES:
            return False
        kinds.append(kind)
    return b"moof" not in kinds and kinds.count(b"moov") == 1 and kinds.count(b"ftyp") <= 1


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


UNKNOWN_BYTES = 0x7FFF0000
"""What writes a WAV file into a pipe puts a size of this or more into its header."""

UNREAD_BYTES, UNREAD_SHARE = 1 << 16, 0.01
"""Fewer bytes, or a smaller share of the file, behind its end are tags that someone appended."""

MOST_INDEX_BYTES = 64 << 20
TS_SAMPLE_BYTES = 1 << 20
TS_PLACES = 16
"""Places of a transport stream that are looked at for scrambled packets."""
MXF_INDEX_BYTES = 2 << 20
_MXF_INDEX = bytes.fromhex("060e2b34025301010d01020101100100")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_LOCKED_ENTRIES = frozenset({b"encv", b"enca", b"enct", b"drms", b"drmi", b"drmt", b"drmp"})


def header(file: Bytes, container: str) -> bytes:
    """What tells of a file's tracks: an MP4's `moov`, the beginning of a Matroska file."""
    size = file.seek(0, io.SEEK_END) or 0
    if container == "mp4":
        for at, length, kind in _boxes(_Window(file), size):
            if kind == b"moov":
                file.seek(at)
                return _read(file, min(length, MOST_INDEX_BYTES))
        return b""
    file.seek(0)
    return file.read({"matroska": 1 << 16}.get(container, 0))


def encrypted_streams(header: bytes, container: str) -> set[int | None]:
    """Indexes of encrypted streams of an MP4 or Matroska file; contains None if all streams are encrypted."""
    if container == "mp4":
        return {number for number, entry in enumerate(_sample_entries(header)) if entry in _LOCKED_ENTRIES}
    if container == "matroska":
        tracks = header.partition(b"\x1f\x43\xb6\x75")[0]  # up to the first cluster
        encodings = tracks.partition(b"\x6d\x80")[2]  # ContentEncodings, and ContentEncryption inside
        return {None} if b"\x50\x35" in encodings and b"\x47\xe2" in encodings else set()
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
    is_stated = container in ("mxf", "aiff", "au", "flac")
    if container == "matroska":
        is_stated = b"\x44\x89" in head.partition(b"\x1f\x43\xb6\x75")[0]
    elif container == "flv":
        is_stated = b"duration" in head[:4096]
    elif container == "mp3":
        if head[:3] == b"ID3":
            file.seek(10 + _id3_bytes(head))
            head = file.read(1 << 12)
        found = max(head.find(b"Xing", 0, 1 << 12), head.find(b"Info", 0, 1 << 12))
        is_stated = found >= 0 and len(head) > found + 7 and bool(head[found + 7] & 1)
        if is_stated and head[found + 7] & 2:
            # A tag behind the sound, and libav no longer believes the count; but nothing was cut off.
            is_stated = (file.seek(0, io.SEEK_END) or 0) < int.from_bytes(head[found + 12 : found + 16], "big")
    return found_s if is_stated else None


def _id3_bytes(head: bytes) -> int:
    """How long an ID3 tag is, without its header of ten bytes."""
    return sum((byte & 0x7F) << 7 * (3 - n) for n, byte in enumerate(head[6:10]))


def _data_bytes(file: Bytes, size: int) -> tuple[int, int]:
    """How many bytes of samples a WAV, CAF or Wave64 file has and says that it has; zeros if it never learned it, or
    counts samples: libav tells that count."""
    read, large, is_counted = _Window(file), 0, False
    is_large = read(0, 4) in _RIFFS[1:]
    for at, kind, length in _chunks(read, 0, size):
        if kind == b"ds64":
            large = int.from_bytes(read(at + 8, 8), "little")
        is_counted |= kind in (b"ds64", b"fact") and any(read(at + (16 if kind == b"ds64" else 0), 4))
        if kind == b"data":
            is_unknown = not is_large and read(0, 4) == b"RIFF" and length >= UNKNOWN_BYTES
            said = large if is_large and length == 0xFFFFFFFF else length
            return (size - at, said) if said < 1 << 62 and not is_unknown and not is_counted else (0, 0)
    return 0, 0


def unread_bytes(file: Bytes, size: int, container: str) -> int:
    """How many bytes lie behind what the structure of a WAV, CAF, Wave64 or MP4 file accounts for, where nobody looks;
    0 for zeros and a few."""
    first, end = recordings(file, size, container)[-1]
    read = _Window(file)
    if container == "mp4":
        ends = [at + length for at, length, _ in _boxes(read, size)]
    elif container in ("wav", "caf", "w64"):
        ends = [at + length for at, kind, length in _chunks(read, first, end) if kind.isascii()]
    else:
        return 0
    begin = min(max(ends, default=size), size)
    left = size - begin
    return left if left > max(UNREAD_BYTES, UNREAD_SHARE * size) and not _is_empty(file, begin, size) else 0


def _chunks(read: _Window, first: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """(where the content begins, kind, length of the content) of the chunks of a recording."""
    head = read(first, 16)
    is_caf, is_w64, is_large = head[:4] == b"caff", head[:16] == _W64, head[:4] in _RIFFS[1:]
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


def _read(file: Bytes, most: int) -> bytes:
    """Read up to `most` bytes from a file that may return less per call."""
    parts: list[bytes] = []
    while most > 0 and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _sample_entries(moov: bytes) -> list[bytes]:
    """The type of each track's first sample entry, in track order."""
    found, at = [], moov.find(b"stsd")
    while at >= 0:
        found.append(moov[at + 16 : at + 20])
        at = moov.find(b"stsd", at + 4)
    return found


def first_end(file: Bytes, size: int) -> int:
    """Where the first recording ends, if libav cannot do without knowing: it would look for an MXF's tables at the end
    of them all, and for more of an AVI or WAV in the zeros of a file whose room was taken beforehand."""
    file.seek(0)
    head = _read(file, 16)
    is_riff = head[:4] in _RIFFS
    container = {_MXF_PARTITION[:12]: "mxf", b"AVI ": "avi", b"WAVE": "wav"}.get(
        head[8:12] if is_riff else head[:12], ""
    )
    return next((end for _, end in recordings(file, size, container)), size) if container else size


def has_mxf_index(file: Bytes, size: int) -> bool:
    """Whether an index table lies near the head or the end of an MXF file: without one, places in it are guessed."""
    for first in (0, max(0, size - MXF_INDEX_BYTES)):
        file.seek(first)
        if _MXF_INDEX in _read(file, MXF_INDEX_BYTES):
            return True
    return False


def programmes(file: Bytes) -> list[set[int]]:
    """The PIDs of each programme of a transport stream, in the order of its tables."""
    file.seek(0)
    content = _read(file, TS_SAMPLE_BYTES)
    first, step = _ts_packets(content)
    sections: dict[int, bytes] = {}
    maps: list[int] = []
    for at in range(first, len(content) - 187, step) if step else ():
        number, head = (content[at + 1] & 0x1F) << 8 | content[at + 2], content[at + 3]
        if content[at] != 0x47 or not head & 0x10 or (number and number not in maps):
            continue
        payload = content[at + 4 + (1 + content[at + 4] if head & 0x20 else 0) : at + 188]
        if content[at + 1] & 0x40 and payload and number not in sections:
            sections[number] = payload[1 + payload[0] :]
        elif number in sections and not content[at + 1] & 0x40:
            sections[number] += payload
        if number == 0 and not maps and 0 in sections:
            table = sections[0][8 : 3 + _section_length(sections[0]) - 4]
            entries = [table[n : n + 4] for n in range(0, len(table) - 3, 4)]
            maps = [(entry[2] & 0x1F) << 8 | entry[3] for entry in entries if entry[0] << 8 | entry[1]]
    return [_streams_of(sections[number]) for number in maps if number in sections]


def new_tables(file: Bytes, first: int, end: int) -> int | None:
    """Offset in a range of a transport stream where another recording's tables begin: the programme table whose counter
    does not follow the one before it."""
    begin = max(0, first - TS_SAMPLE_BYTES)
    file.seek(begin)
    content = _read(file, min(end - begin, 4 * TS_SAMPLE_BYTES))
    start, step = _ts_packets(content)
    counter = None
    for at in range(start, len(content) - 187, step) if step else ():
        if content[at] == 0x47 and content[at + 1] & 0x1F == 0 == content[at + 2]:
            follows = counter is None or content[at + 3] & 0xF == (counter + 1) % 16
            if not follows and begin + at > first:
                return begin + at - start
            counter = content[at + 3] & 0xF
    return None


def _section_length(section: bytes) -> int:
    return (section[1] & 0x0F) << 8 | section[2] if len(section) > 2 else 0


def _streams_of(section: bytes) -> set[int]:
    end = min(len(section), 3 + _section_length(section) - 4)
    at = 12 + ((section[10] & 0x0F) << 8 | section[11]) if len(section) > 11 else end
    found = set()
    while at + 5 <= end:
        found.add((section[at + 1] & 0x1F) << 8 | section[at + 2])
        at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
    return found


def _ts_packets(content: bytes) -> tuple[int, int]:
    """(offset of the first packet, packet size) of a transport stream, in bytes; zeros for anything else."""
    if content[4:5] == content[196:197] == b"G":
        return 4, 192
    return 0, next((n for n in (188, 192, 204) if content[4 * n : 4 * n + 1] == b"G" == content[:1]), 0)


def scrambled_share(file: Bytes) -> float:
    """Share of a transport stream's packets, other than tables, that have a scrambling flag: sampled over the file. 0
    for anything else."""
    size = file.seek(0, io.SEEK_END) or 0
    file.seek(0)
    first, step = _ts_packets(_read(file, WINDOW_BYTES))
    scrambled = clear = 0
    for number in range(TS_PLACES if step else 0):
        file.seek(first + size * number // TS_PLACES // step * step)
        content = _read(file, TS_SAMPLE_BYTES // TS_PLACES)
        for at in range(0, len(content) - 3, step):
            pid = (content[at + 1] & 0x1F) << 8 | content[at + 2]
            if content[at] == 0x47 and 0x20 <= pid < 0x1FFF and content[at + 3] & 0x10:
                scrambled, clear = scrambled + bool(content[at + 3] & 0xC0), clear + (not content[at + 3] & 0xC0)
    return scrambled / max(1, scrambled + clear)


def _boxes(read: _Window, size: int) -> Iterator[tuple[int, int, bytes]]:
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


def _mp4(read: _Window, size: int) -> Iterator[int]:
    seen: set[bytes] = set()
    for at, _, kind in _boxes(read, size):
        if (kind == b"ftyp" and seen & {b"moov", b"mdat", b"moof"}) or (kind == b"moov" and b"moov" in seen):
            yield at
            seen = set()
        seen.add(kind)


def _fragments(read: _Window, size: int) -> Iterator[tuple[int, int]]:
    """Fragments of an MP4, each from its `moof` on; none if they count by offsets in the whole file."""
    for at, length, kind in _boxes(read, size):
        if kind == b"moof":
            head = read(at, min(length, WINDOW_BYTES))
            flags = head.find(b"tfhd") + 7
            if flags < 7 or head[flags] & 1:
                return
            yield at, at


def _clusters(read: _Window, size: int) -> Iterator[tuple[int, int]]:
    for at, kind, _ in _elements(read, size, descends_always=True):
        if kind == b"\x1f\x43\xb6\x75":
            yield at, at


def _flv_tags(read: _Window, size: int) -> Iterator[tuple[int, int]]:
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


_UNITS: dict[str, Callable[[_Window, int], Iterator[tuple[int, int]]]] = {
    "mp4": _fragments,
    "matroska": _clusters,
    "flv": _flv_tags,
}


def _matroska(read: _Window, size: int) -> Iterator[int]:
    return (at for at, kind, _ in _elements(read, size) if kind == b"\x1a\x45\xdf\xa3")


def _elements(read: _Window, size: int, *, descends_always: bool = False) -> Iterator[tuple[int, bytes, int]]:
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


def _ogg(read: _Window, size: int) -> Iterator[int]:
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


def _flv(read: _Window, size: int) -> Iterator[int]:
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


_RIFFS = (b"RIFF", b"RF64", b"BW64")


def _riff(read: _Window, size: int) -> Iterator[int]:
    at, may_have_room = 0, False
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if may_have_room and len(head) == 12 and not any(head):
            yield at
        if len(head) < 12 or head[:4] not in _RIFFS:
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


def _aiff(read: _Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if head[:4] != b"FORM" or head[8:12] not in (b"AIFF", b"AIFC"):
            return
        yield at
        at += 8 + (length := int.from_bytes(head[4:8], "big")) + length % 2


def _caf(read: _Window, size: int) -> Iterator[int]:
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


def _au(read: _Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 12)
        if head[:4] != b".snd" or len(head) < 12:
            return
        yield at
        at += int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")


def _adts(read: _Window, size: int) -> Iterator[int]:
    """Where AAC goes on at another sample rate: libav would count its time by the first one."""
    at, rate = 0, -1
    for _ in range(MOST_ELEMENTS):
        head = read(at, 10)
        if head[:3] == b"ID3" and len(head) == 10:
            at += 10 + _id3_bytes(head)
            continue
        if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
            return
        if rate >= 0 and head[2] >> 2 & 0xF != rate:
            yield at
        rate = head[2] >> 2 & 0xF
        at += max(7, (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5)


def _w64(read: _Window, size: int) -> Iterator[int]:
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 24)
        if head[:16] != _W64 or len(head) < 24:
            return
        yield at
        at += max(24, int.from_bytes(head[16:24], "little"))


_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_MXF_HEADER, _MXF_FOOTER = 2, 4


def _mxf(read: _Window, size: int) -> Iterator[int]:
    """Steps from each header to the footer that it names, and over what follows it; without a footer nobody knows."""
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read(at, 64)
        if head[:4] != _MXF_PARTITION[:4] or len(head) < 26:
            return
        more = head[16] & 0x7F if head[16] & 0x80 else 0
        value = 17 + more
        end = at + value + (int.from_bytes(head[17:value], "big") if more else head[16])
        if head[:13] == _MXF_PARTITION and head[13] == _MXF_HEADER:
            yield at
            footer = at + int.from_bytes(head[value + 24 : value + 32], "big")
            found = read(footer, 14)
            if footer < end or found[:13] != _MXF_PARTITION or found[13:] != bytes([_MXF_FOOTER]):
                return
            end = footer
        at = end


_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


def _marked(mark: bytes) -> Callable[[_Window, int], Iterator[int]]:
    """Finds the mark at the start of each recording, for formats whose frames do not state their length."""

    def walk(read: _Window, size: int) -> Iterator[int]:
        for first in range(0, size, WINDOW_BYTES):
            content, at = read(first, min(size - first, WINDOW_BYTES + len(mark) - 1)), -1
            while (at := content.find(mark, at + 1)) >= 0:
                yield first + at

    return walk


_WALKS: dict[str, Callable[[_Window, int], Iterator[int]]] = {
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
