"""One clip of one file becomes arrays: pictures at the asked rate and 16 kHz sound, from a single ffmpeg process.

Promises: frame k is the picture on screen at `clip.start_s + k / fps`, sample i the sound at
`clip.start_s + i / 16000`; their counts are those of the span, what was missing is filled, counted in `decoded_share`
and named in `notes`. Knows nothing about archives, object stores, Ray or where a span comes from.

ffmpeg's exit status and frame count prove nothing: a truncated file ends with status 0, and the fps filter repeats
frames over any gap. So the presentation times of the source's own frames, as they enter the filters, are written to a
descriptor of ours, and a frame counts as decoded only if the source had a picture for its time.
"""

from __future__ import annotations

import math
import os
import re
import stat
import time
from dataclasses import dataclass, replace
from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from workers.confinement import DEMUXERS, MAX_ALLOC_BYTES, MAX_SOURCE_PIXELS, MAX_STREAMS, PROTOCOLS
from workers.errors import (
    DecodeFailed,
    DecodeIncomplete,
    DecodeTimeout,
    MediaMissing,
    MediaTooLarge,
    NoStreams,
    NotMedia,
)
from workers.ffmpeg import (
    Finished,
    Limits,
    anonymous_file,
    filters,
    find_ffmpeg,
    input_url,
    run,
)
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo

SAMPLE_RATE = 16_000
"""Hz; what the audio encoders of the supported families take."""

EARLIER_SEEK_S = 12.0
"""Some containers seek to a point after the one asked for. A clip that lacks something is tried once more from this
much earlier; longer than the usual distance of key frames (10 s)."""

HOLD_S = 0.25
"""A gap in the source's times shorter than this (or than two of its frames) is none."""

TIMES_BYTES = 16 << 20
"""Most that is read of the list of presentation times: 30 s at 240 fps need 1 MB."""

_TIME = re.compile(rb"pts_time:(-?[0-9.]+(?:e[-+]?[0-9]+)?)")
_DAMAGE = re.compile(r"\[(?:error|fatal|panic)\]|corrupt decoded frame", re.IGNORECASE)

Frames = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Span:
    """What is asked of ffmpeg for one clip; times in seconds."""

    seek_s: float | None
    """Where to start reading; None from the beginning."""
    offset_s: float
    """The clip's start minus the point where reading starts."""
    length_s: float
    frames: int
    """0 without a picture."""
    height: int
    width: int
    samples: int
    """0 without sound."""

    @property
    def frame_bytes(self) -> int:
        return self.height * self.width * 3


@dataclass(frozen=True, eq=False)
class _Take:
    """What one ffmpeg process gave, counted and unpadded."""

    frames: Frames
    audio: Samples
    frame_times: Times
    """Presentation times of the source's frames relative to the clip's start, ascending; negative ones before it."""
    audio_times: Times
    finished: Finished

    @property
    def damaged(self) -> bool:
        """Whether ffmpeg complained about the media itself."""
        return self.finished.returncode != 0 or _DAMAGE.search(self.finished.stderr) is not None


@dataclass(frozen=True, eq=False)
class _Judged:
    """A take filled up to the span's counts, with the share that was really there."""

    frames: Frames | None
    audio: Samples | None
    share: float
    notes: tuple[str, ...]


def decode_clip(path: str | os.PathLike[str], info: MediaInfo, clip: Clip, settings: DecodeSettings) -> DecodedClip:
    """Decode one span of a local file.

    Returns uint8 RGB frames (T, H, W, 3) with T = ceil(length * fps), at most `settings.max_pixels` each in the aspect
    displayed (after rotation), and float32 mono sound of round(length * 16000) samples; None for what the file lacks.

    Raises MediaMissing, NotMedia (not a regular file), NoStreams, MediaTooLarge, DecodeTimeout, DecodeFailed (nothing
    of the span) and DecodeIncomplete (less than `settings.min_share`).
    """
    _check_file(path, settings)
    span = _span(info, clip, settings)
    started = time.monotonic()
    best = _judge(_take(path, info, span, settings, started), span, info, clip, settings)
    if best.share < 1 and clip.start_s > 0:
        earlier = _earlier(span, clip)
        again = _judge(_take(path, info, earlier, settings, started), earlier, info, clip, settings)
        best = again if again.share > best.share else best
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
    """(width, height) scaled down, never up, to at most `max_pixels`, keeping the aspect as whole pixels allow."""
    factor = min(1.0, math.sqrt(max_pixels / (width * height)))
    scaled_width = min(max(1, math.floor(width * factor)), max_pixels)
    return scaled_width, min(max(1, math.floor(height * factor)), max_pixels // scaled_width)


def _check_file(path: str | os.PathLike[str], settings: DecodeSettings) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise MediaMissing(f"cannot open {os.fspath(path)!r}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise NotMedia(f"{os.fspath(path)!r} is not a regular file")
    if found.st_size > settings.max_media_bytes:
        raise MediaTooLarge(f"{found.st_size} bytes; max_media_bytes is {settings.max_media_bytes}")


def _span(info: MediaInfo, clip: Clip, settings: DecodeSettings) -> _Span:
    if not info.has_video and not info.has_audio:
        raise NoStreams("the file has neither pictures nor sound")
    if clip.length_s <= 0:
        raise DecodeFailed(f"a clip must have a length, got {clip.start_s:g} s to {clip.end_s:g} s")
    width = height = frames = 0
    if info.has_video:
        if not info.width or not info.height:
            raise DecodeFailed(f"the size of the picture is unknown (codec {info.video_codec})")
        if info.width * info.height > MAX_SOURCE_PIXELS:
            raise MediaTooLarge(f"{info.width}x{info.height} pixels; at most {MAX_SOURCE_PIXELS} a frame are decoded")
        width, height = target_size(info.width, info.height, settings.max_pixels)
        frames = max(1, math.ceil(clip.length_s * settings.fps - 1e-6))
    samples = max(1, round(clip.length_s * SAMPLE_RATE)) if info.has_audio else 0
    span = _Span(
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


def _earlier(span: _Span, clip: Clip) -> _Span:
    seek_s = max(0.0, clip.start_s - EARLIER_SEEK_S)
    return replace(span, seek_s=seek_s or None, offset_s=clip.start_s - seek_s)


def _take(
    path: str | os.PathLike[str], info: MediaInfo, span: _Span, settings: DecodeSettings, started: float
) -> _Take:
    """Run ffmpeg over the span. Raises DecodeTimeout and MediaTooLarge."""
    # Beside the arrays, the list of times may not outgrow what is read of it.
    most = max(span.frames * span.frame_bytes, 4 * (span.samples + SAMPLE_RATE), TIMES_BYTES)
    left_s = max(0.1, settings.timeout_s - (time.monotonic() - started))
    with (
        anonymous_file("frames") as frames,
        anonymous_file("audio") as audio,
        anonymous_file("frame-times") as frame_times,
        anonymous_file("audio-times") as audio_times,
    ):
        arguments = _arguments(path, info, span, settings.fps, (frames, audio, frame_times, audio_times))
        finished = run(
            arguments,
            limits=Limits(timeout_s=left_s, file_bytes=most),
            pass_fds=(frames, audio, frame_times, audio_times),
        )
        if finished.timed_out:
            raise DecodeTimeout(f"decoding took longer than timeout_s = {settings.timeout_s:g} s")
        if finished.too_large:
            raise MediaTooLarge(f"the span decodes to more than its {most} bytes")
        return _Take(
            frames=_read_frames(frames, span),
            audio=_read_array(audio, span.samples),
            frame_times=_read_times(frame_times),
            audio_times=_read_times(audio_times),
            finished=finished,
        )


def _arguments(
    path: str | os.PathLike[str], info: MediaInfo, span: _Span, fps: float, fds: tuple[int, int, int, int]
) -> list[str]:
    """The argument list: one input, up to two outputs, each written to a descriptor."""
    frames_fd, audio_fd, frame_times_fd, audio_times_fd = fds
    options: dict[str, Any] = {
        "f": info.container.split(",")[0],
        "protocol_whitelist": PROTOCOLS,
        "format_whitelist": ",".join(DEMUXERS),
        "max_streams": MAX_STREAMS,
        "threads": 1,  # two single-threaded processes beat one with two threads
        "max_pixels": MAX_SOURCE_PIXELS,
    }
    if span.seek_s is not None:
        # Accurate seeking would drop the picture that is already on screen where the span begins.
        options |= {"noaccurate_seek": None, "ss": f"{span.seek_s:.6f}"}
    source = ffmpeg.input(input_url(path), **options)
    outputs = []
    if span.frames:
        outputs.append(
            _pictures(source[f"v:{info.video_stream or 0}"], info, span, fps, frame_times_fd).output(
                f"pipe:{frames_fd}", **{"f": "rawvideo", "pix_fmt": "rgb24", "frames:v": span.frames}
            )
        )
    if span.samples:
        outputs.append(
            _sound(source[f"a:{info.audio_stream or 0}"], span, audio_times_fd).output(
                f"pipe:{audio_fd}", **{"f": "f32le", "c:a": "pcm_f32le", "ac": 1, "ar": SAMPLE_RATE}
            )
        )
    merged = ffmpeg.merge_outputs(*outputs).global_args("-hide_banner", "-nostats", "-loglevel", "repeat+level+warning")
    compiled: list[str] = ffmpeg.compile(
        merged.global_args("-max_alloc", str(MAX_ALLOC_BYTES), "-filter_complex_threads", "1"), cmd=find_ffmpeg()
    )
    return compiled


def _pictures(stream: Any, info: MediaInfo, span: _Span, fps: float, times_fd: int) -> Any:
    """Filters from the source's frames to `span.frames` pictures of the target size."""
    if span.offset_s:
        stream = stream.filter("setpts", f"PTS-{span.offset_s:.6f}/TB")
    # `metadata=print` prints only frames that carry some metadata, hence the added key.
    stream = stream.filter("metadata", mode="add", key="omnidrop", value="1")
    stream = stream.filter("metadata", mode="print", key="omnidrop", file=f"pipe:{times_fd}")
    stream = stream.filter("trim", end=f"{span.length_s:.6f}")
    # One field has lines enough for most targets, needs no neighbours and so can wait until after the sampling.
    half_enough = info.interlaced and info.height is not None and span.height <= info.height // 2
    if info.interlaced and not half_enough:
        stream = stream.filter("bwdif", mode="send_frame", deint="interlaced")
    # round=up: picture k is the newest one whose time is not after k / fps.
    stream = stream.filter("fps", fps=f"{fps:.9g}", start_time=0, round="up")
    if half_enough:
        stream = stream.filter("field", type="top")
    stream = stream.filter("scale", span.width, span.height, flags="bicubic+accurate_rnd+full_chroma_int")
    stream = stream.filter("setsar", "1")
    if info.hdr and _tone_maps():
        stream = stream.filter("setparams", color_primaries="bt2020", colorspace="bt2020nc")
        stream = stream.filter("zscale", t="linear", npl=100).filter("format", "gbrpf32le")
        stream = stream.filter("zscale", p="bt709").filter("tonemap", tonemap="hable", desat=0)
        stream = stream.filter("zscale", t="bt709", m="bt709", r="tv").filter("format", "yuv444p")
    return stream


def _sound(stream: Any, span: _Span, times_fd: int) -> Any:
    """Filters from the source's audio frames to 16 kHz, gaps filled with silence so that time stays true."""
    if span.offset_s:
        stream = stream.filter("asetpts", f"PTS-{span.offset_s:.6f}/TB")
    stream = stream.filter("ametadata", mode="add", key="omnidrop", value="1")
    stream = stream.filter("ametadata", mode="print", key="omnidrop", file=f"pipe:{times_fd}")
    stream = stream.filter("atrim", start=0, end=f"{span.length_s:.6f}")
    return stream.filter("aresample", SAMPLE_RATE, **{"async": 1, "min_hard_comp": 0.05, "first_pts": 0})


def _tone_maps() -> bool:
    return {"zscale", "tonemap", "setparams"} <= filters()


def _read_frames(fd: int, span: _Span) -> Frames:
    """Whole frames found in the file, (n, H, W, 3) with n <= span.frames."""
    if not span.frames:
        return np.empty((0, 0, 0, 3), np.uint8)
    found = min(os.fstat(fd).st_size // span.frame_bytes, span.frames)
    frames = np.empty((found, span.height, span.width, 3), np.uint8)
    _fill(fd, frames.reshape(-1))
    return frames


def _read_array(fd: int, most: int) -> Samples:
    found = min(os.fstat(fd).st_size // 4, most)
    samples = np.empty(found, np.float32)
    _fill(fd, samples.view(np.uint8))
    # A damaged float stream may hold anything; the model's log-mel must not.
    return np.nan_to_num(samples, copy=False, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)


def _read_times(fd: int) -> Times:
    found = _TIME.findall(os.pread(fd, TIMES_BYTES, 0))
    return np.sort(np.array([float(x) for x in found], np.float64))


def _fill(fd: int, array: npt.NDArray[np.uint8]) -> None:
    done = 0
    while done < len(array):
        count = os.preadv(fd, [array[done:].data], done)
        if not count:
            raise DecodeFailed("the decoded file became shorter while it was read")
        done += count


def _judge(take: _Take, span: _Span, info: MediaInfo, clip: Clip, settings: DecodeSettings) -> _Judged:
    """Compare what came with what the source's times say, and fill up to the span's counts.

    A gap in the times is a loss if ffmpeg complained, if nothing shows that the file goes on that far, or if the stream
    has no gaps by nature (an even frame rate, sound on both sides); otherwise it is how the file is (a slide that
    stays, a sound track that ends early), and is filled without being a loss.

    Raises DecodeFailed when nothing at all came.
    """
    if not len(take.frames) and not len(take.audio):
        raise DecodeFailed(f"ffmpeg decoded nothing from {clip.start_s:g} s to {clip.end_s:g} s{_said(take.finished)}")
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
        frames = _filled(take.frames, span.frames)
        if info.hdr:
            notes.append("HDR pictures were tone-mapped" if _tone_maps() else "HDR pictures were not tone-mapped: dark")
    if span.samples:
        lost_s, silent_s = _lost_sound(take, span, reaches_s)
        shares.append(1 - lost_s / span.length_s)
        if lost_s:
            notes.append(f"{lost_s:.2f} of {span.length_s:g} s of sound are missing")
        if silent_s - lost_s > 1:
            notes.append(f"the sound track has nothing for {silent_s - lost_s:.1f} s: silence was put there")
        audio = np.zeros(span.samples, np.float32)
        audio[: len(take.audio)] = take.audio
    if take.damaged:
        notes.append("damaged" + _said(take.finished))
    return _Judged(frames=frames, audio=audio, share=round(max(0.0, min(shares)), 6), notes=tuple(notes))


def _lost_frames(
    take: _Take, span: _Span, info: MediaInfo, clip: Clip, fps: float, reaches_s: float
) -> npt.NDArray[np.bool_]:
    """(span.frames,) True where the source had no picture for the frame's time although it should."""
    wanted = np.arange(span.frames) / fps
    times = take.frame_times
    if not len(times) or not len(take.frames):
        return np.ones(span.frames, np.bool_)
    newest = np.searchsorted(times, wanted + 1e-3, side="right") - 1
    before_first = newest < 0
    gap_s = np.where(before_first, times[0] - wanted, wanted - times[np.maximum(newest, 0)])
    is_gap = gap_s > max(HOLD_S, 2 / info.frame_rate if info.frame_rate else 1.0)
    # A stream may begin late at the head of a file; further on, no picture before the span means a seek too far.
    unexplained = (before_first & (clip.start_s > 0)) | (wanted > reaches_s)
    if not info.variable_rate:
        # MPEG-TS loses whole packets without a word. Where pictures come at even intervals, none may be skipped.
        goes_on = wanted < (info.video_end_s - clip.start_s - HOLD_S if info.video_end_s is not None else -math.inf)
        unexplained |= ~before_first & ((newest < len(times) - 1) | goes_on)
    return is_gap & (unexplained | take.damaged)


def _lost_sound(take: _Take, span: _Span, reaches_s: float) -> tuple[float, float]:
    """Seconds of the span without sound that should be there, and without any at all."""
    times = take.audio_times
    if not len(times) or not len(take.audio):
        return span.length_s, span.length_s
    usual = float(np.median(np.diff(times))) if len(times) > 1 else len(take.audio) / SAMPLE_RATE
    # Audio frames differ in length (Vorbis, variable PCM packets): only a clear gap counts as one.
    ends = np.append(times[1:], times[-1] + usual)
    ends = np.where(ends - times > max(3 * usual, 0.1), times + usual, ends)
    starts = np.append(times, span.length_s).clip(0, span.length_s)
    ends = np.insert(ends, 0, 0.0).clip(0, span.length_s)
    gaps = [(a, b) for a, b in zip(ends, starts, strict=True) if b - a > 0.1]
    silent_s = sum(b - a for a, b in gaps)
    last_s = float(times[-1])
    lost_s = sum(b - a if take.damaged or 0 < a < last_s else max(0.0, b - max(a, reaches_s)) for a, b in gaps)
    return float(lost_s), float(silent_s)


def _filled(frames: Frames, count: int) -> Frames:
    """Repeat the last picture (black where there is none) up to `count`."""
    if len(frames) == count:
        return frames
    missing = count - len(frames)
    last = frames[-1:] if len(frames) else np.zeros((1, *frames.shape[1:]), np.uint8)
    return np.concatenate([frames, np.repeat(last, missing, axis=0)])


def _said(finished: Finished) -> str:
    """The first complaint of ffmpeg, short enough for a row; memory addresses, which change from run to run, go."""
    lines = [line for line in finished.stderr.splitlines() if _DAMAGE.search(line)] or finished.stderr.splitlines()
    if not lines:
        return f" (status {finished.returncode})" if finished.returncode else ""
    return ": " + re.sub(r" @ 0x[0-9a-f]+", "", lines[0])[:200]
