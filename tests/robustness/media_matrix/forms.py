"""Sound in every codec at unusual rates, layouts and frame lengths, and gaps of sound in every container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import A, Builder
from tests.support.media_files import make
from tests.support.media_oracle import cut

LONG = (2.0, 14.0)


def _forms() -> Iterator[tuple[str, Builder]]:
    def sound(suffix: str, *how: object, correlation: float = 0.92, sound_s: float = 0.06) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            path = cut(source, folder / f"a.{suffix}", *A, "-vn", *how)
            return path, Right((A,), has="sound", sound_s=sound_s, length_s=0.3, correlation=correlation)

        return build

    rates: dict[tuple[str, str], tuple[int, ...]] = {
        ("aac", "m4a"): (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 64_000, 88_200, 96_000),
        ("aac", "mkv"): (8_000, 22_050, 44_100, 96_000),
        ("aac", "ts"): (16_000, 22_050, 44_100),
        ("aac", "flv"): (11_025, 22_050, 44_100),
        ("aac", "aac"): (8_000, 22_050, 44_100),
        ("libmp3lame", "mp3"): (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100),
        ("libmp3lame", "avi"): (11_025, 22_050, 44_100),
        ("libmp3lame", "flv"): (11_025, 22_050, 44_100),
        ("libmp3lame", "mkv"): (16_000, 44_100),
        ("libvorbis", "ogg"): (8_000, 11_025, 22_050, 44_100, 96_000),
        ("libvorbis", "webm"): (22_050, 44_100),
        ("libopus", "opus"): (8_000, 12_000, 16_000, 24_000),
        ("libopus", "webm"): (8_000, 16_000),
        ("libopus", "mp4"): (24_000, 48_000),
        ("libopus", "ts"): (48_000,),
        ("flac", "flac"): (8_000, 11_025, 22_050, 44_100, 96_000, 192_000),
        ("flac", "mkv"): (22_050, 44_100),
        ("flac", "mp4"): (44_100,),
        ("flac", "oga"): (22_050, 44_100),
        ("alac", "m4a"): (22_050, 44_100, 96_000),
        ("ac3", "ac3"): (32_000, 44_100),
        ("ac3", "mp4"): (32_000, 44_100),
        ("eac3", "eac3"): (32_000, 44_100),
        ("mp2", "mp2"): (16_000, 22_050, 24_000, 32_000, 44_100),
        ("wmav2", "asf"): (8_000, 16_000, 22_050, 44_100),
        ("pcm_u8", "wav"): (11_025, 22_050),
        ("pcm_s24le", "wav"): (44_100, 96_000),
        ("pcm_s32le", "wav"): (44_100,),
        ("pcm_f32le", "wav"): (44_100,),
        ("pcm_f64le", "wav"): (44_100,),
        ("pcm_mulaw", "wav"): (8_000, 16_000),
        ("adpcm_ima_wav", "wav"): (22_050, 44_100),
        ("adpcm_ms", "wav"): (22_050, 44_100),
        ("adpcm_ima_wav", "avi"): (44_100,),
        ("pcm_s16be", "aiff"): (11_025, 44_100),
        ("pcm_s24be", "mov"): (44_100, 96_000),
        ("pcm_s16le", "caf"): (11_025, 44_100),
        ("truehd", "mkv"): (44_100, 48_000),
    }
    strict = ("-strict", "-2")
    for (codec, suffix), all_hz in rates.items():
        for hz in all_hz:
            # Raw frames, AVI, FLV and MPEG-TS do not say how much of the sound is an encoder's run-up.
            rough = 0.8 if codec in ("wmav2", "adpcm_ima_wav", "adpcm_ms") else 0.9
            how = ("-c:a", codec, "-ar", hz, "-ac", 2 if codec in ("truehd", "wmav2") else 1, *strict)
            yield (
                f"{codec} of {hz} Hz {suffix}",
                sound(suffix, *how, correlation=rough, sound_s=max(0.06, 0.02 + 1_200 / hz)),
            )
    for suffix, codec, counts in (
        ("m4a", "aac", (3, 4, 5, 6, 8)),
        ("mkv", "aac", (3, 4, 5, 6, 8)),
        ("ts", "aac", (3, 4, 5, 6)),
        ("opus", "libopus", (5, 6)),
        ("ogg", "libvorbis", (3, 4, 5, 6, 8)),
    ):
        for count in counts:
            yield f"{codec} of {count} channels {suffix}", sound(suffix, "-c:a", codec, "-ac", count)
    for ms in (2.5, 5, 10, 40, 60, 120):
        for suffix in ("opus", "webm", "mp4", "ts"):
            yield f"opus of {ms:g} ms {suffix}", sound(suffix, "-c:a", "libopus", "-frame_duration", ms)
    for samples in (192, 576, 16_384, 65_535):
        for suffix in ("flac", "mkv", "oga"):
            yield f"flac of {samples} samples {suffix}", sound(suffix, "-c:a", "flac", "-frame_size", samples)


def _gaps() -> Iterator[tuple[str, Builder]]:
    def gap(suffix: str, begin: float, end: float, *how: object) -> Builder:
        """No packets of sound between two seconds of the file."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *LONG, *how)
            drop = f"noise=drop='between((pts-startpts)*tb,{begin},{end})'"
            make("-i", whole, "-c", "copy", "-copyts", "-bsf:a", drop, folder / f"a.{suffix}")
            silent, edges = (begin + 2.2, end + 1.8), ((begin + 1.7, begin + 2.25), (end + 1.75, end + 2.3))
            return folder / f"a.{suffix}", Right((LONG,), sound_s=0.07, length_s=0.3, silent=(silent,), skip=edges)

        return build

    for suffix in ("mp4", "mov", "mkv", "webm", "ts", "m2ts", "flv", "nut", "vob", "mpg", "3gp", "asf"):
        for begin, end in ((3.0, 4.0), (5.0, 8.0), (1.0, 10.0)):
            yield f"no sound from {begin:g} to {end:g} s {suffix}", gap(suffix, begin, end)
    for suffix, codec in (
        ("mkv", "ac3"),
        ("mkv", "libmp3lame"),
        ("mkv", "flac"),
        ("ts", "ac3"),
        ("ts", "mp2"),
        ("mp4", "ac3"),
    ):
        yield f"no sound from 5 to 8 s, {codec} {suffix}", gap(suffix, 5.0, 8.0, "-c:a", codec)


CASES = (_forms, _gaps)
