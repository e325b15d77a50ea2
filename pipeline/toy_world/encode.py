"""Toy clips as real media files: formats drawn by seed, frames piped into ffmpeg, truth returned.

Promises: the same (world, seed, format) always sends the same pixels and samples to the encoder; the file is written
beside its place and renamed when whole. Knows nothing about questions or models.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import wave as wave_files
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnidrop.errors import OmniDropError
from pipeline.toy_world.render import SAMPLE_RATE, Painter, Wave
from pipeline.toy_world.speech import heard
from pipeline.toy_world.truth import Event, Truth
from pipeline.toy_world.world import events_of, generator_of
from workers.media.ffmpeg import find_ffmpeg

ENCODE_LIMIT_S = 300.0


class RenderError(OmniDropError):
    """ffmpeg could not write a clip."""

    error_class = "render"


@dataclass(frozen=True)
class Format:
    """How a clip is stored. `audio_codec` None leaves the sound out of the file (its truth stays as drawn)."""

    container: str
    video_codec: str
    audio_codec: str | None
    width: int
    height: int
    frame_rate: int


FORMATS = (
    ("mp4", "libx264", "aac"),
    ("mp4", "mpeg4", "aac"),
    ("mkv", "libx264", "pcm_s16le"),
    ("mkv", "libvpx", "libopus"),
    ("webm", "libvpx", "libopus"),
    ("webm", "libvpx-vp9", "libopus"),
)
"""Container, video codec, audio codec."""
SIZES = ((426, 240), (640, 360), (854, 480), (1280, 720), (480, 360), (640, 480), (360, 640), (480, 854), (480, 480))
RATES = (10, 12, 15, 24, 25, 30, 50, 60)
OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": 25, "pix_fmt": "yuv420p"},
    "mpeg4": {"qscale:v": 5, "pix_fmt": "yuv420p"},
    "libvpx": {"b:v": "900k", "deadline": "realtime", "cpu-used": 8, "pix_fmt": "yuv420p"},
    "libvpx-vp9": {"b:v": "700k", "deadline": "realtime", "cpu-used": 8, "row-mt": 1, "pix_fmt": "yuv420p"},
}


@dataclass(frozen=True)
class RenderedClip:
    """A file that was written, and what is in it."""

    path: Path
    length_s: float
    truth: Truth
    format: Format


def format_of(world: str, seed: int) -> Format:
    """The format clip `seed` is stored in unless told otherwise; long and large clips get a lower frame rate."""
    rng = generator_of(world, seed, "format")
    container, video, audio = FORMATS[int(rng.integers(len(FORMATS)))]
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    rate = int(rng.choice([rate for rate in RATES if rate * width * height <= 25 * 1280 * 720]))
    return Format(container, video, audio, width, height, rate)


def render_clip(
    path: Path,
    world: str = "v1",
    seed: int = 0,
    *,
    length_s: float | None = None,
    count: int | None = None,
    format: Format | None = None,
    events: tuple[Event, ...] | None = None,
) -> RenderedClip:
    """Write clip `seed` of `world` to `path` (its suffix is replaced by the container's when it has none).

    `length_s` and `count` fix the clip's length in seconds and its number of events, `format` how it is stored, and
    `events` (with `length_s`) replaces the drawn events altogether. Returns the path written and the truth. Raises
    RenderError with ffmpeg's own words when the encoder fails.
    """
    drawn_s, drawn = events_of(world, seed, length_s=length_s, count=count) if events is None else (length_s, events)
    if drawn_s is None:
        raise RenderError("events given by hand need length_s as well")
    chosen = format or format_of(world, seed)
    path = Path(path) if Path(path).suffix else Path(path).with_suffix(f".{chosen.container}")
    sound = heard(world, drawn, drawn_s, generator_of(world, seed, "sound")) if chosen.audio_codec else None
    painter = Painter(world, drawn, generator_of(world, seed, "picture"))
    encode(path, painter, sound, drawn_s, chosen)
    return RenderedClip(path, drawn_s, Truth(drawn, world), chosen)


def encode(path: Path, painter: Painter, sound: Wave | None, length_s: float, chosen: Format) -> None:
    """Encode painted frames and `sound` (mono float32 16 kHz, or None) into `path`. Raises RenderError."""
    import ffmpeg

    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with tempfile.TemporaryDirectory(prefix="toy-world-") as folder:
        size, rate = f"{chosen.width}x{chosen.height}", chosen.frame_rate
        streams = [ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, framerate=rate).video]
        options: dict[str, object] = {"c:v": chosen.video_codec, **OPTIONS[chosen.video_codec]}
        if sound is not None:
            heard = Path(folder) / "sound.wav"
            _write_wav(heard, sound)
            streams.append(ffmpeg.input(str(heard)).audio)
            # Opus and AAC want a common rate; PCM keeps 16 kHz.
            options |= {"c:a": chosen.audio_codec} | ({} if chosen.audio_codec == "pcm_s16le" else {"ar": 48_000})
        output = ffmpeg.output(*streams, str(part), **options, threads=1, fflags="+bitexact", **{"flags": "+bitexact"})
        arguments = ffmpeg.compile(output.global_args("-nostdin", "-v", "error"), find_ffmpeg(), overwrite_output=True)
        with open(Path(folder) / "stderr", "w+b") as complaints:
            process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints, start_new_session=True
            )
            try:
                assert process.stdin is not None
                times = [number / rate for number in range(round(length_s * rate))]
                for frame in painter.frames(times, chosen.height, chosen.width):
                    process.stdin.write(frame.tobytes())
                process.stdin.close()
                status = process.wait(ENCODE_LIMIT_S)
            except (OSError, subprocess.TimeoutExpired) as error:
                process.kill()
                process.wait()
                complaints.seek(0)
                words = complaints.read().decode(errors="replace").strip()
                raise RenderError(f"ffmpeg stopped while writing {path.name}: {words or error}") from error
            complaints.seek(0)
            words = complaints.read().decode(errors="replace").strip()
        if status != 0 or not part.exists():
            part.unlink(missing_ok=True)
            raise RenderError(f"ffmpeg ended with status {status} while writing {path.name}: {words}")
        part.replace(path)


def _write_wav(path: Path, sound: Wave) -> None:
    with wave_files.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
