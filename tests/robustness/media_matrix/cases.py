"""Files of the kinds that archives hold, each with what it must come out as: container x codec x fault.

Promises: every case makes one file out of one source with ffmpeg, and says which of its seconds it holds. Knows
nothing about how a file is probed or decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import LENGTH_S, Right
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, joined, noise, write_wav

Builder = Callable[[Path, Path], tuple[Path, Right]]

A, B, C = (2.0, 8.0), (12.0, 17.0), (19.0, 23.0)
"""Spans of the source that recordings are made of."""
FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov+default_base_moof")


def cases() -> Iterator[tuple[str, Builder]]:
    """All of them: (name, builder)."""
    for make_cases in (
        _plain,
        _joins,
        _jumps,
        _gaps,
        _jitter,
        _late,
        _sounds,
        _channels,
        _tracks,
        _lengths,
        _interleaved,
        _programmes,
        _pictures,
        _refused,
        _more,
    ):
        yield from make_cases()


def _plain() -> Iterator[tuple[str, Builder]]:
    def plain(suffix: str, *more: object) -> Builder:
        return lambda source, folder: (cut(source, folder / f"a.{suffix}", *A, *more), Right((A,)))

    for suffix in ("mp4", "mov", "mkv", "webm", "ts", "vob", "flv", "avi", "3gp", "asf", "mpg", "m2ts", "nut"):
        yield f"plain {suffix}", plain(suffix)
    yield "fragmented mp4", plain("mp4", *FRAGMENTED)
    yield "faststart mp4", plain("mp4", "-movflags", "+faststart")
    for suffix, codec in (
        ("mkv", "libx265"),
        ("mp4", "libx265"),
        ("ts", "mpeg2video"),
        ("mkv", "ffv1"),
        ("mov", "prores"),
        ("mxf", "mpeg2video"),
        ("avi", "mjpeg"),
        ("mkv", "libvpx-vp9"),
        ("ogv", "libtheora"),
    ):
        sound = {"mxf": "pcm_s16le", "ogv": "libvorbis", "avi": "pcm_s16le"}.get(suffix, "aac")
        how = (
            "-c:v",
            codec,
            "-q:v",
            "2",
            "-pix_fmt",
            {"prores": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p"),
        )
        yield f"{codec} in {suffix}", plain(suffix, *how, "-c:a", sound)


def _joins() -> Iterator[tuple[str, Builder]]:
    def join(
        suffix: str,
        *spans: tuple[float, float],
        more: tuple[object, ...] = (),
        later: tuple[object, ...] = (),
        **right: object,
    ) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.{suffix}", *span, *more, *(later if n else ()))
                for n, span in enumerate(spans)
            ]
            return joined(folder / f"all.{suffix}", *parts), Right(spans, **right)  # type: ignore[arg-type]

        return build

    for suffix in ("ts", "m2ts", "vob", "mpg", "mkv", "webm", "flv", "avi", "mp4", "mov", "3gp"):
        yield f"two joined {suffix}", join(suffix, A, B, sound_s=0.05)
    for suffix in ("ts", "vob", "mkv", "webm", "flv"):
        yield f"three joined {suffix}", join(suffix, A, B, C, sound_s=0.05)
    yield "two joined fragmented mp4", join("mp4", A, B, more=FRAGMENTED)
    yield "three joined fragmented mp4", join("mp4", A, B, C, more=FRAGMENTED)
    yield "joined fragmented mp4 of CMAF", join("mp4", A, B, more=("-movflags", "cmaf+frag_keyframe+empty_moov"))
    yield "short after long ts", join("ts", A, (12, 13.5))
    yield "long after short ts", join("ts", (2, 3.5), B)
    yield "the same twice ts", join("ts", A, A)
    yield "three equal ts", join("ts", (2, 6), (2, 6), (2, 6))
    yield "without sound joined ts", join("ts", A, B, more=("-an",), has="pictures")
    yield "without sound joined mkv", join("mkv", A, B, more=("-an",), has="pictures")
    yield "without picture joined ts", join("ts", A, B, more=("-vn",), has="sound")
    yield "another shape joined ts", join("ts", A, B, later=("-vf", "scale=320:192"))
    yield "another shape joined fragmented mp4", join("mp4", A, B, more=FRAGMENTED, later=("-vf", "scale=320:192"))
    yield "another rate joined ts", join("ts", A, B, later=("-r", "50"))
    yield "mpeg-2 joined ts", join("ts", A, B, more=("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2"))
    yield "hevc joined ts", join("ts", A, B, more=("-c:v", "libx265", "-x265-params", "log-level=error"))
    yield "b-frames joined ts", join("ts", A, B, more=("-preset", "medium", "-bf", "3"))
    yield "ac-3 joined ts", join("ts", A, B, more=("-c:a", "ac3"))
    for suffix, codec in (("ogg", "libvorbis"), ("opus", "libopus"), ("oga", "flac")):
        yield f"chained {suffix}", join(suffix, A, B, more=("-vn", "-c:a", codec, "-ar", 48000), has="sound")
    yield "chained ogv", join("ogv", A, B, more=("-c:v", "libtheora", "-q:v", "10", "-c:a", "libvorbis"))
    for suffix, codec in (
        ("mp3", "libmp3lame"),
        ("aac", "aac"),
        ("ac3", "ac3"),
        ("flac", "flac"),
        ("amr", "libopencore_amrnb"),
        ("wav", "pcm_s16le"),
    ):

        def build(source: Path, folder: Path, suffix: str = suffix, codec: str = codec) -> tuple[Path, Right]:
            rate = 8000 if suffix == "amr" else 48000
            parts = [
                cut(source, folder / f"{n}.{suffix}", *span, "-vn", "-c:a", codec, "-ar", rate, "-ac", 1)
                for n, span in enumerate((A, B))
            ]
            path = joined(folder / f"all.{suffix}", *parts)
            if suffix in ("flac", "wav", "amr"):
                return path, Right((A, B), has="sound", sound_s=0.05, correlation=0.6 if suffix == "amr" else 0.94)
            # One stream of frames that no header interrupts: it is one recording, of which the second runs on.
            correlation = 0.6 if suffix == "amr" else 0.94
            return path, Right(((2.0, 13.0),), has="sound", skip=((7.9, 13.0),), sound_s=0.12, correlation=correlation)

        yield f"joined {suffix}", build


def _jumps() -> Iterator[tuple[str, Builder]]:
    def jump(*offsets: float, suffix: str = "ts", more: tuple[object, ...] = (), right: Right | None = None) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            spans = (A, B, C)[: len(offsets)]
            parts = [
                cut(source, folder / f"{n}.{suffix}", *span, *more, "-output_ts_offset", offset)
                for n, (span, offset) in enumerate(zip(spans, offsets, strict=True))
            ]
            return joined(folder / f"all.{suffix}", *parts), right or Right(spans)

        return build

    for offset in (17.0, 60.0, 300.0, 3600.0, 40_000.0, 95_000.0):
        yield f"jump ahead to {offset:g} s ts", jump(0, offset)
    for first in (1.0, 3.0, 5.5, 7.0, 3600.0, 90_000.0):
        yield f"back from {first:g} s ts", jump(first, 0)
    yield "ahead and back ts", jump(0, 3600, 10)
    yield "ahead twice ts", jump(0, 3600, 7200)
    yield "back twice ts", jump(7200, 3600, 0)
    yield "runs on ts", jump(0, 6, right=Right(((2, 13),), skip=((7.8, 13),), sound_s=0.05))
    yield "over the wrap ts", jump(95_440, right=Right((A,)))
    yield "over the wrap, then back ts", jump(95_440, 0)
    yield "m2ts jump ahead", jump(0, 3600, suffix="m2ts")
    yield "mpeg-2 jump ahead ts", jump(0, 3600, more=("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2"))
    yield "b-frames jump back ts", jump(3600, 0, more=("-preset", "medium", "-bf", "3"))
    yield "long gop jump ahead ts", jump(0, 3600, more=("-g", "200"))
    yield "sound alone jumps ahead ts", jump(0, 3600, more=("-vn",), right=Right((A, B), has="sound", sound_s=0.05))
    yield "pictures alone jump ahead ts", jump(0, 3600, more=("-an",), right=Right((A, B), has="pictures"))
    yield "jump ahead vob", jump(0, 400, suffix="vob")

    def moved(suffix: str, by: float, at: float = 5.0) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 12)
            later = f"setts=ts='if(gte(PTS*TB,{at}),PTS+{by}/TB,PTS)':dts='if(gte(DTS*TB,{at}),DTS+{by}/TB,DTS)'"
            make("-i", whole, "-c", "copy", "-copyts", "-bsf:v", later, "-bsf:a", later, folder / f"moved.{suffix}")
            return folder / f"moved.{suffix}", Right(((2, 2 + at), (2 + at, 12)), sound_s=0.06)

        return build

    for suffix in ("mkv", "mp4", "mov", "flv"):
        yield f"pause of ten minutes {suffix}", moved(suffix, 600)


def _gaps() -> Iterator[tuple[str, Builder]]:
    def gap(suffix: str, first: float, last: float, *codec: object, kind: str = "a", **more: object) -> Builder:
        """Packets of one kind between two seconds of a file of source seconds 2 to 14 are not there."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 14, *codec)
            drop = f"noise=drop='between(pts*tb,{first},{last})'"
            make("-i", whole, "-c", "copy", f"-bsf:{kind}", drop, folder / f"gap.{suffix}")
            missing = ((2 + first, 2 + last),)
            found = Right(((2, 14),), silent=missing) if kind == "a" else Right(((2, 14),), still=missing)
            return folder / f"gap.{suffix}", found

        return build

    for suffix in ("mkv", "mp4", "mov", "ts", "flv", "webm", "asf", "vob", "m2ts"):
        yield f"sound gap {suffix}", gap(suffix, 5, 7)
    yield "sound gap fragmented mp4", gap("mp4", 5, 7, *FRAGMENTED)
    yield "sound gap opus mkv", gap("mkv", 5, 7, "-c:a", "libopus")
    yield "sound gap pcm mkv", gap("mkv", 5, 7, "-c:a", "pcm_s16le")
    yield "sound gap ac-3 ts", gap("ts", 5, 7, "-c:a", "ac3")
    yield "sound gap mp2 ts", gap("ts", 5, 7, "-c:a", "mp2")
    yield "short sound gap mkv", gap("mkv", 5, 5.3)
    yield "short sound gap mp4", gap("mp4", 5, 5.3)
    for suffix in ("mkv", "mp4", "flv", "ts"):
        yield f"picture gap {suffix}", gap(suffix, 5.01, 7.98, "-g", 1, kind="v")
    yield (
        "sound stops early mkv",
        lambda source, folder: (
            cut(source, folder / "a.mkv", 2, 10, "-af", "atrim=end=7"),
            Right(((2, 10),), silent=((7, 10),)),
        ),
    )
    yield (
        "sound stops early mp4",
        lambda source, folder: (
            cut(source, folder / "a.mp4", 2, 10, "-af", "atrim=end=7"),
            Right(((2, 10),), silent=((7.05, 10),)),
        ),
    )
    yield (
        "pictures stop early mp4",
        lambda source, folder: (
            cut(source, folder / "a.mp4", 2, 10, "-vf", "trim=end=7"),
            Right(((2, 10),), still=((6.9, 10),)),
        ),
    )
    yield (
        "pictures stop early ts",
        lambda source, folder: (
            cut(source, folder / "a.ts", 2, 10, "-vf", "trim=end=7"),
            Right(((2, 10),), still=((6.9, 10),), failing=("decode_incomplete",)),
        ),
    )
    for suffix in ("webm", "mkv", "mka", "ogg", "mp4"):
        yield f"dtx {suffix}", _dtx(suffix)


def _dtx(suffix: str) -> Builder:
    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        sound = noise()[2 * HZ : 14 * HZ].copy()
        sound[4 * HZ : 8 * HZ] = 0
        wav = write_wav(folder / "dtx.wav", sound)
        codec = ("-c:a", "libopus", "-dtx", 1, "-application", "voip", "-b:a", "48k", "-ar", 48000)
        has_picture = suffix in ("webm", "mkv", "mp4")
        picture = (
            (
                "-ss",
                2,
                "-t",
                12,
                "-i",
                source,
                "-map",
                "1:v",
                "-c:v",
                "libvpx" if suffix == "webm" else "libx264",
                "-pix_fmt",
                "yuv420p",
                "-b:v",
                "1M",
                "-deadline",
                "realtime",
            )
            if has_picture
            else ()
        )
        make("-i", wav, *picture, "-map", "0:a", *codec, folder / f"dtx.{suffix}")
        return folder / f"dtx.{suffix}", Right(
            ((2, 14),), silent=((6, 10),), has="both" if has_picture else "sound", correlation=0.9
        )

    return build


def _jitter() -> Iterator[tuple[str, Builder]]:
    def jitter(suffix: str, expression: str, *codec: object, correlation: float = 0.95) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 14, *codec)
            late = f"setts=pts='PTS+{expression}/TB':dts='DTS+{expression}/TB'"
            make("-i", whole, "-c", "copy", "-bsf:a", late, folder / f"jitter.{suffix}")
            return folder / f"jitter.{suffix}", Right(((2, 14),), correlation=correlation, sound_s=0.04)

        return build

    for suffix in ("mkv", "flv", "mp4", "ts"):
        yield f"stamps late by turns {suffix}", jitter(suffix, "if(mod(floor(N/20)\\,2)\\,0.07\\,0)")
    yield "stamps late one by one mkv", jitter("mkv", "if(mod(N\\,2)\\,0.02\\,0)")
    yield "stamps late one by one opus mkv", jitter("mkv", "if(mod(N\\,2)\\,0.015\\,0)", "-c:a", "libopus")
    yield "stamps at random mkv", jitter("mkv", "0.06*random(0)")
    yield "stamps at random flv", jitter("flv", "0.05*random(0)")


def _late() -> Iterator[tuple[str, Builder]]:
    def late(suffix: str, what: str, by: float) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 12)
            offsets = ("-i", whole, "-itsoffset", by, "-i", whole)
            order = ("-map", "0:v", "-map", "1:a") if what == "sound" else ("-map", "1:v", "-map", "0:a")
            make(*offsets, *order, "-c", "copy", folder / f"late.{suffix}")
            first = ((2.0, 2 + by),)
            found = Right(((2, 12 + by),), length_s=0.3, sound_shift_s=-by, silent=first, still=((11.9, 99),))
            if what != "sound":
                found = Right(((2, 12 + by),), length_s=0.3, picture_shift_s=-by, still=first, silent=((12, 99),))
            return folder / f"late.{suffix}", found

        return build

    for suffix in ("mkv", "mp4", "ts", "flv"):
        yield f"sound late {suffix}", late(suffix, "sound", 2.5)
        yield f"pictures late {suffix}", late(suffix, "pictures", 2.5)


def _sounds() -> Iterator[tuple[str, Builder]]:
    def only(suffix: str, *codec: object, right: Right | None = None) -> Builder:
        return lambda source, folder: (
            cut(source, folder / f"a.{suffix}", *A, "-vn", *codec),
            right or Right((A,), has="sound", sound_s=0.05),
        )

    for suffix, codec in (
        ("wav", "pcm_s16le"),
        ("wav", "pcm_s24le"),
        ("wav", "pcm_f32le"),
        ("wav", "pcm_u8"),
        ("flac", "flac"),
        ("mp3", "libmp3lame"),
        ("m4a", "aac"),
        ("m4a", "alac"),
        ("ogg", "libvorbis"),
        ("opus", "libopus"),
        ("wma", "wmav2"),
        ("ac3", "ac3"),
        ("eac3", "eac3"),
        ("aiff", "pcm_s16be"),
        ("caf", "pcm_s16be"),
        ("mka", "libopus"),
        ("w64", "pcm_s16le"),
        ("au", "pcm_s16be"),
        ("mp2", "mp2"),
        ("aac", "aac"),
    ):
        yield f"{codec} in {suffix}", only(suffix, "-c:a", codec, "-ar", 48000)
    yield "telephone wav", only("wav", "-c:a", "pcm_alaw", "-ar", 8000)
    yield (
        "amr",
        only(
            "amr",
            "-c:a",
            "libopencore_amrnb",
            "-ar",
            8000,
            "-ac",
            1,
            right=Right((A,), has="sound", correlation=0.6, sound_s=0.05),
        ),
    )

    def changed(suffix: str, first: tuple[object, ...], second: tuple[object, ...]) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / "0.ts", 2, 8, *first),
                cut(source, folder / "1.ts", 8, 14, *second, "-output_ts_offset", 6),
            ]
            path = joined(folder / "all.ts", *parts)
            return path, Right(((2, 14),), sound_s=0.09, length_s=0.4, skip=((7.9, 8.2),), correlation=0.92)

        return build

    yield "sample rate changes ts", changed("ts", ("-ar", 44100), ("-ar", 48000))
    yield "sample rate falls ts", changed("ts", ("-ar", 48000), ("-ar", 32000))
    yield "channels change ts", changed("ts", ("-ac", 1), ("-ac", 2))
    yield "stereo to 5.1 ac-3 ts", changed("ts", ("-c:a", "ac3", "-ac", 2), ("-c:a", "ac3", "-ac", 6))
    yield "mp2 changes its rate ts", changed("ts", ("-c:a", "mp2", "-ar", 44100), ("-c:a", "mp2", "-ar", 48000))


def _channels() -> Iterator[tuple[str, Builder]]:
    def mixed(suffix: str, gains: tuple[float, ...], *codec: object, gain: float | None = None) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            loud = noise()[2 * HZ : 8 * HZ]
            wav = write_wav(folder / "in.wav", *(np.float32(one) * loud for one in gains))
            make("-i", wav, *codec, folder / f"a.{suffix}")
            wanted = float(np.mean(gains)) if gain is None else gain
            return folder / f"a.{suffix}", Right((A,), has="sound", gain=wanted, sound_s=0.06)

        return build

    for count in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16):
        gains = tuple(1.0 if n % 2 == 0 else 0.5 for n in range(count))
        yield f"{count} channels wav", mixed("wav", gains, "-c:a", "pcm_s16le")
    for count in (2, 6, 8):
        gains = tuple(0.9 if n % 2 == 0 else 0.4 for n in range(count))
        yield f"{count} channels flac mkv", mixed("mkv", gains, "-c:a", "flac")
    yield "stereo aac", mixed("m4a", (1, 0.5), "-c:a", "aac", "-b:a", "256k")
    yield "stereo opus", mixed("opus", (1, 0.5), "-c:a", "libopus", "-b:a", "256k", "-ar", 48000)
    yield "one side silent", mixed("mp3", (1, 0), "-c:a", "libmp3lame", "-b:a", "256k")


def _tracks() -> Iterator[tuple[str, Builder]]:
    def two(
        suffix: str,
        *flags: object,
        taken: int,
        settings: dict[str, str] | None = None,
        silent_first: bool = False,
        mono: bool = False,
    ) -> Builder:
        """Pictures, and as tracks of sound the source's seconds 2 to 8 and 25 to 31."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            tracks = [noise()[2 * HZ : 8 * HZ], noise()[25 * HZ : 31 * HZ]]
            if taken == 1:
                tracks.reverse()
            if silent_first:
                tracks[0] = np.zeros_like(tracks[0])
            wavs = [write_wav(folder / f"{n}.wav", track) for n, track in enumerate(tracks)]
            codec = (
                ("-c:v", "mpeg2video", "-q:v", 2, "-c:a", "pcm_s16le", "-ar", 48000)
                if suffix == "mxf"
                else (
                    "-c:v",
                    "libx264",
                    "-preset",
                    "ultrafast",
                    "-pix_fmt",
                    "yuv420p",
                    "-c:a",
                    "aac",
                    "-b:a",
                    "128k",
                    "-ar",
                    48000,
                )
            )
            make(
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
                *codec,
                *flags,
                folder / f"a.{suffix}",
            )
            gain = None
            return folder / f"a.{suffix}", Right(
                (A,), settings=settings or {}, gain=gain, skip=((0, 99),) if mono else ()
            )

        return build

    for suffix in ("mkv", "mp4", "ts"):
        yield f"first of two {suffix}", two(suffix, taken=0)
        yield f"asked second {suffix}", two(suffix, taken=1, settings={"audio_track": "1"})
        yield f"silent first {suffix}", two(suffix, taken=1, silent_first=True)
        yield (
            f"by language {suffix}",
            two(
                suffix,
                "-metadata:s:a:0",
                "language=fra",
                "-metadata:s:a:1",
                "language=eng",
                taken=1,
                settings={"audio_track": "lang:en"},
            ),
        )
    for flag in ("comment", "visual_impaired", "hearing_impaired"):
        yield f"{flag} first mkv", two("mkv", "-disposition:a:0", flag, "-disposition:a:1", "0", taken=1)
        if flag in ("visual_impaired", "hearing_impaired"):
            yield f"{flag} first ts", two("ts", "-disposition:a:0", flag, "-disposition:a:1", "0", taken=1)
    yield "default second mkv", two("mkv", "-disposition:a:0", "0", "-disposition:a:1", "default", taken=1)
    yield "original second mkv", two("mkv", "-disposition:a:0", "dub", "-disposition:a:1", "original", taken=1)
    yield (
        "default commentary first mkv",
        two("mkv", "-disposition:a:0", "default+comment", "-disposition:a:1", "0", taken=1),
    )
    yield "titled commentary first mkv", two("mkv", "-metadata:s:a:0", "title=Director's Commentary", taken=1)
    yield "titled audio description first mp4", two("mp4", "-metadata:s:a:0", "handler_name=Audio Description", taken=1)
    yield "mono tracks mxf", two("mxf", taken=0, mono=True)
    yield "mono tracks mov", two("mov", taken=0, mono=True)

    def pictures(suffix: str, first: str, second: str, *more: object, right: Right | None = None) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            make(
                "-ss",
                2,
                "-t",
                6,
                "-i",
                source,
                "-f",
                "lavfi",
                "-i",
                f"testsrc=s={first}:r=25:d=6",
                "-map",
                "1:v",
                "-map",
                "0:v",
                "-map",
                "0:a",
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-pix_fmt",
                "yuv420p",
                "-c:a",
                "aac",
                "-filter:v:1",
                f"scale={second}",
                *more,
                folder / f"a.{suffix}",
            )
            return folder / f"a.{suffix}", right or Right((A,))

        return build

    for suffix in ("mkv", "mp4", "mov", "ts"):
        yield f"small picture first {suffix}", pictures(suffix, "80x48", "160:96")
        yield (
            f"asked second picture {suffix}",
            pictures(suffix, "320x192", "160:96", right=Right((A,), settings={"video_track": "1"})),
        )


def _lengths() -> Iterator[tuple[str, Builder]]:
    def loud_first(suffix: str, *codec: object, correlation: float = 0.9) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            sound = noise()[: 40 * HZ].copy()
            sound[6 * HZ : 35 * HZ] = 0
            wav = write_wav(folder / "in.wav", sound)
            make("-i", wav, *codec, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right(
                ((0, 40),), has="sound", silent=((6, 35),), sound_s=0.06, correlation=correlation
            )

        return build

    yield "vbr loud first aac", loud_first("aac", "-c:a", "aac", "-ar", 48000)
    yield (
        "vbr loud first mp3 without index",
        loud_first("mp3", "-c:a", "libmp3lame", "-q:a", 4, "-write_xing", 0, "-ar", 48000),
    )
    yield "vbr loud first mp3", loud_first("mp3", "-c:a", "libmp3lame", "-q:a", 4, "-ar", 48000)
    yield "vbr loud first ogg", loud_first("ogg", "-c:a", "libvorbis", "-ar", 48000)
    yield "vbr loud first opus", loud_first("opus", "-c:a", "libopus", "-ar", 48000)
    yield "vbr loud first webm", loud_first("webm", "-c:a", "libopus", "-ar", 48000)
    yield "amr", loud_first("amr", "-c:a", "libopencore_amrnb", "-ar", 8000, correlation=0.5)

    def live(suffix: str, *more: object) -> Builder:
        """As a recorder leaves it that cannot go back to its head."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *A)
            path = folder / f"live.{suffix}"
            path.write_bytes(_piped(whole, suffix, *more))
            return path, Right((A,))

        return build

    yield "live webm", live("webm", "-live", 1)
    yield "live mkv", live("mkv", "-live", 1)
    yield "live flv", live("flv", "-flvflags", "no_duration_filesize")
    for start in (0.4, 5.0, 100.0):
        yield (
            f"starts at {start:g} s mkv",
            lambda source, folder, start=start: (
                cut(source, folder / "a.mkv", *A, "-output_ts_offset", start, "-avoid_negative_ts", "disabled"),
                Right((A,)),
            ),
        )
        yield (
            f"starts at {start:g} s mp4",
            lambda source, folder, start=start: (
                cut(source, folder / "a.mp4", *A, "-output_ts_offset", start),
                Right((A,)),
            ),
        )
    yield (
        "slides mkv",
        lambda source, folder: (
            _slides(source, folder / "a.mkv"),
            Right(((0, 240),), still=((0, 300),), has="pictures"),
        ),
    )
    yield (
        "slides mp4",
        lambda source, folder: (
            _slides(source, folder / "a.mp4"),
            Right(((0, 240),), still=((0, 300),), has="pictures"),
        ),
    )


def _slides(source: Path, target: Path) -> Path:
    """Three pictures 80 s apart, the last one shown for as long."""
    make(
        "-i",
        source,
        "-an",
        "-vf",
        "select='lt(n,4)',setpts='N*80/TB'",
        "-fps_mode",
        "vfr",
        "-frames:v",
        4,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        0,
        "-pix_fmt",
        "yuv420p",
        target,
    )
    return target


def _piped(source: Path, suffix: str, *more: object) -> bytes:
    import subprocess

    from workers.media.ffmpeg import find_ffmpeg

    form = {"mkv": "matroska"}.get(suffix, suffix)
    command = [find_ffmpeg(), "-nostdin", "-v", "error", "-i", source, "-c", "copy", *more, "-f", form, "pipe:1"]
    return subprocess.run(list(map(str, command)), capture_output=True, check=True).stdout


def _interleaved() -> Iterator[tuple[str, Builder]]:
    def badly(suffix: str, by: float, first: str = "video") -> Builder:
        """Packets of one kind lie `by` seconds before those of the other in the file."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 20)
            reorder(whole, folder / f"badly.{suffix}", by, first)
            return folder / f"badly.{suffix}", Right(((2, 20),))

        return build

    for suffix in ("mkv", "mp4", "mov"):
        for by in (3.0, 12.0):
            yield f"sound {by:g} s behind in the file {suffix}", badly(suffix, by)
        yield f"pictures 6 s behind in the file {suffix}", badly(suffix, 6.0, "audio")


def reorder(whole: Path, target: Path, by: float, first: str) -> None:
    """The same packets in another order."""
    import av

    with av.open(str(whole)) as given, av.open(str(target), "w", options={"max_interleave_delta": "1"}) as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        packets = [packet for packet in given.demux() if packet.dts is not None]

        def place(packet: av.Packet) -> float:
            return float(packet.dts * packet.time_base) + (0 if packet.stream.type == first else by)

        for packet in sorted(packets, key=place):
            packet.stream = streams[packet.stream.index]
            made.mux_one(packet)


def _programmes() -> Iterator[tuple[str, Builder]]:
    def two(large: int) -> Builder:
        """Two programmes in one stream; the larger pictures are of the source's seconds 2 to 8."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            wanted, other = ("-ss", 2, "-t", 6, "-i", source), ("-ss", 14, "-t", 6, "-i", source)
            inputs = (*wanted, *other) if large == 0 else (*other, *wanted)
            make(
                *inputs,
                "-map",
                "0:v",
                "-map",
                "0:a",
                "-map",
                "1:v",
                "-map",
                "1:a",
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-pix_fmt",
                "yuv420p",
                f"-filter:v:{1 - large}",
                "scale=80:48",
                "-c:a",
                "aac",
                "-ar",
                48000,
                "-program",
                "title=one:st=0:st=1",
                "-program",
                "title=two:st=2:st=3",
                folder / "two.ts",
            )
            return folder / "two.ts", Right((A,), sound_s=0.05)

        return build

    yield "two programmes, the first larger ts", two(0)
    yield "two programmes, the second larger ts", two(1)


def _pictures() -> Iterator[tuple[str, Builder]]:
    def coded(suffix: str, *how: object, seconds: tuple[float, float] = A, **right: object) -> Builder:
        return lambda source, folder: (
            cut(source, folder / f"a.{suffix}", *seconds, *how),
            Right((seconds,), colours=True, **right),  # type: ignore[arg-type]
        )

    hd = "scale=1280:768:flags=neighbor:out_color_matrix=bt709:out_range=tv"
    sd = "scale=320:192:flags=neighbor:out_color_matrix=bt601:out_range=tv"
    for suffix in ("mp4", "ts", "mkv"):
        yield f"hd without tags {suffix}", coded(suffix, "-vf", hd + ",setparams=colorspace=unknown")
        yield f"sd without tags {suffix}", coded(suffix, "-vf", sd + ",setparams=colorspace=unknown")
    yield "hd that says bt.601", coded("mp4", "-vf", hd.replace("bt709", "bt601") + ",setparams=colorspace=smpte170m")
    yield "sd that says bt.709", coded("mp4", "-vf", sd.replace("bt601", "bt709") + ",setparams=colorspace=bt709")
    yield "full range", coded("mp4", "-vf", sd.replace("tv", "pc") + ",format=yuvj420p", "-pix_fmt", "yuvj420p")
    yield (
        "hd mpeg-2 without tags",
        coded("ts", "-vf", hd + ",setparams=colorspace=unknown", "-c:v", "mpeg2video", "-q:v", 2),
    )
    yield "rotated", lambda source, folder: (_rotated(source, folder), Right((A,)))
    yield (
        "interlaced",
        coded(
            "ts", "-vf", "scale=320:192:interl=1,setfield=tff", "-flags", "+ildct+ilme", "-c:v", "mpeg2video", "-q:v", 2
        ),
    )

    def changed(*second: object, suffix: str = "ts", **right: object) -> Builder:
        """The source's seconds 2 to 14 with other pictures from 8 on."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / "0.ts", 2, 8),
                cut(source, folder / "1.ts", 8, 14, *second, "-output_ts_offset", 6),
            ]
            path = joined(folder / "all.ts", *parts)
            if suffix != "ts":
                make("-i", path, "-c", "copy", folder / f"all.{suffix}")
            return folder / f"all.{suffix}", Right(((2, 14),), length_s=0.4, sound_s=0.09, skip=((7.9, 8.2),), **right)  # type: ignore[arg-type]

        return build

    for suffix in ("ts", "mkv", "flv"):
        yield f"twice the size from the middle on {suffix}", changed("-vf", "scale=320:192", suffix=suffix)
        yield f"half the size from the middle on {suffix}", changed("-vf", "scale=120:72", suffix=suffix)
    yield "another pixel format from the middle on ts", changed("-pix_fmt", "yuv422p")
    yield "another codec from the middle on ts", changed("-c:v", "mpeg2video", "-q:v", 2)
    yield "twice the rate from the middle on ts", changed("-r", 50)


def _rotated(source: Path, folder: Path) -> Path:
    whole = cut(source, folder / "upright.mp4", *A, "-vf", "transpose=2")
    make("-display_rotation", 270, "-i", whole, "-c", "copy", folder / "rotated.mp4")
    return folder / "rotated.mp4"


def _refused() -> Iterator[tuple[str, Builder]]:
    def file(name: str, content: bytes, error: str) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            (folder / name).write_bytes(content)
            return folder / name, Right(error=error)

        return build

    for brand in (b"avif", b"heic", b"heix", b"mif1", b"miaf", b"jpeg", b"crx "):
        content = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0\0\0\x08meta" + bytes(500)
        yield f"still {brand.decode()}", file("a.mp4", content, "not_media")
    for name, codec in (
        ("a.png", "png"),
        ("a.gif", "gif"),
        ("a.webp", "libwebp"),
        ("a.jpg", "mjpeg"),
        ("a.bmp", "bmp"),
    ):

        def picture(source: Path, folder: Path, name: str = name, codec: str = codec) -> tuple[Path, Right]:
            make(
                "-i",
                source,
                "-frames:v",
                1,
                "-c:v",
                codec,
                "-pix_fmt",
                "rgb24"
                if codec in ("png",)
                else "yuvj420p"
                if codec == "mjpeg"
                else "bgr24"
                if codec == "bmp"
                else "rgb8"
                if codec == "gif"
                else "yuv420p",
                folder / name,
            )
            (folder / name).rename(folder / "a.mp4")
            return folder / "a.mp4", Right(error="not_media")

        yield f"{codec} called mp4", picture

    def encrypted(*how: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            key = (
                "-encryption_scheme",
                "cenc-aes-ctr",
                "-encryption_key",
                "76a6c65c5ea762046bd749a2e632ccbb",
                "-encryption_kid",
                "a7e61c373e219033c21091fa607bf3b8",
            )
            return cut(source, folder / "a.mp4", *A, *key, *how), Right(error="encrypted")

        return build

    yield "cenc mp4", encrypted()
    yield "cenc fragmented mp4", encrypted(*FRAGMENTED)
    yield "cenc sound alone", encrypted("-vn")
    yield (
        "scrambled ts",
        lambda source, folder: (_scrambled(cut(source, folder / "a.ts", *A)), Right(error="encrypted")),
    )


def _scrambled(path: Path) -> Path:
    """With the flag and the noise of a scrambled broadcast; tables stay clear."""
    content = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188).copy()
    number = (content[:, 1].astype(int) & 0x1F) << 8 | content[:, 2]
    media = (number >= 0x100) & (number < 0x1000) & (content[:, 3] & 0x10 > 0)
    content[media, 3] |= 0x80
    content[media, 12:] = np.random.default_rng(1).integers(0, 256, (int(media.sum()), 176), np.uint8)
    path.write_bytes(content.tobytes())
    return path


def _more() -> Iterator[tuple[str, Builder]]:
    """Combinations of faults, and faults by name."""

    def dashed(suffix: str, *offsets: float, lost: int | None = None) -> Builder:
        """Fragments as a recorder of live streams joins them: times far from 0, one fragment missing."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(
                source, folder / f"whole.{suffix}", 2, 14, *FRAGMENTED, "-output_ts_offset", offsets[0], "-g", 25
            )
            content = whole.read_bytes()
            if lost is not None:
                begins = [at for at in range(len(content) - 8) if content[at + 4 : at + 8] == b"moof"]
                content = content[: begins[lost]] + content[begins[lost + 1] :]
            (folder / f"live.{suffix}").write_bytes(content)
            gap = ((2.0 + lost, 3.0 + lost),) if lost is not None else ()
            return folder / f"live.{suffix}", Right(((2, 14),), silent=gap, still=gap)

        return build

    yield "fragmented mp4 from 3600 s on", dashed("mp4", 3600.0)
    yield "fragmented mp4 that lacks a fragment", dashed("mp4", 0.0, lost=4)
    yield "fragmented mp4 from 100 s on that lacks a fragment", dashed("mp4", 100.0, lost=4)

    def jump_in_wrapped(suffix: str) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.ts", *span, "-output_ts_offset", offset)
                for n, (span, offset) in enumerate(((A, 50_000.0), (B, 0.0), (C, 500.0)))
            ]
            return joined(folder / "all.ts", *parts), Right((A, B, C))

        return build

    yield "three recordings in any order ts", jump_in_wrapped("ts")
    yield (
        "joined ts of which the first lacks sound",
        lambda source, folder: (
            joined(folder / "all.ts", cut(source, folder / "0.ts", *A, "-an"), cut(source, folder / "1.ts", *B)),
            Right((A, B), silent=(A,)),
        ),
    )
    yield (
        "joined ts of which the second lacks sound",
        lambda source, folder: (
            joined(folder / "all.ts", cut(source, folder / "0.ts", *A), cut(source, folder / "1.ts", *B, "-an")),
            Right((A, B), silent=(B,)),
        ),
    )
    yield (
        "joined mkv of other codecs",
        lambda source, folder: (
            joined(
                folder / "all.mkv",
                cut(source, folder / "0.mkv", *A),
                cut(
                    source, folder / "1.mkv", *B, "-c:v", "mpeg4", "-q:v", 1, "-c:a", "libopus", "-vf", "scale=320:192"
                ),
            ),
            Right((A, B)),
        ),
    )
    yield (
        "ts with noise before it",
        lambda source, folder: (
            _with_noise(cut(source, folder / "a.ts", *A), 188 * 3 + 17),
            Right((A,)),
        ),
    )
    yield (
        "ts cut in its middle",
        lambda source, folder: (
            _from(cut(source, folder / "a.ts", 2, 14, "-g", 25), 0.5),
            Right(((8, 14),), length_s=1.5, sound_s=99, correlation=0, still=((0, 99),)),
        ),
    )
    for hz in (8_000, 11_025, 22_050, 44_100, 96_000):
        yield (
            f"sound of {hz} Hz wav",
            lambda source, folder, hz=hz: (
                cut(source, folder / "a.wav", *A, "-vn", "-c:a", "pcm_s16le", "-ar", hz),
                Right((A,), has="sound"),
            ),
        )
    for rate in ("24000/1001", "30000/1001", "50", "12", "1"):
        yield (
            f"{rate} pictures a second mp4",
            lambda source, folder, rate=rate: (
                cut(source, folder / "a.mp4", *A, "-r", rate),
                Right((A,), length_s=1.1 if rate == "1" else LENGTH_S, still=((0, 99),) if rate in ("1",) else ()),
            ),
        )


def _with_noise(path: Path, count: int) -> Path:
    noisy = np.random.default_rng(3).integers(0, 0x40, count, np.uint8).tobytes()
    path.write_bytes(noisy + path.read_bytes())
    return path


def _from(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[int(len(content) * share) :])
    return path
