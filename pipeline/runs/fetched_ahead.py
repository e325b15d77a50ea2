"""How far fetching may run ahead of decoding: what comes into a machine's cache must still be there when it is decoded.

Promises: files are fetched only while those that were, and are not decoded yet, take no more than a bound of bytes; one
that alone takes more is fetched when nothing else is left; the run does not wait for files without questions. Knows
nothing about how anything is fetched or decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeline.archive.probing import Probed, Prober
from pipeline.planning.media_plan import MediaPlan
from workers.records import Media


class FetchedAhead:
    """One run's account, kept by the thread that plans and the one that hands out units."""

    def __init__(self, most_bytes: Callable[[], int], left: Callable[[str], None] = lambda media_id: None) -> None:
        """`left` is told the media ids of what is not waited for any more."""
        self._most_bytes, self._left = most_bytes, left
        self._changed = threading.Condition()
        self._found: dict[str, int] = {}
        """Bytes of what was fetched in the batch that is being planned, by media id: it may yet be passed over."""
        self._waiting: dict[str, int] = {}
        """Of what is planned, or being decoded."""
        self._units: dict[str, int] = {}
        """Units of media that are not finished."""
        self._is_closed = False

    def probing(self, probe: Prober) -> Prober:
        """The same prober, which waits for room first."""

        def probed(items: Sequence[Media]) -> Iterable[tuple[Media, Probed]]:
            # What of the last batch has not been planned by now never will be.
            for media_id in self._found:
                self._left(media_id)
            self._found.clear()
            for one in items:
                self._wait(one.size_bytes)
                self._found[one.media_id] = one.size_bytes
            return probe(items)

        return probed

    def planned(self, plans: Iterable[MediaPlan]) -> Iterator[MediaPlan]:
        """The same plans, noted."""
        for plan in plans:
            size = self._found.pop(plan.media.media_id, None)
            if size is not None:
                with self._changed:
                    self._waiting[plan.media.media_id] = size
            yield plan

    def taken(self, media_id: str, units: int) -> None:
        """So many units of a media item were handed out; with none of them it need not be kept."""
        with self._changed:
            if units:
                self._units[media_id] = units
            else:
                self._forget(media_id)

    def finished(self, media_id: str) -> None:
        """One of its units is done."""
        with self._changed:
            self._units[media_id] = self._units.get(media_id, 0) - 1
            if self._units[media_id] <= 0:
                self._forget(media_id)

    def close(self) -> None:
        """Stop handing out: nothing waits for it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _forget(self, media_id: str) -> None:
        self._left(media_id)
        self._units.pop(media_id, None)
        self._waiting.pop(media_id, None)
        self._changed.notify_all()

    def _wait(self, size: int) -> None:
        most_bytes = self._most_bytes()
        with self._changed:
            while self._waiting and not self._is_closed:
                if sum(self._waiting.values()) + sum(self._found.values()) + size <= most_bytes:
                    return
                self._changed.wait()
