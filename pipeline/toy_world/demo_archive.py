"""A small archive of real video files for `omnidrop demo`: toy clips with known truth, among what archives hold.

Promises: the same files every time (several codecs, containers, sizes and frame rates; one without sound, one
truncated, one that is no video), with the truth of the toy clips beside them. Knows nothing about jobs or models.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.toy_world import Event, Format, RenderedClip, Truth, read_truth, render_clip, write_truth

CLIP_S = 8.0
"""Length of the toy clips in seconds: one clip of the demo's job, but for the long ones."""

_TOY: tuple[tuple[str, Format, float], ...] = (
    ("studio/morning.mp4", Format("mp4", "libx264", "aac", 426, 240, 25), CLIP_S),
    ("studio/noon.mp4", Format("mp4", "mpeg4", "aac", 320, 240, 15), CLIP_S),
    ("studio/evening.mkv", Format("mkv", "libx264", "pcm_s16le", 480, 360, 12), CLIP_S),
    ("studio/night.webm", Format("webm", "libvpx", "libopus", 426, 240, 24), CLIP_S),
    ("field/portrait.mp4", Format("mp4", "libx264", "aac", 240, 426, 30), CLIP_S),
    ("field/square.webm", Format("webm", "libvpx-vp9", "libopus", 240, 240, 10), CLIP_S),
    ("field/high definition.mp4", Format("mp4", "libx264", "aac", 1280, 720, 10), CLIP_S),
    ("field/silent.mp4", Format("mp4", "libx264", None, 426, 240, 25), CLIP_S),
    ("field/größe-中文.mkv", Format("mkv", "libvpx", "libopus", 320, 240, 15), CLIP_S),
    ("long/two clips.mp4", Format("mp4", "libx264", "aac", 426, 240, 15), 2 * CLIP_S),
    ("long/three clips.mkv", Format("mkv", "libx264", "aac", 426, 240, 10), 3 * CLIP_S),
)
TALK = (
    Event(0, 4, lines=("garden", "market")),
    Event(0.9, 1.6, word="market", voice="high"),
    Event(2.5, 3.2, word="zebra", voice="low"),
    Event(4, 7, "circle", "red"),
    Event(4.8, 5.5, word="train", voice="low"),
)
"""A slide and three spoken words, of world v3."""
TALK_ASKED = {
    "Which word is said first? [garden|market|train|zebra]": "market",
    "Which word is said last? [garden|market|train|zebra]": "train",
    "Which word is said while the circle is shown? [garden|market|train|zebra]": "train",
    "Is the word market said by a low or a high voice? [low|high]": "high",
    "Which word is written in line 1? [garden|market|train|zebra]": "garden",
    "Is the word garden written?": "yes",
    "Is the word market said and also written?": "yes",
}
"""What is asked about it, and the right answers: a clip and questions that the model is right about."""
TRUTH_FILE = "truth.json"
_OTHERS = ("broken/truncated.mkv", "broken/not a video.mp4", "sound only.wav")
FILES = len(_TOY) + len(_OTHERS)


def make_demo_archive(folder: Path, done: Callable[[str], None] = lambda name: None) -> dict[str, Truth]:
    """Write the archive into `folder` unless it is there; returns the truth of the toy clips by key.

    `done` is called with every file's name. The truth is also written beside the archive, as `truth.json`.
    """
    known = folder.parent / TRUTH_FILE
    if known.exists() and all((folder / name).exists() for name in (*(name for name, _, _ in _TOY), *_OTHERS)):
        return read_truth(known)
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        rendered = list(pool.map(lambda n: _toy(folder, done, n), range(len(_TOY))))
    truths = dict(rendered)
    _truncated(folder / "broken/truncated.mkv", folder / "long/three clips.mkv")
    (folder / "broken/not a video.mp4").write_text("This is the minutes of a meeting, named like a video.\n" * 40)
    _tone(folder / "sound only.wav")
    for name in _OTHERS:
        done(name)
    write_truth(known, truths)
    return truths


def _toy(folder: Path, done: Callable[[str], None], number: int) -> tuple[str, Truth]:
    name, format, length_s = _TOY[number]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rendered: RenderedClip = render_clip(
        path, "v1", seed=1_000 + number, length_s=length_s, count=round(length_s / 4), format=format
    )
    done(name)
    return name, rendered.truth


def make_talk(path: Path) -> None:
    """Write the clip of TALK to `path` unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        format = Format("mp4", "libx264", "aac", 426, 240, 12)
        render_clip(path, "v3", seed=2_003, length_s=7.0, events=TALK, format=format)


def _truncated(path: Path, source: Path) -> None:
    """What an interrupted copy leaves: the first 60 % of the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def _tone(path: Path) -> None:
    """Five seconds of quiet square wave: sound without a picture is valid input."""
    rate, seconds = 16_000, 5
    samples = bytearray()
    for i in range(rate * seconds):
        samples += (2_000 if (i // 40) % 2 else -2_000).to_bytes(2, "little", signed=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(samples))
