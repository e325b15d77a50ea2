"""Probing children: starting one, speaking with it over its pipes, ending it; and where probers get them.

Promises: no read or write outlasts its deadline; a child has no path, network or credentials. Knows nothing about
files, or what is asked and answered.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.errors import ProbeTimeout
from workers.media.confinement import end, start

LINE_BYTES = 1 << 20
"""Maximum length of a line from a child; a longer one is not from our code."""


class Child:
    """One process that probes one file after the other. It ends with the thread that started it."""

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.served = 0
        """Files it was asked about."""
        self.has_ended = True
        """Whether it has said the last about the file that it was asked about."""
        self._process = process
        self._rest = b""

    @property
    def returncode(self) -> int | None:
        """None while nobody knows that it has ended."""
        return self._process.returncode

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    @property
    def is_silent(self) -> bool:
        """Whether it has said the last about its file, and nothing more."""
        return self.has_ended and not self._rest

    def write(self, content: bytes, deadline: float) -> None:
        """Raises ProbeTimeout if the child does not read, BrokenPipeError if it has ended."""
        assert self._process.stdin is not None
        fd = self._process.stdin.fileno()
        os.set_blocking(fd, False)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        rest = memoryview(content)
        while rest:
            self._wait(poll, deadline)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(fd, rest) :]

    def line(self, deadline: float) -> bytes:
        """Its next line. Raises ProbeTimeout, EOFError (it died), ValueError (line too long)."""
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_BYTES:
                raise ValueError("an answer longer than any of ours")
            self._wait(poll, deadline)
            read = os.read(self._process.stdout.fileno(), 1 << 16)
            if not read:
                raise EOFError("it ended")
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _wait(self, poll: select.poll, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise ProbeTimeout(f"probing took longer than {self.timeout_s:g} s")

    def end(self) -> None:
        """End it, whatever it does."""
        end(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Children:
    """Where probers get children: each is new, and ended when it is given back."""

    def get(self, timeout_s: float) -> Child:
        """One that can be asked; `timeout_s` per file."""
        return Child(self.started(_program(timeout_s)), timeout_s)

    def give_back(self, child: Child) -> None:
        """A prober does not ask it any more."""
        child.end()

    def started(self, program: Sequence[str]) -> subprocess.Popen[bytes]:
        """`program`, confined, its input and output pipes."""
        return _confined(program, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def last_words(timeout_s: float) -> str:
    """The last line that a child without work says on standard error; empty where it starts and ends well, or cannot
    be started."""
    try:
        child = _confined(_program(timeout_s), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError:
        return ""
    try:
        _, said = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        said = b""
    finally:
        end(child)
    return said.decode(errors="replace").strip().rpartition("\n")[2] if child.returncode else ""


def _program(timeout_s: float) -> Sequence[str]:
    # Without user packages and the working directory on the path.
    return [sys.executable, "-B", "-s", "-P", "-m", "workers.media._probe_child", str(timeout_s)]


def _confined(program: Sequence[str], *, stdin: int, stderr: int) -> subprocess.Popen[bytes]:
    return start(
        program,
        timeout_s=0,
        file_bytes=1,  # it writes only its answers, to a pipe
        # With HOME set, Python does not look up the user; the folder does not exist.
        environment={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "HOME": "/nowhere"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


_source = Children()


def children() -> Children:
    """Where this process's probers get children now."""
    return _source


@contextlib.contextmanager
def children_from(source: Children) -> Iterator[None]:
    """Within the block they get them there."""
    global _source
    before, _source = _source, source
    try:
        yield
    finally:
        _source = before
