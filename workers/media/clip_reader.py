"""One clip of one file becomes arrays: pictures at the asked rate and 16 kHz sound, checked against its span.

Promises: frame k is the picture on screen at `clip.start_s + k / fps`, sample i the sound at
`clip.start_s + i / 16000`; their counts are those of the span, what was missing is filled, counted in `decoded_share`
and named in `notes`. Knows nothing about archives, object stores, Ray or where a span comes from.

ffmpeg's exit status and frame count prove nothing: a truncated file ends with status 0, and the fps filter repeats
frames over any gap. So a frame counts as decoded only if the source had a picture for its time, by the source's own
presentation times.
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
from workers.media.blocks import InBlocks, Readable
from workers.media.confinement import MAX_SOURCE_PIXELS
from workers.media.extraction import SAME_ASPECT, Frames, Span, Take, decoding_time, newest, take_span, tone_maps
from workers.media.sound import SAMPLE_RATE, SILENT_LEVEL, Samples, mean, placed, runs, silence_s
from workers.records import Clip, DecodedClip, DecodeSettings, MediaInfo, Noticed, Segment

EARLIER_SEEK_S = 12.0
"""Some containers seek to a point after the one asked for. A clip that lacks something is tried once more from this
much earlier; longer than the usual distance of key frames (10 s)."""

HOLD_S = 0.25
"""A gap in the source's times shorter than this (or than two of its frames) is none."""

LONGEST_ASPECT = 100
"""The models' image processors refuse pictures 200 times as long as wide; beyond half of that the long side is
squeezed."""

LEAD_S = 2.5
"""Reading begins this much before a clip: decoders need a run-up, and jitter of times shows only over a second."""

LONGEST_WITHOUT_SEEKING_S = 600.0
"""A badly interleaved part of a file is read from its beginning if the clip is no further in than this."""

LEAST_GAP_S = 0.1
"""A shorter gap in the sound is a codec's own packet, not worth a word."""

FULL_SCALE = 1.0 - 1.0 / 32768
"""A sample at or above it is clipped."""

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
    shares: tuple[float, ...]
    """Of pictures and of sound, as far as the file has them."""
    begins_late: bool
    """Whether the span's beginning lacks something that may lie earlier in the file than reading began."""
    notes: tuple[str, ...]
    noticed: Noticed
    is_damaged: bool = False
    """Whether ffmpeg complained, or gave nothing."""

    @property
    def rank(self) -> tuple[float, float]:
        """What makes one take of the same span better than another."""
        return self.share, -self.noticed.silent_s

    @property
    def share(self) -> float:
        """The smaller one."""
        return round(max(0.0, min(self.shares)), 6)


def decode_clip(path: Readable, info: MediaInfo, clip: Clip, settings: DecodeSettings) -> DecodedClip:
    """Decode one span of a local file, or of an object in blocks.

    Returns uint8 RGB frames (T, H, W, 3) with T = ceil(length * fps - LEAST_TAIL), at most `settings.max_pixels` each
    in the aspect displayed (after rotation), and float32 mono sound of round(length * 16000) samples; None for what the
    file lacks. A span lies in one of the file's continuous parts: what reaches beyond is missing.

    Raises MediaMissing, NotMedia (not a regular file), NoStreams, MediaTooLarge, ClipTooShort, DecodeTimeout,
    DecodeFailed (nothing of the span) and DecodeIncomplete (less than `settings.min_share` of pictures and of sound),
    and what fetching blocks raises.
    """
    if not isinstance(path, InBlocks):
        _check_file(path, settings)
    number = info.part_at(clip.start_s)
    part = info.parts[number]
    place = _Place(part.info, clip.start_s - part.start_s, clip.length_s)
    span = _span(info, part, clip, settings)
    started = decoding_time(path)
    best = None
    if span.frames and nvdec.takes(part.info, settings):
        best = _best(path, info, part, replace(span, on_card=True), place, settings, started)
        if best.is_damaged or best.share < 1:
            best = None  # every decoder conceals damage in its own way: that of the CPU is the same everywhere
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


def _best(
    path: Readable,
    info: MediaInfo,
    part: Segment,
    span: Span,
    place: _Place,
    settings: DecodeSettings,
    started: float,
) -> _Judged:
    """The best of up to three takes of a span, each read from further back."""
    begins_s = info.parts[0].pts_s if part.video_bytes == info.parts[0].video_bytes else part.pts_s
    known_lag = info.is_checked and not info.segments
    best: _Judged | None = None
    for lead_s in (LEAD_S + part.info.lag_s, EARLIER_SEEK_S + part.info.lag_s, math.inf):
        seek_s = span.pts_s - lead_s
        attempt = replace(span, seek_s=seek_s if seek_s > begins_s else None)
        again = _judge(take_span(path, part.info, attempt, settings, started), span, place, settings)
        best = again if best is None or again.rank > best.rank else best
        is_late = best.begins_late and not known_lag
        may_be_earlier = (best.share < 1 or is_late) if lead_s < EARLIER_SEEK_S else is_late
        if not may_be_earlier or attempt.seek_s is None:
            break
        if lead_s >= EARLIER_SEEK_S and place.start_s > LONGEST_WITHOUT_SEEKING_S:
            break
    assert best is not None
    return best


def _hash_of(frames: Frames | None, audio: Samples | None) -> str:
    """See `Noticed.decoded_hash`: 40 ms for 36 MB, where decoding takes a second."""
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


@dataclass(frozen=True)
class _Place:
    """Where a span lies in a continuous part of a file."""

    info: MediaInfo
    """Of the part."""
    start_s: float
    """From the part's beginning."""
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
    )
    wanted = frames * span.frame_bytes + 4 * samples
    if wanted > settings.max_bytes:
        raise MediaTooLarge(
            f"{clip.length_s:g} s are {wanted} bytes decoded ({frames} frames of {width}x{height}); max_bytes is "
            f"{settings.max_bytes}; use shorter clips, a lower fps or fewer max_pixels"
        )
    return span


def _judge(take: Take, span: Span, place: _Place, settings: DecodeSettings) -> _Judged:
    """Compare what came with what the source's times say, and fill up to the span's counts.

    A gap in the times is a loss if ffmpeg complained, if nothing shows that the file goes on that far, or if the
    pictures have no gaps by nature (an even frame rate in a broadcast); otherwise it is how the file is (a slide that
    stays, a microphone that is switched off, a sound track that ends early), and is filled without being a loss.
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
            lost_s = sum(max(0.0, end - max(begin, reaches_s)) for begin, end in gaps)
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
    is_damaged = take.failure is not None or bool(take.complaints)
    return _Judged(frames, audio, tuple(shares), begins_late and place.start_s > 0, tuple(notes), noticed, is_damaged)


def _complains(take: Take, info: MediaInfo, kind: str) -> bool:
    """Whether ffmpeg said something against the pictures or the sound, or against the file as such."""
    mine, other = (info.video_codec, info.audio_codec) if kind == "video" else (info.audio_codec, info.video_codec)
    sign = "[aist#" if kind == "video" else "[vist#"
    return any(sign not in line and not line.startswith(f"[{other}]") for line in take.complaints) if mine else False


def _seconds(marked: npt.NDArray[np.bool_], span: Span, fps: float) -> float:
    """How long the marked frames are shown."""
    return round(min(float(marked.sum()) / fps, span.length_s), 6)


def _other_shapes(take: Take, info: MediaInfo) -> list[str]:
    """A note where pictures came in another size or aspect than the file's first."""
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
    """(span.frames,) True where the source had no picture for the frame's time: lost, and only held."""
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
    # A stream may begin late at the head of a file; further on, no picture before the span means a seek too far.
    unexplained = (before_first & (place.start_s > 0)) | (wanted > reaches_s)
    if not any(len(sound.samples) for sound in take.sounds) and not info.is_checked:
        unexplained |= ~before_first & (gap_s > LONGEST_HOLD_S)
    if info.container in LOSSY_CONTAINERS and not info.variable_rate:
        goes_on = wanted < (info.video_end_s - place.start_s - HOLD_S if info.video_end_s is not None else -math.inf)
        unexplained |= ~before_first & ((shown < len(times) - 1) | goes_on)
    lost = is_gap & (unexplained | complained)
    return lost, is_gap & ~lost


def _filled(frames: Frames, count: int) -> Frames:
    """Repeat the last picture (black where there is none) up to `count`."""
    if len(frames) == count:
        return frames
    missing = count - len(frames)
    last = frames[-1:] if len(frames) else np.zeros((1, *frames.shape[1:]), np.uint8)
    return np.concatenate([frames, np.repeat(last, missing, axis=0)])
