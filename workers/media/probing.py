"""Probes media files in child processes, which a hostile file may crash, hang or take over.

Promises: every file gives a `MediaInfo` or a failure of one stable class, within its time limit; a dying child costs
only the file it had open. Files, local ones too, are read by this process, which passes a few blocks of each to the
child: it has no path, network or credentials. Knows nothing about archives, caches or plans.

Time: `MediaInfo.start_s` is the container's first presentation time, 1.4 in a typical MPEG transport stream. Clips
count from it: second t of a clip's span is presentation time `start_s + t`, which is also how ffmpeg counts `-ss`. So
`duration_s`, `video_end_s` and `audio_end_s` are on the clips' scale; no other code adds or subtracts `start_s`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from omnidrop.errors import OmniDropError
from workers.errors import MediaError
from workers.media._children import last_words
from workers.media._handed_files import HandedFile
from workers.media._prober import Opening, Prober
from workers.records import ClipFailure, MediaInfo, RawCue

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")
TIMEOUT_S = 30.0
"""Seconds per file: a probe takes 10 ms on a local disk; finding the duration of an unindexed file of GBs, seconds."""

ALONE_S = 1.0
"""Another child is started once files have waited this long (seconds): for a few files it would come too late."""

CLOSED = "this ProbePool is closed"


def probe(
    path: str | os.PathLike[str],
    *,
    timeout_s: float = TIMEOUT_S,
    storage_options: Mapping[str, Any] | None = None,
    scans: bool = True,
) -> MediaInfo:
    """Probe one file in a child of its own (0.2 s; use `ProbePool` for many). With `scans`, read all packets of a file
    without an index.

    `path` may be an address such as `s3://bucket/key`; `storage_options` are for `fsspec.filesystem`. Raises
    MediaMissing, NotMedia, MediaTruncated, NoStreams, NoDuration, MediaTooLarge, StorageFailed, ProbeCrashed or
    ProbeTimeout.
    """
    with contextlib.closing(Prober(timeout_s, storage_options or {}, scans)) as child:
        return child.probe(path)


def subtitles(path: str, index: int, *, timeout_s: float = TIMEOUT_S) -> tuple[RawCue, ...]:
    """The cues of the text subtitle stream with this index, read in a child of its own. Raises what `probe` raises, and
    MediaError if the stream cannot be read."""
    with contextlib.closing(Prober(timeout_s, {}, scans=False)) as child:
        return child.subtitles(lambda: contextlib.nullcontext(path), index)


def prober_problem() -> str | None:
    """Why this machine cannot probe anything, None if it can: tried on a second of silence."""
    with tempfile.TemporaryDirectory(prefix="omnidrop-") as folder:
        path = os.path.join(folder, "silence.wav")
        with wave.open(path, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(16_000))
        try:
            probe(path)
        except MediaError as error:
            return last_words(TIMEOUT_S) or str(error)
    return None


class ProbePool:
    """Probes many files with a few reused children; close it, or use it in a `with` block."""

    def __init__(
        self,
        children: int = 2,
        *,
        timeout_s: float = TIMEOUT_S,
        storage_options: Mapping[str, Any] | None = None,
        scans: bool = True,
        below: str | None = None,
    ) -> None:
        """Up to `children` processes, started when needed; `timeout_s` per file, plus a second for each
        `SCAN_BYTES_PER_S` of a scan; `storage_options` for `fsspec.filesystem`, if files have addresses instead of
        paths; with `scans`, all packets of files without an index are read; local files must be `below` this folder,
        if given."""
        self._below = below
        self._timeout_s = timeout_s
        self._scans = scans
        self._storage_options = dict(storage_options or {})
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._children = max(1, children)
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._closed = False

    def probe_many(self, files: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, MediaInfo | ClipFailure]]:
        """Yield (key, outcome) in order of completion, with up to two files in flight per child.

        `files` is read lazily, in the caller's thread.
        """
        return self._each((key, partial(Prober.probe, path=path)) for key, path in files)

    def subtitles_many(
        self, files: Iterable[tuple[Key, Opening, int]]
    ) -> Iterator[tuple[Key, tuple[RawCue, ...] | ClipFailure]]:
        """Yield the cues of text subtitle streams, given as (key, opening, stream index), in the same way."""
        return self._each((key, partial(Prober.subtitles, opening=how, index=index)) for key, how, index in files)

    def _each(
        self, tasks: Iterable[tuple[Key, Callable[[Prober], Found]]]
    ) -> Iterator[tuple[Key, Found | ClipFailure]]:
        outcomes: queue.Queue[tuple[Any, Any] | None] = queue.Queue()
        waiting = iter(tasks)
        in_the_air = 0
        exhausted = False
        since = time.monotonic()
        while True:
            while not exhausted and in_the_air < 2 * self._children:
                try:
                    key, task = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                self._put((key, task, outcomes))
                in_the_air += 1
            if not in_the_air:
                return
            while True:
                if not self._threads or (self._tasks.qsize() and time.monotonic() - since > ALONE_S):
                    self._start_one_more()
                with contextlib.suppress(queue.Empty):
                    outcome = outcomes.get(timeout=ALONE_S if len(self._threads) < self._children else None)
                    break
            if outcome is None:
                raise RuntimeError(CLOSED)
            yield outcome
            in_the_air -= 1

    def glance(self, file: Callable[[float], HandedFile], called: str) -> MediaInfo | ClipFailure:
        """What headers and an index say of a file that is read with a deadline; no scan."""
        ((_, found),) = self._each([(None, partial(Prober.glance, opening=file, called=called))])
        return found

    def start(self) -> None:
        """Have a child at hand when the next file comes: starting one takes a third of a second."""
        if not self._threads and not self._closed:
            self._start_one_more()
            self._put((None, Prober.start, queue.Queue()))

    def close(self) -> None:
        """End the children; queued files are not probed, and other threads that wait for them get RuntimeError."""
        with self._starting:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while (task := self._tasks.get_nowait()) is not None:
                    task[2].put(None)
            for _ in self._threads:
                self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, task: _Task) -> None:
        with self._starting:
            if self._closed:
                raise RuntimeError(CLOSED)
            self._tasks.put(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_one_more(self) -> None:
        with self._starting:
            if len(self._threads) < self._children and not self._closed:
                thread = threading.Thread(target=self._serve, name=f"probe-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self) -> None:
        """One thread, one child. The child dies with this thread (PR_SET_PDEATHSIG follows the thread)."""
        with contextlib.closing(Prober(self._timeout_s, self._storage_options, self._scans, self._below)) as child:
            while (task := self._tasks.get()) is not None:
                key, find, outcomes = task
                try:
                    outcomes.put((key, find(child)))
                except OmniDropError as error:
                    outcomes.put((key, ClipFailure(None, "probe", error.error_class, str(error))))
                except Exception as error:  # noqa: BLE001 - the caller waits for this key and must get an answer
                    outcomes.put((key, ClipFailure(None, "probe", "internal", f"{type(error).__name__}: {error}")))


_Task = tuple[Hashable, Callable[[Prober], Any], queue.Queue[tuple[Any, Any] | None]]
