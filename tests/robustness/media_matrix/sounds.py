"""Files whose sound has gaps, jitters, changes its format, or has many channels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, A, Builder
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, joined, noise, write_wav


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


CASES = (_gaps, _jitter, _sounds, _channels)
