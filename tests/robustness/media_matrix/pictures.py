"""Files whose pictures change, turn or have odd colours; stills, and what is encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.robustness.media_matrix.checks import Right
from tests.robustness.media_matrix.made_of import FRAGMENTED, A, Builder
from tests.support.cropped_files import cropped_file
from tests.support.media_files import make
from tests.support.media_oracle import cut, joined


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
    wide = hd.replace("768", "536") + ",setparams=colorspace=unknown"
    yield "hd of 536 lines without tags mp4", coded("mp4", "-vf", wide)
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
    # One decoder reads a stream: what is of another codec under the same number is said to be missing.
    yield "another codec from the middle on ts", changed("-c:v", "mpeg2video", "-q:v", 2, missing=((8, 14),))
    yield "twice the rate from the middle on ts", changed("-r", 50)


def _cropped() -> Iterator[tuple[str, Builder]]:
    """The container says that a border is to be cut off."""

    def crop(name: str, *more: object) -> Builder:
        return lambda source, folder: (cropped_file(source, folder / name, *A, *more), Right((A,), colours=True))

    yield "cropped by PixelCrop mkv", crop("a.mkv")
    yield "cropped by clap mov", crop("a.mov")
    yield "cropped by clap mp4", crop("a.mp4")
    yield "cropped by clap, anamorphic mov", crop("a.mov", "-aspect", "2:1")


def _rotated(source: Path, folder: Path) -> Path:
    whole = cut(source, folder / "upright.mp4", *A, "-vf", "transpose=2")
    make("-display_rotation", 270, "-i", whole, "-c", "copy", folder / "rotated.mp4")
    return folder / "rotated.mp4"


def refused(name: str, content: bytes, error: str) -> Builder:
    """A file of these bytes, which is none of ours."""

    def build(source: Path, folder: Path) -> tuple[Path, Right]:
        (folder / name).write_bytes(content)
        return folder / name, Right(error=error)

    return build


def _refused() -> Iterator[tuple[str, Builder]]:
    for brand in (b"avif", b"heic", b"heix", b"mif1", b"miaf", b"jpeg", b"crx "):
        content = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0\0\0\x08meta" + bytes(500)
        yield f"still {brand.decode()}", refused("a.mp4", content, "not_media")
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


CASES = (_pictures, _cropped, _refused)
