"""Runs as `python -I -S _launch.py PARENT_PID CPU_S FILE_BYTES MEMORY_BYTES PROGRAM ARG...`: confines itself, then
becomes PROGRAM.

Promises: PROGRAM dies with the process that started it and cannot pass the limits (0 means none). Knows nothing about
media. It is a program of its own because `preexec_fn` may deadlock in a process that has threads (a model actor has
many), and because a fork of a process that holds a model is slow where vfork + exec is not.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def main(arguments: list[str]) -> None:
    """Never returns: ends in exec, or exits with 127."""
    parent, cpu_s, file_bytes, memory_bytes = (int(x) for x in arguments[:4])
    program = arguments[4:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above could take effect
            os._exit(127)
    _limit(resource.RLIMIT_CORE, 0)
    if cpu_s:
        _limit(resource.RLIMIT_CPU, cpu_s)
    if file_bytes:
        _limit(resource.RLIMIT_FSIZE, file_bytes)
    if memory_bytes:
        _limit(resource.RLIMIT_AS, memory_bytes)
    # Who stops a run on a cluster, or closes its terminal, signals the whole tree of processes. The driver then lets
    # files in hand finish; a child that died of it would have a healthy file taken for one that crashes. A mask stays
    # across exec, and ffmpeg, which sets a handler of its own, does not lift it. We end children by SIGKILL.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    # Python ignores this signal, an ignored signal stays ignored across exec, and the program would go on writing.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execv(program[0], program)
    except OSError as error:
        os.write(2, f"{program[0]}: {error}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
