"""What the processes that open media do, seen from outside: how long they live, what they take, what stays behind.

Promises: every confined child that lives longer than a sample is seen; nothing is stopped or changed by looking. The
bait notices whoever opens it or connects to it. Knows nothing about media or jobs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.robustness.fuzz_media.references import Bait

SAMPLE_S = 0.05
_PROBING = "workers.media._probe_child"
_CONFINED = (_PROBING, "_launch.py", "protocol_whitelist")
"""What the command lines of confined children have; the ffmpeg that makes hostile files has none of it."""


@dataclass
class Seen:
    """One child."""

    is_probe: bool
    first_s: float
    last_s: float
    peak_bytes: int = 0


@dataclass(frozen=True)
class Child:
    """A process as it is now."""

    pid: int
    started: str
    """In clock ticks: with `pid` its identity."""
    command: str
    peak_bytes: int

    @classmethod
    def of(cls, pid: int) -> Child:
        """Raises OSError or ValueError where it is gone."""
        place = Path(f"/proc/{pid}")
        started = place.joinpath("stat").read_text().rpartition(")")[2].split()[19]
        command = place.joinpath("cmdline").read_bytes().decode(errors="replace")
        peak = next((x for x in place.joinpath("status").read_text().splitlines() if x.startswith("VmHWM:")), "_ 0")
        return cls(pid, started, command, int(peak.split()[1]) * 1024)


class ChildWatch:
    """Samples this process's confined children while the block lasts."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], Seen] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="child-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def longest_decode_s(self) -> float:
        """Life of the ffmpeg process that lived longest."""
        return max((s.last_s - s.first_s for s in self._seen.values() if not s.is_probe), default=0.0)

    def peak_bytes(self, *, is_probe: bool) -> int:
        """Largest resident set of a child."""
        return max((s.peak_bytes for s in self._seen.values() if s.is_probe == is_probe), default=0)

    @property
    def children(self) -> int:
        """How many were seen."""
        return len(self._seen)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for child in confined_children():
                now, is_probe = time.monotonic(), _PROBING in child.command
                seen = self._seen.setdefault((child.pid, child.started), Seen(is_probe, now, now))
                seen.last_s, seen.is_probe = now, is_probe
                seen.peak_bytes = max(seen.peak_bytes, child.peak_bytes)


def confined_children() -> list[Child]:
    """Processes that this one started and that open media, or are about to."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        # A thread's own children; psutil would read the whole machine's processes 30 times a second.
        with contextlib.suppress(OSError, ValueError):
            for pid in Path(f"/proc/self/task/{thread}/children").read_text().split():
                with contextlib.suppress(OSError, ValueError):
                    child = Child.of(int(pid))
                    if any(name in child.command for name in _CONFINED):
                        found.append(child)
    return found


class BaitWatch:
    """A pipe that knows whether anybody opened it, and a listener on TCP and UDP that knows who came."""

    def __init__(self, folder: Path) -> None:
        self._fifo = folder / "bait.ts"
        self._fifo.unlink(missing_ok=True)
        os.mkfifo(self._fifo)
        self._tcp, self._udp = _listeners()
        self.bait = Bait(str(self._fifo), self._tcp.getsockname()[1])
        self.taken: list[str] = []
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bait-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._tcp.close()
        self._udp.close()
        self._fifo.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.looks += 1
            # Opening for writing works only while somebody has it open for reading: who does blocks until we come.
            with contextlib.suppress(OSError):
                os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
                self.taken.append("the file was opened")
            with contextlib.suppress(BlockingIOError):
                connection, address = self._tcp.accept()
                connection.close()
                self.taken.append(f"a connection from {address}")
            with contextlib.suppress(BlockingIOError):
                self.taken.append(f"a datagram from {self._udp.recvfrom(64)[1]}")


def _listeners() -> tuple[socket.socket, socket.socket]:
    """TCP and UDP on the same free port of this machine."""
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", tcp.getsockname()[1]))
    tcp.setblocking(False)
    udp.setblocking(False)
    return tcp, udp


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                found[os.path.relpath(path, folder)] = (status.st_size, status.st_mtime_ns)
    return found
