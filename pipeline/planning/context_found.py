"""What was read of one media item's sidecars and subtitle track, and what is remembered of it.

Promises: what has not changed since it was read is not read again; what is gone is not remembered; a failure that may
pass is tried again. Knows nothing about where files lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.context.remembered import Read, decoded, encoded
from pipeline.context.sidecars import Context, ContextError, HoldsNothing, joined, parsed
from pipeline.context.tracks import words_of
from pipeline.failure_rules import rule_of
from pipeline.index.caches import ContextRow
from workers.records import ClipFailure, Media, RawCue, SubtitleTrack


@dataclass
class Found:
    """What was found of one item so far."""

    media: Media
    known: Mapping[str, ContextRow]
    """What was read of it before, by name."""
    context: Context = field(default_factory=Context)
    used: list[tuple[str, str]] = field(default_factory=list)
    """What says it: (key, or name of a track; SHA-256)."""
    track: SubtitleTrack | None = None
    """The one that is its transcript, if it says anything."""
    silent: int = 0
    """How many say nothing that is taken."""
    failure: str = ""
    """Why one of them cannot be read."""
    error_class: str = ContextError.error_class
    """Of that."""
    there: set[str] = field(default_factory=set)
    """Keys of the sidecars that there are."""
    _rows: dict[str, ContextRow] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The mark of what lies inside the file itself."""
        return self.media.content_id or self.media.mark or self.media.etag

    @property
    def rows(self) -> dict[str, ContextRow]:
        """What is to be remembered of it, by name: also what another question set reads."""
        others = {name: row for name, row in self.known.items() if name in self.there or row.mark == self.content}
        return {**(self.known if self.failure else others), **self._rows}

    def recalls(self, name: str, mark: str) -> bool:
        """Whether what a file or track says is known; then it is taken."""
        row = self.known.get(name)
        read = decoded(row.content) if row is not None and mark and row.mark == mark else None
        if row is None or read is None:
            return False
        self._rows[name] = row
        self._say(name, read)
        return True

    def take(self, name: str, mark: str, read: Read) -> None:
        """What a file or track says that was read now."""
        if mark and not (read.failure and rule_of(read.error_class).may_pass):
            self._rows[name] = ContextRow(name, mark, encoded(read))
        self._say(name, read)

    def _say(self, name: str, read: Read) -> None:
        if read.failure:
            self.failure, self.error_class = read.failure, read.error_class
        elif read.context is None:
            self.silent += 1
        else:
            self.context = joined(self.context, read.context)
            self.used.append((name, read.sha256))


def read_sidecar(key: str, data: bytes) -> Read:
    """What a sidecar says."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return Read(sha256, parsed(key, data))
    except HoldsNothing:
        return Read(sha256, None)
    except ContextError as error:
        return Read(sha256, None, str(error), error.error_class)


def read_track(name: str, cues: Sequence[RawCue] | ClipFailure, start_s: float) -> Read:
    """What a subtitle track says, of a file that begins at `start_s`. A failure that is not the file's keeps its
    class."""
    if isinstance(cues, ClipFailure):
        failed = cues.error_class if rule_of(cues.error_class).may_pass else ContextError.error_class
        what_to_do = "put a sidecar transcript beside the video, or set context.subtitle_track: none"
        return Read("", None, f"{name}: the subtitle track cannot be read: {cues.message}; {what_to_do}", failed)
    sha256 = hashlib.sha256(json.dumps(cues).encode()).hexdigest()
    try:
        return Read(sha256, words_of(cues, start_s))
    except HoldsNothing:
        return Read(sha256, None)
