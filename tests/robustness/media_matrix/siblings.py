"""Further files of the kinds in the other modules: other containers, codecs and orders of the same faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, A, B, Builder, C
from tests.robustness.media_matrix.pictures import refused
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, joined, noise, write_wav

SOUND = {"has": "sound", "sound_s": 0.06}
MPEG2 = ("-c:v", "mpeg2video", "-q:v", 2)
HEVC = ("-c:v", "libx265", "-x265-params", "log-level=error")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8, "-b:v", "1M", "-c:a", "libopus")


def _joined(
    suffix: str, *hows: tuple[object, ...], spans: tuple[tuple[float, float], ...] = (A, B, C), **right: object
) -> Builder:
    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        parts = [
            cut(source, folder / f"{n}.{suffix}", *span, *how)
            for n, (span, how) in enumerate(zip(spans, hows, strict=False))
        ]
        return joined(folder / f"all.{suffix}", *parts), Right(
            **{"parts": spans[: len(hows)], "sound_s": 0.06, **right}  # type: ignore[arg-type]
        )

    return build


def _coded(suffix: str, *how: object, span: tuple[float, float] = A, **right: object) -> Builder:
    return lambda source, folder: (cut(source, folder / f"a.{suffix}", *span, *how), Right((span,), **right))  # type: ignore[arg-type]


def _timelines() -> Iterator[tuple[str, Builder]]:
    yield (
        "each fragment with a header of its own mp4",
        _joined("mp4", FRAGMENTED, (*FRAGMENTED, "-output_ts_offset", 6), spans=((2, 8), (8, 14))),
    )
    yield "joined ts, the second of hevc", _joined("ts", (), HEVC)
    yield "joined ts, the second of mpeg-2 and mp2", _joined("ts", (), (*MPEG2, "-c:a", "mp2"))
    yield "joined ts, the second with ac-3", _joined("ts", (), ("-c:a", "ac3"))
    yield "joined ts, the second in stereo of another rate", _joined("ts", (), ("-ac", 2, "-ar", 44_100))
    yield "joined ts, the sound before the pictures", _joined("ts", (), ("-map", "0:a", "-map", "0:v"))
    yield "m2ts jumps back", _joined("m2ts", ("-output_ts_offset", 500), ())
    yield "joined mpeg-1 mpg", _joined("mpg", *((("-c:v", "mpeg1video", "-q:v", 2, "-c:a", "mp2"),) * 2))
    yield "joined vob with ac-3", _joined("vob", *((("-c:a", "ac3"),) * 3))
    yield "joined wma", _joined("wma", *((("-vn", "-c:a", "wmav2"),) * 2), **SOUND)
    yield "joined wmv", _joined("wmv", *((("-c:v", "wmv2", "-q:v", 2, "-c:a", "wmav2"),) * 2), sound_s=0.1)
    yield "joined mka", _joined("mka", *((("-vn", "-c:a", "libopus"),) * 2), **SOUND)
    yield "joined 3g2", _joined("3g2", (), ())
    yield "joined f4v", _joined("f4v", (), ())
    yield (
        "chained opus of other channels",
        _joined("opus", ("-vn", "-c:a", "libopus"), ("-vn", "-c:a", "libopus", "-ac", 2), **SOUND),
    )
    yield (
        "joined mp3 with tags",
        _joined(
            "mp3",
            *((("-vn", "-c:a", "libmp3lame", "-ac", 1, "-write_id3v1", 1, "-metadata", "title=x"),) * 2),
            parts=((2, 13),),
            skip=((7.8, 13),),
            **SOUND,
        ),
    )
    yield (
        "mp3 with id3v1",
        _coded("mp3", "-vn", "-c:a", "libmp3lame", "-ac", 1, "-write_id3v1", 1, "-metadata", "title=x", **SOUND),
    )
    yield (
        "joined eac3",
        _joined(
            "eac3", *((("-vn", "-c:a", "eac3"),) * 2), parts=((2, 13),), skip=((7.8, 13),), has="sound", sound_s=0.12
        ),
    )

    def zeros(suffix: str, *how: object, **right: object) -> Builder:
        """Room that a recorder took and did not use."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            path = cut(source, folder / f"a.{suffix}", *A, *how)
            path.write_bytes(path.read_bytes() + bytes(20 << 20))
            return path, Right((A,), **right)  # type: ignore[arg-type]

        return build

    for suffix in ("ts", "mp4", "mkv", "flv", "mpg", "asf"):
        yield f"{suffix} in a file of 20 MB", zeros(suffix, sound_s=0.06)
    yield "mxf in a file of 20 MB", zeros("mxf", *MPEG2, "-c:a", "pcm_s16le")
    yield "wav in a file of 20 MB", zeros("wav", "-vn", "-c:a", "pcm_s16le", "-ar", 16_000, **SOUND)
    yield "ogg in a file of 20 MB", zeros("ogg", **SOUND)


def _gaps() -> Iterator[tuple[str, Builder]]:
    def gap(suffix: str, *codec: object, **more: object) -> Builder:
        """Packets of sound from 5 to 7 s are lacking."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 14, *codec)
            make("-i", whole, "-c", "copy", "-bsf:a", "noise=drop='between(pts*tb,5,7)'", folder / f"gap.{suffix}")
            right = {"silent": ((7, 9),), "sound_s": 0.05, **more}
            return folder / f"gap.{suffix}", Right(((2, 14),), **right)  # type: ignore[arg-type]

        return build

    yield "sound gap nut", gap("nut")
    yield "sound gap mka", gap("mka", "-vn", has="sound")
    yield "sound gap 3gp", gap("3gp")
    yield "sound gap flac mkv", gap("mkv", "-c:a", "flac")
    yield "sound gap mp3 mkv", gap("mkv", "-c:a", "libmp3lame")
    yield "sound gap vorbis webm", gap("webm", "-c:a", "libvorbis", correlation=0.9)
    yield "sound gap opus ts", gap("ts", "-c:a", "libopus")
    yield "sound gap eac3 mp4", gap("mp4", "-c:a", "eac3")
    yield "sound gap mpg", gap("mpg")
    yield "sound gap m4a", gap("m4a", "-vn", has="sound")

    def jitter(suffix: str, *codec: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 14, *codec)
            by = "if(mod(floor(N/20)\\,2)\\,0.07\\,0)"
            late = f"setts=pts='PTS+{by}/TB':dts='DTS+{by}/TB'"
            make("-i", whole, "-c", "copy", "-bsf:a", late, folder / f"jitter.{suffix}")
            return folder / f"jitter.{suffix}", Right(((2, 14),), correlation=0.95, sound_s=0.04)

        return build

    yield "stamps late by turns webm", jitter("webm")
    yield "stamps late by turns mp3 mkv", jitter("mkv", "-c:a", "libmp3lame")
    yield "stamps late by turns ac-3 mkv", jitter("mkv", "-c:a", "ac3")
    yield "stamps late by turns pcm mkv", jitter("mkv", "-c:a", "pcm_s16le")
    yield "stamps late by turns ac-3 ts", jitter("ts", "-c:a", "ac3")


def _channels() -> Iterator[tuple[str, Builder]]:
    def mixed(suffix: str, gains: tuple[float, ...], *codec: object, **right: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            sound = noise()[2 * HZ : 8 * HZ]
            wav = write_wav(folder / "in.wav", *(np.float32(gain) * sound for gain in gains))
            make("-i", wav, "-ar", 48_000, *codec, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,), gain=float(np.mean(gains)), **{**SOUND, **right})  # type: ignore[arg-type]

        return build

    eight = (1.0, 1.0, 0.5, 0.0, 1.0, 0.5, 0.5, 0.5)
    yield "7.1 aac mp4", mixed("m4a", eight, "-channel_layout", "7.1", "-c:a", "aac", "-b:a", "640k", correlation=0.9)
    yield "5.1 ac-3 mkv", mixed("mka", eight[:6], "-c:a", "ac3", "-b:a", "640k")
    yield "5.1 vorbis ogg", mixed("ogg", eight[:6], "-c:a", "libvorbis", "-q:a", 8)
    yield "12 channels mov", mixed("mov", (1, 0.5) * 6, "-c:a", "pcm_s16le")
    yield "16 channels caf", mixed("caf", (1, 0.5) * 8, "-c:a", "pcm_s16be")
    yield (
        "opus of eight channels mkv",
        mixed("mka", (1, 0.5) * 4, "-c:a", "libopus", "-mapping_family", 255, "-b:a", "1M"),
    )
    yield "5.1 opus webm", mixed("webm", eight[:6], "-c:a", "libopus", "-mapping_family", 1, "-b:a", "640k")


def _tracks() -> Iterator[tuple[str, Builder]]:
    def two(suffix: str, taken: int, *flags: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            tracks = [noise()[2 * HZ : 8 * HZ], noise()[25 * HZ : 31 * HZ]]
            wavs = [write_wav(folder / f"{n}.wav", t) for n, t in enumerate(tracks if not taken else tracks[::-1])]
            inputs = (
                "-ss",
                2,
                "-t",
                6,
                "-i",
                source,
                "-i",
                wavs[0],
                "-i",
                wavs[1],
                "-map",
                "0:v",
                "-map",
                1,
                "-map",
                2,
            )
            codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k")
            make(*inputs, *codecs, "-ar", 48_000, *flags, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,), sound_s=0.06)

        return build

    def titled(first: str) -> tuple[object, ...]:
        return ("-metadata:s:a:0", f"title={first}", "-disposition:a:0", 0, "-disposition:a:1", 0)

    yield "titled Director's Commentary mkv", two("mkv", 1, *titled("Director's Commentary"))
    yield "titled Audiodeskription mkv", two("mkv", 1, *titled("Deutsch (Audiodeskription)"))
    yield "titled Audiokommentar mkv", two("mkv", 1, *titled("Audiokommentar des Regisseurs"))
    yield "titled Commentaire audio mkv", two("mkv", 1, *titled("Commentaire audio"))
    yield "titled Audiodescripción mkv", two("mkv", 1, *titled("Audiodescripción"))
    yield "titled Comments of the minister mkv", two("mkv", 0, *titled("Press comments of the minister"))

    def cover(suffix: str, size: str, *more: object) -> Builder:
        """A large picture of one frame, in front and not said to be a cover."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            make("-f", "lavfi", "-i", f"testsrc=s={size}:d=1", "-frames:v", 1, folder / "cover.jpg")
            whole = cut(source, folder / f"whole.{suffix}", *A)
            maps = ("-map", "0:v", "-map", "1:v", "-map", "1:a")
            make("-i", folder / "cover.jpg", "-i", whole, *maps, "-c", "copy", *more, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,), sound_s=0.06)

        return build

    for suffix in ("mp4", "mov", "mkv"):
        yield f"a large picture of one frame first {suffix}", cover(suffix, "600x600")


def _pictures() -> Iterator[tuple[str, Builder]]:
    hd = "scale=1280:768:flags=neighbor:out_color_matrix=bt709:out_range=tv,setparams=colorspace=unknown"
    tall = "scale=720:1280:flags=neighbor:out_color_matrix=bt709:out_range=tv,setparams=colorspace=unknown"
    yield "hd without tags hevc mp4", _coded("mp4", "-vf", hd, *HEVC, colours=True)
    yield "hd without tags vp9 webm", _coded("webm", "-vf", hd, *VP9, colours=True)
    yield "tall hd without tags mp4", _coded("mp4", "-vf", tall, colours=True)
    yield (
        "hd without tags mpeg-4 avi",
        _coded("avi", "-vf", hd, "-c:v", "mpeg4", "-q:v", 1, "-c:a", "pcm_s16le", colours=True),
    )
    yield (
        "hd without tags prores mov",
        _coded("mov", "-vf", hd, "-c:v", "prores", "-pix_fmt", "yuv422p10le", colours=True),
    )

    def changed(first: tuple[object, ...], second: tuple[object, ...], suffix: str = "ts", **right: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / "0.ts", 2, 8, *first),
                cut(source, folder / "1.ts", 8, 14, *second, "-output_ts_offset", 6),
            ]
            path = joined(folder / "all.ts", *parts)
            if suffix != "ts":
                make("-i", path, "-c", "copy", folder / f"all.{suffix}")
            right_ = {"length_s": 0.4, "sound_s": 0.09, "skip": ((7.9, 8.2),), **right}
            return folder / f"all.{suffix}", Right(((2, 14),), **right_)  # type: ignore[arg-type]

        return build

    yield "hevc of another size from the middle on ts", changed(HEVC, (*HEVC, "-vf", "scale=320:192"))
    yield "mpeg-2 of another size from the middle on ts", changed(MPEG2, (*MPEG2, "-vf", "scale=320:192"))
    yield "another size from the middle on mp4", changed((), ("-vf", "scale=320:192"), "mp4")
    yield (
        "interlaced from the middle on ts",
        changed((), ("-vf", "scale=160:96:interl=1,setfield=tff", "-flags", "+ildct+ilme")),
    )


def _refused() -> Iterator[tuple[str, Builder]]:
    for brand in (b"avci", b"j2ki", b"jxl ", b"jpx ", b"heim"):
        content = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + b"\0\0\0\x08meta" + bytes(500)
        yield f"still {brand.decode()}", refused("a.mp4", content, "not_media")
    yield (
        "jpeg xl",
        refused("a.mp4", b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl " + bytes(500), "not_media"),
    )
    yield (
        "jpeg 2000",
        refused("a.mp4", b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + bytes(500), "not_media"),
    )


CASES = (_timelines, _gaps, _channels, _tracks, _pictures, _refused)
