"""Files that name other files and addresses: what they ask for is given, so that a test can see whether it is fetched.

Promises: every kind of reference that ffmpeg knows to follow when it is allowed to; content only. Knows nothing about
how opening is noticed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from tests.robustness.fuzz_media.bombs import Seeds, box, element
from tests.robustness.fuzz_media.seeds import Seed
from tests.robustness.fuzz_media.structure import parts


@dataclass(frozen=True)
class Bait:
    """What the files point to: an absolute path, and a port of this machine on which somebody listens."""

    path: str
    port: int

    @property
    def targets(self) -> Mapping[str, str]:
        """The ways to name it."""
        address = f"127.0.0.1:{self.port}"
        return {
            "path": self.path,
            "relative": "../" * 20 + self.path.lstrip("/"),
            "file": f"file:{self.path}",
            "file-url": f"file://{self.path}",
            "http": f"http://{address}/x.ts",
            "tcp": f"tcp://{address}",
            "udp": f"udp://{address}",
            "ftp": f"ftp://{address}/x.ts",
            "rtmp": f"rtmp://{address}/x",
            "concat": f"concat:{self.path}|http://{address}/x.ts",
            "subfile": f"subfile,,start,0,end,1000,,:{self.path}",
            "crypto": f"crypto:{self.path}",
            "async": f"async:{self.path}",
            "cache": f"cache:http://{address}/x.ts",
            "data": "data:application/x-mpegurl;base64,I0VYVE0zVQo=",
        }


Text = Callable[[str], str]

_PLAYLISTS: Mapping[str, Text] = {
    "hls": lambda to: f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{to}\n#EXT-X-ENDLIST\n",
    "hls-master": lambda to: f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{to}\n",
    "hls-key": lambda to: (
        f'#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXT-X-KEY:METHOD=AES-128,URI="{to}"\n#EXTINF:5,\n{to}\n#EXT-X-ENDLIST\n'
    ),
    "hls-map": lambda to: (
        f'#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXT-X-MAP:URI="{to}"\n#EXTINF:5,\n{to}\n#EXT-X-ENDLIST\n'
    ),
    "m3u": lambda to: f"{to}\n",
    "ffconcat": lambda to: f"ffconcat version 1.0\nfile '{to}'\nduration 5\n",
    "concat-unsafe": lambda to: f"ffconcat version 1.0\noption safe 0\nfile {to}\n",
    "dash": lambda to: (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT5S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{to}</BaseURL><SegmentBase/></Representation></AdaptationSet>'
        "</Period></MPD>"
    ),
    "dash-entity": lambda to: (
        f'<?xml version="1.0"?><!DOCTYPE MPD [<!ENTITY x SYSTEM "{to}">]><MPD type="static">&x;</MPD>'
    ),
    "smooth": lambda to: (
        f'<?xml version="1.0"?><SmoothStreamingMedia MajorVersion="2" Duration="1"><StreamIndex Url="{to}"/>'
        "</SmoothStreamingMedia>"
    ),
    "imf": lambda to: (
        '<?xml version="1.0"?><AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"><AssetList><Asset>'
        f"<ChunkList><Chunk><Path>{to}</Path></Chunk></ChunkList></Asset></AssetList></AssetMap>"
    ),
    "asx": lambda to: f'<asx version="3.0"><entry><ref href="{to}"/></entry></asx>',
    "xspf": lambda to: f"<playlist><trackList><track><location>{to}</location></track></trackList></playlist>",
    "pls": lambda to: f"[playlist]\nFile1={to}\nNumberOfEntries=1\n",
    "rtsp-ref": lambda to: f"[Reference]\nRef1={to}\n",
    "rtsptext": lambda to: f"RTSPtext\r\n{to}\r\n",
    "sdp": lambda to: (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
        f"a=rtpmap:96 H264/90000\na=control:{to}\n"
    ),
    "vapoursynth": lambda to: f"import vapoursynth\nopen({to!r}).read()\n",
    "avisynth": lambda to: f'FFVideoSource("{to}")\n',
    "cue": lambda to: f'FILE "{to}" WAVE\nTRACK 01 AUDIO\nINDEX 01 00:00:00\n',
    "vobsub": lambda to: f"# VobSub index file, v7\nid: en, index: 0\n# {to}\ntimestamp: 00:00:00:000, filepos: 0\n",
    "lavfi": lambda to: f"movie={to}\n",
    "ffmetadata": lambda to: f";FFMETADATA1\ntitle={to}\n",
    "svg": lambda to: f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{to}"/></svg>',
}
"""By name: a text that names the target."""


def playlists(bait: Bait) -> Mapping[str, bytes]:
    """Every playlist with every way to name the bait, under names of media: `hls-http.mp4`."""
    suffixes = ("mp4", "mkv", "ts", "avi")
    found = {}
    for number, (name, text) in enumerate(_PLAYLISTS.items()):
        for way, target in bait.targets.items():
            found[f"{name}-{way}.{suffixes[number % len(suffixes)]}"] = text(target).encode()
    return found


def embedded(bait: Bait, seeds: Seeds) -> Mapping[str, bytes]:
    """Real media that carry a reference inside."""
    playlist = _PLAYLISTS["hls"](bait.path).encode()
    web = _PLAYLISTS["hls"](bait.targets["http"]).encode()
    mp4, mkv, avi = seeds["plain.mp4"], seeds["live.webm"], seeds["raw.avi"]
    found = {}
    for way, target in bait.targets.items():
        found[f"external-data-{way}.mp4"] = _external_data(mp4, b"url ", target.encode() + b"\0")
        found[f"external-alias-{way}.mov"] = _external_data(mp4, b"alis", _alias(target))
        found[f"reference-movie-{way}.mov"] = _reference_movie(target)
        found[f"linked-segment-{way}.mkv"] = _linked(mkv, target)
        found[f"attached-playlist-{way}.mkv"] = _attached(mkv, _PLAYLISTS["hls"](target).encode(), target)
        found[f"subtitle-playlist-{way}.avi"] = _subtitled(avi, _PLAYLISTS["hls"](target).encode())
        found[f"tagged-{way}.mp3"] = _tagged(target) + seeds["plain.mp3"].content
    for name, text in (("path", playlist), ("http", web)):
        found[f"playlist-in-front-{name}.ts"] = text + seeds["plain.ts"].content
        found[f"playlist-after-tags-{name}.mp3"] = b"ID3\4\0\0\0\0\0\0" + text
    return found


def _external_data(seed: Seed, kind: bytes, body: bytes) -> bytes:
    """Tracks whose samples lie elsewhere: the data reference is not the file itself."""
    content = seed.content
    for part in reversed([part for part in parts(seed) if part.name == b"dinf"]):
        entry = box(kind, b"\0\0\0\0", body)  # flag 1 would mean: in this file
        rebuilt = box(b"dinf", box(b"dref", struct.pack(">II", 0, 1), entry))
        grown = len(rebuilt) - (part.end - part.start)
        outers = [p for p in parts(seed) if p.start < part.start and p.end >= part.end]
        changed = bytearray(content)
        for outer in outers:
            size = int.from_bytes(changed[outer.start : outer.start + 4], "big")
            struct.pack_into(">I", changed, outer.start, size + grown)
        content = bytes(changed[: part.start]) + rebuilt + bytes(changed[part.end :])
    return content


def _alias(target: str) -> bytes:
    """A classic Mac OS alias record: names of volume and file, then the path as types 2 and 18."""
    name = PurePosixPath(target).name.encode()[:60]
    path = target.encode()[:200]
    fixed = struct.pack(">4sHHH", b"\0" * 4, 0, 2, 0) + bytes([1]) + b"v".ljust(27, b"\0") + bytes(4 + 2 + 2 + 4)
    fixed += (
        bytes([len(name)]) + name.ljust(63, b"\0") + bytes(4 + 4 + 4 + 4) + struct.pack(">HH", 0, 1) + bytes(4 + 2 + 10)
    )
    records = b""
    for kind in (2, 18):
        records += struct.pack(">HH", kind, len(path)) + path + b"\0" * (len(path) % 2)
    return fixed + records + struct.pack(">HH", 0xFFFF, 0)


def _reference_movie(target: str) -> bytes:
    reference = struct.pack(">I4sI", 0, b"url ", len(target) + 1) + target.encode() + b"\0"
    return box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", box(b"rmra", box(b"rmda", box(b"rdrf", reference))))


def _linked(seed: Seed, target: str) -> bytes:
    """Previous and next segments by file name, as Matroska allows."""
    info = next(part for part in parts(seed) if part.name == bytes.fromhex("1549A966"))
    linked = element("3C83AB", target.encode()) + element("3E83BB", target.encode()) + element("7384", target.encode())
    rebuilt = element("1549A966", seed.content[info.payload : info.end], linked)
    return seed.content[: info.start] + rebuilt + seed.content[info.end :]


def _attached(seed: Seed, content: bytes, name: str) -> bytes:
    """Attachments named as the target: a playlist, and a font that subtitles would load."""
    files = b"".join(
        element(
            "61A7",
            element("466E", name.encode()),
            element("4660", kind),
            element("465C", content),
            element("46AE", b"\1"),
        )
        for kind in (b"application/vnd.apple.mpegurl", b"application/x-truetype-font", b"image/svg+xml")
    )
    tracks = next(part for part in parts(seed) if part.name == bytes.fromhex("1654AE6B"))
    return seed.content[: tracks.end] + element("1941A469", files) + seed.content[tracks.end :]


def _subtitled(seed: Seed, content: bytes) -> bytes:
    """An AVI whose third stream holds a file of its own (GAB2), which libav opens as one."""
    found = parts(seed)
    header = next(
        part for part in found if part.start >= 12 and seed.content[part.payload : part.payload + 4] == b"hdrl"
    )
    movie = next(part for part in found if seed.content[part.payload : part.payload + 4] == b"movi")
    stream = b"txts" + bytes(44)
    declared = b"strh" + struct.pack("<I", len(stream)) + stream + b"strf" + struct.pack("<I", 0)
    stream_list = b"LIST" + struct.pack("<I", 4 + len(declared)) + b"strl" + declared
    gab2 = b"GAB2\0" + struct.pack("<HI", 2, 2) + b"x\0" + struct.pack("<HI", 4, len(content)) + content
    packet = b"02tx" + struct.pack("<I", len(gab2)) + gab2 + b"\0" * (len(gab2) % 2)
    body = bytearray(seed.content)
    body[movie.payload + 4 : movie.payload + 4] = packet
    struct.pack_into("<I", body, movie.size_at, movie.end - movie.payload + len(packet))
    body[header.end : header.end] = stream_list
    struct.pack_into("<I", body, header.size_at, header.end - header.payload + len(stream_list))
    struct.pack_into("<I", body, 4, len(body) - 8)
    return bytes(body)


def _tagged(target: str) -> bytes:
    """ID3 frames that name addresses: a linked picture (`-->`), web pages, a chapter."""
    text = target.encode("latin-1", "replace")
    frames = {b"APIC": b"\0-->\0\3\0" + text, b"WOAF": text, b"WXXX": b"\0\0" + text, b"LINK": b"APIC" + text + b"\0"}
    body = b"".join(name + struct.pack(">IH", len(value), 0) + value for name, value in frames.items())
    size = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + body
