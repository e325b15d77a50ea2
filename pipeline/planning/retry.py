"""Does again what failed: quarantined media, clips and answers of chosen error classes, and nothing else.

Promises: what has answers keeps them, whatever becomes of the retry; a unit that is done again becomes its next attempt
(`pipeline.records.unit`), which counts from the moment it is stored: before that the earlier one does, so that there is
no state in between to lose anything in. Two retries at once make one attempt. Knows nothing about how units are run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from omnidrop.errors import UserError
from pipeline.batches import batches
from pipeline.config.globs import KeyFilter
from pipeline.failure_rules import Fault, rule_of
from pipeline.identity import failed_version_id
from pipeline.index.savings_index import Failure, SavingsIndex
from pipeline.planning.media_plan import MediaPlan
from pipeline.planning.planner import LOOKUP_BATCH
from pipeline.planning.whole_videos import chosen, failed_videos, quarantine_classes
from workers.records import ClipFailure, ClipOutcome, Media, WorkUnit

if TYPE_CHECKING:
    from pipeline.storage.store import Store


@dataclass(frozen=True)
class Selection:
    """Which failures are done again."""

    error_classes: tuple[str, ...]
    media: tuple[str, ...] = ("**",)
    """Patterns of media keys, as in `archive.include`."""


@dataclass(frozen=True)
class Selected:
    """What a selection amounts to."""

    media: int
    units: int
    clips: int
    """Clips that are done again; a media item that failed as a whole is not counted here: its clips are not known."""
    videos: int
    """Whole videos that are asked about again, although their clips are not."""
    classes: tuple[tuple[str, int], ...]
    """Quarantine rows by error class."""
    quarantine: tuple[tuple[str, int], ...]
    """All that the job has in quarantine, by error class."""

    @property
    def failures(self) -> int:
        """Quarantine rows that are selected."""
        return sum(count for _, count in self.classes)


class Retry:
    """One retry's part in planning: which media, which units, which clips."""

    def __init__(self, store: Store, index: SavingsIndex, job: str, selection: Selection) -> None:
        """Raises UserError for a pattern that can match nothing."""
        try:
            self._keys = KeyFilter(selection.media, ())
        except ValueError as error:
            raise UserError(f"--media: {error}") from error
        self._index, self._job, self._classes = index, job, selection.error_classes
        self._there = quarantine_classes(store, index, job)
        is_again = chosen(self._classes)
        self._videos = {
            head.media_id: (head, known)
            for head, known in failed_videos(store, index, job)
            if is_again(known) and self._keys.takes(head.media_key)
        }
        """Failures of whole videos, by media id."""
        self.changed = 0
        """Media that are other than when they failed, or are asked otherwise: for `omnidrop index` to do."""

    def selected(self) -> Selected:
        """Count what would be done, in one pass over the quarantine."""
        media: set[str] = set()
        units: set[str] = set()
        clips: set[str] = set()
        classes: Counter[str] = Counter()
        for failure in self._index.failures(self._job, self._classes):
            if self._keys.takes(failure.media_key):
                media.add(failure.media_id)
                units.add(failure.unit_id)
                classes[failure.error_class] += 1
                if failure.clip_id is not None:
                    clips.add(failure.clip_id)
        videos = {(known.key.version_id, known.key.inputs): known for _, known in self._videos.values()}
        for known in videos.values():
            classes.update(name for name in known.error_classes if name in self._classes)
        media.update(self._videos)
        counts = len(media), len(units), len(clips), len(videos)
        return Selected(*counts, tuple(classes.most_common()), tuple(self._there))

    def media(self, listed: Iterable[Media]) -> Iterator[Media]:
        """Those of a listing in which something is to be done again; failed probes are forgotten."""
        for batch in batches(listed, LOOKUP_BATCH):
            failures = self._of(batch)
            wanted = {failure.media_id for failure in failures} | self._videos.keys()
            self._index.forget_probes({failure.media_id for failure in failures if failure.clip_id is None})
            yield from (media for media in batch if media.media_id in wanted)

    def plans(self, plans: Iterable[MediaPlan]) -> Iterator[MediaPlan]:
        """The same plans with everything finished that is not to be done again."""
        seen: set[str] = set()
        for plan in plans:
            if plan.version_id in seen:
                continue  # an exact copy
            seen.add(plan.version_id)
            of_media = self._of([plan.media])
            failures = [f for f in of_media if f.version_id == plan.version_id]
            if failures:
                yield _again(plan, failures, frozenset(plan.unit_ids))
            elif any(f.version_id in (failed_version_id(plan.version_id), plan.unread_id) for f in of_media):
                # It could not be read as a whole, and now it can: everything is new.
                yield plan
            elif (of := self._videos.get(plan.media.media_id)) and of[0].version_id == plan.version_id:
                yield replace(plan, finished=frozenset(plan.unit_ids))  # only what was read about all of it
            else:
                self.changed += 1

    def notes(self) -> tuple[str, ...]:
        """What a person should know after the run."""
        if not self.changed:
            return ()
        return (
            f"{self.changed} media have changed since they failed, or are asked otherwise now: `omnidrop index` does "
            "them, not `omnidrop retry`",
        )

    def _of(self, media: Sequence[Media]) -> list[Failure]:
        found = self._index.failures(self._job, self._classes, [m.media_id for m in media])
        return [failure for failure in found if self._keys.takes(failure.media_key)]


class LeftOver:
    """What every run tries again of itself: clips whose files are not at fault."""

    def __init__(self, index: SavingsIndex) -> None:
        self._index = index
        self._classes = [name for name, _ in index.quarantine_classes() if rule_of(name).may_pass]
        # Looked up once: most archives have none, and most media of the others neither. By version, since a file may
        # have been renamed since it failed.
        self._versions = {failure.version_id for failure in self._failures(None)}

    def plans(self, plans: Iterable[MediaPlan]) -> Iterator[MediaPlan]:
        """The same plans, with these clips to be done again."""
        for plan in plans:
            left: list[Failure] = []
            if plan.version_id in self._versions:
                self._versions.remove(plan.version_id)  # an exact copy needs it as little as the first
                left = list(self._failures([plan.version_id]))
            yield _again(plan, left, plan.finished) if left else plan

    def _failures(self, versions: Sequence[str] | None) -> Iterator[Failure]:
        if self._classes:
            for failure in self._index.failed_clips(self._classes, versions):
                if rule_of(failure.error_class).is_due(failure.attempt + 1):
                    yield failure


def says_nothing_new(unit: WorkUnit, outcomes: Sequence[ClipOutcome]) -> bool:
    """Whether a unit was done again and all of it failed again at its store: what is known of it says the same, and an
    object that every run tries must not leave one more attempt each time."""
    return unit.attempt > 0 and all(
        isinstance(one, ClipFailure) and rule_of(one.error_class).fault is Fault.ITEM for one in outcomes
    )


def _again(plan: MediaPlan, failures: Sequence[Failure], finished: frozenset[str]) -> MediaPlan:
    attempts = {failure.unit_id: failure.attempt + 1 for failure in failures}
    if plan.failure is not None:
        return replace(plan, finished=frozenset(), failed_attempt=attempts[plan.failed_unit_id])
    clips = {failure.clip_id for failure in failures}
    units = [_only(unit, clips, attempts[unit.unit_id]) if unit.unit_id in attempts else unit for unit in plan.units]
    return replace(plan, units=tuple(units), finished=finished - attempts.keys())


def _only(unit: WorkUnit, clips: set[str | None], attempt: int) -> WorkUnit:
    return replace(unit, clips=tuple(clip for clip in unit.clips if clip.clip_id in clips), attempt=attempt)
