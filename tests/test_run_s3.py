"""The whole job with archive and results in S3: the same answers as from a folder."""

from __future__ import annotations

import threading

import pytest
import s3fs

from pipeline import tables
from pipeline.job import StorageConfig, load_job
from pipeline.query import open_results, query
from pipeline.run import forget_media, run_job
from pipeline.storage import open_store
from tests.s3_server import s3_server
from tests.small_jobs import ANSWERS, Silent, run, select

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def endpoint():
    with s3_server("media", "results") as address:
        yield address


@pytest.fixture
def s3_job(job, endpoint, tmp_path):
    """The job of `tests.test_run` with its archive and its results in buckets."""
    filesystem = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True)
    filesystem.put(str(job.parent / "archive"), "media/archive", recursive=True)
    overrides = {
        "archive.uri": "s3://media/archive",
        "archive.endpoint_url": endpoint,
        "output": "s3://results/job",
        "storage.endpoint_url": endpoint,
        "index_url": f"sqlite:///{tmp_path}/index.sqlite",
    }
    return load_job(job, overrides), filesystem


def test_a_job_from_bucket_to_bucket(job, s3_job):
    from_folder = run(job)
    remote, filesystem = s3_job
    summary = run_job(remote, Silent(), threading.Event())
    assert summary.run.clips_answered == from_folder.run.clips_answered == 4
    assert summary.error_classes == (("not_media", 1),)
    with open_results(remote.output, remote.storage) as connection:
        assert list(query(connection, ANSWERS).rows) == select(job, ANSWERS)
    # Nothing is left to do, until an object changes.
    assert run_job(remote, Silent(), threading.Event()).did_nothing
    filesystem.copy("media/archive/long.mkv", "media/archive/short.mp4")
    assert run_job(remote, Silent(), threading.Event()).run.clips_answered == 3

    forget_media(remote, "long.mkv")
    with open_results(remote.output, remote.storage) as connection:
        assert list(query(connection, "SELECT DISTINCT media_key FROM answers").rows) == [("short.mp4",)]
    store = open_store(remote.output, StorageConfig(endpoint_url=remote.storage.endpoint_url))
    generations = {path.split("/")[1] for path, _ in store.list("tables/generation")}
    assert generations == {f"generation={tables.current(store).generation:06d}"}


def test_a_missing_bucket_is_explained(s3_job):
    remote, _ = s3_job
    elsewhere = remote.archive.model_copy(update={"uri": "s3://no-such-bucket/archive"})
    with pytest.raises(Exception, match="no-such-bucket"):
        run_job(remote.model_copy(update={"archive": elsewhere}), Silent(), threading.Event())
