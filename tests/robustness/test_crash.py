"""What survives kills, rivals and latecomers: every promise of `docs/guarantees.md` that no other test shows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from omnidrop.errors import UserError
from pipeline.config.job import load_job
from pipeline.failpoints import POINTS
from pipeline.identity import item_id
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.planning.media_plan import MediaPlan
from pipeline.planning.open_job import open_output
from pipeline.runs.committer import Committer
from pipeline.runs.maintenance import forget_media, rebuild_results
from pipeline.runs.run import run_job
from pipeline.storage.local_store import LocalStore
from tests.robustness.crash.rows import State, difference, state_of
from tests.support import rows
from tests.support.small_jobs import ANSWERS, CLIPS, QUESTIONS, Silent, run, select
from workers import ray_workers
from workers.records import Version

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_whatever_is_killed_rows_are_the_same_after_the_next_run(tmp_path):
    report = tmp_path / "crash.json"
    # Kills at moments drawn by chance, of workers and machines, too: `make crash`, a hundred times.
    harness = [sys.executable, "-m", "tests.robustness.crash", "--points", "rows", "--rounds", "0"]
    done = subprocess.run(
        [*harness, "--json", str(report)], cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads(report.read_text())
    assert [said[name] for name in ("lost", "doubled", "mixed", "stuck", "orphans")] == [0, 0, 0, 0, 0]
    assert said["kills_by_point"] == dict.fromkeys(POINTS, 1)


def test_the_harness_sees_what_is_lost_doubled_and_mixed(job):
    run(job)
    should = state_of(load_job(job))
    assert not difference(should, should)
    (key, found), *others = [(k, v) for k, v in should.rows.items() if k[0] == "tables.answers"]
    gone = State({k: v for k, v in should.rows.items() if k != key}, ())
    assert difference(should, gone).lost == [str(key)]
    assert difference(gone, should).doubled == [str(key)]
    assert difference(should, State({**should.rows, key: found * 2}, ())).doubled == [str(key)]
    changed = ({**found[0], "answer": "a triangle"},)
    assert len(difference(should, State({**should.rows, key: changed}, ())).mixed) == 1
    assert not difference(should, State({**should.rows, key: ({**found[0], "run_id": "another"},)}, ()))
    assert others
    # An index that says otherwise than the journal is found, too.
    _, _, index = open_output(load_job(job))
    index.forget([item_id(found[0]["content_id"])])
    index.close()
    wrong = difference(should, state_of(load_job(job)))
    assert wrong.lost
    assert "the index is not what a rebuild from the journal gives" in wrong.mixed


@pytest.mark.cluster
@pytest.mark.long
def test_a_clip_that_kills_its_worker_is_named_and_the_rest_is_answered(job, videos, monkeypatch, ray_session):
    import ray

    def poisoned(shared, clip):
        if b"poison.mp4" in shared:
            os.kill(os.getpid(), signal.SIGKILL)
        return ray_workers._decode(shared, clip)

    (job.parent / "archive" / "poison.mp4").write_bytes((videos / "short.mp4").read_bytes())
    monkeypatch.setattr(ray_workers, "_decode_task", ray.remote(num_cpus=1, max_retries=0, num_returns=2)(poisoned))
    summary = run(job, **{"execution.ray_address": None})
    assert summary.run.status == "complete"
    assert len(select(job, CLIPS)) == 4
    named = select(job, "SELECT media_key, error_class, message FROM quarantine WHERE clip_id IS NOT NULL")
    assert [(key, error_class) for key, error_class, _ in named] == [("poison.mp4", "worker_died")]
    assert "killed its worker 2 times" in named[0][2]


class _Meanwhile(Silent):
    """Does something once, when the first unit has finished and others are under way."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def unit_done(self, result):
        super().unit_done(result)
        if self.units == 1:
            self.what()


def test_late_attempts_of_an_erased_item_change_nothing(job):
    run(job)
    (job.parent / "questions.yaml").write_text(QUESTIONS.replace("a tone", "a beep"))
    loaded = load_job(job)
    # long.mkv comes first: one of its units is committed, one is under way, its new version is not yet declared.
    summary = run_job(loaded, _Meanwhile(lambda: forget_media(loaded, "long.mkv")), threading.Event())
    assert summary.run.counts.units_finished < 4
    assert select(job, "SELECT DISTINCT media_key FROM answers") == [("short.mp4",)]
    assert select(job, "SELECT count(*) FROM media WHERE media_key = 'long.mkv'") == [(0,)]
    for path in (job.parent / "results").rglob("*"):
        assert not path.is_file() or b"long.mkv" not in path.read_bytes(), path
    rebuild_results(loaded)
    assert select(job, "SELECT DISTINCT media_key FROM media ORDER BY 1") == [("notes.mp4",), ("short.mp4",)]


def test_what_killed_writers_left_of_an_erased_item_goes_too(job):
    run(job)
    loaded = load_job(job)
    store = LocalStore(Path(loaded.output))
    unit = next(path for path, _ in store.list("journal/units/") if b"long.mkv" in store.read_bytes(path))
    table = next(p for p, _ in store.list("tables/generation") if "/media/" in p and b"long.mkv" in store.read_bytes(p))
    heads = [path for path, _ in store.list("journal/heads/")]
    assert heads
    for key in (unit, table, *heads):
        # As after a kill at the point `file_filled`.
        store._temporary(store.root / key, store.read_bytes(key))
    assert forget_media(loaded, "long.mkv").units == 2
    for path in store.root.rglob("*"):
        assert not path.is_file() or b"long.mkv" not in path.read_bytes(), path


def test_late_attempts_of_a_superseded_version_change_nothing(tmp_path):
    journal, index = Journal(LocalStore(tmp_path)), SavingsIndex(f"sqlite:///{tmp_path / 'index.sqlite'}")
    old, new = rows.unit(rows.media()), rows.unit(rows.media(), recipe="recipe-2")
    slow = Committer(journal, index, rows.ASKED, "run-1")
    _finish(journal, index, old, "run-1", units=())
    _finish(journal, index, new, "run-2", units=(new,))
    before = index.contents()
    slow.add(old, rows.outcomes(old))
    slow.close()
    assert index.contents() | {"units": []} == before | {"units": []}
    assert {key.version_id for item in index.counted() for key in item.units} == {new.version_id}
    index.close()


def _finish(journal, index, unit, run_id, units):
    """Declare a unit's version, and commit these units of it."""
    asked = replace(rows.ASKED, recipe_hash=unit.version_id)
    with Committer(journal, index, asked, run_id) as committer:
        committer.declare(MediaPlan(unit.media, unit.info, Version(unit.version_id), units=(unit,)))
        for one in units:
            committer.add(one, rows.outcomes(one))


def test_forgetting_what_was_never_there_is_refused(job):
    run(job)
    with pytest.raises(UserError, match="no media item"):
        forget_media(load_job(job), "../../etc/passwd")
    assert len(select(job, ANSWERS)) == 8


def test_the_guarantees_name_tests_that_exist():
    page = (ROOT / "docs" / "guarantees.md").read_text()
    named = re.findall(r"`(test_\w+)`", page)
    files = dict(re.findall(r"\[`?(test_\w+)`?\]\((\.\./tests/\w+/test_\w+\.py)\)", page))
    defined = {
        name: path.name
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 15
    assert not [name for name in named if name not in defined]
    assert len(files) > 15
    assert not [name for name, path in files.items() if Path(path).name != defined[name]]
