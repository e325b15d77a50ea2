"""Small real media in every container that is allowed, made by ffmpeg: what the mutations start from.

Promises: the same bytes for the same ffmpeg; two seconds of a moving picture with sound, or of one of them; small.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from workers.media.ffmpeg import find_ffmpeg

SECONDS = 2
PICTURE = ("-f", "lavfi", "-i", f"testsrc2=s=64x48:r=10:d={SECONDS}")
SOUND = ("-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=16000:duration={SECONDS}")
BOTH = (*PICTURE, *SOUND)
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "5", "-bf", "1")
AAC = ("-c:a", "aac", "-b:a", "24k")
MPEG2 = ("-c:v", "mpeg2video", "-r", "25", "-g", "5")
PCM = ("-c:a", "pcm_s16le")

RECIPES: Mapping[str, tuple[str, ...]] = {
    "plain.mp4": (*BOTH, *H264, *AAC),
    "fast.mp4": (*BOTH, *H264, *AAC, "-movflags", "+faststart"),
    "fragmented.mp4": (*BOTH, *H264, *AAC, "-movflags", "+frag_keyframe+empty_moov"),
    "edited.mp4": (*BOTH, *H264, *AAC, "-output_ts_offset", "1.5", "-movflags", "+faststart"),
    "plain.mov": (*BOTH, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", *PCM, "-movflags", "+faststart"),
    "hevc.mp4": (*PICTURE, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1"),
    "plain.m4a": (*SOUND, *AAC, "-movflags", "+faststart"),
    "plain.3gp": (*BOTH, "-c:v", "mpeg4", *AAC),
    "plain.mkv": (*BOTH, *H264, *AAC),
    "lossless.mkv": (*BOTH, "-c:v", "ffv1", "-c:a", "flac"),
    "live.webm": (*BOTH, "-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", "-live", "1"),
    "plain.webm": (*BOTH, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"),
    "plain.avi": (*BOTH, "-c:v", "mpeg4", "-c:a", "libmp3lame"),
    "raw.avi": (*BOTH, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", *PCM),
    "plain.ts": (*BOTH, *H264, *AAC),
    "plain.mpg": (*BOTH, *MPEG2, "-c:a", "mp2"),
    "plain.flv": (*BOTH, *H264, "-c:a", "aac"),
    "plain.wmv": (*BOTH, "-c:v", "wmv2", "-c:a", "wmav2"),
    "plain.ogg": (*BOTH, "-c:v", "libtheora", "-c:a", "libvorbis"),
    "plain.mxf": (*BOTH, *MPEG2, "-ar", "48000", *PCM),
    "plain.nut": (*BOTH, "-c:v", "ffv1", "-c:a", "flac"),
    "plain.ivf": (*PICTURE, "-c:v", "libvpx", "-deadline", "realtime"),
    "plain.rm": (*BOTH, "-c:v", "rv10", "-c:a", "ac3"),
    "plain.wav": (*SOUND, *PCM),
    "plain.w64": (*SOUND, *PCM),
    "plain.aiff": (*SOUND, "-c:a", "pcm_s16be"),
    "plain.caf": (*SOUND, *PCM),
    "plain.au": (*SOUND, "-c:a", "pcm_s16be"),
    "plain.mp3": (*SOUND, "-c:a", "libmp3lame"),
    "plain.flac": (*SOUND, "-c:a", "flac"),
    "plain.aac": (*SOUND, *AAC),
    "plain.ac3": (*SOUND, "-ar", "48000", "-c:a", "ac3"),
    "plain.amr": (*SOUND, "-ar", "8000", "-c:a", "libopencore_amrnb"),
}


@dataclass(frozen=True)
class Seed:
    """One intact file."""

    name: str
    content: bytes

    @property
    def suffix(self) -> str:
        """With the dot."""
        return Path(self.name).suffix

    @property
    def kind(self) -> str:
        """The container's family, for those whose borders are known: mp4, ebml, riff, or the suffix."""
        families = {"mp4": "mp4 mov m4a 3gp", "ebml": "mkv webm", "riff": "avi wav"}
        suffix = self.suffix[1:]
        return next((family for family, names in families.items() if suffix in names.split()), suffix)


def make(*arguments: str) -> None:
    """Run ffmpeg on arguments, output last. Raises RuntimeError with what it said."""
    fixed = ("-nostdin", "-y", "-v", "error", "-fflags", "+bitexact")
    exact = ("-flags:v", "+bitexact", "-flags:a", "+bitexact", "-threads", "1")
    command = [find_ffmpeg(), *fixed, *arguments[:-1], *exact, "-fflags", "+bitexact", arguments[-1]]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")


def make_seeds(folder: Path) -> tuple[Seed, ...]:
    """All of them, in the order of `RECIPES`."""
    folder.mkdir(parents=True, exist_ok=True)

    def one(name: str) -> Seed:
        make(*RECIPES[name], str(folder / name))
        return Seed(name, (folder / name).read_bytes())

    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(one, RECIPES))
