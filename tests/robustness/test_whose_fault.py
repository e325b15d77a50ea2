"""Trouble of the run is not the clip's: each fault on a real server or process, at a stage of a whole run.

After the next run the rows are those of an undisturbed one, and nothing is in quarantine that is not the file's.
The table in `docs/operations.md` names these tests.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import tempfile
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import s3fs

from pipeline import failure_rules
from pipeline.config.job import load_job
from pipeline.execution.actor_pool import ExecutionError
from pipeline.journal.journal import Journal
from pipeline.runs.run import run_job
from pipeline.storage import outage, s3_client
from pipeline.storage.errors import Unavailable
from pipeline.storage.store import open_store
from tests.conftest import write_job
from tests.support.fault_proxy import FaultProxy
from tests.support.handed_on_probers import probers_handed_on
from tests.support.s3_server import rclone_server, s3_server
from tests.support.small_jobs import ANSWERS, CLIPS, Silent, cli, run, select
from workers.media import ffmpeg
from workers.media._children import Children, children_from
from workers.media.store_failures import forget_credentials

__all__ = ["probers_handed_on"]

IDLE = {"execution.clips_per_unit": 1, "audit.share": 0}
QUARANTINE = "SELECT media_key, error_class FROM quarantine ORDER BY ALL"
FILES_FAULT = [("notes.mp4", "not_media")]
"""What the archive of `job` has in quarantine when nothing goes wrong."""


class At(Silent):
    """Does something once, when so many units are done, or when the first plan is there (0)."""

    def __init__(self, units, what):
        super().__init__()
        self._at, self._what = units, what

    def planned(self, clips, finished):
        if self._at == 0 and clips:
            self._do()

    def unit_done(self, result):
        super().unit_done(result)
        if self.units == self._at:
            self._do()

    def _do(self):
        self._at = -1
        self._what()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(failure_rules, "FIRST_PAUSE_S", 0.1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, videos):
    """Clips and answers of the archive of `job`."""
    job = write_job(tmp_path_factory.mktemp("undisturbed"), videos)
    run(job, **IDLE)
    return select(job, CLIPS), select(job, ANSWERS)


def check(job, undisturbed, at=None, **options):
    """The next run goes on by itself, and then all is as if nothing had happened."""
    summary = run_job(load_job(job, IDLE | options), at or Silent(), threading.Event())
    assert summary.run.status == "complete"
    assert (select(job, CLIPS), select(job, ANSWERS)) == undisturbed
    assert select(job, QUARANTINE) == FILES_FAULT


def test_a_database_that_restarts_is_waited_for(job, empty_postgres, postgres_process, undisturbed):
    def restart():
        postgres_process.stop()
        threading.Timer(1.0, postgres_process.start).start()

    given = load_job(job, {**IDLE, "index_url": empty_postgres, "storage.patience_s": 60})
    summary = run_job(given, At(1, restart), threading.Event())
    assert summary.run.status == "complete"
    check(job, undisturbed, index_url=empty_postgres)


def test_a_database_that_stays_away_ends_the_run_in_a_sentence(job, empty_postgres, postgres_process, undisturbed):
    given = load_job(job, {**IDLE, "index_url": empty_postgres, "storage.patience_s": 1})
    try:
        with pytest.raises(Unavailable, match=r"savings index at postgresql.* does not respond.*waited 1 s.*run again"):
            run_job(given, At(1, postgres_process.stop), threading.Event())
    finally:
        postgres_process.start()
    check(job, undisturbed, index_url=empty_postgres)


def test_a_lock_that_another_program_holds_is_waited_for_and_then_said(job, undisturbed):
    """From the first moment on, and in the middle of a run."""
    run(job, **IDLE, **{"archive.exclude": ["long.mkv"]})
    other = sqlite3.connect(job.parent / "results/index.sqlite", isolation_level=None, check_same_thread=False)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        done = cli("index", job, "--execution-clips-per-unit", 1, "--storage-patience-s", 0.5)
        said = " ".join(done.output.split())
        assert done.exit_code == 2
        assert "database is locked" in said
        assert "waited 0.5 s for it: storage.patience_s" in said
        assert "Traceback" not in said
        assert "INSERT" not in said
        other.execute("ROLLBACK")

        def hold():
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.8, other.execute, ["ROLLBACK"]).start()

        summary = run_job(load_job(job, IDLE | {"storage.patience_s": 60}), At(1, hold), threading.Event())
        assert summary.run.status == "complete"
    check(job, undisturbed)


@pytest.fixture(scope="module")
def moto():
    with s3_server("media", "results") as address:
        yield address


@pytest.fixture
def bucket(job, moto, tmp_path, monkeypatch):
    """The archive of `job` in a bucket, behind a proxy that refuses what it is told to: (overrides, proxy)."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 0)
    name = tmp_path.name
    files = s3fs.S3FileSystem(endpoint_url=moto, skip_instance_cache=True)
    for path in sorted((job.parent / "archive").iterdir()):
        files.put_file(str(path), f"media/{name}/{path.name}")
    with FaultProxy(moto, rate=0.0) as proxy:
        yield (
            {"archive.uri": f"s3://media/{name}", "archive.endpoint_url": proxy.address, "storage.patience_s": 1},
            proxy,
        )


def refuse(proxy, kind, what="", evict=None):
    """From now on the proxy answers so to every request of which the path holds `what`; what was fetched before,
    to know its content, the cache below `evict` has no more."""
    if evict is not None:
        for path in Path(evict).glob("omnidrop-media-*/*"):
            path.unlink(missing_ok=True)
    proxy.kinds, proxy.rate, proxy.spoils = [kind], 1.0, lambda request: what in request.raw_path


@pytest.mark.cluster
@pytest.mark.parametrize(("units", "kind"), [(0, "expired"), (1, "denied"), (1, "slow_down")])
def test_credentials_that_end_in_a_run_end_it_in_a_sentence(job, bucket, undisturbed, units, kind):
    """An access token that expired after one unit put all that was left into quarantine, and the run ended complete."""
    overrides, proxy = bucket
    with pytest.raises(Unavailable, match=r"nothing of the archive can be read.*waited 1 s.*run again") as failed:
        run_job(
            load_job(job, IDLE | overrides), At(units, lambda: refuse(proxy, kind, evict=job.parent)), threading.Event()
        )
    assert ("log in again" in str(failed.value)) == (kind == "expired")
    proxy.rate = 0.0
    check(job, undisturbed, **overrides)


@pytest.mark.cluster
def test_a_token_renewed_in_time_is_waited_for(job, bucket, undisturbed):
    overrides, proxy = bucket

    def expire():
        refuse(proxy, "expired", evict=job.parent)
        proxy.spoils = lambda request: proxy.faults["expired"] < 6

    check(job, undisturbed, **overrides | {"storage.patience_s": 60}, at=At(1, expire))
    assert proxy.faults["expired"] == 6


@pytest.mark.cluster
def test_an_object_refused_while_others_work_is_named_and_tried_by_every_run(job, bucket, undisturbed):
    overrides, proxy = bucket
    refuse(proxy, "denied", "short.mp4")
    refused = [*FILES_FAULT, ("short.mp4", "access_refused")]
    for _ in range(2):
        summary = run(job, **IDLE | overrides)
        assert (summary.run.status, summary.totals.clips) == ("complete", 3)
        assert select(job, QUARANTINE) == refused
    proxy.rate = 0.0
    check(job, undisturbed, **overrides)


@pytest.mark.cluster
def test_an_object_refused_after_it_was_probed_leaves_no_attempt_a_run(job, bucket, undisturbed):
    overrides, proxy = bucket
    at = At(0, lambda: refuse(proxy, "denied", "long.mkv", evict=job.parent))
    for _ in range(2):
        summary = run_job(load_job(job, IDLE | overrides), at, threading.Event())
        assert (summary.run.status, summary.totals.clips, summary.totals.quarantined) == ("complete", 1, 1 + 3)
    attempts = {key.attempt for key in Journal(open_store(load_job(job).output)).units()}
    assert attempts == {0}
    proxy.rate = 0.0
    check(job, undisturbed, **overrides)


@pytest.mark.cluster
def test_a_token_that_expires_during_a_listing_of_many_pages(job, bucket, undisturbed, monkeypatch):
    overrides, proxy = bucket
    monkeypatch.setattr(s3_client, "S3_PAGE", 1)
    refuse(proxy, "expired", "continuation-token")
    with pytest.raises(Unavailable, match=r"session has expired; log in again.*waited 1 s"):
        run(job, **IDLE | overrides)
    proxy.rate = 0.0
    check(job, undisturbed, **overrides)


@pytest.mark.cluster
def test_an_output_that_refuses_in_the_middle_ends_the_run_in_a_sentence(job, moto, undisturbed):
    with FaultProxy(moto, rate=0.0) as proxy:
        where = {"output": f"s3://results/{job.parent.name}", "storage.endpoint_url": proxy.address}
        where |= {"index_url": f"sqlite:///{job.parent}/index.sqlite", "storage.patience_s": 1}
        with pytest.raises(Unavailable, match=r"refuses the credentials \(ExpiredToken\).*waited 1 s"):
            run_job(load_job(job, IDLE | where), At(1, lambda: refuse(proxy, "expired")), threading.Event())
        proxy.rate = 0.0
        summary = run_job(load_job(job, IDLE | where), Silent(), threading.Event())
        assert (summary.run.status, summary.totals.clips, summary.totals.quarantined) == ("complete", 4, 1)


@pytest.mark.cluster
def test_credentials_mended_in_a_file_are_found_by_a_run_that_waits(job, tmp_path, monkeypatch):
    """The server itself refuses, and nothing but the file changes."""
    with rclone_server("media") as address:
        files = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
        for name in ("short.mp4", "long.mkv"):
            files.put_file(str(job.parent / "archive" / name), f"media/{name}")
        profile = tmp_path / "credentials"
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))

        def log_in(key):
            profile.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = testing\n")

        log_in("testing")
        where = {"archive.uri": "s3://media", "archive.endpoint_url": address, "storage.patience_s": 60}

        def expire():
            log_in("revoked")
            for store in s3fs.S3FileSystem._cache.values():
                forget_credentials(store)  # as a role's does when its time is over
            threading.Timer(1.0, log_in, ["testing"]).start()

        summary = run_job(load_job(job, IDLE | where), At(1, expire), threading.Event())
        assert (summary.run.status, summary.totals.clips, summary.totals.quarantined) == ("complete", 4, 0)


class Broken(Children):
    """Another program is where Python should be."""

    def started(self, program):
        return super().started(["/bin/false"])


def test_a_prober_that_cannot_run_writes_no_file_off(job, undisturbed):
    with (
        children_from(Broken()),
        pytest.raises(Unavailable, match=r"the prober cannot run on this machine.*waited 0.3 s.*run again"),
    ):
        run(job, **IDLE | {"storage.patience_s": 0.3})
    check(job, undisturbed)


def test_a_plan_where_nothing_can_be_probed_fails_and_is_remembered_by_no_run(job, undisturbed):
    with children_from(Broken()):
        planned = cli("plan", job, "--storage-patience-s", "0.3")
    assert planned.exit_code == 2
    assert "the prober cannot run on this machine" in planned.output
    check(job, undisturbed)


class Unstartable(Children):
    """The system has no process left."""

    def started(self, program):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_where_no_process_can_be_started_no_file_is_written_off(job):
    with (
        children_from(Unstartable()),
        pytest.raises(Unavailable, match=r"no process can be started: Resource temporarily unavailable"),
    ):
        run(job, **IDLE | {"storage.patience_s": 0.3})


class FirstIsKilled(Children):
    """The first child is, by somebody else."""

    killed = False

    def started(self, program):
        process = super().started(program)
        if not self.killed:
            self.killed = True
            process.kill()
        return process


def test_a_probe_that_is_killed_from_outside_is_tried_again(job, undisturbed):
    source = FirstIsKilled()
    with children_from(source):
        check(job, undisturbed)
    assert source.killed


def test_a_plan_does_not_count_a_probe_that_is_killed_from_outside(job, tmp_path):
    source = FirstIsKilled()
    with children_from(source):
        assert cli("plan", job, "--json", tmp_path / "plan.json").exit_code == 0
    assert source.killed
    assert json.loads((tmp_path / "plan.json").read_text())["media_failed"] == {"not_media": 1}


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """The ffmpeg on PATH, which works until it is replaced by `broken`."""
    path = tmp_path / "bin" / "ffmpeg"
    path.parent.mkdir()
    path.symlink_to(ffmpeg.packed_ffmpeg())
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    monkeypatch.delenv("OMNIDROP_FFMPEG")
    forget_ffmpeg()
    yield path
    monkeypatch.undo()
    forget_ffmpeg()


def broken(path):
    """As an upgrade leaves it that takes a library away."""
    path.unlink()
    path.write_text("#!/bin/sh\necho 'ffmpeg: error while loading shared libraries: libx264.so.164' >&2\nexit 127\n")
    path.chmod(0o755)


def forget_ffmpeg():
    for remembered in (ffmpeg.ffmpeg_tool, ffmpeg.filters, ffmpeg.decoders):
        remembered.cache_clear()


def test_an_ffmpeg_that_cannot_run_is_passed_over_and_said(job, on_path, undisturbed, tmp_path):
    broken(on_path)
    done = cli("index", job, "--execution-clips-per-unit", 1, "--audit-share", 0, "--json", tmp_path / "summary.json")
    assert done.exit_code == 0, done.output
    (tool,) = json.loads((tmp_path / "summary.json").read_text())["run"]["tools"]
    assert re.search(rf"ffmpeg version \S+.* at /\S+ instead of {on_path}, which cannot run \(exit status \d+: ", tool)
    assert "a different ffmpeg than the first one found decoded some clips" in " ".join(done.output.split())
    check(job, undisturbed)


def test_an_ffmpeg_that_breaks_in_a_run_is_replaced(job, on_path, undisturbed):
    summary = run_job(load_job(job, IDLE), At(1, lambda: broken(on_path)), threading.Event())
    assert len(summary.run.resources.tools) == 2, "before and after"
    check(job, undisturbed)


def test_no_ffmpeg_any_more_ends_the_run_and_writes_nothing_off(job, on_path, undisturbed, monkeypatch):
    """The one that was asked for by name is not replaced."""
    monkeypatch.setenv("OMNIDROP_FFMPEG", str(on_path))
    forget_ffmpeg()
    with pytest.raises(ExecutionError, match=r"no machine can decode any more .*cannot run.*run again"):
        run_job(load_job(job, IDLE), At(1, lambda: broken(on_path)), threading.Event())
    done = cli("index", job, "--execution-clips-per-unit", 1)
    assert done.exit_code == 2
    assert "OMNIDROP_FFMPEG is" in done.output
    on_path.unlink()
    on_path.symlink_to(ffmpeg.packed_ffmpeg())
    forget_ffmpeg()
    check(job, undisturbed)


def test_a_machine_that_decodes_nothing_any_more_ends_the_run(job, undisturbed, monkeypatch):
    """Its ffmpeg passes its own test, and gives nothing of any file: here since it may open no container."""
    lame = partial(monkeypatch.setattr, ffmpeg, "DEMUXERS", ("rawvideo",))
    with pytest.raises(ExecutionError, match=r"no machine can decode any more .*nothing could be decoded"):
        run_job(load_job(job, IDLE), At(1, lame), threading.Event())
    monkeypatch.undo()
    check(job, undisturbed)
