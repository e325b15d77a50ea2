"""What is written about an archive's media, by hash: in sidecars beside them or where the job says, and, of an item
without a transcript there, in its own subtitle track.

Promises: only kinds that the question set reads are looked for; a file or track that has not changed is read once; one
that is there and cannot be read is the media item's failure, with its name: an answer given without it would look like
any other; what was read, what says nothing and what was cut is counted. Knows nothing about versions or units.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pipeline.archive.beside import Beside, BesideUnreadable, File
from pipeline.archive.probing import CHILDREN, Elsewhere, source_of
from pipeline.config.locations import is_s3
from pipeline.config.sections import ArchiveConfig, ContextConfig, ExecutionConfig, ModelConfig
from pipeline.context.sidecars import (
    META,
    MOST_BYTES,
    MOST_META_CHARS,
    WORDS,
    Context,
    ContextError,
    Cue,
    is_sidecar,
    is_words,
    sidecars_of,
)
from pipeline.context.told import Cap, hashes, item_hashes, told
from pipeline.context.tracks import chosen, name_of
from pipeline.index.caches import ContextRow
from pipeline.index.savings_index import SavingsIndex
from pipeline.normal_forms import normal_forms
from pipeline.planning.context_found import Found, read_sidecar, read_track
from pipeline.questions.templates import Told, one_line
from pipeline.storage.outage import Patience
from workers.media.confinement import require
from workers.media.decode import opened_for_words
from workers.media.opening import local_path
from workers.media.probing import ProbePool
from workers.media.sidecars import suffix_of
from workers.records import ClipFailure, DecodeSettings, Media, MediaInfo, RawCue, SubtitleTrack

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig

_PLACE = re.compile(r"\{(folder|stem|name)\}")
UNREADABLE = "unreadable"
"""Stands for the hash of what a sidecar says that cannot be read."""


def context_reader(
    job: JobConfig,
    names: Sequence[str],
    patience: Patience | None = None,
    index: SavingsIndex | None = None,
    elsewhere: Elsewhere | None = None,
) -> ContextReader | None:
    """Reads what the job's question set reads of sidecars and subtitles (`names`), and remembers it in the index; None
    where it reads nothing of them. `elsewhere` is where objects are kept, if not here."""
    if not names:
        return None
    return ContextReader(job.archive, job.context, job.model, names, patience, index, job.execution, elsewhere)


@dataclass
class Counts:
    """What one pass over an archive read."""

    read: Counter[str] = field(default_factory=Counter)
    """Sidecars whose words are used, by suffix."""
    tracks: Counter[str] = field(default_factory=Counter)
    """Subtitle tracks whose words are used, by codec."""
    media: int = 0
    """Items that have some."""
    without: int = 0
    """Items that have none."""
    silent: int = 0
    """Sidecars and tracks that can be read, and say nothing that is taken."""
    unread: Counter[str] = field(default_factory=Counter)
    """Items without a transcript whose own subtitle tracks are not read, by the reason."""
    failed: int = 0
    """Items whose sidecars cannot be read."""
    cut_clips: int = 0
    cut_words: int = 0
    """Clips whose transcript is longer than the cap, and words that they are not told."""

    @property
    def line(self) -> str:
        """In words."""
        said = f"{self.read.total()} sidecars of {self.media} media{_listed(self.read)}"
        tracks = self.tracks.total()
        more = {
            f"subtitle tracks read of media without a sidecar transcript{_listed(self.tracks)}": tracks,
            "media without": self.without,
            "media whose sidecars or subtitles cannot be read": self.failed,
            "sidecars or subtitle tracks that say nothing that is read": self.silent,
            f"media without a transcript whose own subtitle tracks are not read{_listed(self.unread)}": (
                self.unread.total()
            ),
        }
        said += "".join(f"; {count} {what}" for what, count in more.items() if count)
        if self.cut_clips:
            said += (
                f"; transcripts of {self.cut_clips} clips cut by context.max_tokens, {self.cut_words} words left out"
            )
        return said


def _listed(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in counts.most_common())})" if counts else ""


@dataclass(frozen=True)
class ItemContext:
    """What one media item's sidecars and subtitles say."""

    names: tuple[str, ...]
    """What the question set reads of it."""
    cap: Cap
    context: Context = field(default_factory=Context)
    sidecars: tuple[tuple[str, str], ...] = ()
    """Those that say it: (key, SHA-256); of a subtitle track `KEY#s:N`, and the hash of its words."""
    failure: str = ""
    """Why one of them cannot be read."""
    error_class: str = ContextError.error_class
    """Of that."""
    left_out: dict[tuple[float, float], int] = field(default_factory=dict)
    """Words beyond the cap, by the spans of clips that were asked for."""

    def of_item(self, media: Media) -> Media:
        """The item with what is said of it."""
        if self.failure:
            return replace(media, told=tuple((name, UNREADABLE) for name in self.names))
        return replace(media, told=item_hashes(self.context, self.names, self.cap), sidecars=self.sidecars)

    def of_clip(self, start_s: float, end_s: float) -> tuple[Told, tuple[tuple[str, str], ...]]:
        """What a clip is told, and its hashes."""
        said, left_out = told(self.context, start_s, end_s, self.cap)
        if left_out and "clip.transcript" in self.names:
            self.left_out[start_s, end_s] = left_out
        return said, hashes(said, self.names)


def cap_of(config: ContextConfig, checkpoint: str) -> Cap:
    """How much of a transcript a clip is told, in tokens of a checkpoint; its tokenizer is loaded when it is needed."""

    @cache
    def tokenizer() -> Any:
        from omnidrop.models.checkpoints import resolve_checkpoint
        from omnidrop.models.registry import processor_of

        return processor_of(resolve_checkpoint(checkpoint))

    return Cap(config.max_tokens, lambda text: list(tokenizer().ids(text)))


def with_chapters(context: Context, info: MediaInfo | None) -> Context:
    """With the file's own chapters, where sidecars have none. Where a file is several recordings, they tell no time."""
    if info is None or not info.chapters or context.chapters or len(info.parts) > 1:
        return context
    named = ((start, end, one_line(title, MOST_META_CHARS)) for start, end, title in info.chapters)
    return replace(context, chapters=tuple(Cue(*one) for one in named if one[2]))


class ContextReader:
    """One command's reading of sidecars and subtitle tracks."""

    def __init__(
        self,
        archive: ArchiveConfig,
        config: ContextConfig,
        model: ModelConfig,
        names: Sequence[str],
        patience: Patience | None = None,
        index: SavingsIndex | None = None,
        execution: ExecutionConfig | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`names` are what the question set reads (`QuestionSet.context_names`); with `patience` it waits for an
        archive that does not answer; `index` remembers what was read; `execution` says where objects of a bucket are
        kept, and `elsewhere` reads those that other machines keep. Raises ContextError for a pattern that no sidecar
        can have."""
        self._patience, self._index, self._elsewhere = patience or Patience(0.0), index, elsewhere
        self._beside, self._config, self.names = Beside(archive), config, tuple(names)
        self._where, self._execution = source_of(archive, execution), execution or ExecutionConfig()
        for pattern in config.sidecars:
            if not is_sidecar(pattern):
                allowed = ", ".join(f"*{suffix}" for suffix in (*WORDS, *META))
                raise ContextError(f"context.sidecars: {pattern!r} names no file that is read as context: {allowed}")
        self._cap = cap_of(config, model.checkpoint)
        self.counts = Counts()

    def read(self, media: Media, info: MediaInfo | None = None) -> ItemContext:
        """One item's context: of its sidecars, and what they lack of the file itself. Raises StorageError where the
        archive does not answer."""
        return self.read_all([(media, info)])[media.media_id]

    def read_all(self, items: Sequence[tuple[Media, MediaInfo | None]]) -> dict[str, ItemContext]:
        """The same of several, by media id."""
        rows = {} if self._index is None else self._index.context_read([media.media_id for media, _ in items])
        known = {media.media_id: {row.name: row for row in rows.get(media.media_id, ())} for media, _ in items}
        looks = [partial(self._sidecars, media, known[media.media_id]) for media, _ in items]
        found = [self._patience.call(look) for look in looks]
        tracks = [self._track(one, info) for one, (_, info) in zip(found, items, strict=True)]
        self._read_tracks([(one, *to_read) for one, to_read in zip(found, tracks, strict=True) if to_read is not None])
        news = {one.media.media_id: [*one.rows.values()] for one in found if one.rows != one.known}
        if self._index is not None and news:
            self._index.put_context(news)
        return {one.media.media_id: self._item(one, info) for one, (_, info) in zip(found, items, strict=True)}

    def _sidecars(self, media: Media, known: Mapping[str, ContextRow]) -> Found:
        found = Found(media, known)
        try:
            for name, place in self._places(media):
                file = self._beside.at(place) if isinstance(place, str) else place
                if file is not None:
                    found.there.add(file.key)
                    if not found.failure and self._may_say_more(name, found.context):
                        self._take(found, file)
        except BesideUnreadable as error:
            found.failure = str(error)
        return found

    def _take(self, found: Found, file: File) -> None:
        """One sidecar more. Raises BesideUnreadable and StorageError."""
        if not found.recalls(file.key, file.mark) and (there := self._beside.read(file, MOST_BYTES + 1)) is not None:
            now, data = there
            found.take(now.key, now.mark, read_sidecar(now.key, data))

    def _track(self, found: Found, info: MediaInfo | None) -> tuple[SubtitleTrack, float] | None:
        """The subtitle track that is to be read of an item, and where its file begins; what is known is taken."""
        if info is None or found.failure or found.context.cues or "clip.transcript" not in self.names:
            return None
        track, why_none = chosen(info, self._config)
        if track is None:
            self.counts.unread.update([why_none] if why_none else ())
            return None
        found.track = track
        is_known = found.recalls(name_of(found.media.key, track), found.content)
        return None if is_known else (track, info.start_s)

    def _read_tracks(self, wanted: Sequence[tuple[Found, SubtitleTrack, float]]) -> None:
        if not wanted:
            return
        here = []
        with ThreadPoolExecutor(len(wanted), thread_name_prefix="subtitles") as threads:
            for one, cues in zip(wanted, threads.map(self._read_elsewhere, wanted), strict=True):
                if cues is None:
                    here.append(one)
                else:
                    _take_track(*one, cues)
        if not here:
            return
        limit_s, options = self._execution.probe_timeout_s, dict(self._where.storage_options)
        require(self._execution.confinement)
        settings = DecodeSettings(confinement=self._execution.confinement)
        with ProbePool(min(CHILDREN, len(here)), timeout_s=limit_s, storage_options=options) as pool:
            files = (
                (number, partial(opened_for_words, found.media, settings, self._where), track.index)
                for number, (found, track, _) in enumerate(here)
            )
            for number, cues in pool.subtitles_many(files):
                _take_track(*here[number], cues)

    def _read_elsewhere(self, wanted: tuple[Found, SubtitleTrack, float]) -> tuple[RawCue, ...] | ClipFailure | None:
        """An object is kept where it is decoded, and would be fetched once more here."""
        found, track, _ = wanted
        if self._elsewhere is None or not is_s3(found.media.uri):
            return None
        return self._elsewhere.subtitles(found.media, track.index)

    def _item(self, found: Found, info: MediaInfo | None) -> ItemContext:
        item = ItemContext(self.names, self._cap)
        if found.failure:
            self.counts.failed += 1
            return replace(item, failure=found.failure, error_class=found.error_class)
        tracks = [name for name, _ in found.used if found.track and name == name_of(found.media.key, found.track)]
        self.counts.silent += found.silent
        self.counts.tracks.update([found.track.codec] if found.track and tracks else ())
        self.counts.read.update(suffix_of(name) for name, _ in found.used if name not in tracks)
        self.counts.media += len(found.used) > len(tracks)
        self.counts.without += not found.used
        return replace(item, context=with_chapters(found.context, info), sidecars=tuple(found.used))

    def note(self, item: ItemContext) -> None:
        """Count what an item's clips are not told."""
        self.counts.cut_clips += len(item.left_out)
        self.counts.cut_words += sum(item.left_out.values())

    def _may_say_more(self, name: str, so_far: Context) -> bool:
        """Whether a file of this name may say what is read; of transcripts the first that says something counts."""
        if is_words(name):
            return "clip.transcript" in self.names and not so_far.cues
        return any(wanted != "clip.transcript" for wanted in self.names)

    def _places(self, media: Media) -> Iterator[tuple[str, File | str]]:
        """Where sidecars lie, or may lie: (name, file or key), the first to take first."""
        if not self._config.sidecars:
            name = (media.key if is_s3(media.uri) else local_path(media.uri)).rpartition("/")[2]
            there = self._beside.near(media, name.rpartition(".")[0] or name)
            yield from ((one, there[one]) for one in sidecars_of(name, there, self._config.language))
            return
        folder, _, name = media.key.rpartition("/")
        stem = name.rpartition(".")[0] or name
        for pattern in self._config.sidecars:
            places = {"folder": folder, "stem": stem, "name": name}
            key = "".join(places.get(part, part) for part in _PLACE.split(pattern)).lstrip("/")
            yield from ((form, form) for form in normal_forms(key) if form != media.key)


def _take_track(found: Found, track: SubtitleTrack, start_s: float, cues: tuple[RawCue, ...] | ClipFailure) -> None:
    name = name_of(found.media.key, track)
    found.take(name, found.content, read_track(name, cues, start_s))
