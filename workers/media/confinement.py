"""Limits of every process that opens a file of the archive (ffmpeg and probing), and how such a process is started.

Promises: constants with their reasons, and the one way to start a confined child, which gets all the confinement that
this machine's kernel offers or does not start. An archive is untrusted input: a child is assumed to be taken over by
the file it reads. Knows nothing about what the child does.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import signal
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workers.errors import ConfinementMissing
from workers.media._sandbox import has_seccomp, landlock_abi
from workers.media.opening import CheckedPath

PROTOCOLS = "file,pipe"
"""Protocols that ffmpeg and libav may open; with `DEMUXERS`, this keeps a hostile file from opening anything else."""

PART_PROTOCOLS = f"{PROTOCOLS},subfile,concat"
"""The same for decoding, which reads byte ranges of a file as files, and some files in pieces: `subfile` and `concat`
open only what the protocols above may open."""

DEMUXERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg"),
    *("flv", "asf", "ogg", "mxf", "dv", "nut", "ivf", "rm"),
    *("wav", "w64", "aiff", "caf", "mp3", "flac", "aac", "ac3", "eac3", "amr", "au"),
)
"""Containers that hold their own media. Formats that refer to other files or addresses (hls, dash, concat, image2, sdp,
imf, smooth streaming, scripts, tracker modules) are excluded on purpose."""

VIDEO_DECODERS = (
    *("h264", "hevc", "vvc", "libdav1d", "libaom-av1", "av1", "vp8", "vp9", "libvpx", "libvpx-vp9", "theora"),
    *("mpeg1video", "mpeg2video", "mpegvideo", "mpeg4", "h261", "h263", "h263i", "h263p", "flv", "vp6", "vp6a", "vp6f"),
    *("msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "wmv3", "vc1", "rv10", "rv20", "rv30", "rv40"),
    *("mjpeg", "mjpegb", "dvvideo", "prores", "dnxhd", "cfhd", "jpeg2000", "ffv1", "ffvhuff", "huffyuv", "utvideo"),
    *("svq1", "svq3", "cinepak", "indeo3", "indeo5", "msvideo1", "qtrle", "png", "rawvideo", "v210"),
)
AUDIO_DECODERS = (
    *(
        "aac",
        "aac_latm",
        "mp1",
        "mp1float",
        "mp2",
        "mp2float",
        "mp3",
        "mp3float",
        "ac3",
        "eac3",
        "dca",
        "truehd",
        "mlp",
    ),
    *("opus", "libopus", "vorbis", "libvorbis", "flac", "alac", "speex", "libspeex", "nellymoser"),
    *("wmav1", "wmav2", "wmapro", "wmalossless", "wmavoice", "cook", "sipr", "real_144", "real_288", "qdm2"),
    *("amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb", "gsm", "gsm_ms", "g722", "g726"),
    *("adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_swf", "s302m", "dvaudio", "pcm_dvd", "pcm_bluray"),
    *("pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le"),
    *("pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_s16le_planar", "pcm_s16be_planar"),
)
DECODERS = ",".join((*VIDEO_DECODERS, *AUDIO_DECODERS))
"""Allowed decoders, by libav's names: those of cameras, broadcasters, editors and the web, of 530 built in.
Vulnerabilities are found in those for games and screen recorders of the 1990s, and separately named hardware decoders
need devices that a child may not open; `workers.media.nvdec` uses a GPU through the plain ones."""

MAX_SOURCE_PIXELS = 36_000_000
"""8K UHD (33.2 million) is allowed; 16k x 16k, 400 MB a frame, is not."""

MAX_STREAMS = 256
"""Maximum number of streams in a file; each costs memory and time before anything is decoded."""

MEMORY_BYTES = 4 << 30
"""Address space of a child in bytes: 8K HEVC needs about 2 GiB with one thread."""

MAX_ALLOC_BYTES = 1 << 30
"""Largest single allocation in bytes, so that a declared size cannot claim memory beyond the file's content."""

OPEN_FILES = 64
"""Open files: Python with libav has up to 20, ffmpeg 10, plus a file's pieces."""

CPU_SHARE = 4
"""CPU seconds allowed per second of wall clock, as a backstop: ffmpeg demuxes, decodes and filters in separate threads,
even with one thread each."""

END_S = 5.0
"""Seconds to wait for a reaper, which needs milliseconds."""

REFUSED = 126
"""Exit status of a child that did not start because the kernel refused confinement it had offered."""

Required = Literal["auto", "landlock+seccomp", "rlimits"]

_KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
_LAUNCHER = Path(__file__).with_name("_launch.py")
_LIBRARIES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/etc/ld.so.cache"),
    *("/nix/store", "/gnu/store"),
)
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")


@dataclass(frozen=True)
class Level:
    """The confinement that a kernel offers beyond resource limits."""

    landlock: int
    """Landlock ABI: 1 confines files, 4 TCP, 6 signals and abstract sockets; 0 without Landlock."""
    seccomp: bool
    nvdec: bool = False
    """Whether a child may use an NVIDIA GPU, see `workers.media.nvdec`."""

    def __str__(self) -> str:
        parts = [f"landlock-{self.landlock}"] * bool(self.landlock) + ["seccomp"] * self.seccomp
        return "+".join((parts or ["rlimits"]) + ["nvdec"] * self.nvdec)

    @property
    def is_full(self) -> bool:
        """Whether a child that is taken over can reach only its own file."""
        return bool(self.landlock) and self.seccomp


def is_full(name: str) -> bool:
    """The same for a level recorded by name."""
    return name.startswith("landlock-") and name.endswith("+seccomp")


@functools.cache
def level() -> Level:
    """The confinement that this machine's kernel offers."""
    return Level(landlock_abi(), has_seccomp())


def require(required: Required) -> None:
    """Raise ConfinementMissing if this machine's kernel offers less than `execution.confinement` requires."""
    if required == "landlock+seccomp" and not level().is_full:
        raise ConfinementMissing(
            f"execution.confinement is {required}, and this machine's kernel grants {level()}: a program taken over by "
            "a hostile file could read what this user can. Run on Linux 5.13 or newer with Landlock and seccomp on "
            "(x86_64 or aarch64), or accept less with execution.confinement: rlimits"
        )


def start(
    program: Sequence[str],
    *,
    timeout_s: float,
    file_bytes: int,
    memory_bytes: int = MEMORY_BYTES,
    open_files: int = OPEN_FILES,
    reads: Sequence[str | os.PathLike[str]] = (),
    devices: Sequence[str] = (),
    device_reads: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start `program` (absolute path first) in its own process group, with limits; it dies with this thread.

    It gets only PATH, LD_LIBRARY_PATH and TMPDIR of our environment, so a process that reads a hostile file holds no
    credentials. It can read only `reads` and its own program and libraries; each of `reads` is the file that exists
    now, whatever replaces it later. 0 means no limit for `timeout_s` (CPU), `file_bytes` and `memory_bytes`. Only
    `program` itself can be executed, so it must not be a script.

    With `devices` it may also write to these and read `device_reads`, and there is no seccomp filter, because a GPU
    driver's calls are not known.
    """
    granted = level()
    is_filtered = granted.seccomp and not devices
    cpu_s = CPU_SHARE * math.ceil(timeout_s)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    passed = popen.get("pass_fds", ())
    with contextlib.ExitStack() as stack:
        pinned = []
        for path in reads:
            if isinstance(path, CheckedPath) and path.fd in passed:
                continue  # open in the child, too
            with contextlib.suppress(OSError):  # the child finds out, with a better message
                place = f"/proc/self/fd/{path.fd}" if isinstance(path, CheckedPath) else path
                pinned.append(os.open(place, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC))
                stack.callback(os.close, pinned[-1])
        opened = (path.fd for path in reads if isinstance(path, CheckedPath) and path.fd in passed)
        entries = [f"r:/proc/self/fd/{fd}" for fd in (*pinned, *opened)]
        entries += made_of(program[0], os.environ.get("LD_LIBRARY_PATH"))
        entries += [*(f"w:{path}" for path in devices), *(f"r:{path}" for path in device_reads)]
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        launcher += [str(cpu_s), str(file_bytes), str(memory_bytes), str(open_files)]
        launcher += [str(granted.landlock), str(int(is_filtered))]
        popen["pass_fds"] = (*passed, *pinned)
        return subprocess.Popen(
            [*launcher, str(len(entries)), *entries, *program],
            start_new_session=True,
            cwd="/",
            env=kept | (environment or {}),
            **popen,
        )


def end(child: subprocess.Popen[bytes], *, has_devices: bool = False) -> None:
    """Kill the child's whole process group (its leader may have exited before others) and reap it."""
    if (has_devices or not level().seccomp) and child.poll() is None:
        # It could fork: its launcher is still there as reaper and ends all descendants.
        child.send_signal(signal.SIGUSR1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@functools.lru_cache(maxsize=32)
def made_of(program: str, library_path: str | None = None) -> tuple[str, ...]:
    """Files that a program must read or execute (itself, its loader, its libraries), in the launcher's notation."""
    real = os.path.realpath(program)
    executed = [real, *([loader] if (loader := _loader(real)) is not None else [])]
    read = [*_LIBRARIES, *_DEVICES, *(library_path or "").split(":"), str(Path(real).parent.parent / "lib")]
    listed: list[str] = []
    if real == os.path.realpath(sys.executable):
        own = Path(__file__).parents[2]
        read += [str(own / "workers"), str(own / "omnidrop"), str(Path(sys.prefix) / "pyvenv.cfg"), *_linked()]
        read += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        read.append(str(Path(sys.base_prefix) / "lib"))
        listed.append(str(own))  # to find its packages
    there = dict.fromkeys(path for path in read if path and os.path.exists(path))
    return (*(f"x:{p}" for p in executed), *(f"r:{p}" for p in there), *(f"d:{p}" for p in listed))


def _linked() -> Iterator[str]:
    """Where what the prober imports really lies: an environment may be made of links (uv's link mode, Nix)."""
    for name in ("workers", "omnidrop", "av"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            folder = Path(os.path.realpath(spec.origin)).parent
            yield from (str(folder), str(folder.with_name(f"{name}.libs")))


def _loader(program: str) -> str | None:
    """The dynamic loader of a 64-bit ELF program (PT_INTERP), None if it is static."""
    with contextlib.suppress(OSError, struct.error), open(program, "rb") as file:
        head = file.read(64)
        if head[:5] == b"\x7fELF\x02":
            (table,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
            for number in range(count):
                file.seek(table + number * size)
                kind, _, offset, _, _, length = struct.unpack("<IIQQQQ", file.read(40))
                if kind == 3:
                    file.seek(offset)
                    return os.path.realpath(os.fsdecode(file.read(length).rstrip(b"\0")))
    return None
