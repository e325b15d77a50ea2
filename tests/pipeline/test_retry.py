"""`omnidrop retry`: what failed is done again, by error class, and nothing else is touched, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from pipeline import failure_rules
from pipeline.archive import probing
from pipeline.archive.probing import Probed
from pipeline.config.job import load_job
from pipeline.execution import in_process
from pipeline.journal.journal import Journal
from pipeline.storage.store import open_store
from tests.jobs.test_docs import ROOT, commands_of
from tests.support.small_jobs import ANSWERS, cli, run, select
from tests.support.stub_runs import QUESTIONS, stub_runs, video
from workers.records import ClipFailure

QUARANTINE = "SELECT media_key, clip_id IS NULL, error_class FROM quarantine ORDER BY ALL"
TOO_SOON = {"execution.decode_timeout_s": 0.001}
"""No ffmpeg can be that quick: every clip fails with a class that may pass."""
STUB_JOB = """\
name: left
archive: {uri: archive, max_missing: 1}
output: results
question_set: questions.yaml
clips: {length_s: 10}
execution: {ray_address: in-process}
"""


def attempts(job):
    return sorted(key.attempt for key in Journal(open_store(load_job(job).output)).units())


def undisturbed(job):
    """What the job's tables hold when nothing has failed for a moment: of another output, beside it."""
    run(job, output=str(job.parent / "undisturbed"))
    text = job.read_text()
    job.write_text(text.replace("output: results", "output: undisturbed"))
    rows = select(job, ANSWERS), select(job, QUARANTINE)
    job.write_text(text)
    return rows


def plan_reasons(job, folder):
    assert cli("plan", job, "--json", folder / "plan.json").exit_code == 0
    return list(json.loads((folder / "plan.json").read_text())["reasons"])


@pytest.fixture
def failed(job):
    """The job of `tests.pipeline.test_run` after a run in which all decoding took too long."""
    run(job, **TOO_SOON)
    assert select(job, QUARANTINE) == [
        *[("long.mkv", False, "decode_timeout")] * 3,
        ("notes.mp4", True, "not_media"),
        ("short.mp4", False, "decode_timeout"),
    ]
    return job


def test_the_run_names_the_command_and_the_command_mends(job, tmp_path):
    indexed = cli("index", job, "--no-archive-anonymous", "--execution-decode-timeout-s", "0.001")
    assert indexed.exit_code == 1
    line = next(line for line in indexed.output.splitlines() if "omnidrop retry" in line)
    assert line.startswith("4 (decode_timeout 4) may succeed next time: ")
    words = shlex.split(line.partition("omnidrop ")[2])
    assert words == [
        *("retry", str(job), "--no-archive-anonymous", "--execution-decode-timeout-s", "0.001"),
        *("--error-class", "decode_timeout"),
    ]
    assert cli(*words, "--dry-run", "--json", tmp_path / "selected.json").exit_code == 0
    selected = json.loads((tmp_path / "selected.json").read_text())["selected"]
    assert (selected["media"], selected["units"], selected["clips"]) == (2, 3, 4)
    assert attempts(job) == [0, 0, 0, 0]

    words[words.index("0.001")] = "60"
    retried = cli(*words)
    assert retried.exit_code == 0, retried.output
    assert "failures of decode_timeout: 4 before, 0 now" in retried.output
    assert attempts(job) == [0, 1, 1, 1]
    expected = undisturbed(job)
    assert (select(job, ANSWERS), select(job, QUARANTINE)) == expected
    assert cli("verify", job).exit_code == 0
    assert cli("rebuild", job).exit_code == 0
    assert (select(job, ANSWERS), select(job, QUARANTINE)) == expected
    assert run(job).did_nothing
    nothing = cli(*words)
    assert nothing.exit_code == 2
    assert "no failures with error class decode_timeout; in quarantine: 1 (not_media 1)" in nothing.output
    nothing = cli(*words, "--error-class", "not_media", "--media", "none.mp4")
    assert "not_media of media that match none.mp4; in quarantine: 1 (not_media 1)" in nothing.output


def test_what_takes_too_long_is_tried_by_some_runs_and_then_on_request(failed, monkeypatch):
    monkeypatch.setattr(failure_rules, "RUNS", 1)
    for _ in range(2):
        run(failed, **TOO_SOON)
    assert attempts(failed) == [0, 1, 1, 1]
    assert run(failed).did_nothing
    assert cli("retry", failed, "--error-class", "decode_timeout").exit_code == 0


def test_a_file_that_was_renamed_while_it_was_read_is_done_under_its_new_name(tmp_path, monkeypatch):
    file = video(tmp_path / "archive" / "file.mp4", "file")
    video(tmp_path / "archive" / "other.mp4", "other")
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    job = tmp_path / "job.yaml"
    job.write_text(STUB_JOB)
    with stub_runs():
        decode = in_process.decode_one

        def loses(media, info, clip, settings, source=None):
            if media.key == "file.mp4":
                return ClipFailure(clip, "fetch", "media_missing", "cannot open the file")
            return decode(media, info, clip, settings, source)

        with monkeypatch.context() as patch:
            patch.setattr(in_process, "decode_one", loses)
            run(job)
        assert select(job, QUARANTINE) == [("file.mp4", False, "media_missing")] * 2
        file.rename(file.with_name("new.mp4"))
        run(job)
        assert select(job, QUARANTINE) == []
        assert select(job, "SELECT count(*) FROM clips") == [(4,)]


def test_what_could_not_be_looked_at_is_not_said_to_have_changed(tmp_path, monkeypatch):
    file = video(tmp_path / "archive" / "file.mp4", "file", clips=1)
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    job = tmp_path / "job.yaml"
    job.write_text(STUB_JOB)
    with stub_runs():
        refused = Probed(None, ClipFailure(None, "probe", "access_refused", "the store refuses it"))
        with monkeypatch.context() as patch:
            patch.setattr(probing, "_read", lambda *_: refused)
            run(job)
        assert plan_reasons(job, tmp_path) == ["unfinished or failed before"]
        file.write_text("1 other")
        assert plan_reasons(job, tmp_path) == ["changed files"]


def test_what_fails_again_stays_and_answers_stand(job):
    run(job)
    answers = select(job, ANSWERS)
    again = cli("retry", job, "--error-class", "not_media")
    assert again.exit_code == 1, again.output
    assert "failures of not_media: 1 before, 1 now" in again.output
    assert (select(job, ANSWERS), attempts(job)) == (answers, [0, 0, 0, 1])
    assert cli("verify", job).exit_code == 0


def test_media_that_could_not_be_probed_are_probed_again(job):
    run(job, **{"execution.probe_timeout_s": 0.001})
    assert select(job, QUARANTINE) == [(name, True, "probe_timeout") for name in ("long.mkv", "notes.mp4", "short.mp4")]
    retried = cli("retry", job, "--error-class", "probe_timeout", "--media", "*.m*")
    # notes.mp4 is no video, which is another failure.
    assert retried.exit_code == 0, retried.output
    assert select(job, QUARANTINE) == [("notes.mp4", True, "not_media")]
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(4, 4)]
    assert select(job, "SELECT DISTINCT units_done - units FROM media") == [(0,)]
    checked = cli("verify", job)
    assert checked.exit_code == 0, checked.output


def test_a_file_that_has_changed_since_is_left_to_index(failed, videos):
    (failed.parent / "archive" / "short.mp4").write_bytes((videos / "long.mkv").read_bytes())
    retried = cli("retry", failed, "--error-class", "decode_timeout", "--media", "short.*")
    assert "1 media have changed since they failed" in retried.output
    assert retried.exit_code == 1
    assert select(failed, "SELECT count(*) FROM answers") == [(0,)]


@pytest.mark.long
def test_a_retry_that_is_killed_is_taken_up_where_it_died(failed):
    command = [sys.executable, "-m", "jobs.retry", str(failed), "--error-class", "decode_timeout"]
    environment = os.environ | {"OMNIDROP_FAIL_AT": "unit_written:2"}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert cli("retry", failed, "--error-class", "decode_timeout").exit_code == 0
    assert max(attempts(failed)) == 1
    assert select(failed, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(4, 4)]
    assert select(failed, QUARANTINE) == [("notes.mp4", True, "not_media")]
    assert cli("verify", failed).exit_code == 0


def test_another_unit_size_counts_no_clip_twice(job):
    run(job)
    assert run(job, **{"execution.clips_per_unit": 3}).totals.clips == 4
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(4, 4)]


def test_the_commands_of_the_operations_page_run_in_its_order(failed, monkeypatch):
    failed.rename(failed.with_name("lectures.yaml"))
    monkeypatch.chdir(failed.parent)
    shown = commands_of(ROOT / "docs" / "operations.md")
    order = ["status", "query", "query", "retry", "retry", "verify", "rebuild", "forget", "export"]
    order += ["calibrate", "plan", "index"]
    assert [words[0] for words in shown] == order
    for words in shown:
        result = cli(*words)
        assert result.exit_code == 0, (words, result.output)
    assert select("lectures.yaml", "SELECT DISTINCT media_key FROM answers") == [("short.mp4",)]
