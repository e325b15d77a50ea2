"""The whole job with archive and results in S3, on two servers: the same answers as from a folder, whatever they do."""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import ExitStack
from unittest import mock

import pytest
import s3fs

from pipeline import failure_rules
from pipeline.archive import decoded_early
from pipeline.archive.decoded_early import DecodedEarly
from pipeline.config.job import StorageConfig, load_job
from pipeline.runs.maintenance import forget_media
from pipeline.runs.run import run_job
from pipeline.storage import outage, s3_client
from pipeline.storage.errors import Unavailable
from pipeline.storage.store import open_store
from pipeline.tables import manifest
from pipeline.tables.query import open_results, query
from tests.robustness import faults
from tests.support.fault_proxy import FaultProxy
from tests.support.history import add_runs, counted_calls
from tests.support.s3_server import rclone_server, s3_server
from tests.support.small_jobs import ANSWERS, Silent, cli, run, select
from workers.media.arriving import Arriving
from workers.media.fetching import CacheSettings

pytestmark = pytest.mark.cluster

KEY = "alias/mine"


@pytest.fixture(scope="module")
def moto():
    with s3_server("media", "results") as address:
        yield address


@pytest.fixture(scope="module")
def rclone():
    with rclone_server("media", "results") as address:
        yield address


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No file of an earlier session's archive lies in the node's cache."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def put_archive(job, address, name):
    filesystem = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
    for path in sorted((job.parent / "archive").iterdir()):
        filesystem.put_file(str(path), f"media/{name}/{path.name}")
    return filesystem


def on_s3(job, address, name, **overrides):
    """The job of `tests.pipeline.test_run` with its archive and its results in buckets, under `name`."""
    given = {
        "archive.uri": f"s3://media/{name}",
        "archive.endpoint_url": address,
        "output": f"s3://results/{name}",
        "storage.endpoint_url": address,
        "index_url": f"sqlite:///{job.parent}/index.sqlite",
    }
    return load_job(job, given | overrides)


def answers(remote, sql=ANSWERS):
    with open_results(remote.output, remote.storage) as connection:
        return list(query(connection, sql).rows)


class Watching(Silent):
    """Tells of units as they finish."""

    def __init__(self, unit_done=lambda units: None, planned=lambda: None):
        super().__init__()
        self._unit_done, self._planned = unit_done, planned

    def planned(self, clips, finished):
        self._planned()

    def unit_done(self, result):
        super().unit_done(result)
        self._unit_done(self.units)


def test_a_job_from_bucket_to_bucket(job, moto, monkeypatch):
    from_folder = run(job)
    monkeypatch.setattr(decoded_early, "LEAST_BYTES", 0)
    monkeypatch.setattr(Arriving, "is_whole", False)  # so small a file comes before its clips are begun
    taken = []
    take = DecodedEarly.take
    monkeypatch.setattr(DecodedEarly, "take", lambda *given: taken.append(take(*given)) or taken[-1])
    filesystem = put_archive(job, moto, "whole")
    remote = on_s3(job, moto, "whole", **{"storage.sse": "aws:kms", "storage.sse_kms_key_id": KEY})
    summary = run_job(remote, Silent(), threading.Event())
    assert summary.run.counts.clips_answered == from_folder.run.counts.clips_answered == 4
    assert summary.error_classes == (("not_media", 1),)
    archive_bytes = sum(path.stat().st_size for path in (job.parent / "archive").iterdir())
    assert archive_bytes <= summary.run.resources.bytes_fetched < 2 * archive_bytes
    assert not any("If-None-Match" in note for note in summary.notes)
    assert answers(remote) == select(job, ANSWERS)
    assert sum(one is not None for one in taken) == 2, "the first of each file"
    # Whatever was written is encrypted as asked.
    written = filesystem.find("results/whole")
    assert len(written) > 10
    heads = [filesystem.call_s3("head_object", Bucket="results", Key=path.removeprefix("results/")) for path in written]
    assert {(head["ServerSideEncryption"], head["SSEKMSKeyId"]) for head in heads} == {("aws:kms", KEY)}
    # Nothing is left to do, until an object changes.
    assert run_job(remote, Silent(), threading.Event()).did_nothing
    filesystem.copy("media/whole/long.mkv", "media/whole/short.mp4")
    assert run_job(remote, Silent(), threading.Event()).run.counts.clips_answered == 3

    # However many runs there were.
    assert run_job(remote, Silent(), threading.Event()).did_nothing
    with counted_calls() as young:
        assert run_job(remote, Silent(), threading.Event()).did_nothing
    add_runs(remote, 20, is_synced=True)
    assert run_job(remote, Silent(), threading.Event()).published.rows["runs"] == 22
    with counted_calls() as old:
        assert run_job(remote, Silent(), threading.Event()).did_nothing
    assert old == young

    # Both keys hold the same by now.
    assert forget_media(remote, "long.mkv").keys == ("long.mkv", "short.mp4")
    assert answers(remote) == []
    store = open_store(remote.output, StorageConfig(endpoint_url=moto))
    # Nothing of before is left but files of buckets in which nothing was forgotten.
    there = {path.removeprefix("tables/") for path, _ in store.list("tables/generation")}
    assert {path for path in there if path.endswith(".parquet")} == set(manifest.current(store).files)
    assert not any(b"long.mkv" in store.read_bytes(f"tables/{path}") for path in there)


def test_the_same_from_a_server_that_checks_credentials_and_ignores_conditional_creates(job, rclone):
    put_archive(job, rclone, "whole")
    remote = on_s3(job, rclone, "whole", **{"storage.sse": "AES256"})
    summary = run_job(remote, Silent(), threading.Event())
    assert summary.run.counts.clips_answered == 4
    assert len(answers(remote)) == 8
    assert any("ignores If-None-Match" in note for note in summary.notes)
    assert run_job(remote, Silent(), threading.Event()).did_nothing


@pytest.mark.parametrize(
    ("variable", "said"),
    [("AWS_SECRET_ACCESS_KEY", "secret key does not belong"), ("AWS_ACCESS_KEY_ID", "does not know the access key")],
)
def test_wrong_credentials_are_a_user_error_that_teaches(job, rclone, variable, said):
    put_archive(job, rclone, "refused")
    options = ["--archive-uri", "s3://media/refused", "--archive-endpoint-url", rclone]
    options += ["--output", "s3://results/refused", "--storage-endpoint-url", rclone]
    options += ["--index-url", f"sqlite:///{job.parent}/index.sqlite"]
    with mock.patch.dict(os.environ, {variable: "planted-credential"}):
        result = cli("index", job, *options)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert variable in result.output
    assert "Traceback" not in result.output
    assert "planted-credential" not in result.output


def test_a_missing_bucket_is_explained(job, moto):
    remote = on_s3(job, moto, "elsewhere", **{"archive.uri": "s3://no-such-bucket/archive"})
    with pytest.raises(Exception, match="no-such-bucket"):
        run_job(remote, Silent(), threading.Event())


@pytest.mark.long
def test_rows_are_the_same_through_a_proxy_that_spoils_a_third_of_all_requests(tmp_path, monkeypatch):
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 1.5)  # a request that hangs costs as much
    with ExitStack() as stack:
        bench = faults.Bench("moto", tmp_path, 2, stack)
        calm, spoiled = bench.round(0, seed=1), bench.round(0.3, seed=1)
    assert (calm.rows, calm.faults) == (spoiled.rows, {})
    assert sum(spoiled.faults.values()) > 10
    assert (spoiled.lost, spoiled.doubled, spoiled.different) == (0, 0, 0)


def test_an_object_that_never_comes_is_named_and_done_by_the_next_run(job, moto, monkeypatch):
    """One cannot be probed, another not be fetched; the rest is answered, and neither failure is final."""
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 0)
    monkeypatch.setattr(failure_rules, "FIRST_PAUSE_S", 0.1)
    (job.parent / "archive" / "notes.mp4").unlink()
    (job.parent / "archive" / "third.mp4").write_bytes((job.parent / "archive" / "short.mp4").read_bytes())
    put_archive(job, moto, "withheld")
    withheld = ["third.mp4"]
    with FaultProxy(moto, rate=1.0, kinds=["slow_down"]) as proxy:
        proxy.spoils = lambda request: any(key in request.raw_path for key in withheld)
        remote = on_s3(job, proxy.address, "withheld")

        def lost():
            """Planned well, and out of reach from then on: also dropped from the cache that it was hashed in."""
            if "long.mkv" not in withheld:
                withheld.append("long.mkv")
                for path in CacheSettings().path.iterdir():
                    if path.read_bytes() == (job.parent / "archive" / "long.mkv").read_bytes():
                        path.unlink()

        summary = run_job(remote, Watching(planned=lost), threading.Event())
        assert (summary.run.status, summary.run.counts.clips_answered) == ("complete", 1)
        assert answers(remote, "SELECT media_key, stage, error_class FROM quarantine ORDER BY ALL") == [
            *[("long.mkv", "fetch", "storage")] * 3,
            ("third.mp4", "probe", "storage"),
        ]
        withheld.clear()
        # What could not even be probed is simply new, and what was planned is not the file's fault.
        again = run_job(remote, Silent(), threading.Event())
        assert again.run.counts.clips_answered == 1 + 3
        assert again.error_classes == ()
        assert answers(remote, "SELECT count(*), count(DISTINCT (clip_id, question_id)) FROM answers") == [(10, 10)]


def test_an_output_that_goes_away_is_waited_for_then_the_run_ends_and_can_be_resumed(job, moto, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.2)
    put_archive(job, moto, "gone")
    settings = {"storage.max_retries": 0, "execution.clips_per_unit": 1}
    with FaultProxy(moto) as proxy:

        def down(for_s=None):
            def unit_done(units):
                if units == 1:
                    proxy.is_down = True
                    if for_s is not None:
                        threading.Timer(for_s, setattr, (proxy, "is_down", False)).start()

            return Watching(unit_done)

        gone = settings | {"archive.endpoint_url": moto, "storage.patience_s": 2}
        remote = on_s3(job, proxy.address, "gone", **gone)
        watching = down()
        with pytest.raises(Unavailable, match=r"s3://results/gone/.*waited 2 s for it.*run again") as failed:
            run_job(remote, watching, threading.Event())
        assert failed.value.error_class == "storage"
        # Units that were begun may have been finished; no others were.
        assert watching.units <= 3
        proxy.is_down = False
        patient = on_s3(job, proxy.address, "gone", **gone | {"storage.patience_s": 250})
        resumed = run_job(patient, down(1.5), threading.Event())
    assert resumed.run.status == "complete"
    assert resumed.totals.clips == 4
    assert answers(
        on_s3(job, moto, "gone"), "SELECT count(*), count(DISTINCT (clip_id, question_id)) FROM answers"
    ) == [(8, 8)]
