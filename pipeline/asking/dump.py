"""Clips as files to look at and listen to: a picture a frame, a sound, and one page that shows them all.

Promises: pictures and samples are those of the model to the bit (PNG) and to 16 bits (WAV). Knows nothing about an
archive.
"""

from __future__ import annotations

import base64
import html
import io
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from workers.media.sound import SAMPLE_RATE
from workers.records import DecodedClip

SHOWN = 12
"""Pictures of a clip on the page at most."""
THUMBNAIL = 160

_STYLE = (
    "body{font:14px sans-serif;margin:2em}section{margin:2em 0}figure{display:inline-block;margin:1px 3px}"
    "figcaption{font-size:11px;color:#555}img{display:block}img.sound{width:100%;height:128px;margin-top:4px}"
    "table{border-collapse:collapse}td,th{padding:2px 8px;text-align:left;border-bottom:1px solid #ddd}"
)


def dump_clip(decoded: DecodedClip, folder: Path) -> None:
    """Write `frame-000.png ...` and `sound.wav` (16 kHz, mono, 16 bit) of one clip; no file for what it lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(decoded.frames if decoded.frames is not None else ()):
        Image.fromarray(frame).save(folder / f"frame-{number:03d}.png")
    if decoded.audio is not None:
        with wave.open(str(folder / "sound.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(SAMPLE_RATE)
            out.writeframes((decoded.audio * 32768).round().clip(-32768, 32767).astype("<i2").tobytes())


def clip_section(about: Mapping[str, Any], decoded: DecodedClip | None) -> str:
    """One clip on the page."""
    title = f"{about['start_s']:g} s to {about['end_s']:g} s, segment {about['segment']} ({about['segment_pts_s']:g} s)"
    noticed = ", ".join(f"{name} {about[name]:g}" for name in ("silent_s", "held_s", "missing_s") if about[name])
    lines = [f"<section><h3>{html.escape(title)}</h3>"]
    words = [noticed, about["error_class"] or "", *about["notes"]]
    lines += [f"<p>{html.escape(word)}</p>" for word in words if word]
    if decoded is not None and decoded.frames is not None:
        count = len(decoded.frames)
        step = max(1, -(-count // SHOWN))
        lines.append(f"<p>{-(-count // step)} of {count} pictures, at their seconds</p>")
        lines += [
            f"<figure>{_image(decoded.frames[i], THUMBNAIL)}<figcaption>{about['start_s'] + i / decoded.fps:.2f}"
            "</figcaption></figure>"
            for i in range(0, count, step)
        ]
    if decoded is not None and decoded.audio is not None:
        lines.append(_image(spectrogram(decoded.audio), None, "sound"))
    return "\n".join([*lines, "</section>"])


def page(name: str, about: Mapping[str, Any], sections: Sequence[str]) -> str:
    """The contact sheet of a file."""
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(shown(value))}</td>' for value in track.values())}</tr>"
        for track in about["tracks"]
    )
    segments = "; ".join(f"{s['start_s']:g} to {s['end_s']:g} s at {s['pts_s']:g} s" for s in about["segments"])
    head = (
        f"<h1>{html.escape(name)}</h1><p>{shown(about['duration_s'])} s. Segments, in seconds of content and in the "
        f"container's own: {html.escape(segments)}.</p><table><tr><th>track</th><th>kind</th><th>codec</th>"
        f"<th>chosen</th><th>why</th></tr>{rows}</table>"
    )
    body = "\n".join([head, *(f"<p>{html.escape(n)}</p>" for n in about.get("notes", ())), *sections])
    return f'<!doctype html><meta charset="utf-8"><title>{html.escape(name)}</title><style>{_STYLE}</style>{body}\n'


def shown(value: object) -> str:
    """A value of a table, as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


def spectrogram(audio: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(samples,) sound as grey (128, columns, 3): low tones at the bottom, 80 dB from black to white, 50 columns a
    second and at most 1,500."""
    hop = max(320, -(-len(audio) // 1_500))
    padded = np.pad(audio, (256, 256 + hop))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 512)[::hop] * np.hanning(512)
    power = np.abs(np.fft.rfft(windows, axis=1)[:, :256]) ** 2
    bands = power.reshape(len(power), 128, 2).mean(axis=2)
    level = 10 * np.log10(bands + 1e-8) + 60
    grey = (level.clip(0, 80) * (255 / 80)).astype(np.uint8).T[::-1]
    return np.repeat(grey[:, :, None], 3, axis=2)


def _image(pixels: npt.NDArray[np.uint8], side: int | None, kind: str = "picture") -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if side is not None:
        image.thumbnail((side, side))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return f'<img class="{kind}" alt="{kind}" src="data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}">'
