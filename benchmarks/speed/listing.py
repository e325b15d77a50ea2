"""Listing a large bucket on a real S3 server: time, and how much memory the lister takes.

    python -m benchmarks.speed.listing --keys 100000 --json listing.json

The server is moto in a process of its own, which puts the keys into its own memory before it answers. Half of the keys
lie in folders, some hold characters that are escaped on the way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import psutil

from pipeline.archive.listing import list_media
from pipeline.config.sections import ArchiveConfig
from pipeline.storage import s3_client
from tests.support.s3_server import CREDENTIALS

SERVER = """
import sys, time
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

keys, port = int(sys.argv[1]), int(sys.argv[2])
backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
backend.create_bucket("media", "us-east-1")
for n in range(keys):
    folder = f"year {n % 7}/day+{n % 31:02d}/" if n % 2 else ""
    backend.put_object("media", f"archive/{folder}\u00fc {n:07d}.mp4", b"")
server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(100_000)
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.listing", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    s3_client.READ_TIMEOUT_S = 600  # moto sorts all keys for every page
    command = [sys.executable, "-c", SERVER, str(given.keys), "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        with mock.patch.dict("os.environ", CREDENTIALS):
            found = listed(ArchiveConfig(uri="s3://media/archive", endpoint_url=address), given.keys)
    finally:
        server.kill()
        server.wait()
    print(json.dumps(found))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


def listed(archive: ArchiveConfig, expected: int) -> dict[str, float]:
    """One listing, checked for order and number. Memory is compared with that after the first tenth."""
    process, started, last, count, at_first, most = psutil.Process(), time.monotonic(), "", 0, 0, 0
    cpu_s = time.process_time()
    for media in list_media(archive):
        assert media.key > last
        last, count = media.key, count + 1
        if count % 1000 == 0:
            held = process.memory_info().rss
            at_first = at_first or (held if count >= expected / 10 else 0)
            most = max(most, held)
    assert count == expected, count
    wall_s, cpu_s = time.monotonic() - started, time.process_time() - cpu_s
    return {
        "keys": count,
        "wall_s": round(wall_s, 1),
        "client_cpu_s": round(cpu_s, 1),
        "rss_after_a_tenth_bytes": at_first,
        "rss_growth_after_that_bytes": most - at_first,
    }


if __name__ == "__main__":
    main()
