"""Toy clips of a renderer written apart from the toy world's: other drawing, sounds, files and draws, the same truth.

What holds for one renderer's clips alone is a property of its pixels, not of pruning. Imports nothing of
`pipeline.toy_world`: what a shape, a colour, a place, a sound and a word are called is all it shares with it, and the
takes of words that come with the package, which a bare machine cannot make. Pages are set in Pillow's own typeface.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import wave
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from workers.media.ffmpeg import find_ffmpeg

WIDTH, HEIGHT, RATE, SAMPLES = 288, 216, 8, 44_100
FINER = 2
"""Drawn so many times as large and reduced: edges are soft."""
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (30, 60, 230),
    "yellow": (245, 225, 30),
    "purple": (148, 40, 200),
    "white": (240, 240, 240),
}
SOUNDS = ("low tone", "high tone", "rising sweep", "falling sweep", "noise", "clicks")
TAKES = Path(__file__).parents[2] / "pipeline/toy_world/takes/held_out.opus"
PLACES = {"left": (0.2, 0.5), "right": (0.8, 0.5), "top": (0.5, 0.2), "bottom": (0.5, 0.8), "centre": (0.5, 0.5)}

Events = list[dict[str, Any]]


def archive(folder: Path, world: str, clips: int) -> Path:
    """Write `clips` clips and their `truth.json`, in the form anyone may write, into `folder`; the truth's path."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number in range(clips):
        draw = random.Random(f"{world} {number}")
        length, events = {"v1": _one_by_one, "v2": _at_once, "v3": _talk}[world](draw)
        name = f"{world}-{number}.mov"
        _write(folder / name, length, events, draw, busy=world == "v2")
        truth[name] = {"world": world, "events": events}
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    return path


def _one_by_one(draw: random.Random) -> tuple[float, Events]:
    shapes, colours, sounds = (draw.sample(list(of), 3) for of in (SHAPES, COLOURS, SOUNDS))
    now, events = draw.uniform(0.3, 1.0), []
    for shape, colour, sound in zip(shapes, colours, sounds, strict=True):
        end = now + draw.uniform(2.2, 3.5)
        events.append({"start": now, "end": end, "shape": shape, "colour": colour, "sound": sound})
        now = end + draw.uniform(0.2, 0.6)
    return math.ceil(now), events


def _at_once(draw: random.Random) -> tuple[float, Events]:
    length, events = 9.0, []
    for place in draw.sample(list(PLACES), 4):
        now = draw.uniform(0.0, 0.4)
        while now + 1.2 <= length:
            end = min(length, now + draw.uniform(1.2, 2.8))
            shown = {"shape": draw.choice(SHAPES), "colour": draw.choice(list(COLOURS)), "place": place}
            events.append({"start": now, "end": end, **shown})
            now = end
    now, last = draw.uniform(0.0, 0.4), None
    while now + 1.2 <= length:
        end = min(length, now + draw.uniform(1.2, 1.9))
        last = draw.choice([sound for sound in SOUNDS if sound != last])
        events.append({"start": now, "end": end, "sound": last})
        now = end + draw.uniform(0.0, 0.2)
    return length, events


def _talk(draw: random.Random) -> tuple[float, Events]:
    """Two shapes and a page in any order, each for 3 s, and a word or two while each is shown."""
    known = sorted({take["word"] for take in _takes()})
    shapes, colours, words = draw.sample(SHAPES, 2), draw.sample(list(COLOURS), 2), draw.sample(known, 8)
    shown: Events = [{"shape": shape, "colour": colour} for shape, colour in zip(shapes, colours, strict=True)]
    # The page repeats one of the words that are said, most of the time.
    shown.insert(draw.randrange(3), {"lines": [words[6], words[draw.choice((0, 1, 7))]][:: draw.choice((1, -1))]})
    events: Events = []
    for number, what in enumerate(shown):
        events.append({"start": 3 * number, "end": 3 * number + 3, **what})
        for start in draw.choice(((0.3, 1.7), (1.1,))):
            begun = 3 * number + start + draw.uniform(0.0, 0.25)
            spoken = sum("word" in event for event in events)
            said = {"word": words[spoken], "voice": draw.choice(("low", "high"))}
            events.append({"start": begun, "end": begun + 0.7, **said})
    return 9.0, events


def _write(path: Path, length: float, events: Events, draw: random.Random, *, busy: bool) -> None:
    looks = [(draw.uniform(0.11, 0.15) if busy else draw.uniform(0.15, 0.2), draw.uniform(0, 6)) for _ in events]
    back = _Background(draw, busy)
    sound = path.with_suffix(".wav")
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(SAMPLES)
        heard = _heard(length, events, draw)
        file.writeframes((np.stack((heard, 0.8 * heard), axis=1) * 32_767).astype("<i2").tobytes())
    command = [
        *(find_ffmpeg(), "-v", "error", "-nostdin", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"),
        *("-s", f"{WIDTH}x{HEIGHT}", "-r", str(RATE), "-i", "pipe:", "-i", str(sound)),
        *("-c:v", "mjpeg", "-q:v", "6", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le", "-threads", "1", str(path)),
    ]
    frames = b"".join(_frame(number / RATE, events, looks, back) for number in range(round(length * RATE)))
    subprocess.run(command, input=frames, check=True, timeout=60)
    sound.unlink()


class _Background:
    """Two dark tones from top to bottom; where much happens at once, lighter bars that wander over them."""

    def __init__(self, draw: random.Random, busy: bool) -> None:
        top, bottom = (np.array([draw.uniform(5, 40) for _ in range(3)]) for _ in range(2))
        down = np.linspace(0, 1, HEIGHT)[:, None, None]
        self.still = np.broadcast_to(top + (bottom - top) * down, (HEIGHT, WIDTH, 3))
        self.wander = draw.choice((-1, 1)) * draw.uniform(15, 40) if busy else 0.0

    def at(self, time_s: float) -> Image.Image:
        lighter = 14.0 * (((np.arange(WIDTH) + self.wander * time_s) // 24) % 2 == 0) if self.wander else 0.0
        pixels = self.still + (lighter[None, :, None] if self.wander else 0.0)  # type: ignore[index]
        return Image.fromarray(np.clip(pixels, 0, 59).astype(np.uint8))


def _frame(time_s: float, events: Events, looks: list[tuple[float, float]], back: _Background) -> bytes:
    picture = back.at(time_s)
    for event, (size, phase) in zip(events, looks, strict=True):
        if event.get("lines") and event["start"] <= time_s < event["end"]:
            picture = _page(event["lines"], phase)
        if not event.get("shape") or not event["start"] <= time_s < event["end"]:
            continue
        across, down = PLACES.get(event.get("place", ""), (0.5 + 0.25 * math.cos(phase), 0.5 + 0.2 * math.sin(phase)))
        sway = 0.04 * math.sin(2 * (time_s - event["start"]) + phase) if "place" not in event else 0.0
        radius = size * HEIGHT * (1.0 + 0.04 * math.sin(5 * time_s + phase))
        stamp = Image.new("L", (round(2.2 * radius) * FINER,) * 2)
        middle, reach = stamp.width / 2, radius * FINER
        _draw(ImageDraw.Draw(stamp), event["shape"], middle, reach)
        stamp = stamp.resize((stamp.width // FINER,) * 2, Image.Resampling.BOX)
        at = (round((across + sway) * WIDTH - stamp.width / 2), round(down * HEIGHT - stamp.height / 2))
        picture.paste(Image.new("RGB", stamp.size, COLOURS[event["colour"]]), at, stamp)
    return picture.tobytes()


def _page(lines: list[str], phase: float) -> Image.Image:
    """Dark blue or black on white, each line under the one before, a rule below the title."""
    page = Image.new("RGB", (WIDTH, HEIGHT), (248, 248, 244))
    pen, ink = ImageDraw.Draw(page), (20, 20, 90) if phase > 3 else (15, 15, 15)
    for number, line in enumerate(lines):
        size = 44 if not number else 38
        pen.text((20 + 8 * phase, 34 + 66 * number), line, fill=ink, font=ImageFont.load_default(size))
    if len(lines) > 1:
        pen.line((16, 88, WIDTH - 16, 88), fill=(190, 190, 190))
    return page


def _draw(pen: ImageDraw.ImageDraw, shape: str, middle: float, reach: float) -> None:
    low, high = middle - reach, middle + reach
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=255)
    elif shape == "square":
        pen.rectangle(
            (middle - 0.88 * reach, middle - 0.88 * reach, middle + 0.88 * reach, middle + 0.88 * reach), fill=255
        )
    elif shape == "triangle":
        pen.polygon(
            ((middle, low), (high - 0.05 * reach, middle + 0.8 * reach), (low + 0.05 * reach, middle + 0.8 * reach)),
            fill=255,
        )
    else:
        arm = 0.3 * reach
        pen.rectangle((middle - arm, low, middle + arm, high), fill=255)
        pen.rectangle((low, middle - arm, high, middle + arm), fill=255)


def _heard(length: float, events: Events, draw: random.Random) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mono samples in -1..1: each sound swells and fades like a plucked string's end, over a hundredth of a second."""
    heard = np.zeros(round(length * SAMPLES))
    rng = np.random.default_rng(draw.randrange(1 << 30))
    for event in events:
        if event.get("word"):
            _say(heard, event, rng)
        if not event.get("sound"):
            continue
        start, end = (min(len(heard), round(event[edge] * SAMPLES)) for edge in ("start", "end"))
        time = np.arange(end - start) / SAMPLES
        made = _sound(event["sound"], time, rng)
        edges = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)
        heard[start:end] = 0.4 * made * np.sin(edges * np.pi / 2)
    if any(event.get("word") for event in events):
        # One wall, 9 ms away, and a faint hiss.
        heard[400:] += 0.25 * heard[:-400]
        heard += 0.003 * rng.standard_normal(len(heard))
    return np.clip(heard, -1, 1)


def _say(heard: np.ndarray[Any, Any], event: dict[str, Any], rng: np.random.Generator) -> None:
    """Put a take of the event's word at its start."""
    those = [take["span"] for take in _takes() if (take["word"], take["voice"]) == (event["word"], event["voice"])]
    begin, end = those[rng.integers(len(those))]
    said = _bank()[round(begin / 16_000 * SAMPLES) : round(end / 16_000 * SAMPLES)]
    start = round(event["start"] * SAMPLES)
    heard[start : start + len(said)] += 0.5 * said


@cache
def _takes() -> list[dict[str, Any]]:
    """Of each take its word, its voice and where it lies in the bank."""
    takes: list[dict[str, Any]] = json.loads(TAKES.with_suffix(".json").read_text())["takes"]
    return takes


@cache
def _bank() -> np.ndarray[Any, Any]:
    """All takes at this renderer's rate."""
    command = [find_ffmpeg(), "-v", "error", "-i", str(TAKES), "-f", "f32le", "-ac", "1", "-ar", str(SAMPLES), "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout, np.float32)


def _sound(name: str, time: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if name == "noise":
        return rng.uniform(-0.7, 0.7, len(time))
    if name == "clicks":
        since = time % 0.125
        return np.where(since < 0.015, np.cos(2 * np.pi * 1100 * since) * (1 - since / 0.015), 0.0)
    if name.endswith("tone"):
        pitch = 215.0 if name == "low tone" else 2150.0
        return np.sin(2 * np.pi * pitch * time + 0.3 * np.sin(2 * np.pi * 5 * time))
    share = time / time[-1]
    pitch = 350 * (2300 / 350) ** (share if name == "rising sweep" else 1 - share)
    return np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLES)
