"""Real, tiny media made with ffmpeg, whose pictures and sound tell their own time.

The picture's brightness rises steadily with time and the sound is a short tone at every whole second, so a test reads
off the decoded arrays *when* they are from, instead of trusting a count.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import numpy as np
import psutil

from workers.media.ffmpeg import find_ffmpeg

LUMA_AT_0, LUMA_PER_S = 30, 15
TONE_S = 0.25


def make(*arguments: object) -> None:
    """Run ffmpeg on arguments, output last; fails loudly."""
    done = subprocess.run(
        [find_ffmpeg(), "-nostdin", "-y", "-v", "error", *map(str, arguments)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def picture(seconds: float, *, rate: float = 25, size: str = "160x120") -> tuple[str, ...]:
    """Input arguments: grey frames whose luma is LUMA_AT_0 + LUMA_PER_S * t."""
    source = (
        f"color=c=black:s={size}:r={rate}:d={seconds},format=yuv420p,geq=lum='{LUMA_AT_0}+{LUMA_PER_S}*T':cb=128:cr=128"
    )
    return ("-f", "lavfi", "-i", source)


def sound(seconds: float, *, layout: str = "mono", hz: float = 440) -> tuple[str, ...]:
    """Input arguments: a tone of TONE_S at every whole second, silence between."""
    expression = f"0.5*sin(2*PI*{hz}*t)*lt(mod(t,1),{TONE_S})"
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    exprs = "|".join([expression] * channels)
    return ("-f", "lavfi", "-i", f"aevalsrc=exprs='{exprs}':c={layout}:s=48000:d={seconds}")


X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "18", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-b:a", "64k")


def clip_file(path: Path, seconds: float = 6, *, rate: float = 25, size: str = "160x120", gop: int = 50) -> Path:
    """H.264 + AAC in whatever container the suffix says."""
    make(*picture(seconds, rate=rate, size=size), *sound(seconds), *X264, "-g", gop, *AAC, "-shortest", path)
    return path


def times_of(frames: np.ndarray) -> np.ndarray:
    """Seconds that the frames (T, H, W, 3) show, by their brightness."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 4 : 3 * height // 4 + 1, width // 4 : 3 * width // 4 + 1]
    luma = middle.mean(axis=(1, 2, 3)) * 219 / 255 + 16
    return (luma - LUMA_AT_0) / LUMA_PER_S


def tone_starts(audio: np.ndarray) -> list[float]:
    """Seconds at which tones begin in 16 kHz samples."""
    window = 160
    loud = np.abs(audio[: len(audio) // window * window]).reshape(-1, window).max(axis=1) > 0.15
    rising = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    return [float(i) * window / 16_000 for i in rising]


def cut(source: Path, target: Path, share: float) -> Path:
    """The first `share` of a file's bytes."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def spoil(source: Path, target: Path, start: float, end: float, seed: int = 0) -> Path:
    """Noise in place of the bytes between two shares of the file."""
    content = bytearray(source.read_bytes())
    first, last = int(len(content) * start), int(len(content) * end)
    content[first:last] = np.random.default_rng(seed).integers(0, 256, last - first, np.uint8).tobytes()
    target.write_bytes(bytes(content))
    return target


def children() -> list[psutil.Process]:
    """The processes that this one started to read media and that are still there."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if any(name in command for name in ("ffmpeg", "_launch.py", "_probe_child")):
                found.append(process)
    return found
