"""The whole job on real files with the embedded model: what a user may rely on from one run to the next."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.config.job import load_job
from pipeline.runs.run import run_job
from tests.support.history import add_runs, counted_calls
from tests.support.small_jobs import ANSWERS, CLIPS, QUESTIONS, Silent, cli, other_content, run, select


def test_a_folder_of_videos_becomes_answers_and_costs(job):
    summary = run(job)
    assert (summary.run.status, summary.answered_nothing) == ("complete", False)
    # 3 s is one clip; 7 s are two clips and a rest of 1 s.
    assert select(job, CLIPS) == [
        ("long.mkv", 0.0, 3.0),
        ("long.mkv", 3.0, 6.0),
        ("long.mkv", 6.0, 7.0),
        ("short.mp4", 0.0, 3.0),
    ]
    answers = select(job, ANSWERS)
    assert len(answers) == 8
    assert {a[3] for a in answers if a[2] == "shape"} == {
        "Which shape is shown in long.mkv?",
        "Which shape is shown in short.mp4?",
    }
    assert select(job, "SELECT media_key, clip_id, error_class FROM quarantine") == [("notes.mp4", None, "not_media")]
    assert select(job, "SELECT media_key, status, clips_answered FROM media ORDER BY ALL") == [
        ("long.mkv", "complete", 3),
        ("notes.mp4", "failed", 0),
        ("short.mp4", "complete", 1),
    ]
    costs = select(job, "SELECT as_run_flops, dense_shared_flops, dense_flops, retained_ratio FROM clips")
    for ran, shared, dense, ratio in costs:
        assert 0 < ran < shared < dense
        assert ratio == pytest.approx(0.4, abs=0.05)
    assert summary.totals.as_run_flops == sum(c[0] for c in costs)


def test_running_again_does_nothing_and_says_so(job):
    run(job)
    files = sorted((p, p.stat().st_mtime_ns) for p in (job.parent / "results" / "tables").rglob("*") if p.is_file())
    result = cli("index", job)
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.output
    assert run(job).did_nothing
    assert files == sorted((p, p.stat().st_mtime_ns) for p in (job.parent / "results/tables").rglob("*") if p.is_file())


def test_an_unchanged_archive_costs_the_same_whatever_its_history(job, tmp_path):
    run(job)
    loaded = load_job(job)
    run(job)
    with counted_calls() as young:
        assert run(job).did_nothing
    store = add_runs(loaded, 1_000)
    published = run(job).published
    assert published.rows["runs"] == 1_001, "whoever wrote the records, they are taken up once"
    files = [path for path, _ in store.list("journal/")]
    with counted_calls() as old:
        idle = run(job)
    assert idle.did_nothing
    assert old == young
    assert [path for path, _ in store.list("journal/")] == files, "a run with nothing to do adds no object"
    # It is known all the same when it was, and everything says so.
    assert cli("status", job, "--json", tmp_path / "status.json").exit_code == 0
    runs = json.loads((tmp_path / "status.json").read_text())["runs"]
    assert (len(runs), runs[0]["run_id"], runs[0]["units_finished"]) == (1_002, idle.run.run_id, 0)
    assert cli("verify", job).exit_code == 0
    before = select(job, "SELECT * FROM runs ORDER BY ALL")
    assert cli("rebuild", job).exit_code == 0
    assert select(job, "SELECT * FROM runs ORDER BY ALL") == before


def test_a_new_file_is_the_only_one_done(job, videos):
    run(job)
    before = select(job, ANSWERS)
    other_content(videos / "short.mp4", job.parent / "archive" / "added.mp4")
    summary = run(job)
    assert (summary.run.counts.units_finished, summary.run.counts.clips_answered) == (1, 1)
    after = select(job, ANSWERS)
    assert [a for a in after if a[0] != "added.mp4"] == before
    assert len(after) == len(before) + 2


def test_a_changed_file_makes_new_rows_and_the_old_ones_stop_counting(job, videos):
    run(job)
    old = select(job, "SELECT DISTINCT version_id FROM answers WHERE media_key = 'short.mp4'")
    shutil.copy(videos / "long.mkv", job.parent / "archive" / "short.mp4")
    assert run(job).run.counts.clips_answered == 3
    new = select(job, "SELECT DISTINCT version_id FROM answers WHERE media_key = 'short.mp4'")
    assert len(new) == 1
    assert new != old
    assert select(job, "SELECT count(*) FROM clips WHERE media_key = 'short.mp4'") == [(3,)]


def test_a_changed_question_set_makes_new_rows_and_can_be_taken_back(job):
    run(job)
    before = select(job, ANSWERS)
    changed = QUESTIONS.replace('version: "1"', 'version: "2"').replace("a tone", "a beep")
    (job.parent / "questions.yaml").write_text(changed)
    assert run(job).run.counts.clips_answered == 4
    assert select(job, "SELECT DISTINCT question_set_version FROM answers") == [("2",)]
    assert len(select(job, ANSWERS)) == len(before)
    (job.parent / "questions.yaml").write_text(QUESTIONS)
    taken_back = run(job)
    assert taken_back.run.counts.clips_answered == 0
    assert taken_back.totals.clips == 4
    assert select(job, ANSWERS) == before


def test_another_policy_of_the_same_job_replaces_and_another_job_stays_beside(job):
    run(job)
    run(job, **{"pruning.policy": "none", "pruning.mode": "dense_shared", "pruning.retained_ratio": None})
    assert select(job, "SELECT DISTINCT mode FROM clips") == [("dense_shared",)]
    run(job, name="other")
    assert select(job, "SELECT job, count(*) FROM clips GROUP BY 1 ORDER BY 1") == [("other", 4), ("test", 4)]


def test_tables_and_index_can_be_deleted_and_rebuilt_equal(job):
    run(job)
    names = ("answers", "clips", "media", "quarantine", "runs")
    before = {name: select(job, f"SELECT * FROM {name} ORDER BY ALL") for name in names}
    shutil.rmtree(job.parent / "results" / "tables")
    for path in (job.parent / "results").glob("index.sqlite*"):
        path.unlink()
    assert cli("rebuild", job).exit_code == 0
    assert {name: select(job, f"SELECT * FROM {name} ORDER BY ALL") for name in names} == before
    assert run(job).did_nothing


def test_forget_erases_a_video_for_good(job):
    run(job)
    forgotten = cli("forget", job, "--media", "long.mkv", "--json", job.parent / "forgotten.json")
    assert forgotten.exit_code == 0, forgotten.output
    assert json.loads((job.parent / "forgotten.json").read_text())["units_erased"] == 2
    assert select(job, "SELECT DISTINCT media_key FROM answers") == [("short.mp4",)]
    assert run(job).run.counts.units_finished == 0
    assert cli("rebuild", job).exit_code == 0
    assert select(job, "SELECT count(*) FROM media WHERE media_key = 'long.mkv'") == [(0,)]
    for path in (job.parent / "results").rglob("*"):
        assert not path.is_file() or b"long.mkv" not in path.read_bytes(), path
    again = cli("forget", job, "--media", "long.mkv")
    assert (again.exit_code, "0 work units" in again.output) == (0, True)
    never = cli("forget", job, "--media", "never.mkv")
    assert never.exit_code == 2
    assert "no media item" in never.output


def test_a_run_that_answers_nothing_fails(tmp_path, job):
    archive = job.parent / "archive"
    for name in ("short.mp4", "long.mkv"):
        (archive / name).write_text("no video either")
    result = cli("index", job)
    assert result.exit_code == 1
    assert "no clip was answered" in result.output
    # And again: that everything was tried before does not make it a success.
    assert cli("index", job).exit_code == 1


def test_sample_runs_a_part_first_and_the_rest_joins_it(job):
    first = run(job, **{"archive.sample": 1})
    assert first.totals.media == 1
    rest = run(job)
    assert rest.totals.media == 3
    assert rest.run.counts.units_done_before == first.run.counts.units_finished


def test_plan_counts_what_the_run_then_does(job, tmp_path):
    assert cli("plan", job, "--json", tmp_path / "plan.json").exit_code == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["clips"], plan["units"], plan["questions"]) == (4, 4, 8)
    assert plan["media_failed"] == {"not_media": 1}
    summary = run(job, **{"model.dtype": "float32"})
    # Exact but for features of repeated frames, which the encoder need not make again.
    assert summary.totals.as_run_flops <= plan["as_run_flops"]
    audio, video = select(job, "SELECT sum(audio_tokens), sum(video_tokens) FROM clips")[0]
    assert (audio, video) == (plan["audio_tokens"], plan["video_tokens"])
    largest = select(job, "SELECT max(as_run_kv_bytes), max(dense_shared_kv_bytes) FROM clips")[0]
    assert largest == (plan["largest_clip_kv_bytes"], plan["largest_clip_kv_bytes_dense_shared"])


def test_files_beside_media_are_counted_and_no_failures(job, tmp_path):
    archive = Path(load_job(job).archive.uri)
    (archive / "long.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nhello\n")
    (archive / "latin.TXT").write_bytes("Grüße".encode("latin-1"))
    (archive / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (archive / "lost.xml").write_bytes(b"")
    (archive / "README").write_text("hello")
    shutil.copy(archive / "short.mp4", archive / "called wrongly.txt")
    (archive / "again.mp4").symlink_to("short.mp4")
    checked = cli("validate", job, "--no-with-model").output
    assert "links to what is taken anyway: 1 (.mp4 1)" in checked
    assert "6 of them have names like subtitles or other sidecars" in checked
    assert cli("plan", job, "--json", tmp_path / "plan.json").exit_code == 0
    assert cli("index", job, "--json", tmp_path / "run.json").exit_code == 0
    plan, ran = (json.loads((tmp_path / name).read_text()) for name in ("plan.json", "run.json"))
    assert plan["not_taken"] == ran["not_taken"] == {
        "links to what is taken anyway": {".mp4": 1},
        "beside the media (subtitles, pictures, lists)": {
            **{".txt": 1, "without suffix": 1, ".jpg": 1},
            **{".srt": 1, ".xml": 1},
        },
    }  # fmt: skip
    assert select(job, "SELECT media_key, error_class FROM quarantine") == [("notes.mp4", "not_media")]
    # A name alone drops nothing.
    assert ("called wrongly.txt",) in select(job, "SELECT DISTINCT media_key FROM clips")


def test_status_says_how_far_a_job_is(job, tmp_path):
    run(job)
    assert cli("status", job, "--json", tmp_path / "status.json").exit_code == 0
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["totals"]["clips"], status["totals"]["units"], status["totals"]["units_done"]) == (4, 4, 4)
    assert [r["status"] for r in status["runs"]] == ["complete"]


@pytest.mark.cluster
def test_sigterm_keeps_what_is_finished_and_the_next_run_resumes(job, videos):
    for number in range(4):
        other_content(videos / "short.mp4", job.parent / "archive" / f"copy {number:02d}.mp4", number)
    command = [sys.executable, "-m", "jobs.index", str(job)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    units = job.parent / "results" / "journal" / "units"
    while not list(units.rglob("*.parquet")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    done = select(job, "SELECT count(*) FROM clips")[0][0]
    assert 1 <= done < 8
    assert run(job).run.counts.clips_answered == 8 - done
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(8, 8)]
    assert select(job, "SELECT status FROM runs ORDER BY started_at") == [("stopped",), ("complete",)]


def test_a_stop_before_anything_is_planned_is_not_overlooked(job):
    """Where all is finished no unit ever comes, and where files are fetched slowly none for long."""
    stop = threading.Event()
    stop.set()
    summary = run_job(load_job(job), Silent(), stop)
    assert (summary.run.status, summary.run.counts.media_listed) == ("stopped", 0)


def test_a_video_in_an_unreadable_place_is_a_user_error(job):
    text = job.read_text().replace("uri: archive", "uri: no-such-folder")
    job.write_text(text)
    result = cli("index", job)
    assert result.exit_code == 2
    assert "no-such-folder" in result.output
    assert "Traceback" not in result.output
