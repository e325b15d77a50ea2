"""CPU seconds per hour of video: all pictures of a clip decoded, only those it needs, and by a card where there is one.

Promises: made files in the codecs of archives, cut into clips and decoded by `decode_clip` as in a job; ways alternate,
and all give the same pictures and sound, or it ends with an error. CPU seconds are those of this process and of what
it starts; a row has the least of the rounds. Knows nothing about models or stores.

    python -m benchmarks.speed.decoding --json FILE [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from unittest import mock

import numpy as np

from workers.media import extraction, nvdec
from workers.media.clip_reader import decode_clip
from workers.media.ffmpeg import ffmpeg_version, find_ffmpeg
from workers.media.probing import ProbePool
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo

CODECS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "h264, B pictures": ("mp4", ("libx264", "-preset", "veryfast", "-b:v", "4M", "-g", "250", "-bf", "3")),
    "h264, a key picture a second": ("mp4", ("libx264", "-preset", "veryfast", "-b:v", "4M", "-g", "25", "-bf", "3")),
    "h264, no B pictures": ("mp4", ("libx264", "-preset", "veryfast", "-b:v", "4M", "-g", "250", "-bf", "0")),
    "hevc": ("mkv", ("libx265", "-preset", "ultrafast", "-b:v", "3M", "-bf", "4", "-x265-params", "log-level=error")),
    "mpeg2": ("ts", ("mpeg2video", "-b:v", "12M", "-g", "12", "-bf", "2")),
    "mjpeg": ("mov", ("mjpeg", "-q:v", "4", "-pix_fmt", "yuvj420p")),
}
"""Container and encoder of each file."""

RATE = 25
HOUR_S = 3600.0


@dataclass(frozen=True)
class Row:
    """One file, decoded in one way."""

    file: str
    way: str
    """whole (all pictures of every clip), needed (as jobs do), or nvdec."""
    clip_s: float
    cpu_s_per_hour: float
    of_whole: float


def make(path: Path, encoder: Sequence[str], size: str, seconds: float) -> None:
    """A picture that moves everywhere, with noise, and a tone."""
    picture = f"mandelbrot=s=480x270:r={RATE},scale={size.replace('x', ':')},noise=alls=6:allf=t"
    given = ("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=440:r=48000", "-t", str(seconds))
    command = [find_ffmpeg(), "-nostdin", "-v", "error", "-y", *given, "-pix_fmt", "yuv420p", "-c:v", *encoder]
    subprocess.run([*command, "-c:a", "aac" if path.suffix != ".ts" else "mp2", str(path)], check=True)


def measure(path: Path, info: MediaInfo, clip_s: float, rounds: int) -> dict[str, float]:
    """CPU seconds per hour by way. Raises ValueError where two ways give two clips."""
    spans = np.arange(0.0, max(clip_s, info.duration_s - clip_s / 2), clip_s)
    clips = [Clip(str(n), n, begin, min(begin + clip_s, info.duration_s)) for n, begin in enumerate(spans)]
    length_s = sum(clip.length_s for clip in clips)
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        first: list[DecodedClip] = []
        for way, settings in ways(info):
            with decoding(way):
                started = cpu_s()
                found = [decode_clip(path, info, clip, settings) for clip in clips]
                spent.setdefault(way, []).append(cpu_s() - started)
            for one, other in zip(first, found, strict=bool(first)):
                if not (np.array_equal(one.frames, other.frames) and np.array_equal(one.audio, other.audio)):
                    raise ValueError(f"{path.name}: the clip at {one.clip.start_s:g} s is another one by way {way}")
            first = first or found
    return {way: min(times) / length_s * HOUR_S for way, times in spent.items()}


def ways(info: MediaInfo) -> Iterator[tuple[str, DecodeSettings]]:
    """Those there are on this machine for this file."""
    yield "whole", DecodeSettings()
    yield "needed", DecodeSettings()
    card = DecodeSettings(decoder="nvdec")
    if nvdec.takes(info, card):
        yield "nvdec", card


@contextmanager
def decoding(way: str) -> Iterator[None]:
    """As jobs decode, but in way `whole` no picture is left out."""
    with mock.patch.object(extraction, "LEAST_PIXELS", 10**18 if way == "whole" else extraction.LEAST_PIXELS):
        yield


def cpu_s() -> float:
    """Of this process and of all that it started and that has ended."""
    return sum(used.ru_utime + used.ru_stime for used in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def rows(codecs: Sequence[str], size: str, seconds: float, clip_s: float, rounds: int) -> Iterator[Row]:
    """One after the other, by file."""
    with tempfile.TemporaryDirectory() as scratch, ProbePool(1) as pool:
        for name in codecs:
            container, encoder = CODECS[name]
            path = Path(scratch) / f"one.{container}"
            make(path, encoder, size, seconds)
            ((_, info),) = pool.probe_many([(None, str(path))])
            if not isinstance(info, MediaInfo):
                raise ValueError(f"the file of {name} cannot be probed: {info.message}")
            found = measure(path, info, clip_s, rounds)
            for way, spent in found.items():
                yield Row(name, way, clip_s, spent, spent / found["whole"])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--quick", action="store_true", help="small pictures: shows that all of it runs, costs nothing")
    parser.add_argument("--clip-s", type=float, default=30.0, help="seconds a clip (default 30)")
    parser.add_argument("--seconds", type=float, default=62.0, help="seconds a file (default 62)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds, ways alternating (default 2)")
    parser.add_argument("--codec", choices=list(CODECS), action="append", help="only these files")
    given = parser.parse_args()
    size, seconds, clip_s = ("320x180", 3.0, 1.5) if given.quick else ("1920x1080", given.seconds, given.clip_s)
    report = {
        **{"ffmpeg": ffmpeg_version(), "size": size, "measured_at": time.strftime("%Y-%m-%d"), "seconds": seconds},
        "nvdec": nvdec.said(DecodeSettings(decoder="auto")),
        "rows": [],
    }
    print(f"{report['ffmpeg']}; {size}; {report['nvdec']}")
    for row in rows(given.codec or list(CODECS), size, seconds, clip_s, given.rounds):
        report["rows"].append(asdict(row))  # type: ignore[attr-defined]
        print(f"{row.file:30} {row.way:7} {row.cpu_s_per_hour:7.0f} CPU s an hour, {row.of_whole:.2f}", flush=True)
        if given.json:
            given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"decoding: error: {error}")
