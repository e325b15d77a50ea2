"""Decodes one clip of one file to arrays: frames at the requested rate and 16 kHz audio, checked against its span.

Promises: frame k is the picture on screen at `clip.start_s + k / fps`, sample i the audio at
`clip.start_s + i / 16000`; the counts are those of the span; missing parts are filled, counted in `decoded_share` and
named in `notes`. Knows nothing about archives, object stores, Ray or where a span comes from.

ffmpeg's exit status and frame count prove nothing: for a truncated file the status is 0, and the fps filter repeats
frames over any gap. So a frame counts as decoded only if, by its presentation times, the source has a picture for it.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
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
from workers.media import nvdec
from workers.media.arriving import Arriving
from workers.media.blocks import InBlocks, Readable
from workers.media.confinement import MAX_SOURCE_PIXELS
from workers.media.extraction import (
    LOSSY_CONTAINERS,
    SAME_ASPECT,
    Frames,
    Span,
    Take,
    decoding_time,
    newest,
    take_span,
    tone_maps,
)
from workers.media.needed import WHOLE
from workers.media.sound import SAMPLE_RATE, SILENT_LEVEL, Samples, mean, placed, runs, silence_s
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo, Noticed, Segment

EARLIER_SEEK_S = 12.0
"""Some containers seek to a later point than requested. An incomplete clip is retried from this many seconds earlier:
more than the usual key frame interval (10 s)."""

HOLD_S = 0.25
"""A gap in presentation times shorter than this (seconds), or than two frames, does not count."""

LONGEST_ASPECT = 100
"""The models' image processors refuse aspect ratios of 200; beyond half of that the long side is squeezed."""

THREADS_OF_FIRST = 2
"""Threads that decode a clip of an object that is still arriving: nothing else wants the cores yet. Otherwise two clips
with a thread each are faster."""

SEEKS_BACK_S = 0.131
"""ffmpeg seeks to 3/23 s earlier than asked where pictures may not be coded in their order."""

LEAD_S = 2.5
"""Seconds read before a clip: decoders need a run-up, and time stamp jitter shows only over a second."""

LONGEST_WITHOUT_SEEKING_S = 600.0
"""A badly interleaved part is read from its beginning if the clip starts no later than this (seconds)."""

LEAST_GAP_S = 0.1
"""A shorter audio gap (seconds) is one codec packet and is not reported."""

FULL_SCALE = 1.0 - 1.0 / 32768
"""Samples at or above this level count as clipped."""

LEAST_SOUND_S = 0.05
"""Minimum length of a clip without video: the audio encoders make no token from less than 30 to 40 ms."""

LEAST_TAIL = 0.05
"""Share of a frame interval that must remain for one more frame. Audio often outlasts video by one packet (23 ms of
AAC): a file of 8.008 s has 16 frames at 2 fps, not 17 with one repeated."""

LONGEST_HOLD_S = 3600.0
"""A frame shown for longer than this (seconds) without audio is a damaged time stamp, not a slide: one flipped bit
would make days of a still picture."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """A take filled up to the span's counts, with the share that was decoded."""

    frames: Frames | None
    audio: Samples | None
    shares: tuple[float, ...]
    """Shares decoded of video and of audio, as far as the file has them."""
    begins_late: bool
    """Whether the span's beginning is incomplete and reading from earlier in the file may help."""
    notes: tuple[str, ...]
    noticed: Noticed
    is_damaged: bool = False
    """Whether ffmpeg reported an error or gave no output."""
    is_empty: bool = False
    """Whether ffmpeg gave no frame and no audio at all up to the span's end, not even from before it; or no frame
    where there are some: the key frame may lie further back."""

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key: takes of the same span compare by it."""
        return self.share, -self.noticed.silent_s

    @property
    def share(self) -> float:
        """The smaller share."""
        return round(max(0.0, min(self.shares)), 6)


def decode_clip(path: Readable, info: MediaInfo, clip: Clip, settings: DecodeSettings) -> DecodedClip:
    """Decode one span of a local file, or of an object in blocks.

    Returns uint8 RGB frames (T, H, W, 3) with T = ceil(length * fps - LEAST_TAIL), at most `settings.max_pixels` each
    in the displayed aspect (after rotation), and float32 mono audio of round(length * 16000) samples; None for what the
    file lacks. A span lies in one continuous part of the file: whatever reaches beyond it is missing.

    Raises MediaMissing, NotMedia (not a regular file), NoStreams, MediaTooLarge, ClipTooShort, DecodeTimeout,
    DecodeFailed (nothing of the span) and DecodeIncomplete (less than `settings.min_share` of pictures and of sound),
    and what fetching blocks raises.
    """
    if not isinstance(path, InBlocks | Arriving):
        _check_file(path, settings)
    number = info.part_at(clip.start_s)
    part = info.parts[number]
    place = _Place(part.info, clip.start_s - part.start_s, clip.length_s)
    span = _span(info, part, clip, settings)
    if isinstance(path, Arriving):
        span = replace(span, threads=THREADS_OF_FIRST)
    if (end_s := _known_end_s(place.info)) is not None and place.start_s > end_s + EARLIER_SEEK_S + part.info.lag_s:
        raise DecodeFailed(
            f"nothing could be decoded from {clip.start_s:g} s to {clip.end_s:g} s: video and audio end "
            f"{part.start_s + end_s:.1f} s into the file, although it says that it is {info.duration_s:.1f} s long"
        )
    started = decoding_time(path)
    best = None
    if span.frames and nvdec.takes(part.info, settings):
        on_card = replace(span, on_card=True, threads=1)
        best = _best(path, info, part, on_card, place, settings, started)
        if best.is_damaged or best.share < 1:
            best = None  # decoders conceal damage differently; the CPU decoder gives the same result everywhere
    if best is None:
        best = _best(path, info, part, span, place, settings, started)
    if max(best.shares) <= 0:
        raise DecodeFailed(
            f"nothing could be decoded from {clip.start_s:g} s to {clip.end_s:g} s; " + "; ".join(best.notes)
        )
    if max(best.shares) < settings.min_share:
        raise DecodeIncomplete(
            f"only {max(best.shares):.1%} of the clip from {clip.start_s:g} s to {clip.end_s:g} s could be decoded, "
            f"min_share is {settings.min_share:.0%}; " + "; ".join(best.notes)
        )
    return DecodedClip(
        clip=clip,
        frames=best.frames,
        audio=best.audio,
        fps=settings.fps,
        decoded_share=best.share,
        decode_s=decoding_time(path) - started,
        notes=best.notes,
        noticed=replace(
            best.noticed,
            segment=number,
            segment_pts_s=round(span.pts_s, 6),
            decoded_hash=_hash_of(best.frames, best.audio),
        ),
    )


def _known_end_s(info: MediaInfo) -> float | None:
    """Where the last packet of a part ends, as far as all of them are known: no ffmpeg needs to look beyond."""
    ends = [end for end in (info.video_end_s, info.audio_end_s) if end is not None]
    return max(ends) if info.is_checked and ends else None


def _best(
    path: Readable,
    info: MediaInfo,
    part: Segment,
    span: Span,
    place: _Place,
    settings: DecodeSettings,
    started: float,
) -> _Judged:
    """The best of up to three takes of a span, each reading from an earlier point."""
    begins_s = info.parts[0].pts_s if part.video_bytes == info.parts[0].video_bytes else part.pts_s
    from_s = None
    if part.info.container == "avi" and part.video_bytes == (0, None) and part.pts_s > info.start_s:
        # AVI has no times: what is read from before a hole would be counted wrongly behind it.
        begins_s = from_s = part.pts_s + (0.0 if part.info.video_codec in WHOLE else SEEKS_BACK_S)
    known_lag = info.is_checked and not info.segments
    best: _Judged | None = None
    for lead_s in (LEAD_S + part.info.lag_s, EARLIER_SEEK_S + part.info.lag_s, math.inf):
        seek_s = span.pts_s - lead_s
        attempt = replace(span, seek_s=seek_s if seek_s > begins_s else from_s)
        again = _judge(take_span(path, part.info, attempt, settings, started), span, place, settings)
        best = again if best is None or again.rank > best.rank else best
        is_late = best.begins_late and (best.is_empty or not known_lag)
        may_be_earlier = (best.share < 1 or is_late) if lead_s < EARLIER_SEEK_S else is_late
        if not may_be_earlier or attempt.seek_s == from_s:
            break
        if lead_s >= EARLIER_SEEK_S and place.start_s > LONGEST_WITHOUT_SEEKING_S:
            break
    assert best is not None
    return best


def _hash_of(frames: Frames | None, audio: Samples | None) -> str:
    """See `Noticed.decoded_hash`. Takes 40 ms for 36 MB; decoding takes a second."""
    moves = frames is not None and any(not np.array_equal(frames[0], frame) for frame in frames[1:])
    sounds = audio is not None and len(audio) > 0 and float(np.abs(audio).max()) > SILENT_LEVEL
    if not moves and not sounds:
        return ""
    found = hashlib.blake2b(digest_size=8)
    for content in (frames, audio):
        if content is not None:
            found.update(np.ascontiguousarray(content).data)
    return found.hexdigest()


def target_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) scaled down, never up, to at most `max_pixels`, at the same aspect ratio as far as whole pixels
    and `LONGEST_ASPECT` allow."""
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


def most_decoded_bytes(length_s: float, settings: DecodeSettings) -> int:
    """Of a span of `length_s` seconds of any file."""
    return math.ceil(length_s * settings.fps) * settings.max_pixels * 3 + 4 * round(length_s * SAMPLE_RATE)


def _check_file(path: str | os.PathLike[str], settings: DecodeSettings) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise MediaMissing(f"cannot open {os.fspath(path)!r}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise NotMedia(f"{os.fspath(path)!r} is not a regular file")
    if found.st_size > settings.max_media_bytes:
        raise MediaTooLarge(f"{found.st_size} bytes; max_media_bytes is {settings.max_media_bytes}")


@dataclass(frozen=True)
class _Place:
    """A span's position in a continuous part of a file."""

    info: MediaInfo
    """Of the part."""
    start_s: float
    """In seconds from the part's beginning."""
    length_s: float


def _span(info: MediaInfo, part: Segment, clip: Clip, settings: DecodeSettings) -> Span:
    if not info.has_video and not info.has_audio:
        raise NoStreams("the file has neither video nor audio")
    if clip.length_s <= 0:
        raise DecodeFailed(f"a clip must have a length, got {clip.start_s:g} s to {clip.end_s:g} s")
    here = part.info
    if here.has_video:
        if not here.width or not here.height:
            raise DecodeFailed(f"the frame size is unknown (codec {here.video_codec})")
        if here.width * here.height > MAX_SOURCE_PIXELS:
            raise MediaTooLarge(f"{here.width}x{here.height} pixels; up to {MAX_SOURCE_PIXELS} per frame are allowed")
    frames, height, width, samples = decoded_shape(here, clip.length_s, settings)
    if not frames and samples < LEAST_SOUND_S * SAMPLE_RATE:
        raise ClipTooShort(
            f"{1000 * clip.length_s:.1f} ms of audio and no video; a clip needs at least {1000 * LEAST_SOUND_S:g} ms"
        )
    span = Span(
        pts_s=part.pts_s + clip.start_s - part.start_s,
        seek_s=None,
        length_s=clip.length_s,
        frames=frames,
        height=height,
        width=width,
        samples=samples,
        video_bytes=part.video_bytes,
        audio_bytes=part.audio_bytes,
        head_bytes=part.head_bytes,
    )
    wanted = frames * span.frame_bytes + 4 * samples
    if wanted > settings.max_bytes:
        raise MediaTooLarge(
            f"{clip.length_s:g} s are {wanted} bytes decoded ({frames} frames of {width}x{height}); max_bytes is "
            f"{settings.max_bytes}; use shorter clips, a lower fps or fewer max_pixels"
        )
    return span


def _judge(take: Take, span: Span, place: _Place, settings: DecodeSettings) -> _Judged:
    """Compare the output with the source's presentation times, and fill up to the span's counts.

    A gap is a loss if ffmpeg reported an error, if nothing shows that the file continues, or if the video cannot have
    gaps (a constant frame rate in a broadcast). Otherwise the file is like that (a slide that stays, a microphone
    switched off, audio that ends early), and the gap is filled without counting as a loss.
    """
    info = place.info
    placed_sounds = [placed(sound, span.samples) for sound in take.sounds]
    ends = [t - place.start_s for t in (info.video_end_s, info.audio_end_s) if t is not None]
    ends += [float(take.frame_times[-1])] if len(take.frame_times) else []
    ends += [float(sound.starts[-1]) for sound in take.sounds if len(sound.starts)]
    reaches_s = max(ends, default=0.0) + HOLD_S
    shares: list[float] = []
    notes: list[str] = []
    frames: Frames | None = None
    audio: Samples | None = None
    silent_s = held_s = missing_s = clipped_share = 0.0
    begins_late = False
    if span.frames:
        complained = take.failure is not None or _complains(take, info, "video")
        lost, held = _lost_frames(take, span, place, settings.fps, reaches_s, complained)
        corrupt = take.finished.stderr.lower().count("corrupt decoded frame") / max(1, len(take.frame_times))
        shares.append(min(1 - float(lost.mean()), 1 - min(1.0, corrupt)))
        missing_s, held_s = _seconds(lost, span, settings.fps), _seconds(held, span, settings.fps)
        if lost.any():
            first = int(lost.argmax())
            notes.append(
                f"{int(lost.sum())} of {span.frames} frames are missing, the first at {first / settings.fps:g} s"
            )
        late_s = float(take.frame_times[0]) if len(take.frame_times) else span.length_s
        begins_late = late_s > HOLD_S
        if place.start_s == 0 and late_s > 1:
            notes.append(f"no frame before {late_s:.1f} s; filled with the first frame, or with black")
        frames = _filled(take.frames, span.frames)
        if info.hdr:
            notes.append(
                "HDR video was tone-mapped" if tone_maps() else "HDR video was not tone-mapped, so frames are dark"
            )
        notes += _other_shapes(take, info)
    if span.samples:
        sounds = {track.number: track.channels or 1 for track in info.tracks if track.kind == "audio"}
        audio, has = mean(placed_sounds, [sounds.get(n, 1) for n in info.audio_mix] or [1])
        gaps = runs(~has, LEAST_GAP_S)
        if take.failure is not None or _complains(take, info, "audio"):
            lost_s = sum(end - begin for begin, end in gaps)
        else:
            # Behind a damaged time, ffmpeg may take all that follows for another time, and give none of it.
            is_cut_short = info.has_damaged_times and info.container in LOSSY_CONTAINERS
            from_s = [begin if is_cut_short and end >= span.length_s else max(begin, reaches_s) for begin, end in gaps]
            lost_s = sum(max(0.0, end - begin) for begin, (_, end) in zip(from_s, gaps, strict=True))
        shares.append(1 - lost_s / span.length_s)
        missing_s = max(missing_s, lost_s)
        silent_s = silence_s(audio, has)
        if lost_s:
            notes.append(f"{lost_s:.2f} of {span.length_s:g} s of audio are missing")
        empty_s = sum(end - begin for begin, end in gaps) - lost_s
        if empty_s > 1:
            notes.append(f"the audio track is empty for {empty_s:.1f} s; filled with silence")
        begins_late = begins_late or bool(gaps and gaps[0][0] == 0)
        clipped_share = float((np.abs(audio) >= FULL_SCALE).mean())
        audio = audio.clip(-1.0, 1.0)
    is_heard = any((sound.starts < span.length_s).any() for sound in take.sounds)
    if span.frames and span.samples and shares[0] <= 0 and not is_heard:
        shares[1] = 0.0  # a gap of sound beside pictures is silence; where nothing at all is read, it is not
    if take.failure is not None:
        notes.append(take.failure)
    elif take.complaints:
        notes.append(f"damaged: {take.complaint}")
    noticed = Noticed(
        silent_s=silent_s,
        held_s=held_s,
        missing_s=round(missing_s, 6),
        clipped_share=round(clipped_share, 6),
        tone_mapped=bool(span.frames) and info.hdr and tone_maps(),
    )
    return _Judged(
        frames,
        audio,
        tuple(shares),
        begins_late and place.start_s > 0,
        tuple(notes),
        noticed,
        is_damaged=take.failure is not None or bool(take.complaints),
        is_empty=not (take.frame_times < span.length_s).any()
        and (not is_heard or place.start_s < (info.video_end_s or 0.0)),
    )


def _complains(take: Take, info: MediaInfo, kind: str) -> bool:
    """Whether ffmpeg reported an error about this kind of stream, or about the file."""
    mine, other = (info.video_codec, info.audio_codec) if kind == "video" else (info.audio_codec, info.video_codec)
    sign = "[aist#" if kind == "video" else "[vist#"
    return any(sign not in line and not line.startswith(f"[{other}]") for line in take.complaints) if mine else False


def _seconds(marked: npt.NDArray[np.bool_], span: Span, fps: float) -> float:
    """Total display time of the marked frames in seconds."""
    return round(min(float(marked.sum()) / fps, span.length_s), 6)


def _other_shapes(take: Take, info: MediaInfo) -> list[str]:
    """A note if frames differ in size or aspect from the file's first."""
    assert info.width
    assert info.height
    halves = 2 if take.is_one_field else 1
    others = {
        f"{width}x{height * halves}"
        for width, height, aspect in take.shapes
        if abs(aspect / halves * info.height / info.width - 1) >= SAME_ASPECT
    }
    if not others:
        return []
    return [f"frames with another shape than the file's first frame ({', '.join(sorted(others))}); padded"]


def _lost_frames(
    take: Take, span: Span, place: _Place, fps: float, reaches_s: float, complained: bool
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Two (span.frames,) masks, True where the source has no picture for the frame's time: lost, and merely held."""
    info = place.info
    wanted = np.arange(span.frames) / fps
    times = take.frame_times
    nothing, everything = np.zeros(span.frames, np.bool_), np.ones(span.frames, np.bool_)
    if not len(times):
        return everything, nothing
    shown = newest(times, span.frames, fps)
    if not len(take.frames) and shown[-1] >= 0:
        return everything, nothing
    before_first = shown < 0
    gap_s = np.where(before_first, times[0] - wanted, wanted - times[np.maximum(shown, 0)])
    is_gap = gap_s > max(HOLD_S, 2 / info.frame_rate if info.frame_rate else 1.0)
    # Video may begin late at the start of a file; further on, no frame before the span means a seek too far.
    unexplained = (before_first & (place.start_s > 0)) | (wanted > reaches_s)
    if not any(len(sound.samples) for sound in take.sounds) and not info.is_checked:
        unexplained |= ~before_first & (gap_s > LONGEST_HOLD_S)
    if info.container in LOSSY_CONTAINERS and not info.variable_rate:
        goes_on = wanted < (info.video_end_s - place.start_s - HOLD_S if info.video_end_s is not None else -math.inf)
        unexplained |= ~before_first & ((shown < len(times) - 1) | goes_on)
    lost = is_gap & (unexplained | complained)
    return lost, is_gap & ~lost


def _filled(frames: Frames, count: int) -> Frames:
    """Repeat the last frame (black if there is none) up to `count`."""
    if len(frames) == count:
        return frames
    missing = count - len(frames)
    last = frames[-1:] if len(frames) else np.zeros((1, *frames.shape[1:]), np.uint8)
    return np.concatenate([frames, np.repeat(last, missing, axis=0)])
