"""What any process that opens a file of the archive may open, allocate and know: shared by ffmpeg and by probing.

Promises: constants with their reasons, and the one way to start a confined child. An archive is untrusted input; knows
nothing about what the child does.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROTOCOLS = "file,pipe"
"""All that ffmpeg and libav may open by address; with `DEMUXERS`, what keeps a hostile file from reaching out."""

DEMUXERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v"),
    *("flv", "asf", "ogg", "mxf", "dv", "nut", "ivf", "rm"),
    *("wav", "w64", "aiff", "caf", "mp3", "flac", "aac", "ac3", "eac3", "amr", "au"),
)
"""Containers that hold their own media. Whatever names other files or addresses (hls, dash, concat, image2, sdp, imf,
smooth streaming, scripts, tracker modules) is absent on purpose."""

MAX_SOURCE_PIXELS = 36_000_000
"""8K UHD (33.2 million) passes; a 16k x 16k picture, 400 MB a frame, does not."""

MAX_STREAMS = 256
"""Streams in one file; each costs memory and time before anything is decoded."""

MEMORY_BYTES = 4 << 30
"""Address space of a child: 8K HEVC needs about 2 GiB with one thread."""

MAX_ALLOC_BYTES = 1 << 30
"""Largest single allocation, so that a declared size cannot claim memory that the file does not back."""

CPU_SHARE = 4
"""CPU seconds allowed per second of wall clock: a backstop only. ffmpeg demuxes, decodes and filters in threads of
their own even with one thread each."""

_KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
_LAUNCHER = Path(__file__).with_name("_launch.py")


def start(
    program: Sequence[str],
    *,
    timeout_s: float,
    file_bytes: int,
    memory_bytes: int = MEMORY_BYTES,
    environment: dict[str, str] | None = None,
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start `program` (absolute path first) in a process group of its own, bounded, and bound to die with this thread.

    It sees none of our environment but PATH, LD_LIBRARY_PATH and TMPDIR: the process that reads a hostile file holds
    no credentials. `timeout_s` 0 means no CPU limit; `file_bytes` and `memory_bytes` 0 mean none.
    """
    cpu_s = CPU_SHARE * math.ceil(timeout_s)
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER)]
    launcher += [str(os.getpid()), str(cpu_s), str(file_bytes), str(memory_bytes)]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return subprocess.Popen(
        [*launcher, *program], start_new_session=True, cwd="/", env=kept | (environment or {}), **popen
    )


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole group (its leader may be gone while others are not) and reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
