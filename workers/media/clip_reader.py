"""One clip of one file becomes arrays: pictures at the asked rate and 16 kHz sound, checked against its span.

Promises: frame k is the picture on screen at `clip.start_s + k / fps`, sample i the sound at
`clip.start_s + i / 16000`; their counts are those of the span, what was missing is filled, counted in `decoded_share`
and named in `notes`. Knows nothing about archives, object stores, Ray or where a span comes from.

ffmpeg's exit status and frame count prove nothing: a truncated file ends with status 0, and the fps filter repeats
frames over any gap. So a frame counts as decoded only if the source had a picture for its time, by the source's own
presentation times.
"""

from __future__ import annotations

import math
import os
import stat
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from workers.errors import (
    ClipTooShort,
    DecodeFailed,
    DecodeIncomplete,
    MediaMissing,
    MediaTooLarge,
    NoStreams,
    NotMedia,
)
from workers.media.confinement import MAX_SOURCE_PIXELS
from workers.media.extraction import SAMPLE_RATE, Frames, Samples, Span, Take, newest, take_span, tone_maps
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo

EARLIER_SEEK_S = 12.0
"""Some containers seek to a point after the one asked for. A clip that lacks something is tried once more from this
much earlier; longer than the usual distance of key frames (10 s)."""

HOLD_S = 0.25
"""A gap in the source's times shorter than this (or than two of its frames) is none."""

LONGEST_ASPECT = 100
"""The models' image processors refuse pictures 200 times as long as wide; beyond half of that the long side is
squeezed."""

LEAST_SOUND_S = 0.05
"""Sound alone must be this long: the models' audio encoders make no token of less than 30 to 40 ms."""

LEAST_TAIL = 0.05
"""Share of a frame's interval that must be left for one more frame. Sound often outlasts the picture by one of its own
packets (23 ms of AAC): a file of 8.008 s has 16 pictures at 2 a second, not 17 of which one is repeated."""

LONGEST_HOLD_S = 3600.0
"""A picture older than this, with no sound either, is no slide that stays but a damaged time: one flipped bit would
have a still picture answered for days."""

LOSSY_CONTAINERS = ("mpegts", "mpeg")
"""Made for broadcast: lost packets leave a gap in the times and no complaint. Elsewhere damage is complained about, and
a gap without a complaint is a variable frame rate, whatever the header declares."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """A take filled up to the span's counts, with the share that was really there."""

    frames: Frames | None
    audio: Samples | None
    share: float
    notes: tuple[str, ...]


def decode_clip(path: str | os.PathLike[str], info: MediaInfo, clip: Clip, settings: DecodeSettings) -> DecodedClip:
    """Decode one span of a local file.

    Returns uint8 RGB frames (T, H, W, 3) with T = ceil(length * fps - LEAST_TAIL), at most `settings.max_pixels` each
    in the aspect displayed (after rotation), and float32 mono sound of round(length * 16000) samples; None for what the
    file lacks.

    Raises MediaMissing, NotMedia (not a regular file), NoStreams, MediaTooLarge, ClipTooShort, DecodeTimeout,
    DecodeFailed (nothing of the span) and DecodeIncomplete (less than `settings.min_share`).
    """
    _check_file(path, settings)
    span = _span(info, clip, settings)
    started = time.monotonic()
    best = _judge(take_span(path, info, span, settings, started), span, info, clip, settings)
    if best.share < 1 and clip.start_s > 0:
        earlier = _earlier(span, clip)
        again = _judge(take_span(path, info, earlier, settings, started), earlier, info, clip, settings)
        best = again if again.share > best.share else best
    if best.share == 0:
        raise DecodeFailed(
            f"nothing could be decoded from {clip.start_s:g} s to {clip.end_s:g} s; " + "; ".join(best.notes)
        )
    if best.share < settings.min_share:
        raise DecodeIncomplete(
            f"only {best.share:.1%} of the clip from {clip.start_s:g} s to {clip.end_s:g} s could be decoded, "
            f"min_share is {settings.min_share:.0%}; " + "; ".join(best.notes)
        )
    return DecodedClip(
        clip=clip,
        frames=best.frames,
        audio=best.audio,
        fps=settings.fps,
        decoded_share=best.share,
        decode_s=time.monotonic() - started,
        notes=best.notes,
    )


def target_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) scaled down, never up, to at most `max_pixels`, keeping the aspect as whole pixels allow, up to
    `LONGEST_ASPECT`."""
    width, height = min(width, LONGEST_ASPECT * height), min(height, LONGEST_ASPECT * width)
    factor = min(1.0, math.sqrt(max_pixels / (width * height)))
    scaled_width = min(max(1, math.floor(width * factor)), max_pixels)
    return scaled_width, min(max(1, math.floor(height * factor)), max_pixels // scaled_width)


def decoded_shape(info: MediaInfo, length_s: float, settings: DecodeSettings) -> tuple[int, int, int, int]:
    """(frames, height, width, samples) of a decoded span of `length_s` seconds; zeros for what the file lacks."""
    frames = height = width = 0
    if info.width and info.height:
        width, height = target_size(info.width, info.height, settings.max_pixels)
        frames = max(1, math.ceil(length_s * settings.fps - LEAST_TAIL))
    samples = max(1, round(length_s * SAMPLE_RATE)) if info.has_audio else 0
    return frames, height, width, samples


def _check_file(path: str | os.PathLike[str], settings: DecodeSettings) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise MediaMissing(f"cannot open {os.fspath(path)!r}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise NotMedia(f"{os.fspath(path)!r} is not a regular file")
    if found.st_size > settings.max_media_bytes:
        raise MediaTooLarge(f"{found.st_size} bytes; max_media_bytes is {settings.max_media_bytes}")


def _span(info: MediaInfo, clip: Clip, settings: DecodeSettings) -> Span:
    if not info.has_video and not info.has_audio:
        raise NoStreams("the file has neither pictures nor sound")
    if clip.length_s <= 0:
        raise DecodeFailed(f"a clip must have a length, got {clip.start_s:g} s to {clip.end_s:g} s")
    if info.has_video:
        if not info.width or not info.height:
            raise DecodeFailed(f"the size of the picture is unknown (codec {info.video_codec})")
        if info.width * info.height > MAX_SOURCE_PIXELS:
            raise MediaTooLarge(f"{info.width}x{info.height} pixels; at most {MAX_SOURCE_PIXELS} a frame are decoded")
    frames, height, width, samples = decoded_shape(info, clip.length_s, settings)
    if not frames and samples < LEAST_SOUND_S * SAMPLE_RATE:
        raise ClipTooShort(
            f"{1000 * clip.length_s:.1f} ms of sound and no picture; at least {1000 * LEAST_SOUND_S:g} ms"
        )
    span = Span(
        seek_s=clip.start_s if clip.start_s > 0 else None,
        offset_s=0.0,
        length_s=clip.length_s,
        frames=frames,
        height=height,
        width=width,
        samples=samples,
    )
    wanted = frames * span.frame_bytes + 4 * samples
    if wanted > settings.max_bytes:
        raise MediaTooLarge(
            f"{clip.length_s:g} s are {wanted} bytes decoded ({frames} frames of {width}x{height}); max_bytes is "
            f"{settings.max_bytes}; use shorter clips, a lower fps or fewer max_pixels"
        )
    return span


def _earlier(span: Span, clip: Clip) -> Span:
    seek_s = max(0.0, clip.start_s - EARLIER_SEEK_S)
    return replace(span, seek_s=seek_s or None, offset_s=clip.start_s - seek_s)


def _judge(take: Take, span: Span, info: MediaInfo, clip: Clip, settings: DecodeSettings) -> _Judged:
    """Compare what came with what the source's times say, and fill up to the span's counts.

    A gap in the times is a loss if ffmpeg complained, if nothing shows that the file goes on that far, or if the stream
    has no gaps by nature (an even frame rate, sound on both sides); otherwise it is how the file is (a slide that
    stays, a sound track that ends early), and is filled without being a loss.
    """
    ends = [t - clip.start_s for t in (info.video_end_s, info.audio_end_s) if t is not None]
    ends += [float(t[-1]) for t in (take.frame_times, take.audio_times) if len(t)]
    reaches_s = max(ends, default=0.0) + HOLD_S
    shares: list[float] = []
    notes: list[str] = []
    frames: Frames | None = None
    audio: Samples | None = None
    if span.frames:
        lost = _lost_frames(take, span, info, clip, settings.fps, reaches_s)
        corrupt = take.finished.stderr.lower().count("corrupt decoded frame") / max(1, len(take.frame_times))
        shares.append(min(1 - float(lost.mean()), 1 - min(1.0, corrupt)))
        if lost.any():
            first = int(lost.argmax())
            notes.append(
                f"{int(lost.sum())} of {span.frames} pictures are missing, the first at {first / settings.fps:g} s"
            )
        late_s = float(take.frame_times[0]) if clip.start_s == 0 and len(take.frame_times) else 0.0
        if late_s > 1:
            notes.append(f"no picture before {late_s:.1f} s: the first one, or black, was put there")
        frames = _filled(take.frames, span.frames)
        if info.hdr:
            notes.append("HDR pictures were tone-mapped" if tone_maps() else "HDR pictures were not tone-mapped: dark")
    if span.samples:
        lost_s, silent_s = _lost_sound(take, span, reaches_s)
        shares.append(1 - lost_s / span.length_s)
        if lost_s:
            notes.append(f"{lost_s:.2f} of {span.length_s:g} s of sound are missing")
        if silent_s - lost_s > 1:
            notes.append(f"the sound track has nothing for {silent_s - lost_s:.1f} s: silence was put there")
        audio = _placed(take, span)
    if take.complaints:
        notes.append("damaged" + _said(take))
    return _Judged(frames=frames, audio=audio, share=round(max(0.0, min(shares)), 6), notes=tuple(notes))


def _lost_frames(
    take: Take, span: Span, info: MediaInfo, clip: Clip, fps: float, reaches_s: float
) -> npt.NDArray[np.bool_]:
    """(span.frames,) True where the source had no picture for the frame's time although it should."""
    wanted = np.arange(span.frames) / fps
    times = take.frame_times
    if not len(times):
        return np.ones(span.frames, np.bool_)
    shown = newest(times, span.frames, fps)
    if not len(take.frames) and shown[-1] >= 0:
        return np.ones(span.frames, np.bool_)
    before_first = shown < 0
    gap_s = np.where(before_first, times[0] - wanted, wanted - times[np.maximum(shown, 0)])
    is_gap = gap_s > max(HOLD_S, 2 / info.frame_rate if info.frame_rate else 1.0)
    # A stream may begin late at the head of a file; further on, no picture before the span means a seek too far.
    unexplained = (before_first & (clip.start_s > 0)) | (wanted > reaches_s)
    if not len(take.audio):
        unexplained |= ~before_first & (gap_s > LONGEST_HOLD_S)
    if info.container in LOSSY_CONTAINERS and not info.variable_rate:
        goes_on = wanted < (info.video_end_s - clip.start_s - HOLD_S if info.video_end_s is not None else -math.inf)
        unexplained |= ~before_first & ((shown < len(times) - 1) | goes_on)
    return is_gap & (unexplained | bool(take.complaints))


def _lost_sound(take: Take, span: Span, reaches_s: float) -> tuple[float, float]:
    """Seconds of the span without sound that should be there, and without any at all."""
    times = take.audio_times
    if not len(times):
        return span.length_s, span.length_s
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.1
    # Audio frames differ in length (Vorbis, variable PCM packets): only a clear gap counts as one.
    ends = np.append(times[1:], times[-1] + usual)
    ends = np.where(ends - times > max(3 * usual, 0.1), times + usual, ends)
    starts = np.append(times, span.length_s).clip(0, span.length_s)
    ends = np.insert(ends, 0, 0.0).clip(0, span.length_s)
    gaps = [(a, b) for a, b in zip(ends, starts, strict=True) if b - a > 0.1]
    silent_s = sum(b - a for a, b in gaps)
    last_s = float(times[-1])
    lost_s = sum(b - a if bool(take.complaints) or 0 < a < last_s else max(0.0, b - max(a, reaches_s)) for a, b in gaps)
    return float(lost_s), float(silent_s)


def _placed(take: Take, span: Span) -> Samples:
    """(span.samples,) the sound at its place in the span, silence around it."""
    audio = np.zeros(span.samples, np.float32)
    # A frame that begins before the span reaches into it.
    if len(take.audio) and not (take.audio_times <= 0).any():
        first = min(round(float(take.audio_times[0]) * SAMPLE_RATE), span.samples)
    else:
        first = 0
    sound = take.audio[: span.samples - first]
    audio[first : first + len(sound)] = sound
    return audio


def _filled(frames: Frames, count: int) -> Frames:
    """Repeat the last picture (black where there is none) up to `count`."""
    if len(frames) == count:
        return frames
    missing = count - len(frames)
    last = frames[-1:] if len(frames) else np.zeros((1, *frames.shape[1:]), np.uint8)
    return np.concatenate([frames, np.repeat(last, missing, axis=0)])


def _said(take: Take) -> str:
    """The first complaint of ffmpeg, short enough for a row."""
    return f": {take.complaints[0][:200]}" if take.complaints else ""
