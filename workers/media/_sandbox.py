"""The restrictions that the launcher puts on itself before it becomes a program: Landlock, seccomp, no capabilities.

Promises: each function either applies its restriction or raises OSError; restrictions are irrevocable and survive exec.
Raw system calls through `ctypes`, because the launcher runs without site-packages, in 20 ms, and the packages that wrap
them need libseccomp or start threads. Knows nothing about media.

The filter refuses new sockets, new processes (threads may start), tracing and reading other processes, signalling and
rescheduling them, changing any file by name, kernel interfaces that bypass the filter (io_uring), and objects that
outlive the process (System V and POSIX queues). Landlock limits reading to the files that are named.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 38, 22, 24, 47
CAP_DAC_READ_SEARCH = 2

# Landlock (linux/landlock.h)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_IOCTL_DEV = 1 << 15
_ALL_FILE_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))
"""(ABI, number of file access rights it handles): a right that is handled and not granted is refused."""
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract sockets and signals only within the domain
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_O_PATH = getattr(os, "O_PATH", 0)

# seccomp (linux/seccomp.h, linux/filter.h)
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_CLONE_THREAD = 0x10000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of the architectures whose system calls are listed below; others get no filter."""

_SAME_EVERYWHERE = {
    **{"pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440},
    **{"process_mrelease": 448, "memfd_secret": 447, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466},
}
_REFUSED = {
    "x86_64": {
        **{"fork": 57, "vfork": 58, "unshare": 272, "setns": 308},
        **{"socket": 41, "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46, "bind": 49, "listen": 50},
        **{"socketpair": 53, "accept4": 288, "sendmmsg": 307},
        **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "perf_event_open": 298},
        **{"bpf": 321, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250},
        **{"name_to_handle_at": 303, "open_by_handle_at": 304, "memfd_create": 319},
        **{"tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297},
        **{"setpriority": 141, "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142},
        **{"sched_setattr": 314, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279},
        **{"shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220},
        **{"msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241},
        **{"creat": 85, "unlink": 87, "unlinkat": 263, "rename": 82, "renameat": 264, "renameat2": 316},
        **{"mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266},
        **{"mknod": 133, "mknodat": 259, "truncate": 76, "chmod": 90, "fchmod": 91, "fchmodat": 268},
        **{"chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260},
        **{"utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280},
        **{"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190},
        **{"removexattr": 197, "lremovexattr": 198, "fremovexattr": 199},
    },
    "aarch64": {
        **{"unshare": 97, "setns": 268},
        **{"socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203},
        **{"sendto": 206, "sendmsg": 211, "accept4": 242, "sendmmsg": 269},
        **{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "perf_event_open": 241},
        **{"bpf": 280, "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219},
        **{"name_to_handle_at": 264, "open_by_handle_at": 265, "memfd_create": 279},
        **{"tkill": 130, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240},
        **{"setpriority": 140, "sched_setaffinity": 122, "sched_setscheduler": 119, "sched_setparam": 118},
        **{"sched_setattr": 274, "ioprio_set": 30, "migrate_pages": 238, "move_pages": 239},
        **{"shmget": 194, "shmctl": 195, "shmat": 196, "semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193},
        **{"msgget": 186, "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "mq_open": 180, "mq_unlink": 181},
        **{"mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38},
        **{"renameat2": 276, "truncate": 45, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55},
        **{"utimensat": 88, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7},
        **{"removexattr": 14, "lremovexattr": 15, "fremovexattr": 16},
    },
}
_ABSENT = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435, "openat2": 437}
"""Refused with ENOSYS, as on an older kernel: programs then fall back to calls whose arguments the filter can see."""
_WITH_ARGUMENTS = {
    "x86_64": {
        **{"clone": 56, "kill": 62, "tgkill": 234, "prlimit": 302, "prctl": 157, "ioctl": 16},
        **{"open": 2, "openat": 257},
    },
    "aarch64": {"clone": 220, "kill": 129, "tgkill": 131, "prlimit": 261, "prctl": 167, "ioctl": 29, "openat": 56},
}
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: injecting input into a terminal
_PR_SET_PDEATHSIG = 1


def landlock_abi() -> int:
    """The Landlock ABI of this kernel; 0 without Landlock."""
    if not sys.platform.startswith("linux"):
        return 0
    # Number 444 is the same on every architecture. The flag queries the version and creates nothing.
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def has_seccomp() -> bool:
    """Whether this kernel supports filters and the system calls of its architecture are listed here."""
    if not sys.platform.startswith("linux") or os.uname().machine not in MACHINES or struct.calcsize("P") != 8:
        return False
    # A filter at address 0 gives EFAULT if filters are supported, and EINVAL if the kernel was built without them.
    ctypes.set_errno(0)
    return _libc().prctl(PR_SET_SECCOMP, 2, None, 0, 0) != 0 and ctypes.get_errno() == errno.EFAULT


def restrict_files(abi: int, reads: list[str]) -> None:
    """Limit this process to reading `reads`: files, and folders with their contents. Prefixes: `x:` also execute,
    `d:` only list, `w:` (devices) also write. It can then write nothing else by name, use no TCP and signal no process
    outside. Raises OSError."""
    known = next(bits for version, bits in reversed(_ALL_FILE_RIGHTS) if abi >= version)
    attributes = struct.pack("QQQ", (1 << known) - 1, _TCP, _SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    libc = _libc()
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))
    for entry in reads:
        kind, path = entry[:2], entry[2:]
        try:
            place = os.open(path, _O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # a path that does not exist cannot be read either
        is_folder = (os.fstat(place).st_mode & 0o170000) == 0o040000
        rights = _READ_FILE | (_EXECUTE if kind == "x:" else 0) | (_READ_DIR if is_folder else 0)
        rights |= (_WRITE_FILE | _IOCTL_DEV) & ((1 << known) - 1) if kind == "w:" else 0
        rule = struct.pack("=Qi", _READ_DIR if kind == "d:" else rights, place)
        _checked(libc.syscall(_ADD_RULE, ruleset, 1, rule, ctypes.c_uint32(0)))
        os.close(place)
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    os.close(ruleset)


def refuse_calls() -> None:
    """Install the filter for this process and the program it becomes. Raises OSError."""
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _filter(os.uname().machine, os.getpid()))
    buffer = ctypes.create_string_buffer(program)
    given = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _checked(_libc().prctl(PR_SET_SECCOMP, 2, given, 0, 0))


_Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


def _filter(machine: str, pid: int) -> list[_Instruction]:
    """The BPF program: the calls that process `pid` may make on one architecture."""

    def refuse(number: int, code: int = errno.EPERM) -> list[_Instruction]:
        return [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | code)]

    def judge(number: int, argument: int, test: int, operand: int, yes: int, no: int) -> list[_Instruction]:
        """Decide by the lower half of one argument."""
        load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
        return [(_EQUAL, 0, 4, number), load, (test, 0, 1, operand), (_RETURN, 0, 0, yes), (_RETURN, 0, 0, no)]

    no, denied = _ERRNO | errno.EPERM, _ERRNO | errno.EACCES
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, MACHINES[machine]), (_RETURN, 0, 0, _KILL)]
    program += [(_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":  # x32 calls are the same calls under other numbers
        program += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for number in (_REFUSED[machine] | _SAME_EVERYWHERE).values():
        program += refuse(number)
    for number in _ABSENT.values():
        program += refuse(number, errno.ENOSYS)
    calls = _WITH_ARGUMENTS[machine]
    program += judge(calls["clone"], 0, _ANY_BIT, _CLONE_THREAD, _ALLOW, no)
    program += judge(calls["kill"], 0, _EQUAL, pid, _ALLOW, no)
    program += judge(calls["tgkill"], 0, _EQUAL, pid, _ALLOW, no)
    program += judge(calls["prlimit"], 0, _EQUAL, 0, _ALLOW, no)
    program += judge(calls["prctl"], 0, _EQUAL, _PR_SET_PDEATHSIG, no, _ALLOW)
    if "open" in calls:
        program += judge(calls["open"], 1, _ANY_BIT, _WRITES, denied, _ALLOW)
    program += judge(calls["openat"], 2, _ANY_BIT, _WRITES, denied, _ALLOW)
    sti, linux = _TERMINAL_INPUT
    program += [(_EQUAL, 0, 4, calls["ioctl"]), (_LOAD, 0, 0, _ARGUMENTS + 8), (_EQUAL, 1, 0, sti)]
    program += [(_EQUAL, 0, 1, linux), (_RETURN, 0, 0, no)]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def drop_capabilities(reads: list[str]) -> None:
    """Drop all capabilities, for root too and across exec.

    Root may need to read other users' files. If one of `reads` cannot be opened without capabilities,
    CAP_DAC_READ_SEARCH alone is kept: Landlock still allows only the files that are named.
    """
    libc = _libc()
    permitted = _capabilities(libc)
    if not permitted:
        return
    kept = 0
    if permitted >> CAP_DAC_READ_SEARCH & 1:
        _set_capabilities(libc, effective=0, permitted=permitted)
        kept = 0 if all(_opens(entry[2:]) for entry in reads) else 1 << CAP_DAC_READ_SEARCH
        _set_capabilities(libc, effective=permitted, permitted=permitted)
    for capability in range(64):
        if not kept >> capability & 1:
            # EINVAL after the last capability; EPERM without CAP_SETPCAP, in which case exec cannot restore any.
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    _set_capabilities(libc, effective=kept, permitted=kept)


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def _capabilities(libc: ctypes.CDLL) -> int:
    header, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    _checked(libc.capget(header, data))
    found = struct.unpack("6I", data.raw)
    return int(found[1] | found[4] << 32)


def _set_capabilities(libc: ctypes.CDLL, *, effective: int, permitted: int) -> None:
    low, high = 0xFFFFFFFF, 32
    data = struct.pack("6I", effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    _checked(libc.capset(struct.pack("Ii", 0x20080522, 0), data))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
