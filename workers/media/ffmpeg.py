"""The one way to run ffmpeg: found and tried once, confined by the kernel, limited in time, without leftovers.

Promises: a child never outlives its limit, its parent or this call; it writes only to descriptors it was given; its
log is bounded. Knows nothing about clips, spans or the meaning of arguments.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import imageio_ffmpeg

from workers.errors import ConfinementMissing, DecodeFailed, DecodeKilled, FfmpegMissing, ResourceLimit
from workers.media.confinement import (
    DECODERS,
    DEMUXERS,
    MAX_SOURCE_PIXELS,
    MAX_STREAMS,
    MEMORY_BYTES,
    OPEN_FILES,
    PART_PROTOCOLS,
    REFUSED,
    end,
    start,
)
from workers.media.opening import Joined

STDERR_BYTES = 1 << 20
"""ffmpeg logs every damaged macroblock; a longer log is cut, and its beginning kept."""

STDERR_HEAD_BYTES = 1 << 16

TRY_S = 30.0
"""Time limit in seconds of the trial run, and of asking ffmpeg what it can do; a machine short of memory may take
seconds to start a program."""

TRIES = 3
"""Trial runs if it gets killed: a machine short of memory kills at random."""

READ = "\0"
"""A placeholder that no name contains: in an argument it stands for the readable file if its name is not text."""

_REFUSED = re.compile(
    r"^(?!.*\[info\]).*(Resource temporarily unavailable|Too many open files|No space left on device).*$", re.MULTILINE
)
"""What ffmpeg says where the system has no thread, descriptor or room for it; what it only quotes of a file (its tags)
is no error. A file itself can make it say so, too, so nothing more than another try may follow. Of memory it says the
same where a file asks for too much."""

NEEDED_FILTERS = ("fps", "scale", "trim", "atrim", "aresample", "apad", "metadata", "ametadata", "setpts", "bwdif")
NEEDED_DECODERS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le")

log = logging.getLogger(__name__)

Done = TypeVar("Done")


@dataclass(frozen=True)
class Limits:
    """Resource limits of one child. Zero bytes mean no limit."""

    timeout_s: float
    """Wall clock seconds. CPU time is limited to a multiple of it, in case this process is stopped."""
    file_bytes: int
    """Maximum size of any file it writes."""
    memory_bytes: int = MEMORY_BYTES
    open_files: int = OPEN_FILES
    devices: tuple[str, ...] = ()
    """Devices it may write to, and files it may read for that; see `confinement.start`."""
    device_reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """How a child ended. `timed_out`, `too_large`: it was killed for that. `returncode` proves nothing about media."""

    returncode: int
    stderr: str
    wall_s: float
    timed_out: bool = False
    too_large: bool = False


@dataclass(frozen=True)
class Tool:
    """The ffmpeg used on this machine."""

    path: str
    version: str
    """First line of `ffmpeg -version`, without its copyright."""
    instead_of: str | None = None
    """Another one that was found first, and why it cannot be used."""

    def __str__(self) -> str:
        return f"{self.version} at {self.path}" + (f" instead of {self.instead_of}" if self.instead_of else "")


def tool_here() -> str:
    """This machine's name and the ffmpeg used on it."""
    try:
        return f"{socket.gethostname()}: {ffmpeg_tool()}"
    except FfmpegMissing as error:
        return f"{socket.gethostname()}: {error}"


def find_ffmpeg() -> str:
    """Path of the ffmpeg to use, see `ffmpeg_tool`."""
    return ffmpeg_tool().path


@functools.cache
def ffmpeg_tool() -> Tool:
    """The ffmpeg to use: `OMNIDROP_FFMPEG`, else the one on PATH, else the one in imageio-ffmpeg. Each is tried; one on
    PATH that cannot run is skipped.

    Raises FfmpegMissing if there is none, or if the one named in the environment cannot run.
    """
    named = os.environ.get("OMNIDROP_FFMPEG")
    if named:
        found = shutil.which(named)
        if found is None:
            raise FfmpegMissing(f"OMNIDROP_FFMPEG is {named!r}, which is not a program; unset it or give a full path")
        path = os.path.abspath(found)
        if (problem := _problem(path)) is not None:
            raise FfmpegMissing(f"OMNIDROP_FFMPEG is {path}, which {problem}; fix that, or unset it")
        return Tool(path, _version(path))
    passed_over = None
    if (found := shutil.which("ffmpeg")) is not None:
        path = os.path.abspath(found)
        if (problem := _problem(path)) is None:
            return Tool(path, _version(path))
        passed_over = f"{path}, which {problem}"
    packed = packed_ffmpeg(passed_over)
    if (problem := _problem(packed)) is not None:
        raise FfmpegMissing(
            f"no ffmpeg can run on this machine: {passed_over or 'none is on PATH'}, and {packed} of imageio-ffmpeg "
            f"{problem}; install ffmpeg or set OMNIDROP_FFMPEG"
        )
    if passed_over is not None:
        log.warning("using the ffmpeg of the package imageio-ffmpeg instead of %s", passed_over)
    return Tool(packed, _version(packed), passed_over)


def packed_ffmpeg(passed_over: str | None = None) -> str:
    """Path of the ffmpeg in imageio-ffmpeg. Raises FfmpegMissing if it has none for this platform."""
    # The package's own function tries it, and if that child is killed it remembers for ever that there is none.
    for packed in sorted((Path(imageio_ffmpeg.__file__).parent / "binaries").glob("ffmpeg-*")):
        if os.access(packed, os.X_OK):
            return str(packed)
    raise FfmpegMissing(
        f"no ffmpeg can run on this machine: {passed_over or 'none is on PATH'}, and imageio-ffmpeg has none for "
        "this platform; install ffmpeg or set OMNIDROP_FFMPEG"
    )


def with_working_ffmpeg(work: Callable[[], Done]) -> Done:
    """The result of `work`. If ffmpeg decodes nothing, it is tried again: if it has broken meanwhile (an upgrade, a
    missing library), the work is repeated with another one. Raises what `work` raises, FfmpegMissing if there is none.
    """
    used = ffmpeg_tool()
    try:
        return work()
    except (DecodeFailed, DecodeKilled):
        if _problem(used.path) is None:
            raise
    for remembered in (ffmpeg_tool, filters, decoders, hwaccels, drops_packets):
        remembered.cache_clear()
    log.warning("%s stopped working; using %s from now on", used.path, ffmpeg_tool())
    return work()


def _problem(path: str, reading: Sequence[str] = ()) -> str | None:
    """Why an ffmpeg cannot be used, None if it can; `reading` are further input options. If it is killed, it is tried
    again: that says nothing about it, unless it is killed every time."""
    for _ in range(TRIES):
        status, problem = _tried(path, reading)
        if status != -signal.SIGKILL:
            break
    return problem


def _tried(path: str, reading: Sequence[str]) -> tuple[int, str | None]:
    """Exit status and problem of a minimal trial: scale two grey frames to a quarter of their size."""
    with anonymous_file("given") as given, anonymous_file("made") as made:
        os.pwrite(given, bytes(2 * 16 * 16), 0)
        read = [*reading, "-f", "rawvideo", "-pix_fmt", "gray", "-s", "16x16", "-i", f"pipe:{given}"]
        write = ["-vf", "scale=8:8", "-f", "rawvideo", "-pix_fmt", "rgb24", f"pipe:{made}"]
        limits = Limits(timeout_s=TRY_S, file_bytes=1 << 20)
        try:
            done = run(
                [path, "-hide_banner", "-loglevel", "error", *read, *write], limits=limits, pass_fds=(given, made)
            )
        except OSError as error:
            return 0, f"cannot be started: {error.strerror}"
        except DecodeKilled as error:
            return -signal.SIGKILL, f"cannot run: {error}"
        if done.timed_out:
            return 0, f"does not end within {TRY_S:g} s"
        if done.returncode or os.fstat(made).st_size != 2 * 8 * 8 * 3:
            said = next((line.strip() for line in done.stderr.splitlines() if line.strip()), "and says nothing")
            return done.returncode, f"cannot run (exit status {done.returncode}: {said[:300]})"
    return 0, None


def ffmpeg_version() -> str:
    """First line of `ffmpeg -version`, without its copyright."""
    return ffmpeg_tool().version


def _version(path: str) -> str:
    return _listing(path, "-version").split(" Copyright")[0].splitlines()[0]


@functools.cache
def filters() -> frozenset[str]:
    """Names of the filters this ffmpeg was built with."""
    rows = (line.split() for line in _listing(find_ffmpeg(), "-filters").splitlines())
    return frozenset(row[1] for row in rows if len(row) > 2 and "->" in row[2])


@functools.cache
def hwaccels() -> frozenset[str]:
    """Names of the hardware decoding methods that this ffmpeg was built with."""
    return frozenset(line.strip() for line in _listing(find_ffmpeg(), "-hwaccels").splitlines()[1:] if line.strip())


@functools.cache
def drops_packets() -> bool:
    """Whether this ffmpeg accepts a bitstream filter in front of a decoder (7.1 and later)."""
    return _problem(find_ffmpeg(), ("-bsf:v", "noise=drop='gt(pts*tb,1e9)'")) is None


@functools.cache
def decoders() -> frozenset[str]:
    """Names of the codecs that this ffmpeg can decode."""
    rows = (line.split() for line in _listing(find_ffmpeg(), "-codecs").splitlines())
    return frozenset(row[1] for row in rows if len(row) > 1 and row[0].startswith("D"))


def check_ffmpeg() -> Tool:
    """The ffmpeg to use. Raises FfmpegMissing if there is none, or if it lacks a filter or decoder that clips need."""
    tool = ffmpeg_tool()
    missing = [name for name in NEEDED_FILTERS if name not in filters()]
    missing += [name for name in NEEDED_DECODERS if name not in decoders()]
    if missing:
        raise FfmpegMissing(
            f"{tool.path} was built without {', '.join(missing)}; install a complete ffmpeg, or unset OMNIDROP_FFMPEG "
            "and take it off PATH to use the one that comes with imageio-ffmpeg"
        )
    return tool


def _listing(path: str, option: str) -> str:
    command = [path, "-hide_banner", "-nostdin", option]
    for _ in range(TRIES):
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise FfmpegMissing(
                f"{path} {option} does not end within {TRY_S:g} s; run again when the machine is less busy, or set "
                "OMNIDROP_FFMPEG to another ffmpeg"
            ) from error
        if done.returncode != -signal.SIGKILL:
            break
    if done.returncode:
        raise FfmpegMissing(f"{path} {option} exits with {done.returncode}; set OMNIDROP_FFMPEG to another ffmpeg")
    return done.stdout.decode(errors="replace")


def untrusted_input(container: str) -> dict[str, Any]:
    """Input options for an untrusted file: the demuxer it must be read with, and limits. `container` as probed."""
    return {
        "f": container.split(",")[0],
        "protocol_whitelist": PART_PROTOCOLS,
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": DECODERS,
        "max_streams": MAX_STREAMS,
        "max_pixels": MAX_SOURCE_PIXELS,
        "threads": 1,  # two single-threaded processes are faster than one with two threads
    }


def input_url(
    path: str | os.PathLike[str], part: tuple[int, int | None] = (0, None), head: tuple[int, int] = (0, 0)
) -> str:
    """An address with which ffmpeg and libav open `path` literally, whatever it contains (`-`, `:`, `%`, newlines).

    `part` selects a byte range to read as a file: the first byte, and the one after the last (None: to the end).
    `head` is another range, to be read before it.
    """
    if head != (0, 0):
        # A piece's special characters are escaped: those of a name, and the bars between pieces of pieces.
        pieces = (re.sub(r"([\\'|\s])", r"\\\1", input_url(path, one)) for one in (head, part))
        return "concat:" + "|".join(pieces)
    if isinstance(path, Joined):
        whole = str(path)
    else:
        whole = os.path.abspath(os.fspath(path))
        try:
            whole.encode()
        except UnicodeEncodeError:
            whole = READ  # ffmpeg-python needs text
        whole = f"file:{whole}"
    first, end = part
    if (first, end) == (0, None):
        return whole
    if end is None:
        end = path.size if isinstance(path, Joined) else os.path.getsize(path)
    return f"subfile,,start,{first},end,{end},,:{whole}"


@contextlib.contextmanager
def anonymous_file(label: str) -> Iterator[int]:
    """A descriptor of an anonymous file: nothing is left behind, even if this process is killed."""
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
    is_in_vain: Callable[[], bool] = lambda: False,
) -> Finished:
    """Run `arguments` (program first, as `ffmpeg.compile` builds them) to its end or to its limit.

    The child gets no stdin or stdout, its own process group, of our descriptors only `pass_fds` under the same numbers,
    and of our files only `reads`. It has ended when this returns or raises. Never raises for what the child does. If
    the system keeps it from its work, raises ConfinementMissing (the kernel refuses confinement it offered before),
    ResourceLimit (its files may not grow as far as `limits` allow) or DecodeKilled (no more threads or files): half of
    a clip would look like a damaged file. `is_in_vain` is polled many times a second: once it returns true, the child
    is ended.
    """
    read = os.path.abspath(os.fspath(reads[0])) if reads else ""
    program = [os.path.abspath(arguments[0]), "-nostdin", *(argument.replace(READ, read) for argument in arguments[1:])]
    started = time.monotonic()
    with anonymous_file("stderr") as log:
        child = start(
            program,
            timeout_s=limits.timeout_s,
            file_bytes=limits.file_bytes,
            memory_bytes=limits.memory_bytes,
            open_files=limits.open_files,
            reads=reads,
            devices=limits.devices,
            device_reads=limits.device_reads,
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
                if is_in_vain():
                    break
        finally:
            end(child, has_devices=bool(limits.devices))
        timed_out = timed_out or child.returncode == -signal.SIGXCPU
        said = head + os.pread(log, STDERR_BYTES, 0).lstrip(b"\0")
    if child.returncode == REFUSED and said.startswith(b"confinement:"):
        raise ConfinementMissing(said.decode(errors="replace").strip())
    stderr = said.decode(errors="replace")
    _check_not_refused(child.returncode, stderr, limits)
    return Finished(
        returncode=child.returncode,
        stderr=stderr,
        wall_s=time.monotonic() - started,
        timed_out=timed_out,
        too_large=child.returncode == -signal.SIGXFSZ,
    )


def _check_not_refused(returncode: int, stderr: str, limits: Limits) -> None:
    """Raise ResourceLimit or DecodeKilled if the system, not the media, kept a child from its work."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if returncode == -signal.SIGXFSZ and most != resource.RLIM_INFINITY and most < limits.file_bytes:
        raise ResourceLimit(
            f"files of this process may not grow beyond {most} bytes (`ulimit -f`), and what a clip decodes to takes "
            f"up to {limits.file_bytes}; raise that limit"
        )
    if returncode != -signal.SIGKILL and (refused := _REFUSED.search(stderr)) is not None:
        raise DecodeKilled(f"the system has no threads or files left for ffmpeg (`ulimit -u`, `-n`): {refused[0]:.200}")


def _bounded(log: int, head: bytes) -> bytes:
    """Truncate the log if it has grown too large; return the kept beginning."""
    if os.fstat(log).st_size <= STDERR_BYTES:
        return head
    head = head or os.pread(log, STDERR_HEAD_BYTES, 0) + b"\n[...]\n"
    os.ftruncate(log, 0)
    os.lseek(log, 0, os.SEEK_SET)  # the child shares this offset
    return head
