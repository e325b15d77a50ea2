"""Media that say of every frame and every sample which second of their source it is, and the reading of it.

The picture shows the number of its frame in black and white fields under a red, a green and a blue bar; the sound is
noise that no other second has, so that a clip's sound has one place in it. Knows nothing about the product.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.media_files import make
from workers.media.ffmpeg import find_ffmpeg

RATE = 25
"""Frames a second."""
BITS, ROWS = 12, 2
BARS = ((200, 30, 30), (30, 180, 30), (30, 30, 200))
HZ = 16_000
LONGEST_S = 50


@functools.cache
def noise() -> np.ndarray:
    """(LONGEST_S * HZ,) of 300 to 3,000 Hz, standard deviation 0.15."""
    white = np.random.default_rng(18).standard_normal(LONGEST_S * HZ + 2_000)
    low, high = 2 * 300 / HZ, 2 * 3_000 / HZ
    at = np.arange(-500, 501)
    window = (high * np.sinc(high * at) - low * np.sinc(low * at)) * np.hamming(len(at))
    window /= (window * np.cos(np.pi * at * (low + high) / 2)).sum()  # the middle of the band is as loud as before
    length = 1 << (len(white) + len(window)).bit_length()
    sound = np.fft.irfft(np.fft.rfft(white, length) * np.fft.rfft(window, length), length)[500:][: LONGEST_S * HZ]
    return (sound * (0.15 / sound.std())).clip(-1, 1).astype(np.float32)


@functools.cache
def _spectrum(length: int) -> np.ndarray:
    """(length // 2 + 1,) of the noise after a second of silence."""
    return np.fft.rfft(np.pad(noise(), (HZ, 0)), length)


def picture(number: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8."""
    shown = np.full((height, width, 3), 90, np.uint8)
    third, columns = height // 4, BITS // ROWS
    for at, colour in enumerate(BARS):
        shown[:third, at * width // 3 : (at + 1) * width // 3] = colour
    for bit in range(BITS):
        row, column = divmod(bit, columns)
        top, left = third + row * (height - third) // ROWS, column * width // columns
        shown[top : top + (height - third) // ROWS, left : left + width // columns] = 235 if number >> bit & 1 else 16
    return shown


def second_of(shown: np.ndarray) -> float:
    """The second of the source that a picture of any size shows; of one that is padded give the inner part."""
    height, width = shown.shape[:2]
    third, columns, number = height // 4, BITS // ROWS, 0
    grey = shown.astype(float).mean(axis=2)
    for bit in range(BITS):
        row, column = divmod(bit, columns)
        middle = third + (row + 0.5) * (height - third) / ROWS, (column + 0.5) * width / columns
        down, right = max(1, height // 16), max(1, width // 32)
        rows = slice(round(middle[0]) - down, round(middle[0]) + down)
        field = grey[rows, round(middle[1]) - right : round(middle[1]) + right]
        assert abs(field.mean() - 125) > 25, "no picture of the oracle"
        number |= int(field.mean() > 125) << bit
    return number / RATE


@dataclass(frozen=True)
class Heard:
    """Where a sound was taken from, how much of it is that, and how loud."""

    second: float
    correlation: float
    gain: float


def heard(sound: np.ndarray) -> Heard:
    """The place of 16 kHz sound in the noise."""
    length = 1 << (HZ + len(noise()) + len(sound)).bit_length()
    matched = np.fft.irfft(_spectrum(length) * np.fft.rfft(sound, length).conj(), length)[: HZ + len(noise())]
    at = min(int(np.argmax(np.abs(matched))) - HZ, len(noise()) - 2)
    truth, inner = noise()[max(0, at) : at + len(sound)], sound[max(0, -at) :]
    inner = inner[: len(truth)]
    if not len(inner):
        return Heard(-1.0, 0.0, 0.0)
    dot = float((truth * inner).sum())
    norms = float(np.linalg.norm(truth) * np.linalg.norm(inner)) or 1.0
    return Heard(at / HZ, dot / norms, dot / (float((truth**2).sum()) or 1.0))


def write_wav(path: Path, *channels: np.ndarray, hz: int = HZ) -> Path:
    """Channels of 16 kHz sound as a 16-bit file."""
    import wave

    samples = np.stack(channels, axis=1)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(samples.shape[1])
        out.setsampwidth(2)
        out.setframerate(hz)
        out.writeframes((samples * 32767).round().clip(-32768, 32767).astype("<i2").tobytes())
    return path


def source(folder: Path, seconds: float = 24, size: tuple[int, int] = (160, 96)) -> Path:
    """A lossless file of pictures and sound to make others from."""
    width, height = size
    write_wav(folder / "source.wav", noise()[: round(seconds * HZ)])
    path = folder / f"source-{width}x{height}.mkv"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(RATE), "-i", "pipe:0"]
    command = [find_ffmpeg(), "-nostdin", "-y", "-v", "error", *raw, "-i", str(folder / "source.wav")]
    command += ["-c:v", "libx264rgb", "-qp", "0", "-preset", "ultrafast", "-g", "1", "-c:a", "pcm_s16le", str(path)]
    frames = b"".join(picture(n, width, height).tobytes() for n in range(round(seconds * RATE)))
    subprocess.run(command, input=frames, check=True)
    return path


_MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2", "-b:a", "192k", "-ar", "48000")
_H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k")
CODECS: dict[str, tuple[object, ...]] = {
    "vob": (*_MPEG2, "-f", "vob"),
    "mpg": _MPEG2,
    "webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M", "-c:a", "libopus"),
    "ogg": ("-vn", "-c:a", "libvorbis", "-ar", "48000"),
}
"""How a file of a suffix is coded; H.264 and AAC elsewhere."""


def cut(source: Path, target: Path, start: float, end: float, *more: object, gop: int = 25) -> Path:
    """Seconds `start` to `end` of the source, coded as the target's suffix asks for."""
    codecs = CODECS.get(target.suffix[1:], _H264)
    rates = ("-ar", 48_000) if "-ar" not in codecs else ()
    make("-i", source, "-ss", start, "-t", end - start, *codecs, *rates, "-g", gop, *more, target)
    return target


def joined(target: Path, *parts: Path) -> Path:
    """Files one after the other, as `cat` joins them."""
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target
