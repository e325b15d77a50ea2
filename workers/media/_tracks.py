"""Describes every stream of an open container: frame size, audio channels, flags, language, silence.

Promises: a dictionary for each stream that can be decoded, with the fields of `records.Track`; a bounded number of
packets is decoded. Knows nothing about choosing a stream. Runs in the probing process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import av.error
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition

from workers.media._shapes import says_how_turned
from workers.media.confinement import AUDIO_DECODERS, MAX_SOURCE_PIXELS, VIDEO_DECODERS
from workers.media.tracks import ASIDE, BLANK, ONE_PICTURE, OTHER_PROGRAMME, UNREAD, titled_aside

FIRST_PACKETS = 200
"""Maximum number of packets decoded to find a first frame."""

LATE_PACKETS = 10_000
"""Most packets of all streams read until one tells what its sound is: some minutes of a broadcast."""

MOST_UNKNOWN = 4
"""Tracks of sound that are searched for so."""

MOST_PICTURES = 4
"""Maximum number of video tracks of which a frame is decoded (for rotation); others are described by their headers."""

ONE_COLOUR = 12
"""Levels between dark and light of a picture of one colour, as codecs blur it."""

WINDOWS = 8
WINDOW_S = 1.0
WINDOW_PACKETS = 400
"""Audio is sampled in this many windows over the file, each this long (seconds): a silent track is silent in all."""

DIGITAL_SILENCE = 1e-4
"""Peak of -80 dB: lossy codecs turn digital silence into less than this."""

CANCELLED, LEAST_CANCELLED = 0.1, 0.25
"""Share of the power left in the mean of the channels below which it is nearly silent, and of the pieces sampled that
must be like that to be noted."""

CODED_DATA = "SMPTE 337 data"
BURST_WORDS = (0x96F872, 0xA54E1F, 0x6F8720, 0x54E1F0, 0xF87200, 0x4E1F00)
"""With what Dolby E, AC-3 and the like begin where PCM is expected (SMPTE 337, IEC 61937), as 24-bit samples: in 24, 20
and 16 bits."""
BURST_GAP, LEAST_BURSTS = 4, 3
"""Samples of 0 before a burst; and how many bursts a channel of data has in all windows."""

PQ, HLG = 16, 18
"""AVColorTransferCharacteristic: SMPTE ST 2084 and ARIB STD-B67."""
UNSPECIFIED = 2
"""AVColorSpace."""
HD_LINES, HD_COLUMNS = 720, 1280
"""From either on pictures are HD: of films the lines above and below are often cut off."""

_KINDS = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}
_SCALES = {"u1": 128.0, "i2": 32768.0, "i4": 2147483648.0}

COVER_ART = Disposition.attached_pic | Disposition.timed_thumbnails
_FLAGS = ("default", "original", "dub", *ASIDE)


class TooManyPixels(Exception):
    """Frames too large to decode."""


def described(container: InputContainer, cropped: Mapping[int, tuple[int, int]]) -> list[dict[str, Any]]:
    """The video and audio streams that can be decoded, without cover art, and whether their pictures carry closed
    captions (`has_captions`). `cropped`: the columns and lines that the container cuts off, by stream index. Raises
    TooManyPixels."""
    found = [s for s in container.streams if s.type in ("video", "audio") and _is_read(s)]
    kinds: dict[str, list[int]] = {
        kind: [s.index for s in container.streams if s.type == kind] for kind in ("video", "audio")
    }
    pictures = [s for s in found if s.type == "video" and not s.disposition & COVER_ART]
    # What an AVIF or HEIF sequence shows where only a photo can be shown.
    pictures = [s for s in pictures if s.frames != 1 or s.duration is not None] or pictures
    unknown = [s for s in found if isinstance(s, AudioStream) and not s.codec_context.sample_rate][:MOST_UNKNOWN]
    tracks = []
    for stream in sorted(found, key=lambda s: s.type != "video"):
        about: dict[str, Any] | None = None
        if isinstance(stream, AudioStream):
            about = _about_sound(container, stream, decodes=stream in unknown)
        elif stream in pictures:
            crop = cropped.get(stream.index, (0, 0))
            about = _about_pictures(container, stream, crop, decodes=pictures.index(stream) < MOST_PICTURES)
        if about is None:
            continue
        flags = [name for name in _FLAGS if stream.disposition & getattr(Disposition, name, 0)]
        if stream.type == "video" and stream.frames == 1:
            flags.append(ONE_PICTURE)
        if (
            stream.type == "audio"
            and any(titled_aside(str(stream.metadata.get(name, ""))) for name in ("title", "handler_name"))
            and not set(flags) & set(ASIDE)
        ):
            flags.append("comment")
        tracks.append(
            {
                "index": stream.index,
                "kind": stream.type,
                "number": kinds[stream.type].index(stream.index),
                "codec": stream.codec_context.name,
                "language": str(stream.metadata.get("language", ""))[:35].replace("und", ""),
                "flags": flags,
                **about,
            }
        )
    return sorted(tracks, key=lambda track: int(track["index"]))


def _about_sound(container: InputContainer, stream: AudioStream, *, decodes: bool) -> dict[str, Any] | None:
    codec = stream.codec_context
    if codec.sample_rate:
        # Some codecs tell their channels only when decoded.
        return {"sample_rate": codec.sample_rate, "channels": codec.channels or None}
    if not decodes:
        return None
    # Of a broadcast's sound that begins late, the head of the file tells nothing.
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        container.seek(0, backward=True, any_frame=False)
        for number, packet in enumerate(container.demux()):
            # A stream that turned up only now may have the index of one that was announced.
            if packet.stream_index == stream.index and isinstance(packet.stream, AudioStream):
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in packet.decode():
                        if isinstance(frame, AudioFrame) and frame.sample_rate:
                            return {"sample_rate": frame.sample_rate, "channels": frame.layout.nb_channels or None}
            if number >= LATE_PACKETS:
                break
    return None


def unread(container: InputContainer) -> list[dict[str, Any]]:
    """The video and audio streams whose codec none of our decoders reads, without cover art."""
    found = []
    for kind in ("video", "audio"):
        for number, stream in enumerate(s for s in container.streams if s.type == kind):
            if not _is_read(stream) and not stream.disposition & COVER_ART:
                codec = stream.codec_context.name if stream.codec_context is not None else "unknown codec"
                found.append({"index": stream.index, "kind": kind, "number": number, "codec": codec, "flags": [UNREAD]})
    return found


def _is_read(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.name in (*VIDEO_DECODERS, *AUDIO_DECODERS)


def codecs_of(container: InputContainer) -> str:
    """The codecs of a file in which no stream can be decoded, for its message."""
    others = sorted({s.codec_context.name for s in container.streams if s.codec_context is not None})
    return f"; it has {', '.join(others)[:200]}, which cannot be decoded" if others else ""


def _about_pictures(
    container: InputContainer, stream: Any, crop: tuple[int, int], *, decodes: bool
) -> dict[str, Any] | None:
    codec = stream.codec_context
    if codec.width * codec.height > MAX_SOURCE_PIXELS:
        raise TooManyPixels(f"{codec.width}x{codec.height} pixels per frame; up to {MAX_SOURCE_PIXELS} are allowed")
    frame, is_turned_by_codec = _first_frame(container, stream) if decodes else (None, False)
    width, height = (frame.width, frame.height) if frame is not None else (codec.width, codec.height)
    if not width or not height:
        return None
    columns, lines = width, height
    if crop[0] < width and crop[1] < height:
        width, height = width - crop[0], height - crop[1]
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
    is_rgb = frame is not None and frame.format.is_rgb
    space = frame.colorspace if frame is not None else codec.colorspace
    return {
        "width": width,
        "height": height,
        "frame_rate": rate if rate and 0 < rate <= 1000 else None,
        "variable_rate": not even,
        "rotation_deg": rotation,
        "is_turned_by_codec": is_turned_by_codec and rotation in (90, 180, 270),
        "hdr": (codec.color_trc or (frame.color_trc if frame is not None else None)) in (PQ, HLG),
        "interlaced": interlaced,
        "has_captions": frame is not None and Type.A53_CC in frame.side_data,
        "is_untagged_hd": (lines >= HD_LINES or columns >= HD_COLUMNS) and space == UNSPECIFIED and not is_rgb,
    }


def _first_frame(container: InputContainer, stream: Any) -> tuple[Any | None, bool]:
    """The first decoded frame, as rotation and interlacing are certain only there; and whether it says itself which way
    up it is."""
    says_so = False
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_SOURCE_PIXELS)}
    stream.codec_context.flags |= Flags.unaligned  # cut off at the left exactly what the codec says
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        if stream.index != min(s.index for s in container.streams.video):
            container.seek(0, backward=True, any_frame=False)
        for number, packet in enumerate(container.demux(stream)):
            says_so = says_so or (number == 0 and says_how_turned(stream, packet))
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    return frame, says_so
            if number >= FIRST_PACKETS:
                break
    return None, False


def look(
    container: InputContainer, tracks: list[dict[str, Any]], start_s: float, duration_s: float
) -> list[dict[str, Any]]:
    """The tracks, with those marked whose pictures are of one colour, if there are several to choose from."""
    passed_over = {ONE_PICTURE, OTHER_PROGRAMME}
    shown = {t["index"] for t in tracks if t["kind"] == "video" and not passed_over & set(t["flags"])}
    if not 2 <= len(shown) <= MOST_PICTURES:
        return tracks
    seen: set[int] = set()
    lively: set[int] = set()
    for number in range(WINDOWS):
        waiting = shown - lively
        with contextlib.suppress(av.error.FFmpegError, ValueError, OSError):
            from_s = start_s + duration_s * (number + 0.5) / WINDOWS
            container.seek(round(from_s * 1_000_000), backward=True, any_frame=False)
            for count, packet in enumerate(container.demux([container.streams[index] for index in sorted(waiting)])):
                if count >= FIRST_PACKETS or not waiting:
                    break
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in packet.decode() if packet.stream_index in waiting else ():
                        waiting.discard(packet.stream_index)
                        seen.add(packet.stream_index)
                        lively |= {packet.stream_index} if _has_contrast(frame) else set()
    return [{**t, "flags": [*t["flags"], BLANK]} if t["index"] in seen - lively else t for t in tracks]


def _has_contrast(frame: Any) -> bool:
    import numpy as np

    dark, light = np.percentile(frame.to_ndarray(format="gray")[::4, ::4], (1, 99))
    return bool(light - dark > ONE_COLOUR)


def listen(
    container: InputContainer, tracks: list[dict[str, Any]], start_s: float, duration_s: float, *, mixes_mono: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The tracks with `is_silent` set, those of coded data marked as such, and notes about channels that are silent,
    carry data or cancel out. `mixes_mono`: the mean is also over tracks of one channel."""
    sounds = {t["index"]: t for t in tracks if t["kind"] == "audio"}
    if len(sounds) < 2 and all((t["channels"] or 1) < 2 for t in sounds.values()):
        return tracks, []
    import numpy as np  # a third of a probing child's start, and nothing before this needs it

    peaks: dict[int, Any] = {}
    bursts: dict[int, Any] = {}
    left: dict[tuple[int, ...], list[float]] = {}
    singles = tuple(index for index, t in sounds.items() if mixes_mono and t["channels"] == 1)
    for pieces in _windows(container, sorted(sounds), start_s, duration_s):
        for index, _, samples in pieces:
            peak, begun = np.abs(samples).max(axis=1), _bursts(samples)
            if index in peaks and len(peaks[index]) == len(peak):
                peak, begun = np.maximum(peaks[index], peak), bursts[index] + begun
            peaks[index], bursts[index] = peak, begun
            left.setdefault((index,), []).extend(_left_over(samples))
        if len(singles) > 1:
            rates = [float(sounds[index]["sample_rate"]) for index in singles]
            left.setdefault(singles, []).extend(_left_over(_aligned(pieces, singles, rates)))
    heard, notes = [], []
    for track in tracks:
        peak = peaks.get(track["index"])
        if peak is None:
            heard.append(track)
            continue
        is_silent = bool(peak.max() <= DIGITAL_SILENCE)
        of_data = [n for n, count in enumerate(bursts[track["index"]]) if count >= LEAST_BURSTS]
        is_data = len(of_data) == len(peak)
        heard.append({**track, "is_silent": is_silent} | ({"codec": CODED_DATA, "flags": [UNREAD]} if is_data else {}))
        silent = int((peak <= DIGITAL_SILENCE).sum())
        if silent and not is_silent:
            notes.append(f"audio track {track['number']}: {silent} of {len(peak)} channels are silent")
        if of_data and not is_data:
            channels = ", ".join(str(n + 1) for n in of_data)
            notes.append(f"audio track {track['number']}: channels {channels} carry {CODED_DATA}, heard as noise")
    for index, track in sounds.items():
        if _is_dual_mono(container, index, start_s + duration_s / 2):
            notes.append(f"audio track {track['number']}: two programmes (dual mono), heard as their mean")
    for indexes, found in left.items():
        share = sum(one < CANCELLED for one in found) / len(found) if found else 0.0
        if share >= LEAST_CANCELLED:
            which = " and ".join(str(sounds[index]["number"]) for index in indexes)
            notes.append(
                f"audio track {which}: channels of opposite phase, so their mean is nearly silent, in {share:.0%} of "
                "what was sampled"
            )
    return heard, notes


def _is_dual_mono(container: InputContainer, index: int, at_s: float) -> bool:
    """Whether the packet at a time says that its two channels are two programmes: languages, or one without effects."""
    stream = container.streams[index]
    if stream.codec_context.name.removesuffix("float") not in ("mp1", "mp2", "mp3", "ac3", "eac3"):
        return False
    with contextlib.suppress(av.error.FFmpegError, ValueError, OSError):
        container.seek(round(at_s * 1_000_000), backward=True, any_frame=False)
        head = bytes(next(packet for packet in container.demux(stream)))[:7]
        if head[:2] == b"\x0b\x77" and len(head) == 7:
            is_ac3 = head[5] >> 3 <= 10
            return (head[6] >> 5 if is_ac3 else head[4] >> 1 & 7) == 0
        return len(head) == 7 and head[0] == 0xFF and head[1] >= 0xE0 and head[3] >> 6 == 2
    return False


def _left_over(samples: Any) -> list[float]:
    """How much of (channels, samples) is left in the mean of its channels: its power against that of channels that have
    nothing in common, 0 if they cancel out. Empty for silence and for one channel."""
    centred = samples - samples.mean(axis=1, keepdims=True) if samples.size else samples
    power = float((centred**2).mean(axis=1).sum()) if samples.size else 0.0
    if len(samples) < 2 or power <= DIGITAL_SILENCE**2:
        return []
    return [float(len(samples) ** 2 * (centred.mean(axis=0) ** 2).mean()) / power]


def _aligned(pieces: list[_Piece], indexes: tuple[int, ...], rates: list[float]) -> Any:
    """(tracks, samples) of single-channel tracks where all of them have sound; empty if their rates differ."""
    import numpy as np

    found = []
    for index in indexes:
        own = [(at_s, samples[0]) for number, at_s, samples in pieces if number == index]
        if not own or len(set(rates)) > 1:
            return np.empty((0, 0))
        found.append((own[0][0], np.concatenate([samples for _, samples in own])))
    begin_s = max(at_s for at_s, _ in found)
    rows = [samples[round((begin_s - at_s) * rates[0]) :] for at_s, samples in found]
    return np.stack([row[: min(map(len, rows))] for row in rows])


def _bursts(samples: Any) -> Any:
    """(channels,) how many bursts of coded data begin in (channels, samples): their first two words behind nothing."""
    import numpy as np

    words = np.round(samples * (1 << 23)).astype(np.int64) & 0xFFFFFF
    begins = np.isin(words[:, BURST_GAP:], BURST_WORDS)
    for before in range(BURST_GAP):
        begins &= words[:, before : before - BURST_GAP] == 0
    return begins.sum(axis=1)


_Piece = tuple[int, float, Any]
"""Stream index, time in seconds, (channels, samples) floats."""


def _windows(
    container: InputContainer, indexes: list[int], start_s: float, duration_s: float
) -> Iterator[list[_Piece]]:
    """Yield what is decoded of each window."""
    streams = [container.streams[index] for index in indexes]
    for number in range(WINDOWS):
        from_s = start_s + duration_s * (number + 0.5) / WINDOWS
        found: list[_Piece] = []
        with contextlib.suppress(av.error.FFmpegError, ValueError, OSError):
            container.seek(round(from_s * 1_000_000), backward=True, any_frame=False)
            for count, packet in enumerate(container.demux(streams)):
                at = packet.pts if packet.pts is not None else packet.dts
                if count >= WINDOW_PACKETS or (at is not None and float(at * packet.time_base) > from_s + WINDOW_S):
                    break
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in packet.decode():
                        if isinstance(frame, AudioFrame):
                            found.append((packet.stream_index, frame.time or 0.0, _as_float(frame)))
        yield found


def _as_float(frame: Any) -> Any:
    """(channels, samples) float64 in -1..1. Raises ValueError for a format that no decoder of ours gives."""
    channels, kind = max(1, frame.layout.nb_channels), _KINDS.get(frame.format.name.removesuffix("p"))
    if kind is None:
        raise ValueError(f"samples of format {frame.format.name}")
    import numpy as np

    # Of eight channels and more PyAV counts a plane too many, so that its own way to an array reads memory of nobody.
    planes = frame.planes[: channels if frame.format.is_planar else 1]
    count = frame.samples * channels // len(planes)
    found = np.stack([np.frombuffer(plane, kind, count) for plane in planes])
    samples = np.nan_to_num(found.astype(np.float64))
    samples = (samples - 128 if kind == "u1" else samples) / _SCALES.get(kind, 1.0)
    return samples if frame.format.is_planar else samples.reshape(-1, channels).T
