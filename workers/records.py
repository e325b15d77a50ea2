"""The values that travel between the driver, the decode tasks and the model actor, one way, all frozen.

Promises: a clip's id goes with it through every call, so that answers can never attach to another clip. Knows nothing
about Ray, ffmpeg, the job file or how ids are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from omnidrop.answers import ClipAnswers, Cost
from omnidrop.questions import Question
from workers.whole_text import Line

if TYPE_CHECKING:
    # See `omnidrop.answers`.
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Media:
    """One item of an archive, as listed."""

    media_id: str
    """Hash of archive name and key: a label, whatever the content."""
    key: str
    """Path relative to the archive's root, with forward slashes."""
    uri: str
    """Where to open it: an absolute local path or an `s3://` address."""
    etag: str
    """Changes when the content changes, and at other times: a local file's size and time, or what S3 says."""
    size_bytes: int
    mark: str = ""
    """The etag plus other cheap signs of change: while the mark is the same, so is the content."""
    content_id: str | None = None
    """SHA-256 of the bytes, 64 hex digits: the item's identity. None where it is not known (yet)."""
    told: tuple[tuple[str, str], ...] = ()
    """Of what templates read of its sidecars: (name, hash of what they say)."""
    sidecars: tuple[tuple[str, str], ...] = ()
    """Those that say it: (key, SHA-256)."""


@dataclass(frozen=True)
class Track:
    """One stream of pictures or sound, and why it is decoded or not."""

    index: int
    """Counted among all streams of the container."""
    kind: Literal["video", "audio"]
    number: int
    """Counted among the streams of its kind: how ffmpeg names it."""
    codec: str
    chosen: bool = False
    why: str = ""
    language: str = ""
    flags: tuple[str, ...] = ()
    """Of its dispositions those that matter to the choice: default, original, comment, visual_impaired, ..."""
    is_silent: bool = False
    """Digital silence in every window that was sampled."""
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    variable_rate: bool = False
    rotation_deg: int = 0
    is_turned_by_codec: bool = False
    hdr: bool = False
    interlaced: bool = False
    is_untagged_hd: bool = False
    sample_rate: int | None = None
    channels: int | None = None

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Track:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**given, "flags": tuple(given["flags"])})


TEXT_SUBTITLES = frozenset({"subrip", "ass", "mov_text", "webvtt", "text", "eia_608"})
"""Codecs of subtitles that are words, closed captions included; others are pictures of words, or teletext."""


RawCue = tuple[float, float | None, str]
"""A subtitle as its track has it: start and end by the container's own time, None for an end that is not said; the text
of an ASS event."""


@dataclass(frozen=True)
class SubtitleTrack:
    """One stream of subtitles."""

    index: int
    """Counted among all streams of the container."""
    number: int
    """Counted among the streams of subtitles, as in ffmpeg's `s:0`; captions inside the video come after these."""
    codec: str
    language: str = ""
    flags: tuple[str, ...] = ()
    """Of its dispositions: default, original, dub, comment, forced, hearing_impaired, ..."""

    @property
    def is_text(self) -> bool:
        """Whether its words can be read."""
        return self.codec in TEXT_SUBTITLES

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> SubtitleTrack:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**given, "flags": tuple(given["flags"])})


@dataclass(frozen=True)
class Segment:
    """A part of a file in which time runs on: one of several recordings joined, or what lies between two jumps."""

    start_s: float
    """Seconds of content before it."""
    end_s: float
    pts_s: float
    """The container's own time where it begins."""
    info: MediaInfo
    """What the part holds, as a file of its own."""
    video_bytes: tuple[int, int | None] = (0, None)
    """Where its pictures lie in the file: the first byte, and the one after the last or None for the file's end."""
    audio_bytes: tuple[int, int | None] = (0, None)
    """The same of its sound: where a broadcast's clock jumps, packets of both sides lie between one another."""
    head_bytes: tuple[int, int] = (0, 0)
    """The header that it is read behind, if it shares that of a recording before it: first byte, one after the last."""

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Segment:
        """The inverse of `dataclasses.asdict`."""
        ranges = ("video_bytes", "audio_bytes", "head_bytes")
        made: dict[str, Any] = {name: tuple(given[name]) for name in ranges if name in given}
        return cls(**{**given, **made, "info": MediaInfo.from_dict(given["info"])})


@dataclass(frozen=True)
class MediaInfo:
    """What probing found. Sizes are as displayed, after rotation."""

    container: str
    duration_s: float
    start_s: float = 0.0
    """The container's first presentation time; spans are counted from it."""
    video_codec: str | None = None
    video_stream: int | None = None
    """Which video stream is decoded, counted among the video streams (cover art included)."""
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    """Average frames a second; None where the file does not tell."""
    variable_rate: bool = False
    """Pictures come at uneven intervals: a gap between two of them is no loss."""
    rotation_deg: int = 0
    is_turned_by_codec: bool = False
    """Coded pictures say it, perhaps only the first: behind a seek ffmpeg does not know it."""
    hdr: bool = False
    """The transfer is PQ or HLG: decoding tone-maps where it can and notes it."""
    interlaced: bool = False
    audio_codec: str | None = None
    audio_stream: int | None = None
    """Which audio stream is decoded, counted among the audio streams: the default one."""
    audio_streams: int = 0
    sample_rate: int | None = None
    channels: int | None = None
    video_end_s: float | None = None
    """Where the last picture that can really be read ends, counted as spans are; None where that was not found out.
    Earlier than `duration_s` in a truncated file."""
    audio_end_s: float | None = None
    """The same for sound."""
    tags: tuple[tuple[str, str], ...] = ()
    """Container tags (title, date, ...), lower-case names, sorted; untrusted text, offered to question templates."""
    is_untagged_hd: bool = False
    """720 lines or more and no word on their colours: BT.709, as players take it."""
    audio_mix: tuple[int, ...] = ()
    """The audio streams whose channels are averaged, where it is more than `audio_stream`."""
    tracks: tuple[Track, ...] = ()
    lag_s: float = 0.0
    """How far a stream's packets lie behind another's in the file: so much earlier must reading begin."""
    has_damaged_times: bool = False
    """Some packets say that they are of another time than those around them."""
    segments: tuple[Segment, ...] = ()
    """The continuous parts, where the file is not one."""
    chapters: tuple[tuple[float, float, str], ...] | None = None
    """(start, end, title) of the container's chapters, counted as spans are; untrusted text. None in what earlier
    versions found, which did not look."""
    subtitles: tuple[SubtitleTrack, ...] | None = None
    """Streams of subtitles; None in what earlier versions found, which did not describe them."""
    is_checked: bool = False
    """Whether the timeline is known from an index or from every packet, not only from what the container declares."""
    notes: tuple[str, ...] = ()
    """What was noticed about the whole file."""

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> MediaInfo:
        """The inverse of `dataclasses.asdict`, also after JSON has made lists of tuples."""
        made: dict[str, Any] = {"tags": tuple((name, value) for name, value in given["tags"])}
        made |= {name: tuple(given[name]) for name in ("audio_mix", "notes") if name in given}
        if given.get("chapters") is not None:
            made["chapters"] = tuple((start, end, title) for start, end, title in given["chapters"])
        subtitles = given.get("subtitles")
        if given.get("subtitle_tracks") == 0:  # earlier versions only counted them
            subtitles = ()
        made["subtitles"] = None if subtitles is None else tuple(map(SubtitleTrack.from_dict, subtitles))
        made["tracks"] = tuple(map(Track.from_dict, given.get("tracks", ())))
        made["segments"] = tuple(map(Segment.from_dict, given.get("segments", ())))
        return cls(**{name: value for name, value in {**given, **made}.items() if name != "subtitle_tracks"})

    @property
    def parts(self) -> tuple[Segment, ...]:
        """The continuous parts in order; of a file that is continuous the file itself."""
        return self.segments or (Segment(0.0, self.duration_s, self.start_s, self),)

    @property
    def unused_tracks(self) -> int:
        """How many streams of pictures or sound are not decoded."""
        return sum(not track.chosen for track in self.tracks)

    def part_at(self, start_s: float) -> int:
        """Number of the part that holds a second of content."""
        parts = self.parts
        return max((n for n, part in enumerate(parts) if part.start_s <= start_s + 1e-6), default=0)

    @property
    def has_video(self) -> bool:
        """Whether there is a picture (cover art does not count)."""
        return self.video_codec is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is sound."""
        return self.audio_codec is not None


@dataclass(frozen=True)
class Clip:
    """A span of one media item, in seconds from its start."""

    clip_id: str
    index: int
    """Counted from 0 within the media item."""
    start_s: float
    end_s: float
    told: tuple[tuple[str, str], ...] = ()
    """(name, hash of its value for this clip) of what templates read from sidecars."""

    @property
    def length_s(self) -> float:
        """Seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class DecodeSettings:
    """How clips are decoded, and the limits that an untrusted file may not pass."""

    fps: float = 2.0
    """Frames a second asked for."""
    max_pixels: int = 128 * 28 * 28
    """Frames are scaled down, keeping their aspect, to at most this many pixels."""
    timeout_s: float = 120.0
    """Wall-clock limit of one clip's ffmpeg process."""
    max_bytes: int = 1 << 30
    """A decoded clip larger than this is refused."""
    max_media_bytes: int = 1 << 40
    """A file larger than this is refused before it is opened."""
    confinement: Literal["auto", "landlock+seccomp", "rlimits"] = "auto"
    """What the machine that decodes must at least grant: see `workers.media.confinement`."""
    decoder: Literal["auto", "cpu", "nvdec"] = "cpu"
    """What decodes pictures: see `workers.media.nvdec`."""
    min_share: float = 0.5
    """A clip of which less than this share could be decoded is quarantined rather than answered as `partial`."""


@dataclass(frozen=True)
class Version:
    """A content under a recipe, and where its work units lie."""

    version_id: str
    group: str = ""
    """First folder of its units: `_`, or the job that asked in a journal before format 4; empty where it has none."""
    item_id: str = ""
    """The content's short name there, or the label of earlier formats."""
    labels: tuple[tuple[str, str], ...] = ()
    """What the question set reads of the item's key: (field, value)."""
    answer_format: int | None = None
    """Of decoding and method, which named it; None where a made-up version has none."""
    clips_per_unit: int | None = None
    """It was begun in units of this size and goes on so."""


@dataclass(frozen=True)
class Asking:
    """What a clip is asked: its questions, and the text that they share."""

    questions: tuple[Question, ...]
    instruction: str


@dataclass(frozen=True)
class WorkUnit:
    """Consecutive clips of one media item with the questions asked of each: what is retried and committed whole."""

    unit_id: str
    version_id: str
    """The content, job and recipe it belongs to."""
    media: Media
    info: MediaInfo
    clips: tuple[Clip, ...]
    questions: tuple[Question, ...]
    instruction: str
    """Text that all questions share, asked once in the prefix."""
    attempt: int = 0
    """Above 0 where a finished unit is done again; then `clips` are those that failed."""
    version: Version | None = None
    """Of `version_id`, for the driver."""
    own: Mapping[str, Asking] = field(default_factory=dict)
    """By clip id, where each clip is asked in words of its own, those of sidecars; else all are asked `questions`."""
    kept: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By clip id, questions whose answers are there already."""
    lines: tuple[Line, ...] = ()
    """What was answered about a whole video's clips, where it is asked as a whole: then nothing is decoded, and `clips`
    is one that stands for all of it."""

    def asked_of(self, clip: Clip) -> Asking:
        """What a clip is asked."""
        own = self.own.get(clip.clip_id)
        if own is None:
            return Asking(self.questions, self.instruction)
        wanted = {question.id for question in self.questions} - self.kept.get(clip.clip_id, frozenset())
        return Asking(tuple(q for q in own.questions if q.id in wanted), own.instruction)


REPEATS = "video and audio are exactly those of the previous clip"
"""The note of a clip that repeats the one before."""


@dataclass(frozen=True)
class Noticed:
    """What was noticed about one clip, in numbers that can be summed and filtered."""

    segment: int = 0
    """Which continuous part of the file it was taken from, counted from 0."""
    segment_pts_s: float = 0.0
    """The container's own time where the clip begins."""
    silent_s: float = 0.0
    """Seconds in which the sound track has nothing, or digital silence."""
    held_s: float = 0.0
    """Seconds in which a picture stays because the track has no newer one."""
    missing_s: float = 0.0
    """Seconds of pictures or sound, whichever is more, that should be there and could not be decoded."""
    clipped_share: float = 0.0
    """Share of the samples at full scale."""
    tone_mapped: bool = False
    decoded_hash: str = ""
    """Of all pictures and sound: clips with the same hold the same. Empty where a picture stays and nothing sounds."""

    def repeats(self, before: Noticed) -> bool:
        """Whether a clip holds to the last value what the one before holds: its seconds were read from a wrong place,
        or were recorded twice."""
        return bool(self.decoded_hash) and self.decoded_hash == before.decoded_hash


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """One clip's pictures and sound, verified against its span."""

    clip: Clip
    frames: npt.NDArray[np.uint8] | None
    """(T, H, W, 3) RGB, or None without a picture."""
    audio: npt.NDArray[np.float32] | None
    """(samples,) mono 16 kHz in -1..1, or None without sound."""
    fps: float
    """Frames a second really sampled."""
    decoded_share: float
    """Smaller of the shares of frames and samples that were there, 0..1; below 1 the clip is `partial`."""
    decode_s: float
    """Wall seconds of decoding, fetching excluded."""
    notes: tuple[str, ...] = ()
    noticed: Noticed = field(default_factory=Noticed)

    @property
    def nbytes(self) -> int:
        """Bytes of pictures and sound."""
        return sum(a.nbytes for a in (self.frames, self.audio) if a is not None)


Stage = Literal["probe", "plan", "fetch", "decode", "answer", "whole"]


@dataclass(frozen=True)
class ClipFailure:
    """Why a clip (or, from probing, a whole media item) has no answers."""

    clip: Clip | None
    """None where the whole media item failed."""
    stage: Stage
    error_class: str
    """Stable name, see `docs/` and the `error_class` of the exceptions."""
    message: str


@dataclass(frozen=True)
class ClipAudit:
    """The same clip also run dense with prefix reuse, by the same model, each of the two ways from cold caches."""

    is_dense_first: bool
    """Which came first is drawn by clip: whatever favours the second run favours both ways alike."""
    dense_shared: ClipAnswers | None
    """None where that run failed; then `error_class` and `message` say why."""
    error_class: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class ClipResult:
    """One answered clip."""

    clip: Clip
    answers: ClipAnswers
    fps: float
    frames: int
    samples: int
    decoded_share: float
    decode_s: float
    answer_s: float
    """Wall seconds inside the model actor, without those of an audit; of a pass with other clips an equal share."""
    notes: tuple[str, ...] = field(default=())
    noticed: Noticed = field(default_factory=Noticed)
    is_shrunk: bool = False
    """Whether it was answered with a smaller token budget for want of memory; a note says which."""
    audit: ClipAudit | None = None
    """None where the clip was not drawn, or not audited for another reason."""
    texts: tuple[Cost, ...] = ()
    """Where the clip stands for a whole video: what each of the texts took that were read for it."""


ClipOutcome = ClipResult | ClipFailure


@dataclass(frozen=True)
class DecodeReport:
    """What a decode task says of its clip without shipping pictures and sound to the driver."""

    failure: ClipFailure | None
    nbytes: int
    """Bytes of the decoded clip, 0 where decoding failed."""
    confinement: str = ""
    """What the machine that decoded grants."""
    machine: str = ""
    """The node's id."""
    tool: str = ""
    """The machine's name, and the ffmpeg that is used there."""
    bytes_fetched: int = 0
    """Read from the store for it."""


@dataclass(frozen=True)
class Loaded:
    """What the driver needs to know of an actor that is ready."""

    node_id: str
    load_s: float
    """Seconds that loading took, without waiting for a machine."""
