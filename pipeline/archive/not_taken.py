"""Files of an archive that are not asked about, counted by reason and suffix.

Promises: what a listing passes over is counted, in memory that does not grow with the archive; what is inside a folder
that is not entered is not known, the folder counts as one. Knows nothing about how files are listed or probed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from workers.media.sidecars import suffix_of

MOST_SUFFIXES = 1_000
"""Names are strangers' choice: beyond so many suffixes all others count as one."""
MOST_SHOWN = 6

FOLDER = "folders"
OTHERS = "others"


class Reason(StrEnum):
    """Why a file is not taken, as it is shown."""

    PATTERN = "by include and exclude"
    HIDDEN = "hidden"
    BIN = "in recycle bins and systems' own folders"
    LINK = "links to what is taken anyway"
    OUTWARD = "links out of the archive"
    SPECIAL = "no regular files"
    SIDECAR = "beside the media (subtitles, pictures, lists)"
    UNREAD = "in no format that is read"


@dataclass
class NotTaken:
    """What one command did not take. A listing that begins again counts from nothing."""

    listed: dict[Reason, Counter[str]] = field(default_factory=dict)
    probed: dict[Reason, Counter[str]] = field(default_factory=dict)

    def begin_listing(self) -> None:
        """Forget what an earlier listing counted."""
        self.listed = {}

    def pass_over(self, key: str, reason: Reason) -> None:
        """Count a file; a folder by a key with a slash at its end."""
        _count(self.listed, key, reason)

    def look_into(self, key: str, reason: Reason) -> None:
        """Count a file that was opened first."""
        _count(self.probed, key, reason)

    @property
    def looked_into(self) -> int:
        """How many were opened first."""
        return sum(counter.total() for counter in self.probed.values())

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Reason -> suffix -> how many, most first."""
        both: dict[Reason, Counter[str]] = {}
        for found in (self.listed, self.probed):
            for reason, counter in found.items():
                both[reason] = both.get(reason, Counter()) + counter
        return {reason.value: dict(both[reason].most_common()) for reason in Reason if reason in both}

    def lines(self) -> list[tuple[str, str]]:
        """A row for each reason: (name, number and suffixes); none where everything was taken."""
        rows = []
        for reason, suffixes in self.counts.items():
            shown = [f"{suffix} {number}" for suffix, number in list(suffixes.items())[:MOST_SHOWN]]
            shown += ["..."] * (len(suffixes) > MOST_SHOWN)
            rows.append((f"not taken: {reason}", f"{sum(suffixes.values())} ({', '.join(shown)})"))
        return rows


def _count(counts: dict[Reason, Counter[str]], key: str, reason: Reason) -> None:
    suffix = FOLDER if key.endswith("/") else suffix_of(key) or "without suffix"
    counter = counts.setdefault(reason, Counter())
    counter[suffix if suffix in counter or len(counter) < MOST_SUFFIXES else OTHERS] += 1
