"""Proof by the kernel's own account: every file, address and program that a confined child asked for, read from strace.

Promises: a child's calls count from the moment it becomes our launcher, its threads' too; an attempt counts whether or
not it succeeds. Knows nothing about media: a child may read the one file it was given (probing: none, for its parent
reads), what its program and libraries are made of, and nothing else, and may write nothing.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

CALLS = (
    "execve,execveat,fork,vfork,clone,clone3,open,openat,openat2,creat,connect,bind,sendto,sendmsg,unlink,unlinkat,"
    "rename,renameat,renameat2,mkdir,mkdirat,link,linkat,symlink,symlinkat,truncate,chmod,fchmodat,mknod,mknodat"
)
SYSTEM = ("/usr/", "/lib/", "/lib64/", "/etc/ld.so.", "/etc/localtime", "/proc/self/", "/proc/cpuinfo", "/sys/devices/")
HARMLESS = (
    *("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero", "/etc/timezone"),
    *("/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory"),
)
_CALL = re.compile(r"^(\d+)\s+(\w+)\((.*)")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (clone3?|v?fork) resumed>.*= (\d+)$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass
class Audit:
    """What confined children did."""

    children: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    media_opened: int = 0
    violations: list[str] = field(default_factory=list)


def traced(command: Sequence[str], log: Path) -> int:
    """Run a command under strace; its exit status."""
    strace = shutil.which("strace")
    if strace is None:
        sys.exit("--trace needs strace: install it, or leave the option out")
    # Only these calls stop the process: the rest run at full speed.
    options = ["-f", "-qq", "--seccomp-bpf", "-s", "8192", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(log)]
    return subprocess.run([strace, *options, *command], check=False).returncode


def audit(lines: Iterable[str]) -> Audit:
    """Judge a log."""
    found = Audit()
    confined: dict[int, bytes | None] = {}
    """By thread: the one file it may read, None where none."""
    for line in lines:
        if resumed := _RESUMED.match(line):
            pid, child = int(resumed[1]), int(resumed[3])
            if pid in confined:
                confined[child] = confined[pid]
            continue
        matched = _CALL.match(line)
        if matched is None:
            continue
        pid, call, rest = int(matched[1]), matched[2], matched[3]
        if call in ("execve", "execveat"):
            _note_program(found, confined, pid, [_unquoted(s) for s in _STRING.findall(rest)], line)
        elif pid in confined:
            if call in ("clone", "clone3", "fork", "vfork"):
                if (made := re.search(r"= (\d+)$", rest)) is not None:
                    confined[int(made[1])] = confined[pid]
                if "CLONE_THREAD" not in rest:
                    found.violations.append(f"started a process: {line[:300]}")
            else:
                found.calls[call] += 1
                _judge(found, confined[pid], call, rest, line)
    return found


def _note_program(
    found: Audit, confined: dict[int, bytes | None], pid: int, arguments: Sequence[bytes], line: str
) -> None:
    if any(argument.endswith(b"/_launch.py") for argument in arguments):
        found.children += 1
        given = [a.removeprefix(b"file:") for before, a in pairwise(arguments) if before == b"-i"]
        confined[pid] = given[0] if given else None
    elif pid in confined and not any(b"ffmpeg" in a or a == b"workers.media._probe_child" for a in arguments[:8]):
        found.violations.append(f"became another program: {line[:300]}")


def _judge(found: Audit, own: bytes | None, call: str, rest: str, line: str) -> None:
    if "O_PATH" in rest:
        return  # the launcher names what Landlock is to allow; nothing can be read through such a descriptor
    if call in ("open", "openat", "openat2", "creat"):
        quoted = _STRING.search(rest)
        path = _unquoted(quoted[1]) if quoted else b""
        text = path.decode(errors="surrogateescape")
        is_writing = call == "creat" or re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", rest) is not None
        is_media = path == own
        found.media_opened += is_media
        if is_writing and text != "/dev/null":
            found.violations.append(f"opened for writing: {line[:300]}")
        elif not is_media and not f"{text}/".startswith(_readable()) and text not in HARMLESS:
            found.violations.append(f"opened {line[:300]}")
    else:
        found.violations.append(f"asked for {line[:300]}")


def _readable() -> tuple[str, ...]:
    """Where programs and libraries lie."""
    prefixes = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), str(Path(__file__).parents[3])}
    return (*SYSTEM, *(f"{prefix}/" for prefix in prefixes), *prefixes)


def _unquoted(quoted: str) -> bytes:
    """A string as strace writes it, as bytes."""
    value = ast.literal_eval(f'b"{quoted}"')
    assert isinstance(value, bytes)
    return value
