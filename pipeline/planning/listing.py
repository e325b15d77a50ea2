"""What a complete listing of an archive decides: what a job no longer lists stops counting, and loses nothing.

Promises: samples, retries and listings that break off decide nothing; a listing that is empty, or lacks more than a
set share of what counted, is refused before anything is done, unless it is allowed; what only lies elsewhere now
(another key, another archive) lacks nothing. A job of another name that lists the same and asks the same continues the
one before it. Memory is eight bytes an item. Knows nothing about units.
"""

from __future__ import annotations

import pickle
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np

from pipeline.archive.listing import ArchiveEmpty, ArchiveError
from pipeline.index.savings_index import SavingsIndex
from pipeline.records.heads_and_runs import Head
from workers.records import Media

CONTINUES = 0.9
"""Share of what a job lists that another one must list, and ask the same of, to be that job under another name."""
RESEMBLES = 0.5
"""The same share from which that is only said: it may be that job, or another one over a part of the archive."""
SHOWN = 3
"""Keys that a message names."""


class ArchiveShrunk(ArchiveError):
    """So much is gone from the archive that it looks like a mistake."""

    error_class = "archive_shrunk"


@dataclass
class Labels:
    """A set of media ids, or of contents, by their first 64 bits: two of a million are alike once in 3e7 times."""

    _bits: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, media_id: str) -> None:
        """Take one in."""
        self._bits.append(_bits(media_id))

    def __len__(self) -> int:
        return len(self._bits)

    @property
    def repeated(self) -> int:
        """How many were there before when they were taken in."""
        return len(self._bits) - len(np.unique(np.frombuffer(self._bits, np.uint64))) if self._bits else 0

    def missing(self, heads: Iterable[Head], of: Callable[[Head], str | None] = lambda h: h.media_id) -> Iterator[Head]:
        """Those heads whose label, or another of their ids, is not here."""
        known = np.sort(np.frombuffer(self._bits, np.uint64)) if self._bits else np.zeros(0, np.uint64)
        for head in heads:
            name = of(head)
            wanted = None if name is None else np.uint64(_bits(name))
            at = len(known) if wanted is None else int(np.searchsorted(known, wanted))
            if at == len(known) or known[at] != wanted:
                yield head


def _bits(media_id: str) -> int:
    return int(media_id[:16], 16)


@dataclass
class Listing:
    """One complete listing of a job's archive, against what counted before."""

    index: SavingsIndex
    job: str
    max_missing: float
    """Share of what counted that may be gone."""
    allow_shrink: bool = False
    kept: Labels = field(default_factory=Labels)
    """Of items that count from now on."""
    contents: Labels = field(default_factory=Labels)
    """Of what they hold."""
    counted: int = 0
    """Items that counted for the job before."""
    gone: int = 0
    """Of these, how many the archive does not list any more."""
    names: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Keys that are not listed any more, of what counts under another one."""
    continues: list[str] = field(default_factory=list)
    """Jobs that this one goes on with under another name."""
    resembles: list[str] = field(default_factory=list)
    """Jobs that this one, new here, has much in common with, and leaves alone."""

    def checked(
        self, listed: Iterable[Media], identified: Callable[[Iterable[Media]], Iterable[Media]]
    ) -> Iterator[Media]:
        """The listing as it comes, after a look at all of it where something counted before.

        `identified` says what files hold, and is asked only where much seems to be gone. Raises ArchiveShrunk.
        """
        self.counted = sum(1 for _ in self.index.listed(self.job))
        if not self.counted:
            yield from listed
            return
        with tempfile.TemporaryFile(prefix="omnidrop-listing-") as spool:
            labels = Labels()
            try:
                for media in listed:
                    pickle.dump(media, spool)
                    labels.add(media.media_id)
            except ArchiveEmpty as error:
                if not self.allow_shrink:
                    raise ArchiveShrunk(f"{error}. {self._refusal(self.counted)}") from error
            self._check(labels, lambda: _replayed(spool), identified)
            yield from _replayed(spool)

    def _check(
        self,
        labels: Labels,
        replayed: Callable[[], Iterable[Media]],
        identified: Callable[[Iterable[Media]], Iterable[Media]],
    ) -> None:
        gone = [(head.media_key, head.content_id) for head in labels.missing(self.index.listed(self.job))]
        self.gone, self.names = len(gone), [key for key, _ in gone[:SHOWN]]
        most = self.max_missing * self.counted
        if len(gone) <= most or self.allow_shrink:
            return
        # A moved archive has other labels for what it had before.
        contents = {media.content_id for media in identified(replayed()) if media.content_id is not None}
        lacking = [key for key, content in gone if content is None or content not in contents]
        if len(lacking) > most:
            self.names = lacking[:SHOWN]
            raise ArchiveShrunk(f"the archive lacks much of what counted until now. {self._refusal(len(lacking))}")

    def _refusal(self, lacking: int) -> str:
        named = f", such as {', '.join(self.names)}" if self.names else ""
        return (
            f"{lacking} of {self.counted} media items are no longer listed{named}: more than archive.max_missing "
            f"({self.max_missing:g}) allows, so nothing was changed. Check that the archive is all there (a disk that "
            "is not mounted?) and what include and exclude say; if it is meant so, run again with --allow-shrink"
        )

    def unlisted(self) -> Iterator[Head]:
        """What stops counting, once all of the listing has been planned: heads to declare."""
        unlisted = list(self.kept.missing(self.index.listed(self.job)))
        gone = list(self.contents.missing(unlisted, of=lambda head: head.content_id))
        self.gone, self.names = len(gone), [head.media_key for head in gone[:SHOWN]]
        left = set(gone)
        self.elsewhere = [head.media_key for head in unlisted if head not in left]
        for head in unlisted:
            yield replace(head, is_listed=False)

    def continued(self) -> Iterator[Head]:
        """What other jobs stop listing because this one, new here, goes on with them: heads to declare."""
        if self.counted:
            return
        for other in self.index.listing_jobs():
            share = 0.0 if other == self.job else self.index.share_listed_by(self.job, other)
            if share >= CONTINUES:
                self.continues.append(other)
                for head in self.index.listed(other):
                    yield replace(head, is_listed=False)
            elif share >= RESEMBLES:
                self.resembles.append(other)

    def notes(self) -> Iterator[str]:
        """What a person should know after the run."""
        if self.gone:
            yield gone_note(self.gone, self.counted, self.names)
        if self.elsewhere:
            said = f"{len(self.elsewhere)} of {self.counted} listed under another name or place now"
            yield f"{said} ({_some(self.elsewhere)}): they count there"
        for other in self.continues:
            said = f"job {self.job} has the same media and questions as job {other}: it continues that job"
            yield f"{said}, and nothing is asked again"
        for other in self.resembles:
            yield (
                f"job {other} has many of the media of job {self.job} and the same questions, and still counts "
                f"separately. If {self.job} is {other} under a new name, rename it back to {other}, so that media only "
                f"listed by {other} stop counting"
            )


def gone_note(gone: int, counted: int, names: Sequence[str], max_missing: float = 1.0) -> str:
    """How many items the archive no longer lists, in a sentence. With more than `max_missing` gone, of a plan."""
    said = f"{gone} of {counted} no longer listed ({_some(names, gone)})"
    if gone > max_missing * counted:
        return (
            f"{said}: more than archive.max_missing ({max_missing:g}) allows, so `omnidrop index` refuses to run "
            "without --allow-shrink; check that the archive is all there"
        )
    return f"{said}: they do not count, and count again, without being asked, when the archive lists them again"


def _some(names: Sequence[str], count: int | None = None) -> str:
    """The first of so many names (None: of these)."""
    return ", ".join(names[:SHOWN]) + (", ..." if (len(names) if count is None else count) > SHOWN else "")


def _replayed(spool: IO[bytes]) -> Iterator[Media]:
    spool.seek(0)
    while True:
        try:
            # One Unpickler for all would keep every item in its memo, and take what one item says twice from the first.
            yield pickle.load(spool)
        except EOFError:
            return
