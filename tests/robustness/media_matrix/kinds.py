"""Files that claim what is not so, and kinds that recorders, streaming and editors write which no other module has."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, Builder
from tests.robustness.media_matrix.writers import DV, SOUND, _after, _coded, _first, _patched, _set, _void
from tests.support.media_files import make
from tests.support.media_oracle import cut, joined

LONG = (2.0, 14.0)
LONGER = (2.0, 22.0)
HEVC = ("-c:v", "libx265", "-x265-params", "log-level=error")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8, "-b:v", "2M")
AV1 = ("-c:v", "libsvtav1", "-preset", 12, "-crf", 10)
LOST = {"failing": ("decode_failed", "decode_incomplete")}
Patch = Callable[[bytearray], bytes | bytearray]


def all_sync(content: bytearray) -> bytes:
    """An MP4 that says of every picture that it is a key picture."""
    assert b"stss" in content
    return content.replace(b"stss", b"free")


def all_keys(content: bytearray) -> bytearray:
    """The same of an AVI's index."""
    for place in range(content.rfind(b"idx1") + 8, len(content), 16):
        content[place + 4] |= 0x10
    return content


def all_key_tags(content: bytearray) -> bytearray:
    """The same of FLV."""
    place = 13
    while place + 12 < len(content):
        if content[place] == 9:
            content[place + 11] = 0x10 | content[place + 11] & 0x0F
        place += 15 + int.from_bytes(content[place + 1 : place + 4], "big")
    return content


def all_key_blocks(content: bytearray) -> bytearray:
    """The same of Matroska, without cues."""
    from tests.robustness.media_matrix.stamps import _blocks

    for at in list(_blocks(bytes(content), "v")):
        content[at + 2] |= 0x80
    return _void(b"\x1c\x53\xbb\x6b")(content)


def _keys() -> Iterator[tuple[str, Builder]]:
    rare = ("-g", 200)
    mpeg4 = ("-c:v", "mpeg4", "-q:v", 2, "-sc_threshold", 1_000_000_000)
    claims: dict[str, tuple[Patch, tuple[tuple[object, ...], ...]]] = {
        "mp4": (all_sync, ((), HEVC, mpeg4, VP9, AV1)),
        "mov": (all_sync, (("-c:v", "h263", "-s", "176x144", "-q:v", 2), ("-c:v", "svq1", "-q:v", 2))),
        "avi": (all_keys, ((*mpeg4, "-c:a", "pcm_s16le"),)),
        "flv": (all_key_tags, ((), ("-c:v", "flv", "-q:v", 2))),
        "mkv": (all_key_blocks, (mpeg4, ("-c:v", "libtheora", "-q:v", 10), VP9)),
    }
    for suffix, (patch, codecs) in claims.items():
        for how in codecs:
            name = how[1] if how else "h264"
            whole = _coded(suffix, *how, *rare, span=LONGER, sound_s=0.06)
            yield f"all pictures of {name} are called key pictures {suffix}", _patched(whole, patch)


def _streamed() -> Iterator[tuple[str, Builder]]:
    def segments(*offsets: float, each_s: float = 2.0, parts: tuple[tuple[float, float], ...] = ()) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            made = [
                cut(source, folder / f"{n}.ts", 2 + n * each_s, 2 + (n + 1) * each_s, "-output_ts_offset", offset)
                for n, offset in enumerate(offsets)
            ]
            right = Right(parts or (LONG,), sound_s=0.09, length_s=0.4, correlation=0.4)
            return joined(folder / "all.ts", *made), right

        return build

    yield "six segments of hls ts", segments(*range(0, 12, 2))
    again = tuple((2.0 + 2 * n, 4.0 + 2 * n) for n in range(6))
    yield "six segments of hls, each from 0 ts", segments(*[0] * 6, parts=again)

    def fragments(left_out: int | None) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            hls = ("-hls_segment_type", "fmp4", "-hls_time", 2, "-hls_playlist_type", "vod")
            names = ("-hls_segment_filename", folder / "%d.m4s", "-hls_fmp4_init_filename", "init.mp4")
            cut(source, folder / "a.m3u8", *LONG, *hls, *names, gop=50)
            made = sorted(folder.glob("*.m4s"), key=lambda path: int(path.stem))
            kept = [path for number, path in enumerate(made) if number != left_out]
            right = Right((LONG,), sound_s=0.06, length_s=0.3, skip=((3.9, 6.1),) if left_out else ())
            return joined(folder / "all.mp4", folder / "init.mp4", *kept), right

        return build

    yield "fragments of hls mp4", fragments(None)
    yield "fragments of hls, one lacking mp4", fragments(1)
    b_pictures = ("-preset", "medium", "-bf", 2)
    for flags in (
        "cmaf+frag_keyframe+empty_moov",
        "frag_keyframe+empty_moov+negative_cts_offsets+default_base_moof",
        "frag_keyframe+delay_moov+default_base_moof",
        "rtphint",
    ):
        yield f"{flags} mp4", _coded("mp4", "-movflags", flags, *b_pictures, span=LONG, sound_s=0.06)
    yield (
        "hybrid of fragments and an index mp4",
        _coded("mp4", "-movflags", "hybrid_fragmented", span=LONG, sound_s=0.06),
    )
    wall = ("-movflags", "frag_keyframe+empty_moov+default_base_moof", "-write_prft", "wallclock")
    yield "fragments with the clock's time mp4", _coded("mp4", *wall, span=LONG, sound_s=0.06)
    yield "smooth streaming ismv", _coded("ismv", span=LONG, sound_s=0.06)
    yield "smooth streaming from an hour on ismv", _coded("ismv", "-output_ts_offset", 3_600, span=LONG, sound_s=0.06)
    for name, how in (("hevc", HEVC), ("vp9", VP9), ("av1", ("-c:v", "libsvtav1", "-preset", 8, "-crf", 10))):
        yield f"{name} in flv", _coded("flv", *how, span=LONG, sound_s=0.06)
    for codec in ("libopus", "ac3", "flac", "eac3"):
        yield f"{codec} in flv", _coded("flv", "-c:a", codec, span=LONG, sound_s=0.06)

    def tagged(source: Path, folder: Path) -> tuple[Path, Right]:
        """Segments of AAC, each behind a tag that says when it begins, as HLS of sound alone has them."""
        content, frames, at = cut(source, folder / "whole.aac", *LONG, "-vn").read_bytes(), [], 0
        while at + 7 < len(content):
            length = (content[at + 3] & 3) << 11 | content[at + 4] << 3 | content[at + 5] >> 5
            frames.append(content[at : at + length])
            at += length
        made = b""
        for first in range(0, len(frames), 94):
            name = b"com.apple.streaming.transportStreamTimestamp\0" + struct.pack(">Q", first * 1_920)
            tag = b"PRIV" + struct.pack(">IH", len(name), 0) + name
            made += b"ID3\4\0\0\0\0\0" + bytes([len(tag)]) + tag + b"".join(frames[first : first + 94])
        (folder / "a.aac").write_bytes(made)
        return folder / "a.aac", Right((LONG,), length_s=0.3, **SOUND)  # type: ignore[arg-type]

    yield "tags between segments aac", tagged


def _edited() -> Iterator[tuple[str, Builder]]:
    xdcam = ("-c:v", "mpeg2video", "-pix_fmt", "yuv422p", "-b:v", "20M", "-bf", 2, "-c:a", "pcm_s24le", "-ar", 48_000)
    yield "long groups of mpeg-2 of 4:2:2 mxf", _coded("mxf", *xdcam, span=LONG, sound_s=0.06)
    b_pictures = ("-preset", "medium", "-bf", 2, "-c:a", "pcm_s16le", "-ar", 48_000)
    yield "h.264 with b pictures mxf", _coded("mxf", *b_pictures, span=LONG, sound_s=0.06)
    ntsc = ("-vf", "fps=30000/1001,scale=720:480:flags=neighbor", "-pix_fmt", "yuv411p", *DV[4:])
    yield "dv of 525 lines", _coded("dv", *ntsc, sound_s=0.06)
    telecine = ("-vf", "fps=24000/1001,telecine=pattern=23", "-flags", "+ildct+ilme")
    yield "telecine mpg", _coded("mpg", *telecine, sound_s=0.06)
    yield "telecine ts", _coded("ts", *telecine, "-x264-params", "tff=1", sound_s=0.06)

    def delayed(source: Path, folder: Path) -> tuple[Path, Right]:
        """An AVI whose header says that the sound begins a second later."""
        path = cut(source, folder / "a.avi", *LONG, "-c:v", "mpeg4", "-q:v", 2, "-c:a", "pcm_s16le", "-ar", 16_000)
        content = bytearray(path.read_bytes())
        at = content.find(b"auds") + 20
        scale, rate = struct.unpack_from("<II", content, at)
        struct.pack_into("<I", content, at + 8, rate // scale)
        path.write_bytes(content)
        right = {"length_s": 1.2, "skip": ((1.9, 3.1), (13.9, 99)), "sound_shift_s": -1.0}
        return path, Right(((2, 15),), sound_s=0.08, **right)  # type: ignore[arg-type]

    yield "sound said to begin later avi", delayed
    few = ("-c:v", "mpeg4", "-q:v", 2, "-vf", "select='not(mod(n,100))'", "-fps_mode", "vfr", "-c:a", "libmp3lame")
    yield "a picture every 4 s avi", _coded("avi", *few, span=(0, 20), still=((0, 99),), sound_s=0.06, length_s=4.1)

    def chaptered(suffix: str, subtitles: str) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            chapters = "".join(f"[CHAPTER]\nTIMEBASE=1/1\nSTART={n}\nEND={n + 3}\ntitle={n}\n" for n in (0, 3, 6, 9))
            (folder / "chapters").write_text(f";FFMETADATA1\n{chapters}")
            (folder / "a.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nwords\n")
            inputs = ("-i", cut(source, folder / f"whole.{suffix}", *LONG), "-i", folder / "chapters")
            maps = ("-map", 0, "-map", 2, "-map_metadata", 1, "-c", "copy", "-c:s", subtitles)
            make(*inputs, "-i", folder / "a.srt", *maps, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((LONG,), sound_s=0.06)

        return build

    for suffix, subtitles in (("mp4", "mov_text"), ("mov", "mov_text"), ("mkv", "srt")):
        yield f"chapters and subtitles {suffix}", chaptered(suffix, subtitles)
    for suffix, start in (("vob", 0.5), ("mpg", 0.5), ("m2ts", 1.4)):
        wrap = ("-output_ts_offset", 95_443.7 - start - 6)
        yield f"the clock wraps after 6 s {suffix}", _coded(suffix, *wrap, span=LONG, sound_s=0.06)


def _holes() -> Iterator[tuple[str, Builder]]:
    def zeros(content: bytearray) -> bytearray:
        first, last = int(len(content) * 0.4), int(len(content) * 0.6)
        content[first:last] = bytes(last - first)
        return content

    said = {"notes": ("are zeros",), "skip": ((5.4, 99),), "length_s": 4.0, **SOUND}
    for suffix, codec in (("mp3", "libmp3lame"), ("aac", "aac"), ("ac3", "ac3"), ("eac3", "eac3"), ("mp2", "mp2")):
        yield f"zeros in the middle {suffix}", _patched(_coded(suffix, "-vn", "-c:a", codec, span=LONG, **said), zeros)
    amr = ("-vn", "-c:a", "libopencore_amrnb", "-ar", 8_000, "-ac", 1)
    yield (
        "zeros in the middle amr",
        _patched(_coded("amr", *amr, span=LONGER, correlation=0.7, **(said | {"length_s": 7})), zeros),
    )
    for suffix in ("mp4", "mov", "ts", "vob", "m2ts"):
        whole = _coded(suffix, span=LONG, skip=((5.4, 10.9),), length_s=0.3, sound_s=0.12, **LOST)
        yield f"zeros in the middle {suffix}", _patched(whole, zeros)
    ivf = _coded("ivf", "-an", "-c:v", "libvpx", "-b:v", "1M", span=LONG, has="pictures", skip=((5.4, 99),), **LOST)
    yield "zeros in the middle ivf", _patched(ivf, zeros)
    fragmented = _coded("mp4", *FRAGMENTED, span=LONG, skip=((8, 99),), length_s=5.5, sound_s=0.06, **LOST)
    yield "fragments cut off mp4", _patched(fragmented, _first(0.7))


def _coded_so() -> Iterator[tuple[str, Builder]]:
    """Sound and pictures in forms that other modules do not have, and headers that contradict them."""
    for rate in (48_000, 96_000):
        lpcm = ("-c:a", "pcm_dvd", "-sample_fmt", "s32", "-ar", rate, "-ac", 2)
        yield f"24 bits of {rate} Hz on a disc vob", _coded("vob", *lpcm, span=LONG, sound_s=0.06, correlation=0.93)
    yield "dvb's ac-3 ts", _coded("ts", "-c:a", "ac3", "-mpegts_flags", "system_b", span=LONG, sound_s=0.06)
    for codec in ("pcm_s32be", "pcm_f32be", "pcm_mulaw", "adpcm_ima_qt"):
        yield f"{codec} in mov", _coded("mov", "-c:a", codec, "-ar", 48_000, span=LONG, sound_s=0.06, correlation=0.9)
    for codec in ("wmv2", "msmpeg4", "huffyuv"):
        pixels = "yuv422p" if codec == "huffyuv" else "yuv420p"
        yield f"{codec} in mkv", _coded("mkv", "-c:v", codec, "-q:v", 2, "-pix_fmt", pixels, span=LONG, sound_s=0.06)
    for suffix in ("mp4", "mkv", "ts"):
        vvc = ("-c:v", "libvvenc", "-preset", "faster", "-qp", 20, "-strict", -2)
        yield f"vvc in {suffix}", _coded(suffix, *vvc, sound_s=0.06)
    whole = _coded("mkv", span=LONG, sound_s=0.06)
    yield "a header of half the sound's rate mkv", _patched(whole, _set(_after(b"\xb5\x88"), ">d", 24_000.0))
    mp4 = _coded("mp4", span=LONG, sound_s=0.06)
    yield "a header of half the sound's rate mp4", _patched(mp4, _set(_after(b"mp4a", 24), ">H", 22_050))
    yield "a header of 320x96 pictures mp4", _patched(mp4, _set(_after(b"avc1", 24), ">I", 320 << 16 | 96))
    for trc in ("smpte2084", "arib-std-b67"):
        for suffix, how in (("webm", VP9), ("mp4", AV1), ("mov", ("-c:v", "prores_ks", "-c:a", "pcm_s16le"))):
            pixels = "yuv422p10le" if suffix == "mov" else "yuv420p10le"
            tags = f"setparams=color_trc={trc}:color_primaries=bt2020:colorspace=bt2020nc"
            filters = ("-vf", f"scale=out_color_matrix=bt2020,format={pixels},{tags}", "-pix_fmt", pixels)
            yield f"{trc} {suffix}", _coded(suffix, *how, *filters, sound_s=0.06, notes=("tone-mapped",))

    def by_cues(change: Callable[[int], int]) -> Patch:
        def patch(content: bytearray) -> bytearray:
            begin = content.rfind(b"\x1c\x53\xbb\x6b")
            for found in re.finditer(rb"\xbb.\xb3[\x81-\x84]", bytes(content[begin:]), re.DOTALL):
                first, size = begin + found.end(), content[begin + found.end() - 1] & 0x7F
                time = change(int.from_bytes(content[first : first + size], "big"))
                content[first : first + size] = min(time, (1 << 8 * size) - 1).to_bytes(size, "big")
            return content

        return patch

    long = _coded("mkv", span=(0, 24), sound_s=0.06)
    yield "cues of half the time mkv", _patched(long, by_cues(lambda ms: ms // 2))
    yield "cues 5 s too late mkv", _patched(long, by_cues(lambda ms: ms + 5_000))


def with_types(content: bytearray, types: dict[int, int]) -> bytes:
    """A transport stream whose tables call these types of streams others."""
    for at in range(0, len(content), 188):
        if content[at + 1] & 0x1F != 0x10 or content[at + 2] or not content[at + 1] & 0x40:
            continue
        begin = at + 5
        end = begin + 3 + ((content[begin + 1] & 0x0F) << 8 | content[begin + 2]) - 4
        stream = begin + 12 + ((content[begin + 10] & 0x0F) << 8 | content[begin + 11])
        while stream < end:
            content[stream] = types.get(content[stream], content[stream])
            stream += 5 + ((content[stream + 3] & 0x0F) << 8 | content[stream + 4])
        checksum = 0xFFFFFFFF
        for byte in content[begin:end]:
            checksum ^= byte << 24
            for _ in range(8):
                checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
        content[end : end + 4] = checksum.to_bytes(4, "big")
    return bytes(content)


def with_asf_lock(content: bytearray) -> bytes:
    """An ASF with an object that tells how it is encrypted."""
    lock = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + struct.pack("<QIII", 40, 0, 0, 0) + bytes(4)
    size, count = struct.unpack_from("<QI", content, 16)
    struct.pack_into("<QI", content, 16, size + len(lock), count + 1)
    return bytes(content[:30]) + lock + bytes(content[30:])


def _locked() -> Iterator[tuple[str, Builder]]:
    locked = _coded("m4a", "-vn", error="encrypted")
    broadcast = _coded("ts", error="encrypted")
    yield "sample by sample ts", _patched(broadcast, lambda content: with_types(content, {0x1B: 0xDB, 0x0F: 0xCF}))
    half = _coded("ts", sound_s=0.06, has="sound", skip=((0, 2.1),))
    yield "the pictures sample by sample ts", _patched(half, lambda content: with_types(content, {0x1B: 0xDB}))
    yield "protected asf", _patched(_coded("asf", error="encrypted"), with_asf_lock)
    for name in (b"drms", b"aavd"):
        yield f"sound called {name.decode()} m4a", _patched(locked, lambda c, name=name: c.replace(b"mp4a", name, 1))


CASES = (_keys, _streamed, _edited, _holes, _coded_so, _locked)
