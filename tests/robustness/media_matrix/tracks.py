"""Files of several tracks or programmes, of which one is the one to take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import A, Builder
from tests.support.media_files import make
from tests.support.media_oracle import HZ, noise, write_wav

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


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
                    *H264,
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
                *H264,
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
                *H264,
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


CASES = (_tracks, _programmes)
