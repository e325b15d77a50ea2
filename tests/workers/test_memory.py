"""What happens without room: in memory, on disk, in Ray's object store. What fails is always the real thing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from omnidrop.errors import UserError
from pipeline.config.job import load_job
from pipeline.index.database import IndexFull
from pipeline.index.savings_index import SavingsIndex
from pipeline.runs.run import run_job
from pipeline.storage import outage
from pipeline.storage.errors import Unavailable
from pipeline.tables.query import open_results, query
from tests.support import stub_runs
from tests.support.media_files import clip_file
from tests.support.small_jobs import Silent, cli, run, select

ROOT = Path(__file__).parents[2]


def test_memory_that_runs_out_halves_the_clips_tokens_and_the_row_says_so():
    # Large blocks are given back at once, and no thread claims a heap of its own: the limit means what it says.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", "tests.support.short_of_memory"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    roomy, tight, _, again = map(json.loads, done.stdout.splitlines())
    assert roomy == {"video_tokens": 400, "frames": 32, "notes": []}
    assert (tight["video_tokens"], tight["frames"]) == (200, 16)
    shrunk = "memory ran out: answered from 16 of 32 frames at 140x140 instead of 140x140"
    assert tight["notes"] == [shrunk]
    assert "DefaultCPUAllocator: can't allocate memory" in done.stderr
    # The next clip has what it needs again.
    assert again == roomy


@pytest.mark.cluster
@pytest.mark.long
def test_a_full_object_store_pauses_admission_then_fails_with_what_to_free():
    command = [sys.executable, "-m", "tests.support.full_object_store"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    bounded, crowded, hopeless = done.stdout.splitlines()
    assert bounded == "answered 8, peak 2 clips"
    assert crowded.startswith("answered 8, peak ")
    assert "nothing new is begun meanwhile: Ray's object store and the disk" in done.stderr
    assert hopeless.startswith("Unavailable: Ray's object store and the disk that it spills to are full; free disk")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class Filling(Silent):
    """Fills the disk when the first unit is done; `for_s` later there is room again, never with None."""

    def __init__(self, disk, for_s=None):
        super().__init__()
        self.ballast, self.for_s = disk / "ballast", for_s

    def unit_done(self, result):
        super().unit_done(result)
        if self.units == 1:
            with contextlib.suppress(OSError), self.ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            if self.for_s is not None:
                threading.Timer(self.for_s, lambda: self.ballast.unlink(missing_ok=True)).start()


def test_a_full_disk_ends_a_run_with_what_to_do_and_after_freeing_it_goes_on(job, small_disk, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.2)
    output = small_disk / "results"
    given = {
        "output": str(output),
        "index_url": f"sqlite:///{job.parent}/index.sqlite",
        "execution.clips_per_unit": 1,
    }
    impatient = load_job(job, given | {"storage.patience_s": 1})
    filling = Filling(small_disk)
    with pytest.raises(Unavailable, match=r"the disk is full; make room .*waited 1 s for it.*run again") as failed:
        run_job(impatient, filling, threading.Event())
    assert isinstance(failed.value, UserError)
    # Units that were begun may have been finished; no others were.
    assert filling.units <= 3
    # Nothing half-written: every object is whole, and no temporary file takes room.
    written = [path for path in output.rglob("*") if path.is_file()]
    for path in written:
        assert not path.name.endswith(".tmp~")
        if path.suffix == ".parquet":
            pq.read_table(path)
    filling.ballast.unlink()
    # The disk fills up again, and somebody makes room while the run waits.
    patient = load_job(job, given | {"storage.patience_s": 250})
    resumed = run_job(patient, Filling(small_disk, for_s=1.5), threading.Event())
    assert resumed.run.status == "complete"
    with open_results(str(output), patient.storage) as connection:
        counted = query(connection, "SELECT count(*), count(DISTINCT (clip_id, question_id)) FROM answers")
        assert list(counted.rows) == [(8, 8)]


def test_what_a_full_disk_holds_can_be_looked_at(tmp_path, small_disk):
    """SQLite makes a file beside one that it opens, and says "disk I/O error" where it cannot."""
    (tmp_path / "questions.yaml").write_text(stub_runs.QUESTIONS)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: test\narchive: {{uri: archive}}\noutput: {small_disk}/results\nquestion_set: questions.yaml\n"
        "clips: {length_s: 10}\nexecution: {ray_address: in-process}\n"
    )
    stub_runs.video(tmp_path / "archive" / "a.mp4", "a video")
    with stub_runs.stub_runs():
        run(job)
    Filling(small_disk).unit_done(None)
    status = cli("status", job, "--json", "-")
    assert (status.exit_code, json.loads(status.stdout)["totals"]["clips"]) == (0, 2), status.output
    assert "the disk of the savings index is full" in status.stderr
    assert "What follows is what the index knew before" in status.stderr
    verified = cli("verify", job)
    assert (verified.exit_code, "no problems" in verified.output) == (0, True), verified.output


def test_a_disk_without_room_for_another_file_is_full(small_disk):
    subprocess.run(["mount", "-o", "remount,nr_inodes=2", str(small_disk)], check=True)
    (small_disk / "full").touch()
    with pytest.raises(IndexFull):
        SavingsIndex(f"sqlite:///{small_disk}/index.sqlite")


@pytest.mark.cluster
@pytest.mark.long
def test_bytes_in_flight_never_exceed_the_bound(job, ray_session):
    """As the run's record says; a bound of four clips, and more decode tasks than that."""
    clip_bytes = 9 * 128 * 96 * 3 + 3 * 16_000 * 4
    for number in range(4):
        clip_file(job.parent / "archive" / f"large {number}.mp4", 3, size="128x96", rate=10 + number)
    bound = 4 * clip_bytes + 1000
    settings = {"clips.fps": 3, "execution.bytes_in_flight": bound, "execution.decode_tasks": 8}
    run(job, name="bounded", **settings, **{"execution.ray_address": None, "model.actors": 1})
    ((peak, status),) = select(job, "SELECT peak_bytes_in_flight, status FROM runs")
    assert status == "complete"
    assert 2 * clip_bytes <= peak <= bound
