"""A Ray of this machine's own, for as long as a run lasts.

Promises: nothing of it can be reached from another machine (it listens on loopback alone), and nobody who lacks this
user's token can use it from this one; its sockets, logs and spilled objects lie where no other user gets. Its workers
get the processor as any program of this user does. It is ended with the block, and the environment is then as it was;
of those that have ended, the logs of the last few are kept.
Knows nothing about jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without stubs

from omnidrop.errors import UserError
from workers.errors import CacheUnsafe
from workers.media.fetching import own_folder

LOOPBACK = "127.0.0.1"
CONNECT_S = 10.0
KEPT = 10
"""Ended Rays whose logs are kept, half a megabyte each: Ray itself never removes any."""
_SESSION = re.compile(r"session_[-_0-9]+_(\d+)")
"""A folder of one Ray, named by its start and the process that started it."""
_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_NICENESS = "RAY_worker_niceness"
"""Added to the driver's. Ray's default of 15 leaves a worker 3 % of a core that another program wants, too."""


class RayUnavailable(UserError):
    """There is no Ray where the job says."""

    error_class = "ray"


@contextmanager
def local_ray(cpus: int, **init: Any) -> Iterator[None]:
    """Start Ray here and end it with the block. `init` goes to `ray.init`. Raises CacheUnsafe where another user has
    prepared its folder, RayUnavailable without a loopback interface, and what `ray.init` raises."""
    check_interface(LOOPBACK)
    folder = own_ray_folder()
    _sweep(folder)
    before = {name: os.environ.pop(name, None) for name in _TOKEN_VARIABLES}
    # What a user set is for a cluster; this one has a token of its own, which its processes read from the file.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(_token(folder))}
    before[_NICENESS] = os.environ.get(_NICENESS)
    os.environ.setdefault(_NICENESS, "0")
    _read_again()
    try:
        with _on_loopback():
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _temp_dir=str(folder),
                _node_ip_address=LOOPBACK,
                **init,
            )
        if (found := ray.util.get_node_ip_address()) != LOOPBACK:
            raise RuntimeError(f"it listens on {found} instead of {LOOPBACK}")
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_again()


def check_interface(address: str) -> None:
    """Raise RayUnavailable where this machine has no such address: Ray would wait for itself for minutes."""
    try:
        with (
            socket.create_server((address, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=CONNECT_S),
        ):
            pass
    except OSError as error:
        raise RayUnavailable(
            f"Ray cannot be started on this machine: it has no loopback interface ({address}: {error.strerror}); bring "
            "it up (ip link set lo up), or set --execution-ray-address to in-process, which needs no Ray"
        ) from error


def own_ray_folder() -> Path:
    """Where a local Ray has its sockets, spilled objects and logs: not the folder in /tmp that all users share, where
    another could lay out links or read what is spilled. Raises CacheUnsafe."""
    # Names of sockets are limited to 107 bytes, of which Ray's own part takes 80.
    below = tempfile.gettempdir()
    # Ray opens its own folder to everybody; nobody else gets as far as that.
    return own_folder(Path(below if len(below) <= 12 else "/tmp") / f"od-ray-{os.getuid()}") / "r"


def _sweep(folder: Path) -> None:
    """Remove what Rays that have ended left behind, except for the last few."""
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    sessions = [match for name in found if (match := _SESSION.fullmatch(name)) is not None]
    ended = [match[0] for match in sessions if not _is_running(int(match[1]))]
    for name in ended[:-KEPT]:
        shutil.rmtree(folder / name, ignore_errors=True)  # another run may be doing the same


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's by now
    return True


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray replaces a loopback address by one that others can reach, except where it is told that there is no cluster:
    its default on macOS and Windows (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER), which it reads when it is imported."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _token(folder: Path) -> Path:
    """This user's token file beside Ray's own folder; runs at once share it, and none sees it half written."""
    path = folder.parent / "token"
    new = path.with_name(f"token.{os.getpid()}.{secrets.token_hex(4)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()
    found = path.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o177777 != 0o100600:
        raise CacheUnsafe(f"{path} must belong to this user alone (mode 600); remove it")
    return path


def _read_again() -> None:
    """Ray keeps mode and token from the first time it needed them. The mode first: a thread that is still ending
    would otherwise ask for a token that is gone."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
