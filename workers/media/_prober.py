"""One probing process at a time: asking it about a file whose bytes it is handed, and taking another where it fails.

Promises: an answer within the time limit or an error of one stable class; a process that crashes, hangs or says what
none of ours says is ended. Knows nothing about pools, or how a process is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from workers import errors
from workers.errors import MediaError, NoStreams, NotMedia, ProbeCrashed, ProbeTimeout, Sidecar
from workers.media._answers import cue_of, info_of
from workers.media._children import Child, children
from workers.media._handed_files import Ahead, HandedFile, LocalFile
from workers.media.opening import Copy, local_path, opened_below
from workers.media.remote import RemoteFile
from workers.media.sidecars import HEAD_BYTES, is_named_aside, is_no_media, suffix_of
from workers.records import MediaInfo, RawCue

Opening = Callable[[], AbstractContextManager[str]]
"""A context manager that yields a file's path or address."""

SCAN_BYTES_PER_S = 4 << 20
"""Scan speed that the time limit assumes: 50 to 300 MB/s from a local disk; a store may be slower."""

FILES_PER_CHILD = 1_000
"""A child is replaced after this many files, so that leaks in rare parsers do not accumulate."""

BLOCK_BYTES = 1 << 20
"""Maximum size of one read request of a child."""

MOST_CUES = 250_000
"""Maximum number of cues accepted: more than our code sends."""

_CLASSES: dict[str, type[MediaError]] = {
    found.error_class: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, MediaError)
}


class Prober:
    """One probing process, started when first needed and restarted if it dies."""

    def __init__(
        self, timeout_s: float, storage_options: Mapping[str, Any], scans: bool, below: str | None = None
    ) -> None:
        self._timeout_s = timeout_s
        self._scans = scans
        self._below = below
        self._storage_options = storage_options
        self._child: Child | None = None

    def probe(self, path: str | os.PathLike[str]) -> MediaInfo:
        """Raises the error that the child names, ProbeCrashed, ProbeTimeout, StorageFailed for an object; Sidecar if
        name and content say that the file accompanies media."""
        address = os.fspath(path)
        called = path.called if isinstance(path, Copy) else address
        try:
            return self._opened(address, called)
        except (NotMedia, NoStreams) as error:
            suffix = suffix_of(called)
            if isinstance(error, Sidecar) or not suffix or not is_named_aside(called):
                raise
            raise Sidecar(f"a {suffix} file next to the media: {error}") from error

    def subtitles(self, opening: Opening, index: int) -> tuple[RawCue, ...]:
        """The cues of a text subtitle stream. Raises what `probe` and `opening` raise, and MediaError if it cannot be
        read."""
        with opening() as address:
            deadline = time.monotonic() + self._timeout_s
            with self._file(address, deadline) as file:
                # This may read the whole file.
                scan_s = file.size / SCAN_BYTES_PER_S
                file.extend(scan_s)
                return self._words(file, index, deadline + scan_s)

    def glance(self, opening: Callable[[float], HandedFile], called: str) -> MediaInfo:
        """See `ProbePool.glance`. Raises what `probe` raises."""
        deadline = time.monotonic() + self._timeout_s
        return self._looked_at(called, opening(deadline), deadline, scans=False)

    def _opened(self, address: str, called: str) -> MediaInfo:
        deadline = time.monotonic() + self._timeout_s
        with self._file(address, deadline) as file:
            return self._looked_at(called, file, deadline, scans=self._scans)

    @contextlib.contextmanager
    def _file(self, address: str, deadline: float) -> Iterator[HandedFile]:
        if "://" in address and not os.path.isabs(address) and local_path(address) == address:
            yield Ahead(RemoteFile(address, dict(self._storage_options), deadline))
            return
        with opened_below(address, self._below) as opened:
            yield LocalFile(opened.fd)

    def _looked_at(self, called: str, file: HandedFile, deadline: float, *, scans: bool) -> MediaInfo:
        """Probe an open file; most sidecars are recognised without a parser."""
        length = min(file.size, HEAD_BYTES)
        if is_named_aside(called) and (not length or is_no_media(file.read(0, length))):
            raise Sidecar(f"a {suffix_of(called) or 'file without suffix'} next to the media, by its content")
        return self._probe(file, deadline, scans=scans)

    def _probe(self, file: HandedFile, deadline: float, *, scans: bool) -> MediaInfo:
        best: MediaInfo | None = None
        try:
            with self._asked("scan" if scans else "glance", file, deadline) as child:
                while (answer := self._answer(child, file, deadline)) is not None:
                    if best is None:
                        # Extra time only for a file that has shown that there is something to scan.
                        scan_s = file.size / SCAN_BYTES_PER_S if scans else 0.0
                        deadline += scan_s
                        file.extend(scan_s)
                    best = info_of(answer["info"])
        except ProbeTimeout:
            # Only the scan or the search for the readable end is missing: `is_checked` says so.
            if best is None:
                raise
        if best is None:
            raise ProbeCrashed("the probing process gave no answer")
        return best

    def _words(self, file: HandedFile, index: int, deadline: float) -> tuple[RawCue, ...]:
        found: list[RawCue] = []
        with self._asked(f"subtitles:{index}", file, deadline) as child:
            while (answer := self._answer(child, file, deadline)) is not None:
                found += map(cue_of, answer["cues"])
                if len(found) > MOST_CUES:
                    raise ValueError("more subtitles than any of ours")
        return tuple(found)

    @contextlib.contextmanager
    def _asked(self, what: str, file: HandedFile, deadline: float) -> Iterator[Child]:
        """Send a request to the child. If the child fails inside the `with` block, the file fails with ProbeCrashed.
        A child that has not said the last about this file, or has said more, is ended: it would take the next request
        for bytes of this file."""
        if self._child is not None and self._child.served >= FILES_PER_CHILD:
            self.close()
        child = self._started()
        child.served += 1
        child.has_ended = False
        try:
            child.write(f"{what} {file.size}\n".encode(), deadline)
            yield child
        except (BrokenPipeError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
            self.close()
            raise ProbeCrashed(f"the probing process crashed on this file ({_how(child, error)})") from error
        finally:
            if not child.is_silent:
                self.close()

    def _answer(self, child: Child, file: HandedFile, deadline: float) -> dict[str, Any] | None:
        """The child's next message, None after the last. Raises the error that it names."""
        while True:
            answer: dict[str, Any] = json.loads(child.line(deadline))
            if "read" in answer:
                self._serve(child, file, answer["read"], deadline)
                continue
            child.has_ended = "error_class" in answer or "done" in answer
            if "error_class" in answer:
                raise _CLASSES.get(answer["error_class"], MediaError)(str(answer["message"]))
            return None if "done" in answer else answer

    def _serve(self, child: Child, file: HandedFile, asked: Any, deadline: float) -> None:
        """Send the bytes requested. Raises StorageFailed, and ValueError for a request that our code never makes."""
        offset, length = int(asked[0]), int(asked[1])
        if not (offset >= 0 and 0 < length <= BLOCK_BYTES and offset + length <= file.size):
            raise ValueError(f"asked for {length} bytes at {offset} of {file.size}")
        child.write(file.read(offset, length), deadline)

    def start(self) -> None:
        """Start the process, if there is none."""
        self._started()

    def close(self) -> None:
        """Give the process back, if there is one."""
        if self._child is not None:
            children().give_back(self._child)
        self._child = None

    def _started(self) -> Child:
        if self._child is None or not self._child.is_running:
            self.close()
            try:
                self._child = children().get(self._timeout_s)
            except OSError as error:
                raise ProbeCrashed(f"no process can be started: {error.strerror}") from error
        return self._child


def _how(child: Child, error: Exception) -> str:
    code = child.returncode
    if code is not None and code < 0 and isinstance(error, EOFError):
        return f"signal {-code}"
    return f"{type(error).__name__}: {error}"
