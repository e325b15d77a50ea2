"""Runs of the command line as processes that can be killed, and every process that belongs to them.

Promises: a run is the command line's own code in a process of its own, forked from a server that has imported it
already (eight seconds of imports a run are saved, nothing else is shared); whatever a run starts, however deep, carries
the harness's mark (its folder for temporary files) and is found by it. Knows nothing about rows.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SHORT_TEXTS = "OMNIDROP_CRASH_MOST_TOKENS"
"""So many tokens is a text about a whole video at most: two clips of four seconds are then read in two levels."""
PRELOADED = ["tests.robustness.crash.preloaded"]
OURS = b"ffmpeg", b"_launch.py", b"_probe_child", b"ray::", b"raylet", b"gcs_server"
"""What a run may leave behind; the fork server and the harness itself carry the mark, too."""


@dataclass(frozen=True)
class Found:
    """One living process."""

    pid: int
    command: str

    def kill(self) -> bool:
        """SIGKILL; False where it was gone."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


class Runs:
    """Starts runs. Use as a context manager: what it started is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the harness's own; runs keep their temporary files and Ray its sockets below it."""
        self._log = folder / "runs.log"
        # Confined children are given hardly any environment, but this.
        (folder / "t").mkdir()
        tempfile.gettempdir()  # what this process itself uses is settled before
        os.environ["TMPDIR"] = str(folder / "t")
        self._mark = f"TMPDIR={folder / 't'}".encode()
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: on a busy machine workers would never start
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._started: list[ForkServerProcess] = []
        self._is_ours: dict[int, bool] = {}

    def start(self, *arguments: object, environment: Mapping[str, str] | None = None) -> ForkServerProcess:
        """Start `omnidrop ARGUMENTS`; its exit code is the signal, negative, or the command's own."""
        process = self._context.Process(
            target=_run, args=([str(a) for a in arguments], dict(environment or {}), str(self._log))
        )
        process.start()
        self._started = [p for p in self._started if p.is_alive()] + [process]
        return process

    def finish(self, *arguments: object, limit_s: float, environment: Mapping[str, str] | None = None) -> int | None:
        """Run `omnidrop ARGUMENTS` to its end; None where it did not end within the limit and was killed."""
        process = self.start(*arguments, environment=environment)
        process.join(limit_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            return None
        return process.exitcode

    def said(self) -> str:
        """The end of what the runs wrote."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.join()
        for found in self.processes():
            found.kill()

    def processes(self, *commands: str) -> list[Found]:
        """The living processes of this harness's runs whose command line holds one of these words."""
        wanted = [command.encode() for command in commands] or OURS
        alive = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        # A process has the mark from its first moment, as its parent has, or never.
        known = self._is_ours
        self._is_ours = {pid: known[pid] if pid in known else _is_marked(pid, self._mark) for pid in alive}
        return [found for pid in alive if self._is_ours[pid] and (found := _found(pid, wanted)) is not None]

    def orphans(self, known: Callable[[Found], bool] = lambda found: False, wait_s: float = 15) -> list[Found]:
        """What runs left behind that `known` does not explain, after time enough to go by itself."""
        deadline = time.monotonic() + wait_s
        while True:
            left = [found for found in self.processes() if not known(found)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def _found(pid: int, wanted: Sequence[bytes]) -> Found | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    if not any(word in command for word in wanted):
        return None
    return Found(pid, command.replace(b"\0", b" ").decode(errors="replace"))


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _run(arguments: list[str], environment: Mapping[str, str], log: str) -> None:
    os.environ.update(environment)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from jobs.cli import app
    from workers import whole_text

    whole_text.MOST_TOKENS = int(environment.get(SHORT_TEXTS, whole_text.MOST_TOKENS))
    sys.argv = ["omnidrop", *arguments]
    app(args=arguments, prog_name="omnidrop")
