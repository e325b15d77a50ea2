"""Files as recorders, broadcasters, editors and phones write them beyond the usual: headers that are wrong or were
never finished, odd tracks, edit lists, codecs of one trade."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, A, B, Builder, C
from tests.robustness.media_matrix.timelines import piped
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, joined, noise, write_wav

DV = ("-vf", "scale=720:576:flags=neighbor", "-pix_fmt", "yuv420p", "-c:v", "dvvideo", "-c:a", "pcm_s16le", "-ac", 2)
REAL = ("-c:v", "rv20", "-s", "176x144", "-q:v", 2, "-c:a", "ac3")
SOUND = {"has": "sound", "sound_s": 0.06}


def _coded(suffix: str, *how: object, span: tuple[float, float] = A, **right: object) -> Builder:
    return lambda source, folder: (
        cut(source, folder / f"a.{suffix}", *span, *how),
        Right((span,), **right),  # type: ignore[arg-type]
    )


def _patched(builder: Builder, patch: Callable[[bytearray], bytes | bytearray]) -> Builder:
    """Another case's file with other bytes."""

    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        path, right = builder(source, folder)
        path.write_bytes(patch(bytearray(path.read_bytes())))
        return path, right

    return build


def _piped(suffix: str, *how: object, **right: object) -> Builder:
    """As a writer leaves it that cannot go back to its header."""

    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        whole = cut(source, folder / f"whole.{suffix}", *A, *how)
        path = folder / f"a.{suffix}"
        path.write_bytes(piped(whole, suffix))
        return path, Right((A,), **right)  # type: ignore[arg-type]

    return build


def _set(at: Callable[[bytearray], int], form: str, value: float) -> Callable[[bytearray], bytearray]:
    """Overwrite one number."""

    def patch(content: bytearray) -> bytearray:
        offset = at(content)
        assert offset >= 0
        struct.pack_into(form, content, offset, value)
        return content

    return patch


def _after(mark: bytes, more: int = 0) -> Callable[[bytearray], int]:
    def at(content: bytearray) -> int:
        found = content.find(mark)
        assert found >= 0, mark
        return found + len(mark) + more

    return at


def _first(share: float) -> Callable[[bytearray], bytearray]:
    return lambda content: content[: int(len(content) * share)]


def lost_at(share: float) -> dict[str, object]:
    """What may come out of a file of 12 s that was cut off there."""
    return {"failing": ("decode_failed", "decode_incomplete"), "skip": ((1 + 12 * share, 99),), "length_s": 0.7}


def _headers() -> Iterator[tuple[str, Builder]]:
    pcm = ("-vn", "-c:a", "pcm_s16le", "-ar", 16000)
    for name, size in (("0", 0), ("2^32 - 1", 0xFFFFFFFF), ("2^31 - 1", 0x7FFFFFFF)):
        yield (
            f"wav that says its length is {name}",
            _patched(_coded("wav", *pcm, **SOUND), _set(_after(b"data"), "<I", size)),
        )
    yield "wav from a pipe", _piped("wav", *pcm, **SOUND)
    yield "rf64", _coded("wav", *pcm, "-rf64", "always", **SOUND)
    yield "broadcast wav", _coded("wav", *pcm, "-write_bext", 1, "-metadata", "time_reference=172800000", **SOUND)
    yield (
        "rf64 that says its length is 6 GB",
        _patched(_coded("wav", *pcm, "-rf64", "always", **SOUND), _set(_after(b"ds64", 12), "<Q", 6 << 30)),
    )
    yield (
        "wav cut off",
        _patched(
            _coded(
                "wav",
                *pcm,
                span=(2, 12),
                failing=("decode_failed", "decode_incomplete"),
                skip=((7.9, 99),),
                **SOUND,
            ),
            _first(0.6),
        ),
    )
    lost = {"failing": ("decode_failed", "decode_incomplete"), "skip": ((8.0, 99),)}
    for suffix, codec in (
        ("aiff", "pcm_s16be"),
        ("caf", "pcm_s16be"),
        ("au", "pcm_s16be"),
        ("w64", "pcm_s16le"),
        ("flac", "flac"),
    ):
        sound = ("-vn", "-c:a", codec, "-ar", 16000)
        yield f"{suffix} cut off", _patched(_coded(suffix, *sound, span=(2, 14), **SOUND, **lost), _first(0.6))
    mxf = ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s16le", "-ar", 48000)
    for suffix, how in (("flv", ()), ("asf", ()), ("mkv", ()), ("mov", ("-movflags", "+faststart")), ("mxf", mxf)):
        yield f"{suffix} cut off", _patched(_coded(suffix, *how, span=(2, 14), **lost), _first(0.6))
    for share in (0.9, 0.97, 0.995):
        yield f"mxf cut off at {share}", _patched(_coded("mxf", *mxf, span=(2, 14), **lost_at(share)), _first(share))
    yield "flac from a pipe", _piped("flac", "-vn", "-c:a", "flac", "-ar", 16000, **SOUND)
    yield "caf from a pipe", _piped("caf", "-vn", "-c:a", "pcm_s16be", "-ar", 16000, **SOUND)
    yield "au from a pipe", _piped("au", "-vn", "-c:a", "pcm_s16be", "-ar", 16000, **SOUND)
    yield (
        "aiff that says it has no samples",
        _patched(_coded("aiff", "-vn", "-c:a", "pcm_s16be", "-ar", 16000, **SOUND), _set(_after(b"COMM", 6), ">I", 0)),
    )
    mp3 = ("-vn", "-c:a", "libmp3lame", "-q:a", 4, "-ar", 48000, "-ac", 1)
    yield (
        "mp3 of which the index counts a tenth",
        _patched(_coded("mp3", *mp3, correlation=0.8, **SOUND), _set(_after(b"Xing", 4), ">I", 25)),
    )
    yield (
        "aac with id3",
        lambda source, folder: (
            cut(
                source,
                folder / "a.aac",
                *A,
                "-vn",
                "-c:a",
                "aac",
                "-ar",
                48000,
                "-write_id3v2",
                1,
                "-metadata",
                "title=x",
            ),
            Right((A,), **SOUND),  # type: ignore[arg-type]
        ),
    )
    mkv = ("-live", 0)
    yield "mkv without cues", _patched(_coded("mkv", *mkv, span=(2, 14)), _void(b"\x1c\x53\xbb\x6b"))
    yield "mkv without duration", _patched(_coded("mkv"), _void(b"\x44\x89"))
    yield "mkv of half the duration", _patched(_coded("mkv"), _set(_after(b"\x44\x89\x88"), ">d", 3000.0))
    yield "webm without cues", _patched(_coded("webm", span=(2, 14)), _void(b"\x1c\x53\xbb\x6b"))
    yield (
        "asf of a tenth of the duration",
        _patched(_coded("asf"), _set(_after(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), 48), "<Q", 6_000_000)),
    )
    yield "flv of half the duration", _patched(_coded("flv"), _set(_after(b"duration\0"), ">d", 3.0))
    yield (
        "avi of no pictures",
        _patched(
            _patched(
                _coded("avi", "-c:v", "mjpeg", "-q:v", 2, "-c:a", "pcm_s16le"), _set(_after(b"avih", 20), "<I", 0)
            ),
            _set(_after(b"strh", 36), "<I", 0),
        ),
    )
    yield (
        "avi in a file of 64 MB",
        _patched(
            _coded("avi", "-c:v", "mjpeg", "-q:v", 2, "-c:a", "pcm_s16le"), lambda c: c + bytes((64 << 20) - len(c))
        ),
    )
    yield (
        "avi without index",
        _patched(_coded("avi", "-c:v", "mjpeg", "-q:v", 2, "-c:a", "pcm_s16le"), lambda c: c[: c.rfind(b"idx1")]),
    )
    yield (
        "avi cut off",
        _patched(
            _coded(
                "avi",
                "-c:v",
                "mjpeg",
                "-q:v",
                2,
                "-pix_fmt",
                "yuvj420p",
                "-c:a",
                "pcm_s16le",
                span=(2, 14),
                failing=("decode_failed", "decode_incomplete"),
                skip=((8.5, 99),),
            ),
            _first(0.6),
        ),
    )


def _void(name: bytes) -> Callable[[bytearray], bytearray]:
    """A Matroska element made one of padding."""

    def patch(content: bytearray) -> bytearray:
        at = content.rfind(name)
        assert at >= 0
        width = 9 - content[at + len(name)].bit_length()
        begin = at + len(name)
        length = int.from_bytes(content[begin : begin + width], "big") & ((1 << 7 * width) - 1)
        more = len(name) - 1 + width
        excess = max(0, more - 8)
        more -= excess
        content[at] = 0xEC
        content[at + 1 : at + 1 + more] = (length + excess | 1 << 7 * more).to_bytes(more, "big")
        return content

    return patch


def _timelines() -> Iterator[tuple[str, Builder]]:
    def copied(suffix: str, start: float, *more: object) -> Builder:
        """Cut from a longer file without coding it again: an edit list skips to the first picture shown."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 14, "-preset", "medium", "-bf", 2, gop=50)
            make("-ss", start, "-i", whole, "-c", "copy", *more, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right(((2 + start, 14),), sound_s=0.05)

        return build

    for suffix in ("mp4", "mov"):
        yield f"edit list that skips 1.3 s {suffix}", copied(suffix, 3.3)
    yield (
        "negative composition times mp4",
        _coded("mp4", "-preset", "medium", "-bf", 3, "-movflags", "+negative_cts_offsets"),
    )

    def fragments(second: int, right: Right) -> Builder:
        """Fragments of two recordings under the header of the first."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            one = cut(source, folder / "0.mp4", *A, *FRAGMENTED).read_bytes()
            two = bytearray(cut(source, folder / "1.mp4", *B, *FRAGMENTED).read_bytes())
            for track, at in enumerate(sorted(found.start() for found in re.finditer(b"tfdt", two))):
                is_video = track % 2 == 0
                begin = int.from_bytes(two[at + 8 : at + 16], "big")
                two[at + 8 : at + 16] = (begin + second * (12_800 if is_video else 48_000)).to_bytes(8, "big")
            (folder / "all.mp4").write_bytes(one[: one.rfind(b"mfra") - 4] + two[two.find(b"moof") - 4 :])
            return folder / "all.mp4", right

        return build

    yield "fragments that jump ahead by 300 s", fragments(306, Right((A, B), sound_s=0.06))
    yield "fragments that begin again", fragments(0, Right((A, B), sound_s=0.06))
    yield from _begin_again()

    def join(suffix: str, first: tuple[object, ...], second: tuple[object, ...], **right: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.{suffix}", *span, *how)
                for n, (span, how) in enumerate(((A, first), (B, second)))
            ]
            return joined(folder / f"all.{suffix}", *parts), Right(**{"parts": (A, B), **right})  # type: ignore[arg-type]

        return build

    yield "joined vob of other groups of pictures", join("vob", ("-g", 12), ("-g", 60, "-bf", 2), sound_s=0.06)
    yield "joined mpg of another rate", join("mpg", (), ("-r", 30), sound_s=0.06)
    vorbis = ("-vn", "-c:a", "libvorbis")
    yield "chained ogg of other rates", join("ogg", (*vorbis, "-ar", 48000), (*vorbis, "-ar", 22050), **SOUND)
    yield (
        "chained ogg of other channels",
        join("ogg", (*vorbis, "-ar", 48000), (*vorbis, "-ar", 48000, "-ac", 2), **SOUND),
    )
    opus = ("-vn", "-c:a", "libopus", "-ar", 48000)
    yield "chained opus, then vorbis", join("ogg", opus, (*vorbis, "-ar", 44100), **SOUND)
    flac = ("-vn", "-c:a", "flac")
    yield "joined flac of other rates", join("flac", (*flac, "-ar", 48000), (*flac, "-ar", 16000), **SOUND)
    for suffix, codec in (("aiff", "pcm_s16be"), ("caf", "pcm_s16be"), ("au", "pcm_s16be"), ("w64", "pcm_s16le")):
        pcm = ("-vn", "-c:a", codec)
        yield f"joined {suffix}", join(suffix, (*pcm, "-ar", 48000), (*pcm, "-ar", 16000), **SOUND)
    yield "joined mkv of other times", join("mkv", ("-output_ts_offset", 7), ("-output_ts_offset", 3600), sound_s=0.06)
    yield "joined mov of other rates", join("mov", ("-ar", 44100), ("-r", 30, "-ar", 48000), sound_s=0.06)
    mxf = ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s16le", "-ar", 48000)
    yield "joined mxf", join("mxf", mxf, mxf, sound_s=0.06)
    yield "joined mxf of other rates", join("mxf", mxf, (*mxf, "-r", 30), sound_s=0.06)
    yield "three joined mxf", _three_mxf
    cut_off = {"failing": ("decode_failed", "decode_incomplete"), "skip": ((14.4, 99),)}
    yield "joined mxf, the second cut off", _patched(join("mxf", mxf, mxf, sound_s=0.06, **cut_off), _first(0.8))
    for suffix, codec in (("aiff", "pcm_s16be"), ("au", "pcm_s16be"), ("wav", "pcm_s16le"), ("flac", "flac")):
        how = ("-vn", "-c:a", codec, "-ar", 16000)
        yield f"joined {suffix}, the second cut off", _patched(join(suffix, how, how, **SOUND, **cut_off), _first(0.8))
    yield "joined asf", join("asf", (), (), sound_s=0.08)
    yield "joined nut", join("nut", (), (), sound_s=0.08)
    yield (
        "joined ivf",
        join("ivf", ("-an", "-c:v", "libvpx", "-b:v", "1M"), ("-an", "-c:v", "libvpx", "-b:v", "1M"), has="pictures"),
    )
    # No header is between them: it is one recording.
    yield "joined dv", join("dv", DV, DV, parts=((2, 13),), skip=((7.9, 13),), sound_s=0.1)
    yield "joined rm", join("rm", REAL, REAL, sound_s=0.1)

    yield "joined m4a", join("m4a", ("-vn",), ("-vn",), **SOUND)
    other = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8, "-c:a", "libvorbis")
    yield "joined webm of other codecs", join("webm", (), other, sound_s=0.06)
    yield "joined mkv from pipes", join("mkv", ("-live", 1), ("-live", 1), sound_s=0.06)

    def goes_on(suffix: str, *rates: int, parts: tuple[tuple[float, float], ...]) -> Builder:
        """Sound alone that changes its rate at 8 s and has no clock of its own."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            spans = zip(((2, 8), (8, 14)), rates, strict=True)
            codec = ("-c:a", "libmp3lame") if suffix == "mp3" else ()
            files = [cut(source, folder / f"{hz}.{suffix}", *span, "-vn", *codec, "-ar", hz) for span, hz in spans]
            right = Right(parts, has="sound", sound_s=0.15, skip=((7.8, 8.3),))
            return joined(folder / f"all.{suffix}", *files), right

        return build

    yield "aac changes its rate", goes_on("aac", 44_100, 48_000, parts=((2, 8), (8, 14)))
    yield "mp3 changes its rate", goes_on("mp3", 44_100, 48_000, parts=((2, 14),))

    def late(suffix: str, what: str) -> Builder:
        """One of picture and sound begins 2.5 s after the other."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 12)
            order = ("-map", "0:v", "-map", "1:a") if what == "sound" else ("-map", "1:v", "-map", "0:a")
            make("-i", whole, "-itsoffset", 2.5, "-i", whole, *order, "-c", "copy", folder / f"late.{suffix}")
            first, last = ((2, 4.5),), ((11.9, 99),)
            if what == "sound":
                right = Right(((2, 14.5),), sound_shift_s=-2.5, silent=first, still=last, length_s=0.4, sound_s=0.06)
            else:
                right = Right(
                    ((2, 14.5),), picture_shift_s=-2.5, still=first, silent=((12, 99),), length_s=0.4, sound_s=0.06
                )
            return folder / f"late.{suffix}", right

        return build

    for suffix in ("m2ts", "asf", "mov", "mpg", "nut", "3gp"):
        yield f"sound late {suffix}", late(suffix, "sound")
        yield f"pictures late {suffix}", late(suffix, "pictures")
    yield "ts of 204 bytes a packet", _patched(_coded("ts", sound_s=0.06), _with_parity)

    def three(*offsets: float) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            spans = (A, B, C)[: len(offsets)]
            parts = [
                cut(source, folder / f"{n}.ts", *s, "-output_ts_offset", o)
                for n, (s, o) in enumerate(zip(spans, offsets, strict=True))
            ]
            return joined(folder / "all.ts", *parts), Right(spans, sound_s=0.06)

        return build

    yield "over the wrap, then an hour on ts", three(95_440, 3_600)
    yield "to before the wrap, then from 0 ts", three(95_420, 0)
    yield "from behind the wrap to before it ts", three(0, 95_430)
    yield "an hour, the wrap, an hour ts", three(3_600, 95_440, 3_600)


def _with_parity(content: bytearray) -> bytes:
    packets = np.frombuffer(bytes(content), np.uint8).reshape(-1, 188)
    return np.concatenate([packets, np.zeros((len(packets), 16), np.uint8)], axis=1).tobytes()


def _three_mxf(source: Path, folder: Path) -> tuple[Path, Right]:
    how = ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s16le", "-ar", 48000)
    parts = [cut(source, folder / f"{n}.mxf", *span, *how) for n, span in enumerate((A, B, C))]
    return joined(folder / "all.mxf", *parts), Right((A, B, C), sound_s=0.06)


def _begin_again() -> Iterator[tuple[str, Builder]]:
    """A recorder that was started anew into the same file: times begin again, and no header is written."""
    spans = (A, B, C)

    def again(
        suffix: str, *how: object, begins: Callable[[bytes], int], ends: Callable[[bytes], int] = len, **right: object
    ) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [cut(source, folder / f"{n}.{suffix}", *span, *how).read_bytes() for n, span in enumerate(spans)]
            first = parts[0][: ends(parts[0])]
            later = [part[begins(part) : ends(part)] for part in parts[1:]]
            (folder / f"all.{suffix}").write_bytes(b"".join((first, *later)))
            return folder / f"all.{suffix}", Right(**{"parts": spans, "sound_s": 0.06, **right})  # type: ignore[arg-type]

        return build

    def first_coded(flv: bytes) -> int:
        at = 13
        while flv[at] == 18 or flv[at + 12] == 0:
            at += 15 + int.from_bytes(flv[at + 1 : at + 4], "big")
        return at

    cluster, moof = b"\x1f\x43\xb6\x75", b"moof"
    yield "flv begins again, with codec headers", again("flv", begins=lambda flv: 13)
    yield "flv begins again, without codec headers", again("flv", begins=first_coded)
    yield "flv sound begins again", again("flv", "-vn", begins=first_coded, has="sound")
    yield (
        "mkv begins again",
        again("mkv", begins=lambda mkv: mkv.find(cluster), ends=lambda mkv: mkv.rfind(b"\x1c\x53\xbb\x6b")),
    )
    yield "mkv begins again, cues and all", again("mkv", begins=lambda mkv: mkv.find(cluster))
    yield "webm from a pipe begins again", again("webm", "-live", 1, begins=lambda webm: webm.find(cluster))
    yield (
        "fragments of three begin again",
        again("mp4", *FRAGMENTED, begins=lambda mp4: mp4.find(moof) - 4, ends=lambda mp4: mp4.rfind(b"mfra") - 4),
    )
    yield (
        "fragments that count by the whole file begin again",
        again(
            "mp4",
            "-movflags",
            "frag_keyframe+empty_moov",
            begins=lambda mp4: mp4.find(moof) - 4,
            ends=lambda mp4: mp4.rfind(b"mfra") - 4,
            parts=(A,),
            notes=("cannot be read",),
            length_s=0.5,
        ),
    )


def _codecs() -> Iterator[tuple[str, Builder]]:
    yield "latm in ts", _coded("ts", "-mpegts_flags", "latm", sound_s=0.06)
    yield "s302m in ts", _coded("ts", "-c:a", "s302m", "-ac", 2, "-strict", -2)
    yield "opus in ts", _coded("ts", "-c:a", "libopus", sound_s=0.05)
    yield "dts in ts", _coded("ts", "-c:a", "dca", "-strict", -2, "-ac", 2, "-b:a", "768k")
    yield "dts 5.1 in mkv", _coded("mkv", "-c:a", "dca", "-strict", -2, "-ac", 6, "-b:a", "1536k")
    yield "truehd in mkv", _coded("mkv", "-c:a", "truehd", "-strict", -2, "-ac", 2)
    yield (
        "ten bits in ts",
        _coded("ts", "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error"),
    )
    yield (
        "h.263 and amr in 3gp",
        _coded(
            "3gp",
            "-c:v",
            "h263",
            "-s",
            "176x144",
            "-q:v",
            2,
            "-c:a",
            "libopencore_amrnb",
            "-ar",
            8000,
            "-ac",
            1,
            correlation=0.5,
            sound_s=0.06,
        ),
    )
    yield "wmv and wma in asf", _coded("asf", "-c:v", "wmv2", "-q:v", 2, "-c:a", "wmav2", sound_s=0.1)
    yield "b pictures in avi", _coded("avi", "-c:v", "mpeg4", "-q:v", 2, "-bf", 2, "-c:a", "libmp3lame")
    yield "h.264 with b pictures in avi", _coded("avi", "-preset", "medium", "-bf", 3, "-c:a", "pcm_s16le")
    yield "vbr mp3 in avi", _coded("avi", "-c:v", "mpeg4", "-q:v", 2, "-c:a", "libmp3lame", "-q:a", 4, sound_s=0.05)
    yield "pcm in mp4", _coded("mp4", "-c:a", "pcm_s16le")
    yield "opus in mp4", _coded("mp4", "-c:a", "libopus")
    yield "flac in mp4", _coded("mp4", "-c:a", "flac", "-strict", -2)
    yield "av1 in mp4", _coded("mp4", "-c:v", "libsvtav1", "-preset", 12, "-crf", 10)
    yield "vp9 in mp4", _coded("mp4", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8, "-b:v", "1M")
    yield (
        "camera mov",
        _coded(
            "mov", "-c:v", "mjpeg", "-q:v", 2, "-pix_fmt", "yuvj422p", "-c:a", "pcm_s16be", "-timecode", "10:00:00:00"
        ),
    )
    yield (
        "prores mov with timecode",
        _coded("mov", "-c:v", "prores", "-pix_fmt", "yuv422p10le", "-c:a", "pcm_s24le", "-timecode", "01:00:00:00"),
    )
    yield "vp8 in ivf", _coded("ivf", "-an", "-c:v", "libvpx", "-b:v", "1M", has="pictures")
    yield "av1 in ivf", _coded("ivf", "-an", "-c:v", "libsvtav1", "-preset", 12, has="pictures")
    yield "dv", _coded("dv", *DV, sound_s=0.05)
    yield "dv in avi", _coded("avi", *DV, sound_s=0.05)
    yield "dv in mov", _coded("mov", *DV, sound_s=0.05)
    yield "mpeg-1 system", _coded("mpg", "-f", "mpeg", "-c:v", "mpeg1video", "-q:v", 2, "-c:a", "mp2", sound_s=0.05)
    yield "op-atom sound mxf", _coded("mxf", "-vn", "-f", "mxf_opatom", "-c:a", "pcm_s16le", "-ar", 48000, **SOUND)
    yield "rv20 in rm", _coded("rm", *REAL, sound_s=0.1)
    yield "ima adpcm wav", _coded("wav", "-vn", "-c:a", "adpcm_ima_wav", "-ar", 16000, correlation=0.9, **SOUND)
    yield "mu-law au", _coded("au", "-vn", "-c:a", "pcm_mulaw", "-ar", 8000, **SOUND)
    yield "gsm wav", _coded("wav", "-vn", "-c:a", "adpcm_ms", "-ar", 22050, correlation=0.9, **SOUND)
    yield "float64 at 192 kHz wav", _coded("wav", "-vn", "-c:a", "pcm_f64le", "-ar", 192000, **SOUND)
    for suffix, codec, hz in (
        ("wav", "g722", 16_000),
        ("w64", "g722", 16_000),
        ("wav", "adpcm_swf", 22_050),
        ("wav", "wmav2", 48_000),
        ("caf", "alac", 48_000),
        ("rm", "ac3", 48_000),
        ("flv", "nellymoser", 16_000),
    ):
        sound = ("-vn", "-c:a", codec, "-ar", hz, "-ac", 1)
        yield f"18 s of {codec} in {suffix}", _coded(suffix, *sound, span=(2, 20), correlation=0.8, **SOUND)
    for name, how in (
        ("gxf", ("-c:v", "mpeg2video", "-s", "720x576", "-c:a", "pcm_s16le", "-ar", 48000)),
        ("wtv", ("-c:v", "mpeg2video", "-c:a", "mp2")),
    ):
        yield (
            f"{name} is not read",
            lambda source, folder, name=name, how=how: (
                cut(source, folder / f"a.{name}", *A, *how),
                Right(error="not_media"),
            ),
        )
    for name, how in (
        ("h264", ()),
        ("hevc", ("-c:v", "libx265", "-x265-params", "log-level=error")),
        ("m2v", ("-c:v", "mpeg2video")),
        ("m4v", ("-c:v", "mpeg4", "-f", "m4v")),
        ("y4m", ("-c:v", "rawvideo")),
        ("obu", ("-c:v", "libsvtav1", "-preset", 12)),
        ("wv", ("-vn", "-c:a", "wavpack")),
        ("tta", ("-vn", "-c:a", "tta")),
    ):
        yield (
            f"{name} is not read",
            lambda source, folder, name=name, how=how: (
                cut(source, folder / f"a.{name}", *A, *(() if "-vn" in how else ("-an",)), *how),
                Right(error="not_media"),
            ),
        )
    for name in ("gif", "apng"):
        yield (
            f"animated {name}",
            lambda source, folder, name=name: (
                cut(
                    source,
                    folder / f"a.{name}",
                    2,
                    4,
                    "-an",
                    "-c:v",
                    name,
                    "-pix_fmt",
                    {"gif": "rgb8", "apng": "rgb24"}[name],
                    "-r",
                    10,
                ),
                Right(error={"gif": "sidecar", "apng": "not_media"}[name]),
            ),
        )
    yield (
        "avif sequence",
        lambda source, folder: (
            cut(source, folder / "a.avif", *A, "-an", "-c:v", "libsvtav1", "-preset", 12),
            Right((A,), has="pictures"),
        ),
    )


def _shapes() -> Iterator[tuple[str, Builder]]:
    yield "anamorphic ts", _coded("ts", "-aspect", "16:9", "-c:v", "mpeg2video", "-q:v", 2, colours=True)
    yield "anamorphic mkv", _coded("mkv", "-vf", "setsar=64/45", colours=True)
    yield "90 lines, cropped by the codec", _coded("mp4", "-vf", "scale=160:90", colours=True)
    yield "flipped by its matrix", lambda source, folder: (_flipped(source, folder), Right((A,)))
    yield (
        "pq",
        _coded(
            "mkv",
            "-c:v",
            "libx265",
            "-pix_fmt",
            "yuv420p10le",
            "-x265-params",
            "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc",
            "-color_trc",
            "smpte2084",
            "-colorspace",
            "bt2020nc",
            "-color_primaries",
            "bt2020",
            still=((0, 99),),
            notes=("tone-mapped",),
        ),
    )
    yield (
        "hlg ts",
        _coded(
            "ts",
            "-c:v",
            "libx265",
            "-pix_fmt",
            "yuv420p10le",
            "-x265-params",
            "log-level=error:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc",
            notes=("tone-mapped",),
        ),
    )
    jpeg = "scale=1280:768:flags=neighbor:out_color_matrix=bt601:out_range=pc,format=yuvj420p"
    for suffix in ("avi", "mov"):
        how = ("-vf", jpeg, "-c:v", "mjpeg", "-q:v", 2, "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le")
        yield f"hd mjpeg {suffix}", _coded(suffix, *how, colours=True)
    yield "rgb h.264", _coded("mkv", "-c:v", "libx264rgb", "-pix_fmt", "rgb24", "-qp", 0, colours=True)
    yield "prores 4444 with alpha", _coded("mov", "-c:v", "prores_ks", "-profile:v", 4, "-pix_fmt", "yuva444p10le")
    yield (
        "open groups of pictures ts",
        _coded("ts", "-preset", "medium", "-x264-params", "open-gop=1:keyint=25:bframes=3", sound_s=0.06),
    )
    bff = ("-vf", "scale=320:192:interl=1,setfield=bff", "-flags", "+ildct+ilme", "-field_order", "bb")
    yield "bottom field first mpeg-2", _coded("ts", *bff, "-c:v", "mpeg2video", "-q:v", 2, colours=True)
    yield "bottom field first h.264", _coded("mp4", *bff, "-x264-params", "bff=1", "-preset", "medium", colours=True)
    few = ("-vf", "select='lt(mod(t,3),0.5)+eq(n,130)'", "-fps_mode", "vfr")
    held = ((1.9, 3), (3.4, 5.2), (5.2, 6), (6.4, 8))
    for suffix in ("mkv", "webm", "mp4"):
        yield f"screen recording of few pictures {suffix}", _coded(suffix, *few, still=held)
    yield (
        "60 pictures a second, dropped ones mp4",
        _coded("mp4", "-vf", "fps=60,select='not(eq(mod(n,7),3))'", "-fps_mode", "vfr"),
    )

    def art(suffix: str, *how: object) -> Builder:
        """Sound with a picture on its cover."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            make("-f", "lavfi", "-i", "testsrc=s=600x600:d=1", "-frames:v", 1, folder / "cover.jpg")
            sound = ("-ss", A[0], "-t", A[1] - A[0], "-i", source)
            make(
                *sound,
                "-i",
                folder / "cover.jpg",
                "-map",
                "0:a",
                "-map",
                "1:v",
                "-c:v",
                "copy",
                "-ar",
                48000,
                *how,
                "-disposition:v",
                "attached_pic",
                folder / f"a.{suffix}",
            )
            return folder / f"a.{suffix}", Right((A,), **SOUND)  # type: ignore[arg-type]

        return build

    yield "cover on m4a", art("m4a", "-c:a", "aac")
    yield "cover on mp3", art("mp3", "-c:a", "libmp3lame")
    yield "cover on mp3 without index", art("mp3", "-c:a", "libmp3lame", "-q:a", 4, "-write_xing", 0)
    yield "cover on flac", art("flac", "-c:a", "flac")

    def still(suffix: str, *how: object, loops: bool = False) -> Builder:
        """A podcast: sound, and one picture for all of it."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            make("-ss", 3, "-i", source, "-frames:v", 1, folder / "one.png")
            picture = ("-loop", 1, "-framerate", 1 if loops else "1/6", "-i", folder / "one.png")
            sound = ("-ss", A[0], "-t", A[1] - A[0], "-i", source, "-map", "0:v", "-map", "1:a", "-t", A[1] - A[0])
            codecs = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ar", 48000)
            make(*picture, *sound, *codecs, *how, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,), still=((0, 99),), sound_s=0.06)

        return build

    for suffix in ("mp4", "mkv", "ts", "mov"):
        yield f"one picture and sound {suffix}", still(suffix)
        yield f"a picture a second, all the same {suffix}", still(suffix, loops=True)


def _flipped(source: Path, folder: Path) -> Path:
    whole = cut(source, folder / "mirrored.mp4", *A, "-vf", "hflip")
    make("-display_hflip", "-i", whole, "-c", "copy", folder / "flipped.mp4")
    return folder / "flipped.mp4"


def _many_tracks() -> Iterator[tuple[str, Builder]]:
    def mono(suffix: str, gains: tuple[float, ...], gain: float, *how: object) -> Builder:
        """Each channel a track, all of the same sound at other gains."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            sound = noise()[2 * HZ : 8 * HZ]
            wavs = [write_wav(folder / f"{n}.wav", np.float32(one) * sound) for n, one in enumerate(gains)]
            inputs = [argument for wav in wavs for argument in ("-i", wav)]
            maps = [argument for n in range(len(wavs)) for argument in ("-map", n + 1)]
            make(
                "-ss",
                2,
                "-t",
                6,
                "-i",
                source,
                *inputs,
                "-map",
                "0:v",
                *maps,
                *how,
                "-ar",
                48000,
                folder / f"a.{suffix}",
            )
            return folder / f"a.{suffix}", Right((A,), gain=gain)

        return build

    mpeg2 = ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s24le")
    yield "eight mono tracks, two of them used mxf", mono("mxf", (1, 0.5, 0, 0, 0, 0, 0, 0), 0.75, *mpeg2)
    yield "eight mono tracks mxf", mono("mxf", (1, 0.5) * 4, 0.75, *mpeg2)
    mov = (
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        "-preset",
        "ultrafast",
        "-c:a",
        "pcm_s16le",
        "-timecode",
        "10:00:00:00",
    )
    yield "four mono tracks and timecode mov", mono("mov", (1, 0.5, 1, 0.5), 0.75, *mov)
    yield "two mono tracks, one silent mov", mono("mov", (0, 1), 1.0, *mov)
    h264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "ultrafast", "-c:a", "aac", "-b:a", "192k")
    yield (
        "the default is for the visually impaired mkv",
        mono("mkv", (0.3, 1), 1.0, *h264, "-disposition:a:0", "default+visual_impaired", "-disposition:a:1", 0),
    )
    yield (
        "the default is for the visually impaired ts",
        mono("ts", (0.3, 1), 1.0, *h264, "-disposition:a:0", "visual_impaired", "-disposition:a:1", 0),
    )
    yield (
        "the default is a dub mkv",
        mono("mkv", (1, 0.3), 1.0, *h264, "-disposition:a:0", "default+dub", "-disposition:a:1", "original"),
    )
    yield (
        "three tracks, the third the default mp4",
        mono(
            "mp4",
            (0.3, 0.3, 1),
            1.0,
            *h264,
            "-disposition:a:0",
            0,
            "-disposition:a:1",
            0,
            "-disposition:a:2",
            "default",
        ),
    )
    yield (
        "description by its title mov",
        mono(
            "mov",
            (0.3, 1),
            1.0,
            *h264,
            "-metadata:s:a:0",
            "title=English Audio Description",
            "-metadata:s:a:0",
            "handler_name=English Audio Description",
            "-movflags",
            "use_metadata_tags",
        ),
    )

    def gain(db: float) -> Builder:
        """Opus with a gain in its header that a player applies."""
        return _patched(
            _coded("mkv", "-c:a", "libopus", "-b:a", "128k", gain=10 ** (db / 20), sound_s=0.05),
            _set(_after(b"OpusHead", 8), "<h", round(db * 256)),
        )

    yield "opus with a gain of -6 dB", gain(-6.02)


CASES = (_headers, _timelines, _codecs, _shapes, _many_tracks)
