"""The probing process: reads one size a line, opens a file of it with libav, writes what it found as lines of JSON.

Promises: for every line read, lines `{"info": ...}`, the first coarse, each better than the one before, and then
`{"done": true}`; or `{"error_class": ..., "message": ...}`. The file's bytes are asked for with `{"read": [offset,
length]}` and come on stdin as they are, so that this process needs no path, no network and no credentials. Knows
nothing about pools, limits or retries: `probing.py` keeps it alive, ends it on time and trusts it no further than JSON,
since a hostile file may crash it or own it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import av
import av.error
import av.logging
from av.container import InputContainer
from av.stream import Disposition

from workers.media.confinement import (
    AUDIO_DECODERS,
    DECODERS,
    DEMUXERS,
    MAX_SOURCE_PIXELS,
    MAX_STREAMS,
    PROTOCOLS,
    VIDEO_DECODERS,
)

LONGEST_S = 7 * 24 * 3600.0
"""A longer file is refused: its declared length would make more clips than anyone means to ask about."""

LEAST_BYTES_PER_S = 16
"""A file with less than this has a made-up declared duration; the true one is found by scanning."""

LONGEST_GAP_S = 600.0
"""In a file with fewer bytes than that, what comes after a longer gap in all streams is a damaged time: one flipped bit
would make a day of clips out of 30 kB."""

SCAN_PACKETS = 5_000_000
"""Most packets read to find a length that is not declared: about 24 h of video with sound."""

END_PACKETS = 20_000
"""Most packets read to find where the readable part ends."""

FIRST_PACKETS = 200
"""Most packets decoded in search of a first picture."""

SERVED_BYTES = 1 << 20
"""Most that is asked of the parent at once."""

BUFFER_BYTES = 1 << 17
"""What libav reads at once: a request costs 50 us, and a whole file is read where no length is declared."""

PQ, HLG = 16, 18
"""AVColorTransferCharacteristic: SMPTE ST 2084 and ARIB STD-B67."""

COVER_ART = Disposition.attached_pic | Disposition.timed_thumbnails

ALLOWED = "mp4/mov, matroska/webm, avi, mpegts, mpeg, flv, asf, ogg, mxf, wav, mp3, flac, aac and a few more"

_NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")


class Refused(Exception):
    """Carries an error class and a message to the parent."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class Served(io.RawIOBase):
    """A file whose bytes the parent hands over on request."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The offset of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """At most `SERVED_BYTES`."""
        length = min(SERVED_BYTES if size < 0 else size, SERVED_BYTES, max(0, self.size - self._at))
        if not length:
            return b""
        _say({"read": [self._at, length]})
        content = sys.stdin.buffer.read(length)
        if len(content) != length:
            raise EOFError("the parent is gone")
        self._at += length
        return content


def _tags(container: InputContainer) -> list[tuple[str, str]]:
    """Tags of the container, and the timecode of the first picture, which QuickTime keeps in a track of its own."""
    tags = sorted({str(k).lower(): str(v)[:1000] for k, v in container.metadata.items()}.items())[:64]
    tracks = (stream.metadata.get("timecode") for stream in container.streams)
    timecode = next(filter(None, tracks), None)
    return tags if timecode is None or "timecode" in dict(tags) else sorted([*tags, ("timecode", timecode[:1000])])


def findings(file: Served, read_timeout_s: float) -> Iterator[dict[str, Any]]:
    """The fields of `MediaInfo`, first without the ends of the streams, then with them. Raises Refused."""
    size = file.size
    with _opened(file, read_timeout_s) as container:
        start_s = (container.start_time or 0) / av.time_base
        video, audio = _chosen(container, "video"), _chosen(container, "audio")
        if video is None and audio is None:
            what = f"a {container.format.name} file without pictures or sound that can be decoded"
            raise Refused("no_streams", what + _codecs(container))
        info: dict[str, Any] = {
            "container": _NAMES.get(container.format.name, container.format.name.split(",")[0]),
            "start_s": start_s,
            "tags": _tags(container),
        }
        if video is not None:
            info |= _about_video(container, video)
        if audio is not None:
            info |= _about_audio(container, audio)
        duration_s = container.duration / av.time_base if container.duration else None
        if duration_s is not None and info["container"] == "matroska" and start_s > 0:
            duration_s -= start_s  # Matroska declares the last time, not the length
        if duration_s is not None and duration_s * LEAST_BYTES_PER_S > size:
            duration_s = None
        chosen = {"video_end_s": video, "audio_end_s": audio}
        if duration_s is None or duration_s <= 0:
            ends = _scanned_ends(container, chosen, start_s, size)
            duration_s = max((end for end in ends.values() if end is not None), default=0.0)
            if duration_s <= 0:
                raise Refused("no_duration", "no length is declared, and no packet with a time was found")
            info |= ends
        if duration_s > LONGEST_S:
            raise Refused("too_large", f"{duration_s:.0f} s long; at most {LONGEST_S:.0f} s are taken")
        info["duration_s"] = duration_s
        yield info
        if "video_end_s" not in info:
            ends = _last_ends(container, chosen, duration_s, start_s)
            if info["container"] == "matroska" and start_s > 0:
                # Some writers do declare the length.
                info["duration_s"] = max(duration_s, min(duration_s + start_s, *(end or 0.0 for end in ends.values())))
            yield info | ends


def _opened(file: Served, read_timeout_s: float) -> InputContainer:
    options = {
        "protocol_whitelist": PROTOCOLS,
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": DECODERS,
        "max_streams": str(MAX_STREAMS),
    }
    try:
        return av.open(
            file, "r", options=options, metadata_errors="replace", timeout=read_timeout_s, buffer_size=BUFFER_BYTES
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        head = _head(file)
        if head[4:8] in _MP4_BOXES:
            message = "an MP4 file whose index (moov) is missing or damaged: cut off while it was written or copied"
            raise Refused("truncated", message) from error
        if head[:4] == b"\x1a\x45\xdf\xa3":
            raise Refused("truncated", "a Matroska or WebM file that ends inside its header") from error
        raise Refused("not_media", f"not media in a container that is allowed ({ALLOWED})") from error


def _head(file: Served) -> bytes:
    file.seek(0)
    return file.read(16)


def _chosen(container: InputContainer, kind: str) -> Any | None:
    """The default stream of a kind, else the first, among those that can be decoded; cover art is not video."""
    fit = [
        stream
        for stream in container.streams
        if stream.type == kind and _is_read(stream) and not stream.disposition & COVER_ART
    ]
    if kind == "audio":
        fit = [stream for stream in fit if getattr(stream.codec_context, "sample_rate", 0)]
    return next((stream for stream in fit if stream.disposition & Disposition.default), fit[0] if fit else None)


def _is_read(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.name in (*VIDEO_DECODERS, *AUDIO_DECODERS)


def _codecs(container: InputContainer) -> str:
    """What a file without a stream to read has instead."""
    others = sorted({s.codec_context.name for s in container.streams if s.codec_context is not None})
    return f"; it has {', '.join(others)[:200]}, which is not read" if others else ""


def _about_video(container: InputContainer, stream: Any) -> dict[str, Any]:
    codec = stream.codec_context
    if codec.width * codec.height > MAX_SOURCE_PIXELS:
        message = f"{codec.width}x{codec.height} pixels a frame; at most {MAX_SOURCE_PIXELS} are decoded"
        raise Refused("too_large", message)
    frame = _first_frame(container, stream)
    width, height = (frame.width, frame.height) if frame is not None else (codec.width, codec.height)
    if not width or not height:
        raise Refused("no_streams", f"no picture could be decoded to learn its size ({codec.name})")
    aspect = stream.sample_aspect_ratio
    if aspect and 0.1 < aspect < 10:
        width = max(1, round(width * float(aspect)))
    rotation = round(frame.rotation) % 360 if frame is not None else 0
    if rotation in (90, 270):
        width, height = height, width
    average, base = (float(rate) if rate else None for rate in (stream.average_rate, stream.base_rate))
    interlaced = bool(frame.interlaced_frame) if frame is not None else False
    # The base rate of interlaced material counts fields.
    even = average and base and any(abs(base / n - average) < 0.02 * average for n in ((1, 2) if interlaced else (1,)))
    rate = average or base
    return {
        "video_codec": codec.name,
        "video_stream": [s.index for s in container.streams.video].index(stream.index),
        "width": width,
        "height": height,
        "frame_rate": rate if rate and 0 < rate <= 1000 else None,
        "variable_rate": not even,
        "rotation_deg": rotation,
        "hdr": (codec.color_trc or (frame.color_trc if frame is not None else None)) in (PQ, HLG),
        "interlaced": interlaced,
    }


def _about_audio(container: InputContainer, stream: Any) -> dict[str, Any]:
    streams = list(container.streams.audio)
    return {
        "audio_codec": stream.codec_context.name,
        "audio_stream": [s.index for s in streams].index(stream.index),
        "audio_streams": len(streams),
        "sample_rate": stream.codec_context.sample_rate,
        "channels": stream.codec_context.channels or None,  # some codecs tell only when decoded
    }


def _first_frame(container: InputContainer, stream: Any) -> Any | None:
    """Rotation and interlacing are known for certain only from a decoded picture."""
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_SOURCE_PIXELS), "codec_whitelist": DECODERS}
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        for number, packet in enumerate(container.demux(stream)):
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    return frame
            if number >= FIRST_PACKETS:
                break
    return None


def _packets(
    container: InputContainer, chosen: dict[str, Any], from_s: float, start_s: float, most: int
) -> Iterator[tuple[str, float, float]]:
    """(name, begin, end) of the chosen streams' packets in seconds from the start, reading on from `from_s`."""
    names = {stream.index: name for name, stream in chosen.items() if stream is not None}
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        container.seek(round((start_s + from_s) * av.time_base), backward=True, any_frame=False)
        for number, packet in enumerate(container.demux([s for s in chosen.values() if s is not None])):
            if number >= most:
                break
            if packet.pts is None or packet.time_base is None or not packet.size:
                continue
            begin = float(packet.pts * packet.time_base) - start_s
            end = begin + float((packet.duration or 0) * packet.time_base)
            if math.isfinite(end):
                yield names[packet.stream.index], begin, end


def _ends(
    container: InputContainer, chosen: dict[str, Any], from_s: float, start_s: float, most: int
) -> dict[str, float | None]:
    """Where the last packet of each chosen stream ends, in seconds from the start, reading on from `from_s`."""
    ends: dict[str, float | None] = dict.fromkeys(chosen)
    for name, _, end in _packets(container, chosen, from_s, start_s, most):
        ends[name] = max(end, ends[name] or 0.0)
    return ends


def _scanned_ends(
    container: InputContainer, chosen: dict[str, Any], start_s: float, size: int
) -> dict[str, float | None]:
    """The same for a whole file, without what only damaged times say."""
    by_minute: dict[int, dict[str, float]] = {}
    for name, begin, end in _packets(container, chosen, 0.0, start_s, SCAN_PACKETS):
        minute = by_minute.setdefault(int(begin // 60), {})
        minute[name] = max(end, minute.get(name, 0.0))
    ends: dict[str, float | None] = dict.fromkeys(chosen)
    reached_s = 0.0
    for number, minute in sorted(by_minute.items()):
        last_s = max(minute.values())
        if number * 60 - reached_s > LONGEST_GAP_S and last_s * LEAST_BYTES_PER_S > size:
            break
        for name, end in minute.items():
            ends[name] = max(end, ends[name] or 0.0)
        reached_s = max(reached_s, last_s)
    return ends


def _last_ends(
    container: InputContainer, chosen: dict[str, Any], duration_s: float, start_s: float
) -> dict[str, float | None]:
    """The same for a file of declared length: near its end, or, if nothing can be read there, by bisection."""
    low_s, high_s = 0.0, max(0.0, duration_s - 2.0)
    ends = _ends(container, chosen, high_s, start_s, END_PACKETS)
    if all(end is None for end in ends.values()):
        while high_s - low_s > 2.0:
            middle_s = (low_s + high_s) / 2
            readable = any(end is not None for end in _ends(container, chosen, middle_s, start_s, 1).values())
            low_s, high_s = (middle_s, high_s) if readable else (low_s, middle_s)
        ends = _ends(container, chosen, low_s, start_s, END_PACKETS)
    return ends


def main() -> None:
    """Serve until stdin ends."""
    av.logging.set_level(None)
    read_timeout_s = float(sys.argv[1])
    while line := sys.stdin.buffer.readline():
        file = Served(int(line))
        try:
            for found in findings(file, read_timeout_s):
                _say({"info": found})
            _say({"done": True})
        except Refused as error:
            _say({"error_class": error.error_class, "message": str(error)})
        except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError) as error:
            _say({"error_class": "not_media", "message": f"{type(error).__name__}: {error}"[:300]})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
