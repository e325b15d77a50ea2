"""Commands as processes of their own, forked from one that has imported them already: two seconds of a core each less.

Promises: a command is the command line's own code, with its own streams and exit status, in an environment that all of
them share. Knows nothing about any command.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_SERVER = """
import importlib, json, os, sys
from omnidrop.imports import own_process, uncollected

with own_process(), uncollected():
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from jobs.cli import main

for line in sys.stdin:
    arguments, *streams = json.loads(line)
    if not (pid := os.fork()):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for fd, path in enumerate(streams, start=1):
            os.dup2(os.open(path, os.O_WRONLY), fd)
        sys.argv = ["omnidrop", *arguments]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Commands:
    """Runs `omnidrop ARGUMENTS`, one after the other."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """One command to its end, what it wrote and its exit status."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            given = [str(argument) for argument in arguments]
            print(json.dumps([given, out.name, err.name]), file=self._server.stdin, flush=True)
            status = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(given, status, out.read(), err.read())


@contextlib.contextmanager
def forked_commands(environment: Mapping[str, str], imports: Sequence[str]) -> Iterator[Commands]:
    """Commands in `environment`, forked from a process that has imported `imports`, which start no threads."""
    how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    own = {**environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", _SERVER, *imports], env=own, **how) as server:
        yield Commands(server)
        server.stdin.close()
