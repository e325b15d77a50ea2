"""Machines that go away while a job runs, on a simulated cluster in a process of its own: part of `make long`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import s3fs

from benchmarks.scale.slow_store import slow_store
from tests.support.media_files import make
from tests.support.s3_server import rclone_server
from tests.support.small_jobs import select


def told_by(*command, timeout_s):
    """What a simulated cluster in a process of its own says at its end."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray writes there, too
    return json.loads(said)


@pytest.mark.cluster
@pytest.mark.long
def test_lost_machines_cost_time_and_nothing_else(job, videos, tmp_path):
    for number in range(8):
        shutil.copy(videos / "short.mp4", tmp_path / "archive" / f"copy {number:02d}.mp4")
    # The strictest caps: a loss that counted as a death would quarantine its clip or end the run.
    settings = "  max_deaths_per_clip: 1\n  max_deaths_per_worker: 2\n  clips_per_unit: 1\n"
    text = job.read_text().partition("execution:")[0]
    job.write_text(f"{text}execution:\n{settings}model: {{gpus_per_actor: 1, device: cpu}}\n")
    told = told_by("tests.support.simulated_nodes", str(job), timeout_s=200)
    (out,) = told.pop("out")
    assert "OMNIDROP_FFMPEG is '/no/ffmpeg'" in out, "and its clips were decoded elsewhere"
    assert told == {"status": "complete", "lost": 2, "decoded_on_gpu_node": 0}
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(12, 12)]
    assert select(job, "SELECT media_key, error_class FROM quarantine") == [("notes.mp4", "not_media")]


@pytest.fixture(scope="module")
def masters(tmp_path_factory):
    """Two films of 70 MB that differ."""
    folder, found = tmp_path_factory.mktemp("masters"), []
    for number in range(2):
        second, film = folder / f"second-{number}.mp4", folder / f"film-{number}.mp4"
        pictures = f"testsrc2=size=1280x720:rate=25:duration=1,hue=h={90 * number},noise=alls=30:allf=t"
        quick = ("-c:v", "libx264", "-preset", "ultrafast", "-g", 50, "-b:v", "19M")
        make("-f", "lavfi", "-i", pictures, *quick, second)
        make("-stream_loop", max(1, (70 << 20) // second.stat().st_size), "-i", second, "-c", "copy", film)
        found.append(film)
    return found


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["keep", "lose"])
def test_first_clips_are_decoded_while_machines_fetch_and_a_lost_one_costs_time_only(job, masters, tmp_path, what):
    size = sum(film.stat().st_size for film in masters)
    assert all(film.stat().st_size > 64 << 20 for film in masters)
    with rclone_server("media") as address:
        files = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
        for film in masters:
            files.put_file(str(film), f"media/films/{film.name}")
        with slow_store(address, latency_s=0.03, bytes_per_s=8e6) as slow:
            text = job.read_text().partition("execution:")[0].replace("length_s: 3", "length_s: 10")
            bucket = f"archive: {{uri: 's3://media/films', endpoint_url: '{slow}'}}"
            text = text.replace("archive: {uri: archive}", bucket)
            # The strictest caps, as above.
            caps = "{max_deaths_per_clip: 1, max_deaths_per_worker: 2, fetch_streams: 1, ray_address: auto}"
            job.write_text(f"{text}execution: {caps}\nmodel: {{gpus_per_actor: 1, device: cpu}}\n")
            (tmp_path / "caches").mkdir()
            told = told_by("tests.support.early_nodes", str(job), str(tmp_path / "caches"), what, timeout_s=400)
    assert (told["status"], told["lost"]) == ("complete", int(what == "lose"))
    assert told["decoded_early"] >= 1
    assert told["taken"] >= 1
    assert select(job, "SELECT count(*) = count(DISTINCT clip_id), count(DISTINCT media_key) FROM clips") == [(True, 2)]
    assert select(job, "SELECT count(*) FROM quarantine") == [(0,)]
    # What lay on the lost machine is fetched by another.
    assert told["bytes_fetched"] <= 1.1 * size * (1 if what == "keep" else 2)
