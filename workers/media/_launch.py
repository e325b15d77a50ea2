"""Runs as `python -I -S _launch.py PARENT_PID CPU_S FILE_BYTES MEMORY_BYTES OPEN_FILES LANDLOCK SECCOMP COUNT
READ... PROGRAM ARG...`: confines itself, then becomes PROGRAM.

Promises: PROGRAM dies with the process that started it, cannot exceed the limits (0 means none), and runs under the
confinement requested: Landlock with this ABI (0: none) and the COUNT readable paths, a seccomp filter (0 or 1). If any
of it is not available, the exit status is REFUSED; PROGRAM never runs with less. Without a filter PROGRAM may fork:
then this process stays as its reaper, and all descendants end with PROGRAM. Knows nothing about media. It is a separate
program because `preexec_fn` may deadlock in a process with threads (a model actor has many), and because forking a
process that holds a model is slow, while vfork + exec is not.
"""

from __future__ import annotations

# Without the enumerations of `signal`: they and contextlib take 7 of the 30 ms that this program does.
import _signal as signal  # type: ignore[import-not-found,unused-ignore]
import ctypes
import os
import resource
import sys
import time

sys.dont_write_bytecode = True  # the parent has imported it, too
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # -I leaves it out; a module, for its bytecode is kept
import _sandbox  # type: ignore[import-not-found]  # noqa: E402

del sys.path[0]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
END = signal.SIGUSR1
"""Signal that ends a reaper and all its descendants: SIGKILL would miss those in a session of their own."""
REFUSED = 126
"""Exit status if the kernel does not grant the confinement requested."""


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def main(arguments: list[str]) -> None:
    """Never returns: ends in exec, or exits with REFUSED or 127."""
    parent, cpu_s, file_bytes, memory_bytes, open_files, landlock, seccomp, count = (int(x) for x in arguments[:8])
    reads, program = arguments[8 : 8 + count], arguments[8 + count :]
    is_linux = sys.platform == "linux"
    is_reaper = is_linux and not seccomp
    if is_linux:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, END if is_reaper else signal.SIGKILL, 0, 0, 0)
        libc.prctl(_sandbox.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above took effect
            os._exit(127)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, open_files)
    if cpu_s:
        _limit(resource.RLIMIT_CPU, cpu_s)
    if file_bytes:
        _limit(resource.RLIMIT_FSIZE, file_bytes)
    if memory_bytes:
        _limit(resource.RLIMIT_AS, memory_bytes)
    # Stopping a run on a cluster, or closing its terminal, signals the whole process tree. The driver then lets
    # files in progress finish; if a child died of the signal, a healthy file would look like one that crashes. A mask
    # survives exec, and ffmpeg, which sets a handler, does not lift it. We end children by SIGKILL.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    # Python ignores this signal; an ignored signal stays ignored across exec, and the program would keep writing.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if is_reaper:
        _reap(libc)
    try:
        if is_linux:
            _sandbox.drop_capabilities(reads)
        if landlock:
            _sandbox.restrict_files(landlock, reads)
        if seccomp:
            _sandbox.refuse_calls()
    except OSError as error:
        os.write(2, f"confinement: the kernel refuses it: {error}\n".encode())
        os._exit(REFUSED)
    try:
        os.execv(program[0], program)
    except OSError as error:
        os.write(2, f"{program[0]}: {error}\n".encode())
        os._exit(127)


def _reap(libc: ctypes.CDLL) -> None:
    """Fork; return only in the child, which becomes the program. The parent stays as reaper (orphans are reparented to
    it), ends all descendants when the program ends, and exits with the program's status."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {END})
    child = os.fork()
    if not child:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {END})
        return
    os.closerange(0, 1 << 20)  # a reader that waits for the end of a pipe waits for the program, not for the reaper
    signal.signal(signal.SIGCHLD, lambda *_: None)
    status = 0
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while signal.sigwait({END, signal.SIGCHLD}) != END:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
    else:
        status = signal.SIGKILL
    while True:  # a process that forks while being killed is found in the next round
        for pid in _descendants():
            try:  # noqa: SIM105
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.002)
        except ChildProcessError:
            break
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(127)  # a signal that Python handles or ignores
    os._exit(os.waitstatus_to_exitcode(status))


def _descendants() -> list[int]:
    found: list[int] = []
    parents = {os.getpid()}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
            except OSError:
                pass
    while parents:
        parents = {pid for parent in parents for pid in children.get(parent, ())}
        found += parents
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
