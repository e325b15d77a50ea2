"""Recognises files that accompany media: subtitles, images, lists, project files. By suffix and content together.

Promises: a file whose content may be media is not a sidecar, whatever its name; a file that the prober rejects is
a sidecar only if its suffix is listed here. Knows nothing about archives or how such a file is used.
"""

from __future__ import annotations

import codecs
import os

_TEXTS = ".txt .md .rtf .log .nfo .csv .tsv .json .jsonl .xml .yaml .yml .html .htm .css .js"
_SUBTITLES = ".srt .vtt .ass .ssa .sub .idx .sup .smi .sbv .ttml .dfxp .stl .lrc .scc"
_PICTURES = ".jpg .jpeg .png .gif .bmp .tif .tiff .webp .heic .heif .avif .svg .ico .psd .dng .cr2"
_DOCUMENTS = ".pdf .doc .docx .xls .xlsx .ppt .pptx .odt .ods .odp .epub .db .sqlite .parquet .npy .py .sh .bat"
_PROJECTS = ".edl .aaf .otio .fcpxml .prproj .drp .ale .cue .m3u .m3u8 .pls .mpd .pek .cfa .peak .sfk .cube .exr .dpx"
_CARDS_AND_DISCS = ".ifo .bup .bdmv .mpls .clpi .cpi .pmpd .tdt .tid .bim .ppn .mhl .thm .xmp .cr3 .nef .arw"
_OTHERS = ".url .webloc .lnk .ini .cfg .md5 .sha1 .sha256 .sha512 .sfv .par2 .torrent .zip .gz .7z .rar .tar"
SUFFIXES = frozenset(
    " ".join((_TEXTS, _SUBTITLES, _PICTURES, _DOCUMENTS, _PROJECTS, _CARDS_AND_DISCS, _OTHERS)).split()
) | {""}
"""Lower case. Suffixes of files that may hold media are left out on purpose (`.lrv`, `.part`, `.tmp`)."""

HEAD_BYTES = 512

_OTHER_FORMATS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\1\0", b"%PDF", b"{\\rtf"),
    *(b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xd0\xcf\x11\xe0", b"SQLite format 3", b"PAR1", b"PAR2"),
    *(b"\x93NUMPY", b"DVDVIDEO-VMG", b"DVDVIDEO-VTS", b"MPLS", b"HDMV", b"INDX", b"\x76\x2f\x31\x01", b"SDPX", b"XPDS"),
)


def suffix_of(key: str) -> str:
    """A name's suffix in lower case with its dot; empty if it has none."""
    return os.path.splitext(key.rpartition("/")[2])[1].lower()[:16]


def is_named_aside(key: str) -> bool:
    """Whether a file's suffix is that of a sidecar."""
    return suffix_of(key) in SUFFIXES


def is_no_media(head: bytes) -> bool:
    """Whether a file with this beginning is text, empty, or of a format that holds no media. If not, the prober
    decides."""
    if head.startswith(_OTHER_FORMATS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return True
    if any(byte < 32 and byte not in b"\t\n\v\f\r\x1b" for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut in two
    except UnicodeDecodeError:
        return False
    return True
