"""One span of one file through one ffmpeg process: the argument list, the run, and what came of it, uncounted.

Promises: pictures as they are on screen at k / fps, sound at 16 kHz with gaps kept as silence, and beside both the
presentation times of the source's own frames as they entered the filters. Knows nothing about whether that is enough:
`media.py` judges.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from workers.errors import DecodeFailed, DecodeKilled, DecodeTimeout, MediaTooLarge
from workers.media.confinement import DECODERS, DEMUXERS, MAX_ALLOC_BYTES, MAX_SOURCE_PIXELS, MAX_STREAMS, PROTOCOLS
from workers.media.ffmpeg import Finished, Limits, anonymous_file, filters, find_ffmpeg, input_url, run
from workers.records import DecodeSettings, MediaInfo

SAMPLE_RATE = 16_000
"""Hz; what the audio encoders of the supported families take."""

TIMES_BYTES = 16 << 20
"""Most that is read of the list of presentation times: 30 s at 240 fps need 1 MB."""

_TIME = re.compile(rb"pts_time:(-?[0-9.]+(?:e[-+]?[0-9]+)?)")
_DAMAGE = re.compile(r"\[(?:error|fatal|panic)\]|corrupt decoded frame", re.IGNORECASE)
_OUTPUT_SIDE = re.compile(r"^\[(?:[av]ost|out|enc)[#:]|\[enc:|Application provided invalid")

Frames = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Span:
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
class Take:
    """What one ffmpeg process gave, counted and unpadded."""

    frames: Frames
    audio: Samples
    frame_times: Times
    """Presentation times of the source's frames relative to the clip's start, ascending; negative ones before it."""
    audio_times: Times
    finished: Finished

    @property
    def complaints(self) -> list[str]:
        """What ffmpeg said against the media itself; an output without a frame is no complaint, the times tell that."""
        lines = self.finished.stderr.splitlines()
        found = [line for line in lines if _DAMAGE.search(line) and not _OUTPUT_SIDE.search(line)]
        # Memory addresses change from run to run, rows must not.
        found = [re.sub(r" @ 0x[0-9a-f]+", "", line) for line in found]
        return found or ([f"ffmpeg died of signal {-self.finished.returncode}"] if self.finished.returncode < 0 else [])


def take_span(
    path: str | os.PathLike[str], info: MediaInfo, span: Span, settings: DecodeSettings, started: float
) -> Take:
    """Run ffmpeg over the span. Raises DecodeTimeout and MediaTooLarge."""
    # Beside the arrays, the list of times may not outgrow what is read of it.
    most = max(span.frames * span.frame_bytes, 4 * (span.samples + SAMPLE_RATE), TIMES_BYTES)
    left_s = max(min(0.1, settings.timeout_s), settings.timeout_s - (time.monotonic() - started))
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
            reads=(path,),
        )
        if finished.timed_out:
            raise DecodeTimeout(f"decoding took longer than timeout_s = {settings.timeout_s:g} s")
        _check_not_killed(finished)
        if finished.too_large:
            raise MediaTooLarge(f"the span decodes to more than its {most} bytes")
        take = Take(
            frames=_read_frames(frames, span),
            audio=_read_array(audio, span.samples),
            frame_times=_read_times(frame_times),
            audio_times=_read_times(audio_times),
            finished=finished,
        )
    held_s = _unseen(take, span, settings.fps)
    if held_s is None:
        return take
    limits = Limits(
        timeout_s=max(min(0.1, settings.timeout_s), settings.timeout_s - (time.monotonic() - started)), file_bytes=most
    )
    return replace(take, frames=_held(path, info, span, settings.fps, take, held_s, limits))


def _check_not_killed(finished: Finished) -> None:
    """What a killed ffmpeg had written by then looks like a damaged file, and is not."""
    if finished.returncode == -signal.SIGKILL:
        raise DecodeKilled("ffmpeg was killed from outside, as the system does where memory is short")


def _unseen(take: Take, span: Span, fps: float) -> float | None:
    """The time of the source's last picture in the span if it was not given out although frames should show it.

    The fps filter gives a picture out when the next one comes. Where none comes before the span's end (a slide that
    stays, a picture that ended), the last one stays inside it.
    """
    given = len(take.frames)
    if given >= span.frames or not len(take.frame_times):
        return None
    shown = newest(take.frame_times, span.frames, fps)
    if shown[-1] < 0 or (given and shown[-1] == shown[given - 1]):
        return None
    return float(take.frame_times[shown[-1]])


def _held(
    path: str | os.PathLike[str],
    info: MediaInfo,
    span: Span,
    fps: float,
    take: Take,
    held_s: float,
    limits: Limits,
) -> Frames:
    """The take's frames, filled up with the one picture shown from `held_s` on. Raises DecodeTimeout."""
    with anonymous_file("held") as held, anonymous_file("held-times") as times:
        finished = run(
            _arguments(path, info, replace(span, samples=0), fps, (held, -1, times, -1), held_s=held_s),
            limits=limits,
            pass_fds=(held, times),
            reads=(path,),
        )
        if finished.timed_out:
            raise DecodeTimeout(f"decoding the picture held from {held_s:g} s of the clip on took too long")
        _check_not_killed(finished)
        picture = _read_frames(held, replace(span, frames=1))
    if not len(picture):
        return take.frames
    shown = newest(take.frame_times, span.frames, fps)
    between = int(np.count_nonzero(shown[len(take.frames) :] != shown[-1]))
    before = take.frames[-1:] if len(take.frames) else picture
    after = np.repeat(picture, span.frames - len(take.frames) - between, axis=0)
    return np.concatenate([take.frames, np.repeat(before, between, axis=0), after])


def _arguments(
    path: str | os.PathLike[str],
    info: MediaInfo,
    span: Span,
    fps: float,
    fds: tuple[int, int, int, int],
    *,
    held_s: float | None = None,
) -> list[str]:
    """The argument list: one input, up to two outputs, each written to a descriptor.

    With `held_s` the pictures are only one: the first from that time on.
    """
    frames_fd, audio_fd, frame_times_fd, audio_times_fd = fds
    options: dict[str, Any] = {
        "f": info.container.split(",")[0],
        "protocol_whitelist": PROTOCOLS,
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": DECODERS,
        "max_streams": MAX_STREAMS,
        "reinit_filter:v": 0,
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
            _pictures(source[f"v:{info.video_stream or 0}"], info, span, fps, frame_times_fd, held_s).output(
                f"pipe:{frames_fd}",
                **{"f": "rawvideo", "pix_fmt": "rgb24", "frames:v": span.frames if held_s is None else 1},
            )
        )
    if span.samples:
        # A graph of its own: sound that changes its channels (advertisements in a broadcast) is set up anew then, and
        # the pictures' graph, whose place in time would be lost, is not.
        outputs.append(
            source[f"a:{info.audio_stream or 0}"].output(
                f"pipe:{audio_fd}",
                **{"af": _sound(span, audio_times_fd), "f": "f32le", "c:a": "pcm_f32le", "ac": 1, "ar": SAMPLE_RATE},
            )
        )
    merged = ffmpeg.merge_outputs(*outputs).global_args("-hide_banner", "-nostats", "-loglevel", "repeat+level+warning")
    compiled: list[str] = ffmpeg.compile(
        merged.global_args("-max_alloc", str(MAX_ALLOC_BYTES), "-filter_complex_threads", "1"), cmd=find_ffmpeg()
    )
    return compiled


def _pictures(stream: Any, info: MediaInfo, span: Span, fps: float, times_fd: int, held_s: float | None) -> Any:
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
    if held_s is not None:
        stream = stream.filter("select", f"gte(t,{held_s - 1e-3:.6f})").filter("setpts", "PTS-STARTPTS")
    else:
        # round=up: picture k is the newest one whose time is not after k / fps.
        stream = stream.filter("fps", fps=f"{fps:.9g}", start_time=0, round="up")
        # A damaged time hours ahead would have the fps filter fill the hours before anything downstream says stop.
        stream = stream.filter("trim", end_frame=span.frames)
    if half_enough:
        stream = stream.filter("field", type="top")
    stream = stream.filter("scale", span.width, span.height, flags="bicubic+accurate_rnd+full_chroma_int")
    stream = stream.filter("setsar", "1")
    if info.hdr and tone_maps():
        stream = stream.filter("setparams", color_primaries="bt2020", colorspace="bt2020nc")
        stream = stream.filter("zscale", t="linear", npl=100).filter("format", "gbrpf32le")
        stream = stream.filter("zscale", p="bt709").filter("tonemap", tonemap="hable", desat=0)
        stream = stream.filter("zscale", t="bt709", m="bt709", r="tv").filter("format", "yuv444p")
    return stream


def _sound(span: Span, times_fd: int) -> str:
    """Filters from the source's audio frames to 16 kHz; gaps are filled with silence so that time stays true.

    The first sample is the span's first that has sound: where that is, `audio_times` say.
    """
    filters = [f"asetpts=PTS-{span.offset_s:.6f}/TB"] if span.offset_s else []
    filters += [
        "ametadata=mode=add:key=omnidrop:value=1",
        rf"ametadata=mode=print:key=omnidrop:file=pipe\\:{times_fd}",
        f"atrim=start=0:end={span.length_s:.6f}",
        f"aresample={SAMPLE_RATE}:async=1:min_hard_comp=0.05",
    ]
    return ",".join(filters)


def tone_maps() -> bool:
    return {"zscale", "tonemap", "setparams"} <= filters()


def _read_frames(fd: int, span: Span) -> Frames:
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


def newest(times: Times, frames: int, fps: float) -> npt.NDArray[np.int64]:
    """(frames,) which of the source's pictures is on screen at each frame's time; -1 before the first."""
    return np.searchsorted(times, np.arange(frames) / fps + 1e-3, side="right") - 1
