"""One probing process: starting it, asking it about a file whose bytes it is handed, and ending it.

Promises: an answer within the time limit or an error of one stable class; a process that crashes, hangs or says what
none of ours says is ended. It has no path, network or credentials. Knows nothing about pools.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from workers import errors
from workers.errors import MediaError, NoStreams, NotMedia, ProbeCrashed, ProbeTimeout, Sidecar
from workers.media._answers import cue_of, info_of
from workers.media._handed_files import Ahead, HandedFile, LocalFile
from workers.media.confinement import end, start
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

LINE_BYTES = 1 << 20
"""Maximum length of an answer line; a longer one is not from our code."""

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
        self._process: subprocess.Popen[bytes] | None = None
        self._served = 0
        self._rest = b""
        self._has_ended = True
        """Whether the process has said the last about the file that it was asked about."""

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
            with self._asked("scan" if scans else "glance", file, deadline) as process:
                while (answer := self._answer(process, file, deadline)) is not None:
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
        with self._asked(f"subtitles:{index}", file, deadline) as process:
            while (answer := self._answer(process, file, deadline)) is not None:
                found += map(cue_of, answer["cues"])
                if len(found) > MOST_CUES:
                    raise ValueError("more subtitles than any of ours")
        return tuple(found)

    @contextlib.contextmanager
    def _asked(self, what: str, file: HandedFile, deadline: float) -> Iterator[subprocess.Popen[bytes]]:
        """Send a request to the child. If the child fails inside the `with` block, the file fails with ProbeCrashed.
        A child that has not said the last about this file, or has said more, is ended: it would take the next request
        for bytes of this file."""
        if self._served >= FILES_PER_CHILD:
            self.close()
        process = self._started()
        self._served += 1
        self._has_ended = False
        try:
            self._write(process, f"{what} {file.size}\n".encode(), deadline)
            yield process
        except (BrokenPipeError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
            self.close()
            raise ProbeCrashed(f"the probing process crashed on this file ({_how(process, error)})") from error
        finally:
            if self._rest or not self._has_ended:
                self.close()

    def _answer(self, process: subprocess.Popen[bytes], file: HandedFile, deadline: float) -> dict[str, Any] | None:
        """The child's next message, None after the last. Raises the error that it names."""
        while True:
            answer: dict[str, Any] = json.loads(self._line(process, deadline))
            if "read" in answer:
                self._serve(process, file, answer["read"], deadline)
                continue
            self._has_ended = "error_class" in answer or "done" in answer
            if "error_class" in answer:
                raise _CLASSES.get(answer["error_class"], MediaError)(str(answer["message"]))
            return None if "done" in answer else answer

    def _serve(self, process: subprocess.Popen[bytes], file: HandedFile, asked: Any, deadline: float) -> None:
        """Send the bytes requested. Raises StorageFailed, and ValueError for a request that our code never makes."""
        offset, length = int(asked[0]), int(asked[1])
        if not (offset >= 0 and 0 < length <= BLOCK_BYTES and offset + length <= file.size):
            raise ValueError(f"asked for {length} bytes at {offset} of {file.size}")
        self._write(process, file.read(offset, length), deadline)

    def start(self) -> None:
        """Start the process, if there is none."""
        self._started()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            end(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._process, self._served, self._rest = None, 0, b""

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _child(self._timeout_s, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return self._process

    def _write(self, process: subprocess.Popen[bytes], content: bytes, deadline: float) -> None:
        """Raises ProbeTimeout if the child does not read, BrokenPipeError if it has ended."""
        assert process.stdin is not None
        fd = process.stdin.fileno()
        os.set_blocking(fd, False)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        rest = memoryview(content)
        while rest:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise ProbeTimeout(f"probing took longer than {self._timeout_s:g} s")
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(fd, rest) :]

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """The child's next line. Raises ProbeTimeout, EOFError (it died), ValueError (line too long)."""
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_BYTES:
                raise ValueError("an answer longer than any of ours")
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise ProbeTimeout(f"probing took longer than {self._timeout_s:g} s")
            read = os.read(process.stdout.fileno(), 1 << 16)
            if not read:
                raise EOFError("it ended")
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _child(timeout_s: float, *, stdin: int, stderr: int) -> subprocess.Popen[bytes]:
    return start(
        # Without user packages and the working directory on the path.
        [sys.executable, "-B", "-s", "-P", "-m", "workers.media._probe_child", str(timeout_s)],
        timeout_s=0,
        file_bytes=1,  # it writes only its answers, to a pipe
        # With HOME set, Python does not look up the user; the folder does not exist.
        environment={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "HOME": "/nowhere"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def last_words(timeout_s: float) -> str:
    """The last line that a child without work says on standard error; empty where it starts and ends well."""
    child = _child(timeout_s, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        said = b""
    finally:
        end(child)
    return said.decode(errors="replace").strip().rpartition("\n")[2] if child.returncode else ""


def _how(process: subprocess.Popen[bytes], error: Exception) -> str:
    if process.returncode is not None and process.returncode < 0 and isinstance(error, EOFError):
        return f"signal {-process.returncode}"
    return f"{type(error).__name__}: {error}"
