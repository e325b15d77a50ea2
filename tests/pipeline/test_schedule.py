"""Runs at the times of a cron expression: due times, the lease that keeps two from running, and whole runs."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from jobs._shared.stopping import STOPPED_EXIT
from omnidrop.errors import UserError
from pipeline.config.job import load_job
from pipeline.config.sections import StorageConfig
from pipeline.execution import in_process
from pipeline.launch import schedule
from pipeline.launch.lease import newest_lease, take_lease
from pipeline.launch.schedule import Cron, ScheduledRun, keep_schedule, last_run, write_record
from pipeline.runs.run import run_job
from pipeline.storage.store import open_store
from tests.support.s3_server import s3_server
from tests.support.small_jobs import Silent, cli
from tests.support.stub_runs import QUESTIONS, stub_runs, video

NIGHTLY = "0 2 * * *"


class EverySecond(Cron):
    """Nobody may ask for it."""

    def __post_init__(self):
        pass


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.cluster)])
def output(request, tmp_path):
    """Makes stores of one and the same place, as processes on several machines have them."""
    if request.param == "local":
        yield partial(open_store, str(tmp_path / "results"))
        return
    with s3_server("results") as address:
        yield partial(open_store, "s3://results/job", StorageConfig(endpoint_url=address))


def test_one_of_many_takes_the_lease_and_tokens_grow(output):
    taken = []
    takers = [threading.Thread(target=lambda: taken.append(take_lease(output(), "lectures"))) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    (lease,) = filter(None, taken)
    with lease:
        assert take_lease(output(), "lectures") is None
        assert not lease.is_set()
        other = take_lease(output(), "another-job")
        assert other.token == 1
    # Given back, it can be taken at once.
    following = take_lease(output(), "lectures")
    assert (lease.token, following.token) == (1, 2)
    assert [key for key, _ in output().list("schedules/lectures/leases/")] == [
        "schedules/lectures/leases/000000000002.json"
    ]


def test_a_lease_is_renewed_and_a_dead_holders_runs_out(output):
    with take_lease(output(), "lectures", lease_s=2.0) as lease:
        time.sleep(2.4)
        assert take_lease(output(), "lectures") is None
        assert not lease.is_set()
    dead = take_lease(output(), "lectures", lease_s=2.0)  # never entered: nothing renews it
    assert take_lease(output(), "lectures") is None
    time.sleep(1.4)
    assert dead.is_set(), "a holder gives up before others may take over"
    time.sleep(0.7)
    assert take_lease(output(), "lectures").token == dead.token + 1


def test_a_holder_sees_that_its_lease_was_taken_over(store):
    with take_lease(store, "lectures", lease_s=2.0) as lease:
        # As a machine does whose clock is far ahead.
        store.write_once("schedules/lectures/leases/000000000002.json", b"{}")
        time.sleep(0.8)
        assert lease.is_set()
    assert json.loads(store.read_bytes("schedules/lectures/leases/000000000001.json"))["expires_at_s"] > 0


def test_a_damaged_lease_is_named(store):
    store.write("schedules/lectures/leases/000000000001.json", b"no json")
    with pytest.raises(UserError, match=r"leases/000000000001\.json is not a lease"):
        newest_lease(store, "lectures")


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_due_times_follow_the_time_zone_and_its_summer_time():
    berlin = Cron(NIGHTLY, "Europe/Berlin")
    assert berlin.next_after(at("2026-01-10T12:00")) == at("2026-01-11T01:00")
    assert berlin.next_after(at("2026-07-10T12:00")) == at("2026-07-11T00:00")
    # The hour that summer time skips: done right after it, not left out.
    assert Cron("30 2 * * *", "Europe/Berlin").next_after(at("2026-03-28T12:00")) == at("2026-03-29T01:00")
    utc = Cron(NIGHTLY)
    assert utc.last_until(at("2026-01-10T02:00")) == at("2026-01-10T02:00")
    assert utc.last_until(at("2026-01-10T01:59:59")) == at("2026-01-09T02:00")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("0 2 * *",), "4 fields; give five fields"),
        (("* * * * * *",), "6 fields; give five fields"),
        (("0 25 * * *",), "five fields"),
        ((NIGHTLY, "Mars"), "Mars"),
    ],
)
def test_a_schedule_that_means_nothing_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        Cron(*given)


def missed(store, days):
    """The record that a schedule left which was last there so many days ago."""
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    write_record(store, ScheduledRun("test", then, then, then, "complete"))


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(schedule, "BUSY_WAIT_S", 0.05)
    monkeypatch.setattr(schedule, "LONGEST_WAIT_S", 0.05)


def keep(store, run, *, reports, stop=None, count=None, cron=NIGHTLY, lease_s=5.0):
    cron = Cron(cron) if isinstance(cron, str) else cron
    return keep_schedule(store, "test", cron, run, stop or threading.Event(), reports.append, count, lease_s)


def test_missed_runs_are_made_up_for_by_one_and_a_failure_does_not_end_the_schedule(store, quickly):
    missed(store, days=5)
    reports, stop, tokens = [], threading.Event(), []

    def run(lease):
        tokens.append(lease.token)
        if len(tokens) == 1:
            threading.Timer(0.5, stop.set).start()
        raise UserError("the archive is not there")

    last = keep(store, run, reports=reports, stop=stop)
    assert tokens == [1], "five nights, one run"
    assert last == last_run(store, "test") == reports[-1]
    assert (last.status, last.error_class, last.error) == ("failed", "user", "the archive is not there")
    assert datetime.fromisoformat(last.due_at) == Cron(NIGHTLY).last_until(datetime.now(UTC))
    # Failures do not end it.
    keep(store, run, reports=reports, cron=EverySecond("* * * * * *"), count=2)
    assert tokens == [1, 2, 3]


def test_a_record_and_a_lease_of_a_clock_that_was_wrong_once_are_not_waited_for(store, quickly, caplog):
    missed(store, days=-200)
    lease = take_lease(store, "test")
    lease._write(time.time() + 200 * 86_400)
    reports, runs = [], []

    def run(lease):
        runs.append(lease.token)
        raise UserError("done")

    keep(store, run, reports=reports, count=1)
    assert runs == [2]
    assert "is recorded as due at" in caplog.text
    assert "a clock was wrong; taking it over" in caplog.text
    # Mended by the run's own record: nothing is due until the next time.
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert keep(store, pytest.fail, reports=reports, stop=stop) is None


def test_a_schedule_that_makes_no_runs_says_so(job, store, quickly, caplog):
    then = (datetime.now(UTC) - timedelta(days=4.5)).isoformat()
    write_record(store, ScheduledRun("test", then, then, then, "complete", cron=NIGHTLY))
    shown = cli("status", job)
    assert shown.exit_code == 0
    assert re.search(r"the schedule '0 2 \* \* \*' \(UTC\) of job test has made no run for [45] due times", flat(shown))
    due_times = []

    def run(lease):
        due_times.append(lease.missed)
        raise UserError("done")

    keep(store, run, reports=[], count=1)
    assert due_times[0] in (4, 5)
    assert "has made no run for" in caplog.text
    assert "has made no run" not in flat(cli("status", job))


def flat(result):
    return " ".join(result.output.split())


def test_a_new_schedule_waits_for_its_first_time_and_remembers_when_it_began(store, quickly):
    stop, reports = threading.Event(), []
    threading.Timer(0.3, stop.set).start()
    assert keep(store, pytest.fail, reports=reports, stop=stop) is None
    assert reports == []
    assert last_run(store, "test").status == "begun"


def test_two_schedules_of_a_job_make_one_run(store, quickly):
    missed(store, days=2)
    stop, reports, runs = threading.Event(), [], []

    def run(lease):
        runs.append(lease.token)
        time.sleep(0.5)
        raise UserError("done")

    keepers = [threading.Thread(target=lambda: keep(store, run, reports=reports, stop=stop)) for _ in range(3)]
    for keeper in keepers:
        keeper.start()
    time.sleep(1.5)
    stop.set()
    for keeper in keepers:
        keeper.join()
    assert len(runs) == len(reports) == 1


def test_the_command_runs_as_index_does_and_leaves_a_record(job, tmp_path):
    store = open_store(load_job(job).output)
    missed(store, days=1)
    result = cli("schedule", job, "--cron", NIGHTLY, "--count", 1, "--json", tmp_path / "last.json")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "last.json").read_text())
    assert ScheduledRun(**record) == last_run(store, "test")
    # Two videos in one and three clips, two questions each, and a file that is no video.
    assert (record["status"], record["media_listed"], record["quarantined"]) == ("complete", 3, 1)
    assert (record["media_new_or_changed"], record["clips_answered"], record["answers"]) == (2, 4, 8)
    assert record["model_s"] > 0
    assert f"run_id={record['run_id']}" in result.stderr.replace("\n", "")


def test_runs_that_find_nothing_to_do_leave_no_record_each(job):
    store = open_store(load_job(job).output)
    missed(store, days=2)
    assert cli("schedule", job, "--cron", NIGHTLY, "--count", 1).exit_code == 0
    kept = [key for key, _ in store.list("schedules/test/runs/")]
    first = last_run(store, "test")
    assert len(kept) == 1, "the mark of the last time found nothing, the run did something"
    missed(store, days=1)
    assert cli("schedule", job, "--cron", NIGHTLY, "--count", 1).exit_code == 0
    assert [key for key, _ in store.list("schedules/test/runs/")] == kept
    assert last_run(store, "test").due_at == first.due_at
    assert last_run(store, "test").run_id != first.run_id


def test_a_schedule_of_an_earlier_version_is_gone_on_with(store):
    missed(store, days=1)
    record = replace(last_run(store, "test"), clips_answered=3)
    write_record(store, record)
    store.delete(["schedules/test/last.json"])
    assert last_run(store, "test") == record


@pytest.fixture
def stubbed(tmp_path, quickly, monkeypatch):
    """A job over one stub video, and its text; a schedule may be due every second."""
    video(tmp_path / "archive/0.mp4", "video", clips=2)
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    text = (
        "name: test\narchive: {uri: archive}\noutput: results\nquestion_set: questions.yaml\n"
        "clips: {length_s: 10}\nexecution: {ray_address: in-process}\n"
    )
    (tmp_path / "job.yaml").write_text(text)
    monkeypatch.setattr("jobs.schedule.Cron", EverySecond)
    monkeypatch.setattr("jobs.schedule.check_ffmpeg", lambda: None)
    with stub_runs():
        yield tmp_path / "job.yaml", text


def test_each_run_reads_the_job_file_again(stubbed, monkeypatch):
    job, text = stubbed
    later = iter((text + "naem: x\n", text.replace("length_s: 10", "length_s: 5"), text.replace("test", "other"), text))
    records = []

    def reported(path, record):
        records.append(record)
        job.write_text(next(later))

    monkeypatch.setattr("jobs.schedule.write_json", reported)
    ended = cli("schedule", job, "--cron", "* * * * * *")
    assert ended.exit_code == 1, ended.output
    assert [(r.status, r.clips_answered, r.error_class) for r in records] == [
        ("complete", 2, None),
        ("failed", None, "user"),
        ("complete", 4, None),
        ("failed", None, "schedule"),
    ]
    assert "start `omnidrop schedule` again" in records[-1].error


def test_a_schedule_asks_nobody_and_outlives_a_record_that_cannot_be_written_as_json(stubbed, monkeypatch, caplog):
    job, text = stubbed
    assert cli("index", job).exit_code == 0
    job.write_text(text.replace("length_s: 10", "length_s: 5"))
    monkeypatch.setattr("jobs._shared.display.ProgressBar.confirmed", lambda *_: True)
    in_a_file = job / "last.json"
    ended = cli("schedule", job, "--cron", "* * * * * *", "--execution-max-asked-again", 0, "--json", in_a_file)
    assert (ended.exit_code, "cannot be written" in caplog.text) == (1, True), ended.output
    assert last_run(open_store(load_job(job).output), "test").error_class == "asks_again"


def test_sigterm_ends_the_command_between_runs(job):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert cli("schedule", job, "--cron", NIGHTLY).exit_code == 0


def test_sigterm_in_a_run_leaves_it_due(job, monkeypatch):
    store = open_store(load_job(job).output)
    missed(store, days=1)
    before = last_run(store, "test")
    monkeypatch.setattr(Silent, "unit_done", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr("jobs._shared.display.ProgressBar.unit_done", Silent.unit_done)
    assert cli("schedule", job, "--cron", NIGHTLY).exit_code == STOPPED_EXIT
    assert last_run(store, "test") == before
    monkeypatch.undo()
    assert cli("schedule", job, "--cron", NIGHTLY, "--count", 1).exit_code == 0
    assert last_run(store, "test").clips_answered in (1, 2, 3), "the rest"


def test_a_run_that_lost_its_lease_commits_nothing_more(job, monkeypatch):
    lost = threading.Event()
    decode_one = in_process.decode_one

    def lose_and_decode(*arguments):
        lost.set()
        return decode_one(*arguments)

    monkeypatch.setattr(in_process, "decode_one", lose_and_decode)
    summary = run_job(load_job(job), Silent(), threading.Event(), lost=lost)
    # The unit in hand was answered, but by then it was another run's.
    assert (summary.run.status, summary.run.counts.units_finished, summary.totals.clips) == ("stopped", 0, 0)
