"""Two real S3 servers behind a proxy that spoils requests; waiting for what is full or gone."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.archive.listing import list_media
from pipeline.config.sections import ArchiveConfig, StorageConfig
from pipeline.journal.output_id import claim_output
from pipeline.storage import outage as patience_module
from pipeline.storage import s3_client
from pipeline.storage.errors import StorageError, StorageUnavailable, Unavailable
from pipeline.storage.local_store import LocalStore
from pipeline.storage.outage import Patience
from pipeline.storage.store import PatientStore, caveats, open_store
from pipeline.tables import publish
from tests.support.fault_proxy import KINDS, FaultProxy
from tests.support.s3_server import rclone_server, s3_server

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def moto():
    with s3_server("media", "results") as address:
        yield address


def store_at(address, name, **settings):
    return open_store(f"s3://results/{name}", StorageConfig(endpoint_url=address, **settings))


def first_of_each():
    """Spoils the first request of every kind to every object."""
    seen = Counter()

    def spoils(request):
        seen[request.method, request.raw_path] += 1
        return seen[request.method, request.raw_path] == 1

    return spoils


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_fault_does_to_one_request_is_mended_by_the_next(moto, kind, monkeypatch):
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.5)
    data = kind.encode() * 20_000
    with FaultProxy(moto, rate=1.0, kinds=[kind], spoils=first_of_each()) as proxy:
        store = store_at(proxy.address, kind)
        # True also where the server had stored it and only the reply was lost.
        assert store.write_once("unit", data)
        assert store.read_bytes("unit") == data
        assert not store.write_once("unit", b"another's")
        assert list(store.list()) == [("unit", len(data))]
        assert proxy.faults[kind] >= 4
    assert store_at(moto, kind).read_bytes("unit") == data


def test_a_server_that_stays_away_is_named_after_so_many_tries(moto):
    with FaultProxy(moto, rate=1.0, kinds=["slow_down"]) as proxy:
        with pytest.raises(StorageUnavailable, match=r"S3 failed \(SlowDown\)"):
            store_at(proxy.address, "away", max_retries=1).write("unit", b"data")
        # botocore's two, and the one more that s3fs has for SlowDown.
        assert proxy.requests == 4
        proxy.is_down = True
        with pytest.raises(StorageUnavailable, match="s3://results/away/unit"):
            store_at(proxy.address, "away", max_retries=0).write("unit", b"data")


def test_a_listing_goes_on_where_it_broke_off(moto, monkeypatch):
    monkeypatch.setattr(s3_client, "S3_PAGE", 3)
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 0)
    monkeypatch.setattr(patience_module, "FIRST_PAUSE_S", 0.1)
    keys = [f"{number:02d}.mp4" for number in range(10)]
    for key in keys:
        open_store("s3://media/pages", StorageConfig(endpoint_url=moto)).write(key, key.encode())
    with FaultProxy(moto) as proxy:
        archive = ArchiveConfig(uri="s3://media/pages", endpoint_url=proxy.address)
        listed = Patience(30).listing(lambda: list_media(archive), key=lambda media: media.key)
        found = [next(listed).key for _ in range(4)]
        proxy.is_down = True
        threading.Timer(1.0, setattr, (proxy, "is_down", False)).start()
        found += [media.key for media in listed]
    assert found == keys


def test_objects_that_cannot_be_deleted_just_now_are_deleted_later(moto, monkeypatch):
    """The server answers for each object: with 200 for the request, and with a fault for some."""
    monkeypatch.setattr(patience_module, "FIRST_PAUSE_S", 0.01)
    store = store_at(moto, "deleted")
    store.write("a", b"")
    real, codes = store._filesystem.call_s3, ["SlowDown", "AccessDenied"]

    def call_s3(method, **asked):
        if method == "delete_objects" and codes:
            return {"Errors": [{"Key": "a", "Code": codes.pop(0), "Message": "not now"}]}
        return real(method, **asked)

    monkeypatch.setattr(store._filesystem, "call_s3", call_s3)
    with pytest.raises(StorageError, match=r"AccessDenied: not now; check that s3:DeleteObject"):
        PatientStore(store, Patience(100)).delete(["a"])
    PatientStore(store, Patience(100)).delete(["a"])
    assert not store.exists("a")


def test_a_listing_that_never_begins_is_not_waited_for(moto, monkeypatch):
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 1)
    archive = ArchiveConfig(uri="s3://media/none", endpoint_url="http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(Unavailable, match="check endpoint_url"):
        next(Patience(1000).listing(lambda: list_media(archive), key=lambda media: media.key))
    assert time.monotonic() - started < 60


def test_conditional_creates_are_kept_by_one_server_and_ignored_by_the_other(moto):
    kept = store_at(moto, "caveats")
    kept.write("object", b"data")
    assert caveats(kept, "object") == ()
    with rclone_server("results") as rclone:
        ignored = store_at(rclone, "caveats")
        assert ignored.write_once("object", b"data")
        (said,) = caveats(ignored, "object")
        assert "ignores If-None-Match" in said
        # What holds all the same: an object that is there is not replaced by one that comes later.
        assert not ignored.write_once("object", b"later")
        assert ignored.read_bytes("object") == b"data"


# Patience


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(patience_module, "FIRST_PAUSE_S", 0.05)


class Failing:
    """Fails so many times, then works."""

    def __init__(self, times):
        self.left, self.calls = times, 0

    def __call__(self):
        self.calls += 1
        if self.left:
            self.left -= 1
            raise StorageUnavailable("the disk is full; make room")
        return "done"


def test_a_failure_that_passes_is_waited_for():
    attempt, patience = Failing(2), Patience(60)
    assert patience.call(attempt) == "done"
    assert attempt.calls == 3
    assert not patience.is_waiting()


def test_while_one_waits_all_can_see_it_and_when_it_gives_up_all_do():
    patience, failures = Patience(1.0), []

    def work():
        try:
            patience.call(Failing(10**6))
        except Unavailable as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert patience.is_waiting()
    for thread in threads:
        thread.join()
    assert len(set(failures)) == 1
    assert isinstance(failures[0], StorageUnavailable)
    assert str(failures[0]).startswith("the disk is full; make room (waited 1 s for it: storage.patience_s)")
    with pytest.raises(StorageUnavailable, match="run again"):
        patience.is_waiting()


def test_a_stop_ends_the_waiting():
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        Patience(1000, stop, stop_grace_s=0.5).call(Failing(10**6))
    assert time.monotonic() - started < 100


def test_a_loop_that_cannot_wait_is_told_when_to_try_again():
    patience, error = Patience(0.5), StorageUnavailable("no room")
    patience.refused(error)
    assert patience.is_waiting()
    patience.succeeded()
    assert not patience.is_waiting()
    patience.refused(error)
    time.sleep(1.0)
    with pytest.raises(StorageUnavailable, match="no room"):
        patience.refused(error)


@pytest.mark.parametrize("error", [errno.ESTALE, errno.EIO])
def test_a_file_that_cannot_be_read_just_now_is_waited_for(tmp_path, monkeypatch, error):
    """A folder on a server that comes back: it may fail as well while something is read as while it is written."""
    monkeypatch.setattr(patience_module, "FIRST_PAUSE_S", 0.01)
    store = PatientStore(open_store(str(tmp_path)), Patience(100))
    store.write("a/b", b"there")
    failures, real = iter([OSError(error, os.strerror(error))]), Path.read_bytes

    def read(path):
        if (failure := next(failures, None)) is not None:
            raise failure
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert store.read_bytes("a/b") == b"there"
    with pytest.raises(StorageError, match=r"cannot read .*/a: Is a directory"):
        store.open("a")


def test_an_output_that_goes_away_before_a_listing_begins_is_waited_for(tmp_path, monkeypatch):
    """A mount that is gone for a moment: `index` lists its output long after it first read it."""
    monkeypatch.setattr(patience_module, "FIRST_PAUSE_S", 0.01)
    store = PatientStore(open_store(str(tmp_path)), Patience(100))
    store.write("a/b", b"there")
    failures, real = iter([errno.ENOTCONN, errno.ENOTCONN]), os.scandir

    def scandir(folder):
        if (number := next(failures, None)) is not None:
            raise OSError(number, os.strerror(number))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [key for key, _ in store.list("a/")] == ["a/b"]
    assert next(failures, None) is None


def test_a_folder_that_goes_while_it_is_looked_for_is_made_again(tmp_path, monkeypatch):
    """A deletion beside us removes the folder between `mkdir` finding it there and looking what it is."""
    store, real = LocalStore(tmp_path), os.mkdir
    store.write("a/old", b"")

    def mkdir(path, *mode):
        try:
            real(path, *mode)
        except FileExistsError:
            store.delete(["a/old"])
            raise

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert store.write_once("a/new", b"there")
    assert store.read_bytes("a/new") == b"there"


def test_only_what_may_pass_is_waited_for(tmp_path):
    (tmp_path / "file").touch()
    store, started = PatientStore(open_store(str(tmp_path / "file")), Patience(1000)), time.monotonic()
    with pytest.raises(Exception, match="a part of the path is a file"):
        store.write("a/b", b"")
    assert time.monotonic() - started < 100


class Forgetful(LocalStore):
    """As a server does that answers each write with success, or a proxy before one that remembers replies."""

    def write_once(self, key, data):
        return True


def test_a_store_that_does_not_keep_what_is_written_is_named(tmp_path):
    with pytest.raises(StorageError, match="does not keep what is written"):
        claim_output(Forgetful(tmp_path))


class SaysItIsThere(LocalStore):
    """As a server does that answers each HEAD with success."""

    def write_once(self, key, data):
        return False


def test_a_store_that_has_whatever_is_asked_for_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"generations 1 to 1000 are all taken"):
        publish._claim(SaysItIsThere(tmp_path), None)
