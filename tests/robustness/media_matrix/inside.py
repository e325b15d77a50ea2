"""Files that change inside, have holes, or hold what nobody reads and nothing said."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.archives import LOST, PCM
from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, A, B, Builder
from tests.robustness.media_matrix.writers import SOUND, _coded
from tests.support.media_files import make
from tests.support.media_oracle import HZ, cut, joined, noise, write_wav

LONG = (2, 14)
MPEG2 = ("-c:v", "mpeg2video", "-q:v", 2)
MXF = (*MPEG2, "-c:a", "pcm_s16le", "-ar", 48_000)
HEVC = ("-c:v", "libx265", "-x265-params", "log-level=error")


def _changes() -> Iterator[tuple[str, Builder]]:
    def aspects(suffix: str, *how: object) -> Builder:
        """The shape of a pixel changes at 8 s."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.ts", *span, *how, "-vf", f"setsar={1 + n}", "-output_ts_offset", 6 * n)
                for n, span in enumerate(((2, 8), (8, 14)))
            ]
            make("-i", joined(folder / "joined.ts", *parts), "-c", "copy", folder / f"all.{suffix}")
            right = Right((LONG,), length_s=0.4, sound_s=0.09, skip=((7.9, 8.2),), notes=("aspect ratio",))
            return folder / f"all.{suffix}", right

        return build

    for suffix in ("mkv", "mp4", "mov", "flv", "ts", "nut"):
        yield f"another shape of pixels from the middle on {suffix}", aspects(suffix)
    yield "another shape of pixels from the middle on, hevc mkv", aspects("mkv", *HEVC)
    yield "another shape of pixels from the middle on, mpeg-2 mkv", aspects("mkv", *MPEG2)

    def goes_on(suffix: str, first: tuple[object, ...], second: tuple[object, ...], **right: object) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.ts", *span, *how, "-output_ts_offset", 6 * n)
                for n, (span, how) in enumerate((((2, 8), first), ((8, 14), second)))
            ]
            make("-i", joined(folder / "joined.ts", *parts), "-c", "copy", folder / f"all.{suffix}")
            return folder / f"all.{suffix}", Right((LONG,), length_s=0.4, sound_s=0.09, skip=((7.9, 8.2),), **right)  # type: ignore[arg-type]

        return build

    full, limited = (("-vf", f"scale=out_range={x},setparams=range={x}:colorspace=smpte170m") for x in ("pc", "tv"))
    for suffix in ("mkv", "mp4", "flv"):
        yield f"full range from the middle on {suffix}", goes_on(suffix, limited, full, colours=True)
        yield f"full range up to the middle {suffix}", goes_on(suffix, full, limited, notes=("range of brightness",))
        left = {"notes": ("goes on in one",), "correlation": 0.5}
        yield f"two channels up to the middle {suffix}", goes_on(suffix, ("-ac", 2), ("-ac", 1), **left)
        yield f"two channels from the middle on {suffix}", goes_on(suffix, ("-ac", 1), ("-ac", 2))

    def turned(suffix: str, degrees: int, back: str) -> Builder:
        """Only the first picture says how all are turned."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / "whole.mp4", *LONG, "-vf", f"scale=320:192:flags=neighbor,{back}")
            message = f"h264_metadata=display_orientation=insert:rotate={degrees}"
            make("-i", whole, "-c", "copy", "-bsf:v", message, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((LONG,), sound_s=0.06, colours=True)

        return build

    for suffix in ("mp4", "mkv", "ts", "flv"):
        for degrees, back in ((90, "transpose=clock"), (180, "hflip,vflip"), (270, "transpose=cclock")):
            yield f"the first picture says that all are turned by {degrees} {suffix}", turned(suffix, degrees, back)

    def swapped(*how: object, hour: int = 0) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            numbers = ("-streamid", "0:257", "-streamid", "1:256", "-output_ts_offset", hour or 6)
            parts = [cut(source, folder / "0.ts", 2, 8, *how), cut(source, folder / "1.ts", 8, 14, *how, *numbers)]
            right = Right(((2, 8), (8, 14)), sound_s=0.09, length_s=0.4, skip=((7.9, 8.25),))
            return joined(folder / "all.ts", *parts), right

        return build

    yield "pids change places ts", swapped()
    yield "pids change places, mpeg-2 ts", swapped(*MPEG2, "-c:a", "mp2")
    yield "pids change places an hour later ts", swapped(hour=3_600)

    def cropped(suffix: str, filter_: str, *how: object) -> Builder:
        """The codec says that a border at the left and above is to be cut off."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            border = ("-vf", "scale=320:192:flags=neighbor,pad=352:208:32:16")
            whole = cut(source, folder / "whole.mp4", *A, *border, *how)
            make("-i", whole, "-c", "copy", "-bsf:v", f"{filter_}=crop_left=32:crop_top=16", folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((A,), sound_s=0.06, colours=True)

        return build

    for suffix in ("mp4", "mkv", "ts"):
        yield f"cut off at the left by the codec {suffix}", cropped(suffix, "h264_metadata")
        yield f"cut off at the left by the codec, hevc {suffix}", cropped(suffix, "hevc_metadata", *HEVC)

    def damaged_time(suffix: str, by: int) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *LONG)
            damaged = f"setts=pts='if(eq(N,130),PTS+{by}/TB,PTS)'"
            make("-i", whole, "-c", "copy", "-bsf:v", damaged, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right((LONG,), sound_s=0.06, still=((7.15, 7.4),))

        return build

    def wandering(suffix: str, by_s: float, *how: object) -> Builder:
        """The times of the sound drift to and fro, once in some 5 s."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", 2, 22, *how)
            times = f"setts=ts='PTS+{by_s}*sin(N/40)/TB'"
            make("-i", whole, "-c", "copy", "-bsf:a", times, folder / f"a.{suffix}")
            return folder / f"a.{suffix}", Right(((2, 22),), sound_s=0.02 + by_s)

        return build

    for suffix, how in (("mkv", ()), ("flv", ()), ("webm", ()), ("mkv", ("-c:a", "libmp3lame"))):
        for by_s in (0.06, 0.13):
            yield (
                f"times of sound wander by {by_s} s {suffix} {' '.join(how[1:])}".strip(),
                wandering(suffix, by_s, *how),
            )

    for suffix in ("ts", "vob"):
        for by in (20, 3_600):
            yield f"one picture's time {by} s ahead {suffix}", damaged_time(suffix, by)


def _avi_holes() -> Iterator[tuple[str, Builder]]:
    def hole(noisy: bool, *how: object) -> Builder:
        """From the picture at 5.2 s to before the key picture at 7 s of the file nothing is left."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            import av

            path = cut(source, folder / "a.avi", *LONG, *how)
            with av.open(str(path)) as file:
                first, last = (file.streams.video[0].index_entries[number].pos for number in (130, 175))
            content = np.frombuffer(path.read_bytes(), np.uint8).copy()
            content[first:last] = np.random.default_rng(1).integers(0, 256, last - first) if noisy else 0
            path.write_bytes(content.tobytes())
            parts = ((2, 7.2), (7.2, 9), (9, 14))
            return path, Right(parts, length_s=0.2, sound_s=0.09, skip=((6.9, 9.05),), **LOST)  # type: ignore[arg-type]

        return build

    for name, how in (
        ("h.264 and mp3", ("-c:a", "libmp3lame")),
        ("h.264 and pcm", ("-c:a", "pcm_s16le")),
        ("h.264 with b pictures", ("-preset", "medium", "-bf", 2, "-x264-params", "scenecut=0", "-c:a", "libmp3lame")),
        ("mjpeg and pcm", ("-c:v", "mjpeg", "-q:v", 2, "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le")),
        ("mpeg-4 and ac-3", ("-c:v", "mpeg4", "-q:v", 2, "-c:a", "ac3")),
        ("pictures alone", ("-an",)),
    ):
        for noisy in (False, True):
            named = "noise" if noisy else "zeros"
            builder = hole(noisy, *how)
            if name == "pictures alone":
                builder = _alone(builder)
            yield f"a hole of {named} avi, {name}", builder

    def paletted(source: Path, folder: Path) -> tuple[Path, Right]:
        """Read from its beginning for the palette's sake, so that what lies behind the hole comes too early."""
        palette = "format=rgb24,split[a][b];[a]palettegen[p];[b][p]paletteuse"
        path, _ = hole(False, "-vf", palette, "-c:v", "rawvideo", "-pix_fmt", "pal8", "-c:a", "pcm_s16le")(
            source, folder
        )
        return path, Right((LONG,), skip=((6.9, 99),), notes=("is damaged from 5.2 to 7.0 s",), **LOST)  # type: ignore[arg-type]

    yield "a hole in an avi with a palette", paletted


def _alone(builder: Builder) -> Builder:
    from dataclasses import replace

    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        path, right = builder(source, folder)
        return path, replace(right, has="pictures")

    return build


def _unread() -> Iterator[tuple[str, Builder]]:
    own = {
        **{"mp3": ("-vn", "-c:a", "libmp3lame"), "wav": PCM, "avi": ("-c:a", "libmp3lame"), "ogg": ()},
        **{suffix: ("-vn", "-c:a", suffix) for suffix in ("flac", "aac", "ac3", "eac3")},
        **dict.fromkeys(("aiff", "au"), ("-vn", "-c:a", "pcm_s16be")),
        "amr": ("-vn", "-c:a", "libopencore_amrnb", "-ar", 8_000),
        "mxf": MXF,
    }
    alone = {"ogg", "wav", *own} - {"avi", "mxf"}

    def behind(suffix: str, other: str) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"0.{suffix}", *A, *own.get(suffix, ())),
                cut(source, folder / f"1.{other}", *B, *own.get(other, ())),
            ]
            has, least = "sound" if suffix in alone else "both", 0.6 if suffix == "amr" else 0.94
            right = Right((A,), sound_s=0.06, length_s=0.3, has=has, notes=("behind",), correlation=least)
            return joined(folder / f"all.{suffix}", *parts), right

        return build

    for suffix in ("ts", "mkv", "flv", "avi", "ogg", "asf", "mpg"):
        for other in ("mp4", "mkv", "mp3", "wav"):
            if other != suffix and (suffix, other) not in {("avi", "wav"), ("mpg", "mp4"), ("mpg", "mkv")}:
                yield f"{other} behind {suffix}", behind(suffix, other)

    for suffix in ("flac", "mp3", "aac", "ac3", "eac3", "amr", "aiff", "au", "mxf"):
        for other in ("mp4", "mkv", "wav", "ts", "flac"):
            if other != suffix:
                yield f"{other} behind {suffix}", behind(suffix, other)

    bare = {**own, "mp3": (*own["mp3"], "-write_xing", 0, "-id3v2_version", 0)}

    def frames_behind(suffix: str, other: str) -> Builder:
        """Sound without a header."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            parts = [
                cut(source, folder / f"{n}.{kind}", *span, *bare[kind])
                for n, (kind, span) in enumerate(((suffix, A), (other, B)))
            ]
            least = 0.6 if suffix == "amr" else 0.94
            right = Right((A,), sound_s=0.06, length_s=0.3, has="sound", notes=("behind",), correlation=least)
            return joined(folder / f"all.{suffix}", *parts), right

        return build

    for suffix in ("flac", "mp3", "aac", "ac3", "eac3", "amr"):
        for other in ("mp3", "aac", "ac3", "eac3", "amr"):
            if other != suffix and {suffix, other} != {"ac3", "eac3"}:
                yield f"bare {other} behind {suffix}", frames_behind(suffix, other)

    def empty(suffix: str, kind: str, *how: object) -> Builder:
        """A track that is announced and has no packets."""

        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            whole = cut(source, folder / f"whole.{suffix}", *A)
            make("-i", whole, "-c", "copy", f"-bsf:{kind}", "noise=drop=1", *how, folder / f"a.{suffix}")
            has = "sound" if kind == "v" else "pictures"
            return folder / f"a.{suffix}", Right((A,), has=has, sound_s=0.06, length_s=0.3, notes=("but empty",))

        return build

    for suffix in ("mkv", "webm", "asf", "nut"):
        for kind in ("v", "a"):
            yield f"no packets of {kind} {suffix}", empty(suffix, kind)
    for kind in ("v", "a"):
        yield f"no packets of {kind} fragmented mp4", empty("mp4", kind, *FRAGMENTED)

    def disc(share: float, right: Right) -> Builder:
        def build(source: Path, folder: Path) -> tuple[Path, Right]:
            path = cut(source, folder / "a.vob", *LONG)
            content, random = bytearray(path.read_bytes()), np.random.default_rng(1)
            for begin in range(0, len(content) - 2_047, 2_048):
                kind = content[begin + 17]  # of a sector's first packet
                if (kind == 0xE0 or 0xC0 <= kind < 0xE0) and random.random() < share:
                    content[begin + 20] |= 0x10
                    content[begin + 128 : begin + 2_048] = random.integers(0, 256, 1_920, np.uint8).tobytes()
            path.write_bytes(content)
            return path, right

        return build

    yield "scrambled vob", disc(1.0, Right(error="encrypted"))
    partly = Right((LONG,), skip=((0, 99),), length_s=1, notes=("is scrambled",), **LOST)  # type: ignore[arg-type]
    yield "a third scrambled vob", disc(0.3, partly)

    def dual(source: Path, folder: Path) -> tuple[Path, Right]:
        coded = ("-vn", "-c:a", "mp2", "-b:a", "192k", "-ac", 2, "-ar", 48_000)
        path = cut(source, folder / "a.mp2", *A, *coded)
        content = bytearray(path.read_bytes())
        for begin in range(0, len(content), 576):
            content[begin + 3] = content[begin + 3] & 0x3F | 0x80
        path.write_bytes(content)
        return path, Right((A,), notes=("dual mono",), **SOUND)  # type: ignore[arg-type]

    yield "two programmes in one track mp2", dual

    def chunks(source: Path, folder: Path) -> tuple[Path, Right]:
        content = write_wav(folder / "in.wav", noise()[2 * HZ : 8 * HZ]).read_bytes()
        half = (len(content) - 44) // 2
        twice = content[:40] + struct.pack("<I", half) + content[44 : 44 + half]
        (folder / "a.wav").write_bytes(twice + b"data" + struct.pack("<I", half) + content[44 + half :])
        return folder / "a.wav", Right(((5, 8),), notes=("2 chunks",), **SOUND)  # type: ignore[arg-type]

    yield "two chunks of samples wav", chunks


def _orders() -> Iterator[tuple[str, Builder]]:
    """Right from the start, and what a clip that begins anywhere depends on."""
    open_ = "open-gop=1:b-pyramid=normal:keyint=40:min-keyint=40:scenecut=0"
    for suffix in ("mp4", "mkv", "ts", "flv"):
        h264 = ("-preset", "medium", "-bf", 3, "-x264-params", open_)
        yield f"open groups of pictures {suffix}", _coded(suffix, *h264, span=LONG, sound_s=0.06)
        if suffix != "flv":
            hevc = ("-c:v", "libx265", "-preset", "fast", "-x265-params", f"log-level=error:{OPEN_HEVC}")
            yield f"open groups of pictures, hevc {suffix}", _coded(suffix, *hevc, span=LONG, sound_s=0.06)


OPEN_HEVC = "open-gop=1:bframes=4:keyint=40:min-keyint=40"

CASES = (_changes, _avi_holes, _unread, _orders)
