"""Subtitle streams of an open container: their description, and the text of one of them.

Promises: only packets of the stream that is read are kept, in bounded memory; a subtitle that cannot be decoded is an
error, not a gap. Knows nothing about cleaning text or choosing a stream. Runs in the probing process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import av.error
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.subtitles.subtitle import AssSubtitle

from workers.media import _captions
from workers.media.tracks import ASIDE
from workers.records import TEXT_SUBTITLES, RawCue

MOST_CUES = 200_000
MOST_CHARS = 4 << 20
"""Maximum total length of all cues. Twenty hours of subtitles take 2 million."""
MOST_CUE_CHARS = 8_000
BATCH_CHARS = 50_000
"""Characters per JSON line: a character takes up to 12 bytes, and a line may have `_children.LINE_BYTES`."""

_FLAGS = ("default", "original", "dub", "forced", "captions", "descriptions", *ASIDE)


class Unreadable(Exception):
    """The stream cannot be read; the message says why."""


def described(container: InputContainer, captioned: Sequence[int]) -> list[dict[str, Any]]:
    """The subtitle streams, then the captions inside the `captioned` video streams, as fields of
    `records.SubtitleTrack`."""
    found = [
        {
            "index": stream.index,
            "number": number,
            "codec": _codec(stream),
            "language": str(stream.metadata.get("language", ""))[:35].replace("und", ""),
            "flags": [name for name in _FLAGS if stream.disposition & getattr(Disposition, name, 0)],
        }
        for number, stream in enumerate(container.streams.subtitles)
    ]
    captions: dict[str, Any] = {"codec": _captions.CODEC, "language": "", "flags": ["captions"]}
    return found + [{"index": i, "number": n, **captions} for n, i in enumerate(captioned, start=len(found))]


def _codec(stream: Any) -> str:
    """The name of the format, not of the decoder: libav has several decoders for some formats."""
    return "unknown" if stream.codec_context is None else str(stream.codec_context.codec.canonical_name)


def cues(container: InputContainer, index: int) -> Iterator[list[RawCue]]:
    """Yield the cues of the stream with this index, in file order. Raises Unreadable."""
    stream = next((s for s in (*container.streams.subtitles, *container.streams.video) if s.index == index), None)
    if stream is None or (stream.type == "subtitle" and _codec(stream) not in TEXT_SUBTITLES):
        raise Unreadable("there is no stream of text subtitles with this number")
    for other in container.streams:
        if other.index != index:
            other.discard = Discard.all
    is_captions = stream.type == "video" or _codec(stream) == _captions.CODEC
    found: list[RawCue] = []
    count = chars = told = 0
    for start_s, end_s, text in _captions.cues(container, stream) if is_captions else _texts(container, stream):
        text = text[:MOST_CUE_CHARS]
        count, chars = count + 1, chars + len(text)
        if count > MOST_CUES or chars > MOST_CHARS:
            raise Unreadable(f"more than {MOST_CUES} subtitles or {MOST_CHARS} characters")
        found.append((start_s, end_s, text))
        if chars - told > BATCH_CHARS:
            yield found
            found, told = [], chars
    yield found


def _texts(container: InputContainer, stream: Any) -> Iterator[RawCue]:
    for packet in container.demux(stream):
        if packet.pts is None or packet.time_base is None or not packet.size:
            continue
        start_s = float(packet.pts * packet.time_base)
        end_s = start_s + float(packet.duration * packet.time_base) if packet.duration else None
        yield start_s, end_s, _text(packet, start_s)


def _text(packet: Any, start_s: float) -> str:
    """The text of a subtitle packet; empty if it only ends the previous one."""
    try:
        sets = packet.decode()
    except av.error.FFmpegError as error:
        raise Unreadable(f"the subtitle at {start_s:.1f} s cannot be decoded; is it UTF-8?") from error
    shown = [one.ass for one in sets if isinstance(one, AssSubtitle)]
    # ReadOrder, Layer, Style, Name, MarginL, MarginR, MarginV, Effect, Text
    texts = [parts[8] for one in shown if len(parts := one.decode("utf-8", "replace").split(",", 8)) == 9]
    return "\\N".join(texts)
