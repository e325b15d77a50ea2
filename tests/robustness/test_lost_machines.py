"""Machines that go away while a job runs, on a simulated cluster in a process of its own: part of `make long`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support.small_jobs import select


@pytest.mark.cluster
@pytest.mark.long
def test_lost_machines_cost_time_and_nothing_else(job, videos, tmp_path):
    for number in range(8):
        shutil.copy(videos / "short.mp4", tmp_path / "archive" / f"copy {number:02d}.mp4")
    # The strictest caps: a loss that counted as a death would quarantine its clip or end the run.
    settings = "  max_deaths_per_clip: 1\n  max_deaths_per_worker: 2\n  clips_per_unit: 1\n"
    text = job.read_text().partition("execution:")[0]
    job.write_text(f"{text}execution:\n{settings}model: {{gpus_per_actor: 1, device: cpu}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.simulated_nodes", str(job)],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray writes there, too
    told = json.loads(said)
    (out,) = told.pop("out")
    assert "OMNIDROP_FFMPEG is '/no/ffmpeg'" in out, "and its clips were decoded elsewhere"
    assert told == {"status": "complete", "lost": 2, "decoded_on_gpu_node": 0}
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(12, 12)]
    assert select(job, "SELECT media_key, error_class FROM quarantine") == [("notes.mp4", "not_media")]
