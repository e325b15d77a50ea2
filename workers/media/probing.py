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
import json
import math
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from omnidrop.errors import OmniDropError
from workers import errors
from workers.errors import (
    MediaChanged,
    MediaError,
    MediaMissing,
    NoStreams,
    NotMedia,
    ProbeCrashed,
    ProbeTimeout,
    Sidecar,
)
from workers.media.confinement import DEMUXERS, end, start
from workers.media.opening import Copy, local_path, opened_below
from workers.media.remote import RemoteFile
from workers.media.sidecars import HEAD_BYTES, is_named_aside, is_no_media, suffix_of
from workers.media.tracks import UNREAD, with_auto_choice
from workers.records import ClipFailure, MediaInfo, RawCue, Segment, SubtitleTrack, Track

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")
Opening = Callable[[], AbstractContextManager[str]]
"""A context manager that yields a file's path or address."""
TIMEOUT_S = 30.0
"""Seconds per file: a probe takes 10 ms on a local disk; finding the duration of an unindexed file of GBs, seconds."""

SCAN_BYTES_PER_S = 4 << 20
"""Scan speed that the time limit assumes: 50 to 300 MB/s from a local disk; a store may be slower."""

ALONE_S = 1.0
"""Another child is started once files have waited this long (seconds): for a few files it would come too late."""

FILES_PER_CHILD = 1_000
"""A child is replaced after this many files, so that leaks in rare parsers do not accumulate."""

BLOCK_BYTES = 1 << 20
"""Maximum size of one read request of a child."""

AHEAD_BYTES = 8 << 20
"""Bytes fetched per request during a scan of an object: a request takes 10 to 50 ms."""

LINE_BYTES = 1 << 20
"""Maximum length of an answer line; a longer one is not from our code."""

MOST_CUES = 250_000
"""Maximum number of cues accepted: more than our code sends."""

CLOSED = "this ProbePool is closed"

_CLASSES: dict[str, type[MediaError]] = {
    found.error_class: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, MediaError)
}


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
    with contextlib.closing(_Child(timeout_s, storage_options or {}, scans)) as child:
        return child.probe(path)


def subtitles(path: str, index: int, *, timeout_s: float = TIMEOUT_S) -> tuple[RawCue, ...]:
    """The cues of the text subtitle stream with this index, read in a child of its own. Raises what `probe` raises, and
    MediaError if the stream cannot be read."""
    with contextlib.closing(_Child(timeout_s, {}, scans=False)) as child:
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
            return str(error)
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
        return self._each((key, partial(_Child.probe, path=path)) for key, path in files)

    def subtitles_many(
        self, files: Iterable[tuple[Key, Opening, int]]
    ) -> Iterator[tuple[Key, tuple[RawCue, ...] | ClipFailure]]:
        """Yield the cues of text subtitle streams, given as (key, opening, stream index), in the same way."""
        return self._each((key, partial(_Child.subtitles, opening=how, index=index)) for key, how, index in files)

    def _each(
        self, tasks: Iterable[tuple[Key, Callable[[_Child], Found]]]
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

    def glance(self, file: Callable[[float], _File], called: str) -> MediaInfo | ClipFailure:
        """What headers and an index say of a file that is read with a deadline; no scan."""
        ((_, found),) = self._each([(None, partial(_Child.glance, opening=file, called=called))])
        return found

    def start(self) -> None:
        """Have a child at hand when the next file comes: starting one takes a third of a second."""
        if not self._threads and not self._closed:
            self._start_one_more()
            self._put((None, _Child.start, queue.Queue()))

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
        with contextlib.closing(_Child(self._timeout_s, self._storage_options, self._scans, self._below)) as child:
            while (task := self._tasks.get()) is not None:
                key, find, outcomes = task
                try:
                    outcomes.put((key, find(child)))
                except OmniDropError as error:
                    outcomes.put((key, ClipFailure(None, "probe", error.error_class, str(error))))
                except Exception as error:  # noqa: BLE001 - the caller waits for this key and must get an answer
                    outcomes.put((key, ClipFailure(None, "probe", "internal", f"{type(error).__name__}: {error}")))


_Task = tuple[Hashable, "Callable[[_Child], Any]", "queue.Queue[tuple[Any, Any] | None]"]


class _Child:
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

    def glance(self, opening: Callable[[float], _File], called: str) -> MediaInfo:
        """See `ProbePool.glance`. Raises what `probe` raises."""
        deadline = time.monotonic() + self._timeout_s
        return self._looked_at(called, opening(deadline), deadline, scans=False)

    def _opened(self, address: str, called: str) -> MediaInfo:
        deadline = time.monotonic() + self._timeout_s
        with self._file(address, deadline) as file:
            return self._looked_at(called, file, deadline, scans=self._scans)

    @contextlib.contextmanager
    def _file(self, address: str, deadline: float) -> Iterator[_File]:
        if "://" in address and not os.path.isabs(address) and local_path(address) == address:
            yield _Ahead(RemoteFile(address, dict(self._storage_options), deadline))
            return
        with opened_below(address, self._below) as opened:
            yield _LocalFile(opened.fd)

    def _looked_at(self, called: str, file: _File, deadline: float, *, scans: bool) -> MediaInfo:
        """Probe an open file; most sidecars are recognised without a parser."""
        length = min(file.size, HEAD_BYTES)
        if is_named_aside(called) and (not length or is_no_media(file.read(0, length))):
            raise Sidecar(f"a {suffix_of(called) or 'file without suffix'} next to the media, by its content")
        return self._probe(file, deadline, scans=scans)

    def _probe(self, file: _File, deadline: float, *, scans: bool) -> MediaInfo:
        best: MediaInfo | None = None
        try:
            with self._asked("scan" if scans else "glance", file, deadline) as process:
                while (answer := self._answer(process, file, deadline)) is not None:
                    if best is None:
                        # Extra time only for a file that has shown that there is something to scan.
                        scan_s = file.size / SCAN_BYTES_PER_S if scans else 0.0
                        deadline += scan_s
                        file.extend(scan_s)
                    best = _info(answer["info"])
        except ProbeTimeout:
            # Only the scan or the search for the readable end is missing: `is_checked` says so.
            if best is None:
                raise
        if best is None:
            raise ProbeCrashed("the probing process gave no answer")
        return best

    def _words(self, file: _File, index: int, deadline: float) -> tuple[RawCue, ...]:
        found: list[RawCue] = []
        with self._asked(f"subtitles:{index}", file, deadline) as process:
            while (answer := self._answer(process, file, deadline)) is not None:
                found += map(_cue, answer["cues"])
                if len(found) > MOST_CUES:
                    raise ValueError("more subtitles than any of ours")
        return tuple(found)

    @contextlib.contextmanager
    def _asked(self, what: str, file: _File, deadline: float) -> Iterator[subprocess.Popen[bytes]]:
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

    def _answer(self, process: subprocess.Popen[bytes], file: _File, deadline: float) -> dict[str, Any] | None:
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

    def _serve(self, process: subprocess.Popen[bytes], file: _File, asked: Any, deadline: float) -> None:
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
            self._process = start(
                # Without user packages and the working directory on the path.
                [sys.executable, "-B", "-s", "-P", "-m", "workers.media._probe_child", str(self._timeout_s)],
                timeout_s=0,
                file_bytes=1,  # it writes only its answers, to a pipe
                # With HOME set, Python does not look up the user; the folder does not exist.
                environment={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "HOME": "/nowhere"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
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


class _File(Protocol):
    """Bytes that this process hands over."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Exactly so many. Raises StorageFailed and the like."""
        ...

    def extend(self, seconds: float) -> None:
        """Put the deadline off."""
        ...


class _LocalFile:
    """A local file, opened by this process: the child gets bytes and no path."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises MediaMissing, MediaChanged."""
        try:
            content = os.pread(self._fd, length, offset)
        except OSError as error:
            raise MediaMissing(f"cannot read the file: {error.strerror}") from error
        if len(content) != length:
            raise MediaChanged("the file shrank while being probed; run again")
        return content

    def extend(self, seconds: float) -> None:
        """Nothing to do: a disk has no deadline."""


class _Ahead:
    """An object with read-ahead: sequential reads cost one request per `AHEAD_BYTES`."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self.size = file, file.size
        self._first, self._content, self._next = 0, b"", -1

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises what the file raises."""
        begin = offset - self._first
        if not 0 <= begin <= begin + length <= len(self._content):
            ahead = AHEAD_BYTES if offset == self._next else length
            self._content = self._file.read(offset, max(length, min(ahead, self.size - offset)))
            self._first, begin = offset, 0
        self._next = offset + length
        return self._content[begin : begin + length]

    def extend(self, seconds: float) -> None:
        """Extend the store's deadline by `seconds`."""
        self._file.extend(seconds)


def _how(process: subprocess.Popen[bytes], error: Exception) -> str:
    if process.returncode is not None and process.returncode < 0 and isinstance(error, EOFError):
        return f"signal {-process.returncode}"
    return f"{type(error).__name__}: {error}"


def _info(fields: dict[str, Any], depth: int = 0) -> MediaInfo:
    """Parse a description and check every field: the child is not trusted."""
    mixes_mono = bool(fields.pop("mixes_mono", False))
    tags = tuple((str(name), str(value)) for name, value in fields.pop("tags", ()))
    notes = tuple(str(note)[:300] for note in fields.pop("notes", ()))
    found = sorted((*fields.pop("tracks"), *fields.pop("unread", ())), key=lambda given: int(given["index"]))
    tracks = tuple(Track(**{**given, "flags": tuple(map(str, given["flags"]))}) for given in found)
    notes = (*notes, *_unread(tracks))
    segments = tuple(_segment(given, depth) for given in fields.pop("segments", ()))
    chapters = tuple((float(start), float(end), str(title)[:1000]) for start, end, title in fields.pop("chapters", ()))
    if not all(0 <= start < end < math.inf for start, end, _ in chapters):
        raise ValueError(f"not chapters: {chapters!r}"[:300])
    subtitles = tuple(_subtitles(given) for given in fields.pop("subtitles"))
    info = MediaInfo(**fields, tags=tags, notes=notes, tracks=tracks, chapters=chapters, subtitles=subtitles)
    times = (info.duration_s, info.start_s, info.video_end_s, info.audio_end_s, info.lag_s)
    if not (info.container in DEMUXERS and info.duration_s > 0 and all(map(_is_number, times)) and info.lag_s >= 0):
        raise ValueError(f"not a media description: {fields!r}"[:300])
    for track in tracks:
        sizes = (track.width, track.height, track.sample_rate, track.channels)
        places = (track.index, track.number, track.rotation_deg)
        if not (
            track.kind in ("video", "audio")
            and all(isinstance(text, str) for text in (track.codec, track.language))
            and all(isinstance(n, int) and n > 0 for n in sizes if n is not None)
            and all(isinstance(n, int) and n >= 0 for n in places)
            and _is_number(track.frame_rate)
        ):
            raise ValueError(f"not the description of a track: {track!r}"[:300])
    return replace(with_auto_choice(info, mixes_mono=mixes_mono), segments=segments)


def _unread(tracks: tuple[Track, ...]) -> list[str]:
    """What to say of the tracks that cannot be decoded."""
    return [
        f"{track.kind} track {track.number} ({track.codec}) cannot be decoded and is left out"
        for track in tracks
        if UNREAD in track.flags
    ]


def _subtitles(given: dict[str, Any]) -> SubtitleTrack:
    codec, language = (str(given[name])[:64] for name in ("codec", "language"))
    return SubtitleTrack(int(given["index"]), int(given["number"]), codec, language, tuple(map(str, given["flags"])))


def _cue(given: Any) -> RawCue:
    start_s, end_s, text = given
    if not (isinstance(start_s, float) and _is_number(start_s) and _is_number(end_s)):
        raise ValueError(f"not a subtitle: {given!r}"[:300])
    return start_s, end_s, str(text)


def _segment(given: dict[str, Any], depth: int) -> Segment:
    if depth:
        raise ValueError("a segment has no segments")
    video, audio = (
        (int(first), None if end is None else int(end)) for first, end in (given["video_bytes"], given["audio_bytes"])
    )
    head = int(given["head_bytes"][0]), int(given["head_bytes"][1])
    times = (given["start_s"], given["end_s"], given["pts_s"])
    if not all(map(_is_number, times)) or min(video[0], audio[0], *head) < 0:
        raise ValueError(f"not a segment: {times}")
    start_s, end_s, pts_s = map(float, times)
    return Segment(start_s, end_s, pts_s, _info(given["info"], depth + 1), video, audio, head)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))
