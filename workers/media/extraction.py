"""Runs one ffmpeg process over one span of a file: the argument list, the run, and its unchecked output.

Promises: frames as they are on screen at k / fps, and the presentation times of the source's frames; of each audio
track the plain mean of its channels at 16 kHz, in pieces with their container times. Times are the container's own
(`-copyts`) minus the span's start: nothing depends on what ffmpeg considers the start of a file. Knows nothing about
completeness: `clip_reader` judges the output, `sound` places the pieces.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from workers.errors import DecodeFailed, DecodeKilled, DecodeTimeout, MediaTooLarge
from workers.media import nvdec
from workers.media.arriving import Arriving
from workers.media.blocks import InBlocks, Readable, run_over, waited_s
from workers.media.confinement import MAX_ALLOC_BYTES
from workers.media.ffmpeg import (
    Finished,
    Limits,
    anonymous_file,
    drops_packets,
    filters,
    find_ffmpeg,
    input_url,
    untrusted_input,
)
from workers.media.needed import ANNEX_B, CODECS, LEAST_PIXELS, LISTED_BYTES, WHOLE, LeftOut, left_out, read_packets
from workers.media.sound import SAMPLE_RATE, Sound, Times
from workers.media.strays import MOST_STRAYS, mended
from workers.records import DecodeSettings, MediaInfo

TIMES_BYTES = 16 << 20
"""Maximum bytes read of the list of presentation times: 30 s at 240 fps need 1 MB."""

MARGIN_S = 2.0
"""Seconds of audio decoded before and after a span, to tell time stamp jitter from gaps."""

LOSSY_CONTAINERS = ("mpegts", "mpeg")
"""Broadcast containers: lost packets leave a gap without an error message. In others ffmpeg reports damage, and a gap
without an error is a variable frame rate, whatever the header declares."""

MOST_PICTURES_ASTRAY = 3
"""So many pictures in a row may have damaged times at the end of a span, outside broadcasts: reading on for more may
mean minutes of slides."""

NEXT_S = 0.25
"""A picture that follows the one before it by no more (seconds) has no damaged time."""

MOST_SHOWN = 2_000
"""Up to this many frames, ffmpeg logs each frame's shape; for more, its log would be cut."""

SAME_ASPECT = 0.03
"""Aspect ratios that differ by less are equal: sizes are rounded to even numbers."""

_SUM_OF_CHANNELS = r"st(0\,0);st(1\,0);while(lt(ld(0)\,nb_in_channels)\,st(1\,ld(1)+val(ld(0)));st(0\,ld(0)+1));ld(1)"
_PIECE = re.compile(rb"^0, *(-?\d+), *-?\d+, *\d+, *(\d+),", re.MULTILINE)
_SHAPE = re.compile(r"showinfo.*? sar:(\d+)/(\d+) s:(\d+)x(\d+) ")
_TIME = re.compile(rb"pts_time:(-?[0-9.]+(?:e[-+]?[0-9]+)?)")
_DAMAGE = re.compile(r"^(?:\[[^\]]*\] *)*\[(?:error|fatal|panic)\]|corrupt decoded frame", re.IGNORECASE)
_OPENED = "[info] Stream mapping:"
_LEVEL = re.compile(r"\[(?:warning|error|fatal|panic)\]")
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")
_OUTPUT_SIDE = re.compile(r"^\[(?:[av]ost|out|enc)[#:]|\[enc:|Application provided invalid")

_TURNS: dict[int, tuple[tuple[str, dict[str, str]], ...]] = {
    90: (("transpose", {"dir": "cclock"}),),
    180: (("hflip", {}), ("vflip", {})),
    270: (("transpose", {"dir": "clock"}),),
}
"""Filters that turn a picture by so many degrees, counterclockwise."""

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """One clip's request to ffmpeg; times in seconds."""

    pts_s: float
    """Container time of the clip's start."""
    seek_s: float | None
    """Container time to read from; None: from the beginning."""
    length_s: float
    frames: int
    """0 without video."""
    height: int
    width: int
    samples: int
    """0 without audio."""
    video_bytes: tuple[int, int | None] = (0, None)
    audio_bytes: tuple[int, int | None] = (0, None)
    """The part of the file to read."""
    head_bytes: tuple[int, int] = (0, 0)
    """What to read before it."""
    on_card: bool = False
    """Whether an NVIDIA GPU decodes the video."""
    threads: int = 1
    """Of the video's decoder. Frames are the same with any number, but for damaged ones."""

    @property
    def frame_bytes(self) -> int:
        return self.height * self.width * 3


@dataclass(frozen=True)
class Heard:
    """An audio track and the descriptors of its output."""

    track: int
    audio: int
    pieces: int
    times: int


@dataclass(frozen=True, eq=False)
class Take:
    """The output of one ffmpeg process, counted and unpadded."""

    frames: Frames
    frame_times: Times
    """Presentation times of the source's frames in seconds from the clip's start, ascending; negative before it."""
    sounds: tuple[Sound, ...]
    """One per audio track, in pieces."""
    finished: Finished
    is_one_field: bool = False
    """Whether frame shapes are those of a single field."""
    moves: Mapping[int, float] = field(default_factory=dict)
    """By how much to move the times of frames that are out of order, see `strays.mended`."""

    @property
    def failure(self) -> str | None:
        """Why ffmpeg gave no output, in its own words; None if it gave some or the source has none."""
        if self.finished.returncode <= 0 or len(self.frame_times) or any(len(sound.starts) for sound in self.sounds):
            return None
        last = next((line.strip() for line in reversed(self.finished.stderr.splitlines()) if line.strip()), "no word")
        return f"ffmpeg ended with {self.finished.returncode}: {self.complaint or _ADDRESS.sub('', last)[:200]}"

    @property
    def complaints(self) -> list[str]:
        """ffmpeg's error messages about the media; not those about empty outputs, which the times reveal."""
        # Memory addresses differ between runs; rows must not.
        found = [_ADDRESS.sub("", line) for line in self._against_the_media]
        return found or ([f"ffmpeg died of signal {-self.finished.returncode}"] if self.finished.returncode < 0 else [])

    @property
    def complaint(self) -> str:
        """One error message to represent all, short enough for a row; empty if there is none.

        Decoders log from separate threads in any order. So this takes each decoder's first line and of these the first
        alphabetically: the same file always gives the same message.
        """
        first: dict[str, str] = {}
        for line in self._against_the_media:
            speaker, *_ = _LEVEL.split(line, maxsplit=1)
            first.setdefault(speaker, _ADDRESS.sub("", line))
        # A decoder's own message says more than the program's message about it, which begins with a track.
        found = sorted(first.values(), key=lambda line: ("#" in line.partition("]")[0], line))
        return next(iter(found or self.complaints), "")[:200]

    @property
    def _against_the_media(self) -> list[str]:
        # Earlier lines are about the file's header, which need not be near the clip, and about streams that are not
        # decoded.
        said = self.finished.stderr.partition(_OPENED)[2] or self.finished.stderr
        return [line for line in said.splitlines() if _DAMAGE.search(line) and not _OUTPUT_SIDE.search(line)]

    @property
    def shapes(self) -> set[tuple[int, int, float]]:
        """The (width, height, displayed aspect ratio) of the source's frames."""
        found = (tuple(map(int, one)) for one in _SHAPE.findall(self.finished.stderr))
        return {(w, h, w / h * (num / den if num and den else 1.0)) for num, den, w, h in found if h}


def take_span(path: Readable, info: MediaInfo, span: Span, settings: DecodeSettings, started: float) -> Take:
    """Run ffmpeg over the span; `started` by `decoding_time`. Raises DecodeTimeout, MediaTooLarge, and what fetching
    raises."""
    spared = _spared(path, info, span, settings, started)
    take = _run(path, info, span, settings, started, spared)
    if spared is not None or span.threads > 1:
        times = None if take.failure is not None or take.complaints or take.moves else take.frame_times
        if times is not None and spared is not None:
            times = spared.with_decoded(times)
        if times is not None:
            take = replace(take, frame_times=times)
        else:  # damage is judged with all frames decoded, one after the other
            take = _run(path, info, replace(span, threads=1), settings, started, None)
    moves = take.moves
    if moves:
        take = _run(path, info, replace(span, threads=1), settings, started, None, moves)
    held_s = _unseen(take, span, settings.fps)
    if held_s is None:
        return take
    limits = _limits(path, span, settings, started)
    return replace(take, frames=_held(path, info, span, settings.fps, take, held_s, limits, moves))


def _run(
    path: Readable,
    info: MediaInfo,
    span: Span,
    settings: DecodeSettings,
    started: float,
    spared: LeftOut | None,
    moves: Mapping[int, float] = MappingProxyType({}),
) -> Take:
    """Run ffmpeg once over the span, without decoding the `spared` frames, with the times of others moved."""
    tracks = (info.audio_mix or (info.audio_stream or 0,)) if span.samples else ()
    with contextlib.ExitStack() as stack:
        frames, frame_times = (stack.enter_context(anonymous_file(name)) for name in ("frames", "frame-times"))
        heard = [
            Heard(track, *(stack.enter_context(anonymous_file(name)) for name in ("audio", "pieces", "audio-times")))
            for track in tracks
        ]
        finished = run_over(
            path,
            lambda opened: _arguments(
                opened, info, span, settings.fps, frames, frame_times, heard, spared=spared, moves=moves
            ),
            limits=_limits(path, span, settings, started),
            pass_fds=(frames, frame_times, *(fd for one in heard for fd in (one.audio, one.pieces, one.times))),
            about=_about(path, info, span),
        )
        if finished.timed_out:
            raise DecodeTimeout(f"decoding took longer than timeout_s = {settings.timeout_s:g} s")
        _check_not_killed(finished)
        if finished.too_large:
            raise MediaTooLarge(f"the clip decodes to more than the expected {_most_bytes(span)} bytes")
        times = _read_times(frame_times)
        return Take(
            frames=_read_frames(frames, span),
            frame_times=np.sort(times),
            sounds=tuple(_read_sound(one) for one in heard),
            finished=finished,
            is_one_field=_one_field_is_enough(info, span),
            moves=mended(times),
        )


def _limits(path: Readable, span: Span, settings: DecodeSettings, started: float) -> Limits:
    limits = Limits(timeout_s=_left_s(path, settings, started), file_bytes=_most_bytes(span))
    return nvdec.limits(limits) if span.on_card else limits


def _most_bytes(span: Span) -> int:
    """Size limit in bytes of any file that ffmpeg writes: the arrays, or the list of times as far as it is read."""
    return max(span.frames * span.frame_bytes, 4 * round((span.length_s + 3 * MARGIN_S) * SAMPLE_RATE), TIMES_BYTES)


def _spared(path: Readable, info: MediaInfo, span: Span, settings: DecodeSettings, started: float) -> LeftOut | None:
    """The frames that need no decoding, from one pass over the span's packets; None if that is not worthwhile."""
    codec = info.video_codec
    pixels = (info.width or 0) * (info.height or 0) * (info.frame_rate or 25.0) * span.length_s
    if not span.frames or codec not in CODECS or pixels < LEAST_PIXELS or not drops_packets():
        return None
    if info.interlaced and not (_one_field_is_enough(info, span) and codec in WHOLE | {"mpeg2video"}):
        return None
    with anonymous_file("packets") as listing, anonymous_file("coded") as content:
        finished = run_over(
            path,
            lambda opened: _listing_arguments(opened, info, replace(span, on_card=False), listing, content),
            limits=Limits(timeout_s=_left_s(path, settings, started), file_bytes=LISTED_BYTES),
            pass_fds=(listing, content),
            about=_about(path, info, span),
        )
        if finished.returncode or finished.timed_out:
            return None
        packets = read_packets(listing, content, codec, span.pts_s)
    if packets is None:
        return None
    return left_out(packets, span.pts_s, span.length_s, np.arange(span.frames) / settings.fps)


def decoding_time(path: Readable) -> float:
    """A clock in seconds that stops while decoding waits for a store."""
    return time.monotonic() - waited_s(path)


def _left_s(path: Readable, settings: DecodeSettings, started: float) -> float:
    return max(min(0.1, settings.timeout_s), settings.timeout_s - (decoding_time(path) - started))


def _about(path: Readable, info: MediaInfo, span: Span) -> tuple[float, float]:
    """Expected byte range of a span as shares of the file, assuming a constant bit rate."""
    size = path.size if isinstance(path, InBlocks | Arriving) else 0
    if not size:
        return 0.0, 1.0
    parts = [part for part, has in ((span.video_bytes, span.frames), (span.audio_bytes, span.samples)) if has]
    first, end = min(part[0] for part in parts), max(size if part[1] is None else part[1] for part in parts)
    at_s = info.start_s if span.seek_s is None else span.seek_s
    shares = ((t - info.start_s) / info.duration_s for t in (at_s, span.pts_s + span.length_s + MARGIN_S))
    begins, ends = (first + max(0.0, min(1.0, share)) * (end - first) for share in shares)
    return begins / size, ends / size


def _check_not_killed(finished: Finished) -> None:
    """Raise if ffmpeg was killed: its partial output would look like a damaged file."""
    if finished.returncode == -signal.SIGKILL:
        raise DecodeKilled("ffmpeg was killed, probably by the system for lack of memory")


def _unseen(take: Take, span: Span, fps: float) -> float | None:
    """The time of the source's last frame in the span if the fps filter did not output it although it is shown.

    The filter outputs a frame when the next one arrives. If none arrives before the span's end (a slide that stays,
    video that ended), the last one stays inside the filter.
    """
    given = len(take.frames)
    if given >= span.frames or not len(take.frame_times):
        return None
    shown = newest(take.frame_times, span.frames, fps)
    if shown[-1] < 0 or (given and shown[-1] == shown[given - 1]):
        return None
    return float(take.frame_times[shown[-1]])


def _held(
    path: Readable,
    info: MediaInfo,
    span: Span,
    fps: float,
    take: Take,
    held_s: float,
    limits: Limits,
    moves: Mapping[int, float],
) -> Frames:
    """The take's frames, filled up with the frame shown from `held_s` on. Raises DecodeTimeout."""
    with anonymous_file("held") as held, anonymous_file("held-times") as times:
        finished = run_over(
            path,
            lambda opened: _arguments(
                opened, info, replace(span, samples=0), fps, held, times, [], held_s=held_s, moves=moves
            ),
            limits=limits,
            pass_fds=(held, times),
            about=_about(path, info, span),
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
    frames_fd: int,
    frame_times_fd: int,
    heard: Sequence[Heard],
    *,
    held_s: float | None = None,
    spared: LeftOut | None = None,
    moves: Mapping[int, float],
) -> list[str]:
    """The argument list: one input, or two if video and audio have different byte ranges; outputs go to descriptors.

    With `held_s` the video output is a single frame, the first from that time on. `spared` frames reach no decoder.
    `moves` are added to the times of frames, by their number.
    """
    outputs = []
    drops = {} if spared is None else {f"bsf:v:{info.video_stream or 0}": spared.filter}
    if span.frames:
        source = _input(path, info, span, span.video_bytes, drops)
        outputs.append(
            _pictures(source[f"v:{info.video_stream or 0}"], info, span, fps, frame_times_fd, held_s, moves).output(
                f"pipe:{frames_fd}",
                **{"f": "rawvideo", "pix_fmt": "rgb24", "frames:v": span.frames if held_s is None else 1},
            )
        )
    for one in heard:
        # A separate filter graph: audio whose channels change (advertisements in a broadcast) reconfigures its graph,
        # and the video graph, which would lose its position in time, is not affected.
        source = _input(path, info, span, span.audio_bytes, drops)
        outputs.append(
            source[f"a:{one.track}"].output(
                rf"[f=f32le]pipe\:{one.audio}|[f=framecrc]pipe\:{one.pieces}",
                **{
                    "af": _mean_of_channels(span, one.times, info.has_damaged_times),
                    "f": "tee",
                    "c:a": "pcm_f32le",
                    "ar": SAMPLE_RATE,
                },
            )
        )
    level = "repeat+level+info" if span.frames <= MOST_SHOWN else "repeat+level+warning"
    return _compiled(ffmpeg.merge_outputs(*outputs), level)


def _listing_arguments(
    path: str | os.PathLike[str], info: MediaInfo, span: Span, listing_fd: int, content_fd: int
) -> list[str]:
    """The argument list that copies the span's video packets in file order: times and sizes to one descriptor, their
    concatenated bytes to another."""
    until = {"to": f"{span.pts_s + span.length_s + MARGIN_S:.6f}"}
    source = _input(path, info, span, span.video_bytes, until)
    written = {"bsf:v": ANNEX_B[info.video_codec]} if info.video_codec in ANNEX_B else {}
    return _compiled(
        source[f"v:{info.video_stream or 0}"].output(
            rf"[f=framecrc]pipe\:{listing_fd}|[f=data]pipe\:{content_fd}",
            **{"f": "tee", "c": "copy", "copyinkf": None, "avoid_negative_ts": "disabled", **written},
        ),
        "repeat+level+warning",
    )


def _compiled(outputs: Any, level: str) -> list[str]:
    outputs = outputs.global_args("-hide_banner", "-nostats", "-loglevel", level, "-copyts")
    compiled: list[str] = ffmpeg.compile(
        outputs.global_args("-max_alloc", str(MAX_ALLOC_BYTES), "-filter_complex_threads", "1"), cmd=find_ffmpeg()
    )
    return compiled


def _input(
    path: str | os.PathLike[str], info: MediaInfo, span: Span, part: tuple[int, int | None], more: dict[str, Any]
) -> Any:
    options: dict[str, Any] = {"reinit_filter:v": 0, **more, **(nvdec.input_options() if span.on_card else {})}
    options |= {"threads": span.threads} if span.threads > 1 else {}
    options |= {"noautorotate": None} if info.is_turned_by_codec else {}
    if span.seek_s is not None:
        # Accurate seeking would drop the frame that is already on screen when the span begins.
        options |= {"noaccurate_seek": None, "seek_timestamp": 1, "ss": f"{span.seek_s:.6f}"}
    return ffmpeg.input(input_url(path, part, span.head_bytes), **(untrusted_input(info.container) | options))


def _pictures(
    stream: Any,
    info: MediaInfo,
    span: Span,
    fps: float,
    times_fd: int,
    held_s: float | None,
    moves: Mapping[int, float],
) -> Any:
    """Filters from the source's frames to `span.frames` frames of the target size."""
    for name, options in _TURNS[info.rotation_deg] if info.is_turned_by_codec else ():
        stream = stream.filter(name, **options)
    moved = "".join(f"+eq(N,{number})*{by_s:.6f}/TB" for number, by_s in moves.items())
    stream = stream.filter("setpts", f"PTS-{span.pts_s:.6f}/TB{moved}")
    # `metadata=print` prints only frames that have metadata, hence the added key.
    stream = stream.filter("metadata", mode="add", key="omnidrop", value="1")
    stream = stream.filter("metadata", mode="print", key="omnidrop", file=f"pipe:{times_fd}")
    if info.has_damaged_times:
        most = MOST_STRAYS if info.container in LOSSY_CONTAINERS else MOST_PICTURES_ASTRAY
        stream = stream.filter("select", _without_strays(span.length_s, most))
    stream = stream.filter("trim", end=f"{span.length_s:.6f}")
    half_enough = _one_field_is_enough(info, span)
    if info.interlaced and not half_enough:
        stream = stream.filter("bwdif", mode="send_frame", deint="interlaced")
    if held_s is not None:
        stream = stream.filter("select", f"gte(t,{held_s - 1e-3:.6f})").filter("setpts", "PTS-STARTPTS")
    else:
        # round=up: output frame k is the newest source frame whose time is not after k / fps.
        stream = stream.filter("fps", fps=f"{fps:.9g}", start_time=0, round="up")
        # With a damaged time stamp hours ahead, the fps filter would fill the hours before anything can stop it.
        stream = stream.filter("trim", end_frame=span.frames)
    if half_enough:
        stream = stream.filter("field", type="top")
    if span.frames <= MOST_SHOWN:
        stream = stream.filter("showinfo", checksum=0)
    if span.on_card:
        stream = stream.filter("format", **nvdec.PLAIN_FORMAT)
    aspect = "(dar/2)" if half_enough else "dar"
    # A frame of another shape than the file's first is padded to the clip's shape.
    same = f"lt(abs({aspect}*{info.height}/{info.width}-1),{SAME_ASPECT})"
    wide = f"gt({aspect},{span.width / span.height:.9g})"
    stream = stream.filter(
        "scale",
        f"if({same}+{wide},{span.width},max(1,round({span.height}*{aspect})))",
        f"if({same}+not({wide}),{span.height},max(1,round({span.width}/{aspect})))",
        eval="frame",
        flags="bicubic+accurate_rnd+full_chroma_int",
        **({"in_color_matrix": "bt709"} if info.is_untagged_hd else {}),
    )
    stream = stream.filter("pad", span.width, span.height, "(ow-iw)/2", "(oh-ih)/2", eval="frame")
    stream = stream.filter("setsar", "1")
    if info.hdr and tone_maps():
        stream = stream.filter("setparams", color_primaries="bt2020", colorspace="bt2020nc")
        stream = stream.filter("zscale", t="linear", npl=100).filter("format", "gbrpf32le")
        stream = stream.filter("zscale", p="bt709").filter("tonemap", tonemap="hable", desat=0)
        stream = stream.filter("zscale", t="bt709", m="bt709", r="tv").filter("format", "yuv444p")
    return stream


def _one_field_is_enough(info: MediaInfo, span: Span) -> bool:
    """Whether one field has enough lines for the target: it needs no neighbours, so it can be taken after sampling."""
    return info.interlaced and info.height is not None and span.height <= info.height // 2


def _without_strays(end_s: float, most: int) -> str:
    """An expression that is 0 for frames far beyond the end, unless so many have come in a row: one damaged time is no
    end."""
    inside = "0*st(0,0)+0*st(1,t)+1"
    beyond = f"0*st(0,ld(0)+1)+lte(t-ld(1),{NEXT_S})+gt(ld(0),{most})"
    return f"if(lt(t,{end_s:.6f}),{inside},{beyond})"


def _mean_of_channels(span: Span, times_fd: int, has_damaged_times: bool) -> str:
    """Filters from the source's audio to the plain mean of its channels at 16 kHz.

    An explicit sum over all channels: ffmpeg's own matrices weight channels by name, differ between builds and, in
    float, add up to more than 1. Times are shifted above 0. Damaged ones end nothing, and are written down before they
    are made anew: a muxer would have all that follows come behind them.
    """
    end_s = span.length_s + 2 * MARGIN_S
    begin = [f"asetpts=PTS-{span.pts_s - MARGIN_S:.6f}/TB"]
    end = [
        f"atrim=start=0:end={end_s:.6f}",
        f"aresample={SAMPLE_RATE}",
        rf"aeval=exprs='{_SUM_OF_CHANNELS}/nb_in_channels':c=mono",
    ]
    if has_damaged_times:
        states = rf"st(0\,if(gte(T\,{end_s:.6f})\,ld(0)+1\,0));st(1\,max(ld(1)\,gte(T\,0)))"
        late = rf"if(between(ld(0)\,1\,{MOST_STRAYS})\,{end_s - MARGIN_S / 2:.6f}/TB"
        begin.append(rf"asetpts='{states};{late}\,if(ld(1)*lt(T\,0)\,0\,PTS))'")
        end += [
            "ametadata=mode=add:key=omnidrop:value=1",
            rf"ametadata=mode=print:key=omnidrop:file='pipe\:{times_fd}'",
        ]
        end.append("asetpts=N/SR/TB")
    return ",".join([*begin, *end])


def tone_maps() -> bool:
    return {"zscale", "tonemap", "setparams"} <= filters()


def _read_frames(fd: int, span: Span) -> Frames:
    """Complete frames in the file, (n, H, W, 3) uint8 with n <= span.frames."""
    if not span.frames:
        return np.empty((0, 0, 0, 3), np.uint8)
    found = min(os.fstat(fd).st_size // span.frame_bytes, span.frames)
    frames = np.empty((found, span.height, span.width, 3), np.uint8)
    _fill(fd, frames.reshape(-1))
    return frames


def _read_sound(one: Heard) -> Sound:
    """Pieces of audio with their times in seconds from the clip's start."""
    samples = np.empty(os.fstat(one.audio).st_size // 4, np.float32)
    _fill(one.audio, samples.view(np.uint8))
    found = _PIECE.findall(os.pread(one.pieces, TIMES_BYTES, 0))
    starts = np.array([int(begin) for begin, _ in found], np.float64) / SAMPLE_RATE
    if len(given := _read_times(one.times)):
        found, starts = found[: len(given)], given[: len(found)]
    # A damaged float stream may contain NaN or infinity; the model's spectrogram must not.
    return Sound(
        np.nan_to_num(samples, copy=False, nan=0.0, posinf=1.0, neginf=-1.0),
        starts - MARGIN_S,
        np.array([int(size) // 4 for _, size in found], np.int64),
    )


def _read_times(fd: int) -> Times:
    """Times in seconds as a filter printed them, in the decoder's order."""
    found = _TIME.findall(os.pread(fd, TIMES_BYTES, 0))
    return np.array([float(x) for x in found], np.float64)


def _fill(fd: int, array: npt.NDArray[np.uint8]) -> None:
    done = 0
    while done < len(array):
        count = os.preadv(fd, [array[done:].data], done)
        if not count:
            raise DecodeFailed("the decoded data shrank while being read")
        done += count


def newest(times: Times, frames: int, fps: float) -> npt.NDArray[np.int64]:
    """(frames,) int64: index of the source frame on screen at each output frame's time; -1 before the first."""
    return np.searchsorted(times, np.arange(frames) / fps + 1e-3, side="right") - 1
