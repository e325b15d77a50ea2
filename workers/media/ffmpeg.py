"""One way to run ffmpeg: found once, confined by the kernel, ended on time, with nothing left behind.

Promises: a child never outlives its limit, its parent or this call; it writes only to file descriptors it was handed;
what it says is kept within bounds. Knows nothing about clips, spans or what the arguments mean.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from workers.errors import ConfinementMissing, FfmpegMissing
from workers.media.confinement import MEMORY_BYTES, REFUSED, end, start

STDERR_BYTES = 1 << 20
"""A damaged file complains about every macroblock; above this the log is cut, its head kept."""

STDERR_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What one child may use. Zero bytes mean no limit."""

    timeout_s: float
    """Wall clock. CPU time is limited to a multiple of it, should this process be stopped."""
    file_bytes: int
    """Size of any one file it writes."""
    memory_bytes: int = MEMORY_BYTES


@dataclass(frozen=True)
class Finished:
    """How a child ended. `timed_out` and `too_large` say that it was ended; `returncode` proves nothing about media."""

    returncode: int
    stderr: str
    wall_s: float
    timed_out: bool = False
    too_large: bool = False


@functools.cache
def find_ffmpeg() -> str:
    """Path of the ffmpeg to use: `OMNIDROP_FFMPEG`, else the system's, else the one in imageio-ffmpeg.

    Raises FfmpegMissing where there is none, or where the one named in the environment cannot be run.
    """
    named = os.environ.get("OMNIDROP_FFMPEG")
    if named:
        found = shutil.which(named)
        if found is None:
            raise FfmpegMissing(f"OMNIDROP_FFMPEG is {named!r}, which is not a program; unset it or give a full path")
        return os.path.abspath(found)
    found = shutil.which("ffmpeg")
    if found is not None:
        return os.path.abspath(found)
    return packed_ffmpeg()


def packed_ffmpeg() -> str:
    """Path of the ffmpeg in imageio-ffmpeg. Raises FfmpegMissing where it has none for this platform."""
    # The package's own function runs it to try it, and remembers for good that there is none when that child is killed.
    for packed in sorted((Path(imageio_ffmpeg.__file__).parent / "binaries").glob("ffmpeg-*")):
        if os.access(packed, os.X_OK):
            return str(packed)
    raise FfmpegMissing(
        "no ffmpeg on PATH and none for this platform in imageio-ffmpeg; install ffmpeg or set OMNIDROP_FFMPEG"
    )


@functools.cache
def ffmpeg_version() -> str:
    """First line of `ffmpeg -version`, without its copyright: part of what a run records."""
    return _listing("-version").split(" Copyright")[0].splitlines()[0]


@functools.cache
def filters() -> frozenset[str]:
    """Names of the filters this ffmpeg was built with."""
    rows = (line.split() for line in _listing("-filters").splitlines())
    return frozenset(row[1] for row in rows if len(row) > 2 and "->" in row[2])


def _listing(option: str) -> str:
    done = subprocess.run(
        [find_ffmpeg(), "-hide_banner", "-nostdin", option],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    if done.returncode:
        raise FfmpegMissing(f"{find_ffmpeg()} {option} exits with {done.returncode}; set OMNIDROP_FFMPEG to another")
    return done.stdout.decode(errors="replace")


def input_url(path: str | os.PathLike[str], part: tuple[int, int | None] = (0, None)) -> str:
    """`path` as ffmpeg and libav open it to the letter, whatever it holds: `-`, `:`, `%`, quotes, newlines.

    `part` is the first byte and the one after the last (None: to the end) that are read, as a file of their own.
    """
    whole = "file:" + os.path.abspath(os.fspath(path))
    first, end = part
    if (first, end) == (0, None):
        return whole
    return f"subfile,,start,{first},end,{os.path.getsize(path) if end is None else end},,:{whole}"


@contextlib.contextmanager
def anonymous_file(label: str) -> Iterator[int]:
    """A descriptor of a file without a name: nothing is left behind even if this process is killed."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(label)
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


def run(
    arguments: Sequence[str],
    *,
    limits: Limits,
    pass_fds: Sequence[int] = (),
    reads: Sequence[str | os.PathLike[str]] = (),
) -> Finished:
    """Run `arguments` (program first, as `ffmpeg.compile` builds them) to its end or to its limit.

    The child gets no stdin and no stdout, its own process group, of our descriptors only `pass_fds` under the same
    numbers, and of our files only `reads`. It is gone when this returns or raises. Never raises for what the child
    does; raises ConfinementMissing where the kernel takes back what it granted.
    """
    program = [os.path.abspath(arguments[0]), "-nostdin", *arguments[1:]]
    started = time.monotonic()
    with anonymous_file("stderr") as log:
        child = start(
            program,
            timeout_s=limits.timeout_s,
            file_bytes=limits.file_bytes,
            memory_bytes=limits.memory_bytes,
            reads=reads,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=tuple(pass_fds),
        )
        head = b""
        timed_out = False
        try:
            while True:
                try:
                    child.wait(timeout=min(0.05, limits.timeout_s))
                    break
                except subprocess.TimeoutExpired:
                    head = _bounded(log, head)
                if time.monotonic() - started > limits.timeout_s:
                    timed_out = True
                    break
        finally:
            end(child)
        timed_out = timed_out or child.returncode == -signal.SIGXCPU
        said = head + os.pread(log, STDERR_BYTES, 0).lstrip(b"\0")
    if child.returncode == REFUSED and said.startswith(b"confinement:"):
        raise ConfinementMissing(said.decode(errors="replace").strip())
    return Finished(
        returncode=child.returncode,
        stderr=said.decode(errors="replace"),
        wall_s=time.monotonic() - started,
        timed_out=timed_out,
        too_large=child.returncode == -signal.SIGXFSZ,
    )


def _bounded(log: int, head: bytes) -> bytes:
    """Cut the log when it has grown too large; returns what is kept of its beginning."""
    if os.fstat(log).st_size <= STDERR_BYTES:
        return head
    head = head or os.pread(log, STDERR_HEAD_BYTES, 0) + b"\n[...]\n"
    os.ftruncate(log, 0)
    os.lseek(log, 0, os.SEEK_SET)  # the child shares this offset
    return head
