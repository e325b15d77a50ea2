"""Whether one file or the whole archive cannot be read: decided by reading another file, the canary.

Promises: the canary is a file that was read before, else some that were listed; its first byte is read, with
credentials looked up again. A prober that dies is tried on a file that cannot be at fault. Knows nothing about what
follows from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.archive.probing import Probed, Prober
from pipeline.config.job import JobConfig
from pipeline.config.locations import is_s3
from pipeline.failure_rules import Fault, rule_of
from pipeline.storage.errors import StorageError, Unavailable
from pipeline.storage.outage import Patience
from pipeline.storage.s3_client import explain_s3_error, s3_filesystem
from workers.errors import MediaChanged, ProbeCrashed
from workers.media.opening import local_path
from workers.media.probing import prober_problem
from workers.media.store_failures import forget_credentials
from workers.records import ClipFailure, Media

LISTED = 2
"""Listed files that are tried where none was read before: of one that is refused, its neighbours may be, too."""


class ArchiveHealth:
    """One run's knowledge of which files of its archive can be read. Any thread may call it."""

    def __init__(self, job: JobConfig) -> None:
        self._archive = job.archive
        self._listed: list[Media] = []
        self._read: Media | None = None

    def listed(self, items: Iterable[Media]) -> Iterator[Media]:
        """The same items, of which some are remembered."""
        for media in items:
            if len(self._listed) <= LISTED:
                self._listed.append(media)
            yield media

    def was_read(self, media: Media) -> None:
        """Its content came: it is the next canary."""
        self._read = media

    def is_its_own(self, media: Media, failure: ClipFailure) -> bool:
        """Whether another file can be read where this one could not: one more try tells whether it is this file, or
        whether all were out of reach a moment ago. False where the failure is of another kind.

        Raises Unavailable where nothing of the archive can be read at this moment."""
        rule = rule_of(failure.error_class)
        if rule.fault is not Fault.ITEM or failure.error_class == MediaChanged.error_class:
            return False
        others = [one for one in (self._read, *self._listed) if one is not None and one.media_id != media.media_id]
        problem = None
        for canary in others[: LISTED + 1] or [media]:
            problem = self._problem(canary)
            if problem is None:
                return True
        raise Unavailable(f"nothing of the archive can be read: {problem}")

    def can_read(self, media: Media) -> bool:
        """Whether this process can read a file's first byte now."""
        return self._problem(media) is None

    def _problem(self, media: Media) -> str | None:
        try:
            if is_s3(media.uri):
                self._read_object(media)
            else:
                with open(local_path(media.uri), "rb") as file:
                    file.read(1)
        except (OSError, StorageError) as error:
            return str(error)
        return None

    def _read_object(self, media: Media) -> None:
        # A file system of its own shares no broken connection with others.
        store = s3_filesystem(self._archive.endpoint_url, anonymous=self._archive.anonymous, max_retries=0)
        forget_credentials(store)
        try:
            store.cat_file(media.uri, start=0, end=1) if media.size_bytes else store.info(media.uri)
        except Exception as error:
            raise explain_s3_error(error, media.uri) from error


def patient_prober(probe: Prober, health: ArchiveHealth, patience: Patience) -> Prober:
    """The same prober, which waits while nothing of the archive can be read, or nothing can be probed here."""

    def probed(items: Iterable[Media]) -> Iterator[tuple[Media, Probed]]:
        for media, found in probe(list(items)):
            yield media, found if found.failure is None else patient(media, found)
            if found.failure is None:
                health.was_read(media)

    def patient(media: Media, found: Probed) -> Probed:
        tries = iter([found])

        def attempt() -> Probed:
            one = next(tries, None) or probed_again()
            if one.failure is None:
                return one
            if one.failure.error_class == ProbeCrashed.error_class:
                if (problem := prober_problem()) is not None:
                    raise Unavailable(
                        f"the prober cannot run on this machine, not even on a second of silence: {problem}; look at "
                        "its memory and at the Python package av"
                    )
                return probed_again()  # it may have been killed from outside
            return probed_again() if health.is_its_own(media, one.failure) else one

        def probed_again() -> Probed:
            return next(again for _, again in probe([media]))

        return patience.call(attempt)

    return probed
