"""What the sidecars of an archive's media say: found beside them, or where the job says, read, and known by hash.

Promises: only kinds that the question set reads are looked for; a sidecar that is there and cannot be read is the media
item's failure, with its name: an answer given without it would look like any other; what was read, what says nothing
and what was cut is counted. Knows nothing about versions or units.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.archive.beside import Beside, BesideUnreadable
from pipeline.config.locations import is_s3
from pipeline.config.sections import ArchiveConfig, ContextConfig, ModelConfig
from pipeline.context.sidecars import (
    META,
    MOST_BYTES,
    MOST_META_CHARS,
    WORDS,
    Context,
    ContextError,
    Cue,
    HoldsNothing,
    is_sidecar,
    is_words,
    joined,
    parsed,
    sidecars_of,
)
from pipeline.context.told import Cap, hashes, item_hashes, told
from pipeline.questions.templates import Told, one_line
from pipeline.storage.outage import Patience
from workers.media.opening import local_path
from workers.media.sidecars import suffix_of
from workers.records import Media, MediaInfo

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig

_PLACE = re.compile(r"\{(folder|stem|name)\}")
UNREADABLE = "unreadable"
"""Stands for the hash of what a sidecar says that cannot be read."""


def context_reader(job: JobConfig, names: Sequence[str], patience: Patience | None = None) -> ContextReader | None:
    """Reads what the job's question set reads of sidecars (`names`); None where it reads nothing of them."""
    return ContextReader(job.archive, job.context, job.model, names, patience) if names else None


@dataclass
class Counts:
    """What one pass over an archive read."""

    read: Counter[str] = field(default_factory=Counter)
    """Sidecars whose words are used, by suffix."""
    media: int = 0
    """Items that have some."""
    without: int = 0
    """Items that have none."""
    silent: int = 0
    """Sidecars that can be read, and say nothing that is taken."""
    unread: int = 0
    """Items without a transcript that have a track of subtitles, which is not read."""
    failed: int = 0
    """Items whose sidecars cannot be read."""
    cut_clips: int = 0
    cut_words: int = 0
    """Clips whose transcript is longer than the cap, and words that they are not told."""

    @property
    def line(self) -> str:
        """In words."""
        suffixes = ", ".join(f"{suffix} {count}" for suffix, count in self.read.most_common())
        said = f"{self.read.total()} sidecars of {self.media} media{f' ({suffixes})' if suffixes else ''}"
        more = {
            "media without": self.without,
            "media whose sidecars cannot be read": self.failed,
            "sidecars that say nothing that is read": self.silent,
            "media without a transcript whose own subtitle tracks are not read": self.unread,
        }
        said += "".join(f"; {count} {what}" for what, count in more.items() if count)
        if self.cut_clips:
            said += (
                f"; transcripts of {self.cut_clips} clips cut by context.max_tokens, {self.cut_words} words left out"
            )
        return said


@dataclass(frozen=True)
class ItemContext:
    """What one media item's sidecars say."""

    names: tuple[str, ...]
    """What the question set reads of it."""
    cap: Cap
    context: Context = field(default_factory=Context)
    sidecars: tuple[tuple[str, str], ...] = ()
    """Those that say it: (key, SHA-256)."""
    failure: str = ""
    """Why one of them cannot be read."""
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
    """One command's reading of sidecars."""

    def __init__(
        self,
        archive: ArchiveConfig,
        config: ContextConfig,
        model: ModelConfig,
        names: Sequence[str],
        patience: Patience | None = None,
    ) -> None:
        """`names` are what the question set reads (`QuestionSet.context_names`); with `patience` it waits for an
        archive that does not answer. Raises ContextError for a pattern that no sidecar can have."""
        self._patience = patience or Patience(0.0)
        self._beside, self._config, self.names = Beside(archive), config, tuple(names)
        for pattern in config.sidecars:
            if not is_sidecar(pattern):
                allowed = ", ".join(f"*{suffix}" for suffix in (*WORDS, *META))
                raise ContextError(f"context.sidecars: {pattern!r} names no file that is read as context: {allowed}")
        self._cap = cap_of(config, model.checkpoint)
        self.counts = Counts()

    def read(self, media: Media, info: MediaInfo | None = None) -> ItemContext:
        """One item's context: of its sidecars, and where none has chapters those of the file itself. Raises
        StorageError where the archive does not answer."""
        return self._patience.call(lambda: self._read(media, info))

    def _read(self, media: Media, info: MediaInfo | None) -> ItemContext:
        item = ItemContext(self.names, self._cap)
        found, used, silent = Context(), list[tuple[str, str]](), 0
        try:
            for name, at in self._places(media):
                if not self._may_say_more(name, found):
                    continue
                file = self._file(media, name, at)
                if file is None:
                    continue
                key, data = file
                try:
                    found = joined(found, parsed(key, data))
                except HoldsNothing:
                    silent += 1
                else:
                    used.append((key, hashlib.sha256(data).hexdigest()))
        except (ContextError, BesideUnreadable) as error:
            self.counts.failed += 1
            return replace(item, failure=str(error))
        found = with_chapters(found, info)
        if info is not None and "clip.transcript" in self.names and not found.cues:
            self.counts.unread += bool(info.subtitle_tracks)
        self.counts.silent += silent
        self.counts.read.update(suffix_of(key) for key, _ in used)
        self.counts.media += bool(used)
        self.counts.without += not used
        return replace(item, context=found, sidecars=tuple(used))

    def note(self, item: ItemContext) -> None:
        """Count what an item's clips are not told."""
        self.counts.cut_clips += len(item.left_out)
        self.counts.cut_words += sum(item.left_out.values())

    def _may_say_more(self, name: str, so_far: Context) -> bool:
        """Whether a file of this name may say what is read; of transcripts the first that says something counts."""
        if is_words(name):
            return "clip.transcript" in self.names and not so_far.cues
        return any(wanted != "clip.transcript" for wanted in self.names)

    def _file(self, media: Media, name: str, key: str) -> tuple[str, bytes] | None:
        most = MOST_BYTES + 1
        return self._beside.read(key, most) if key else self._beside.read_near(media, name, most)

    def _places(self, media: Media) -> Iterator[tuple[str, str]]:
        """Where sidecars may lie: (name, key), the key empty for what lies in the item's folder."""
        if not self._config.sidecars:
            name = (media.key if is_s3(media.uri) else local_path(media.uri)).rpartition("/")[2]
            stem = name.rpartition(".")[0] or name
            yield from ((one, "") for one in sidecars_of(name, self._beside.names(media, stem), self._config.language))
            return
        folder, _, name = media.key.rpartition("/")
        stem = name.rpartition(".")[0] or name
        for pattern in self._config.sidecars:
            places = {"folder": folder, "stem": stem, "name": name}
            key = "".join(places.get(part, part) for part in _PLACE.split(pattern)).lstrip("/")
            if key != media.key:
                yield key, key
