"""A store that means harm: whatever it sends, a call ends by its deadline, within its bytes, as a named error."""

from __future__ import annotations

import resource
import time

import pytest
from botocore.exceptions import ClientError

from pipeline.archive.listing import ArchiveError, list_media
from pipeline.config.job import ArchiveConfig
from pipeline.storage import s3_client
from tests.support.hostile_store import entry, hostile_store
from workers import redaction
from workers.errors import MediaError, MediaRefused, StorageFailed
from workers.media import one_server
from workers.media.fetching import CacheSettings, fetched
from workers.media.probing import probe
from workers.media.remote import RemoteFile
from workers.records import Media

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIDHOSTILE12345", "AWS_SECRET_ACCESS_KEY": "s3cr3tOfTheUser!", "AWS_SESSION_TOKEN": "tokenOfTheSession"}  # noqa: E501  # fmt: skip


@pytest.fixture
def store(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with hostile_store() as store:
        yield store


def options(store):
    quick = {"retries": {"mode": "standard", "total_max_attempts": 1}, "read_timeout": 5, "connect_timeout": 2}
    return {"endpoint_url": store.address, "config_kwargs": quick}


def keys(store, bucket: str) -> list[str]:
    return [media.key for media in list_media(ArchiveConfig(uri=f"s3://{bucket}", endpoint_url=store.address))]


@pytest.mark.parametrize("bucket", ["trickle", "endless-body", "ignores-ranges", "redirect"])
def test_probing_and_fetching_end_on_time_and_in_bounds(store, tmp_path, bucket):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with pytest.raises(MediaError) as probed:
        probe(f"s3://{bucket}/a.mp4", timeout_s=1.5, storage_options=options(store))
    media = Media("id", "a.mp4", f"s3://{bucket}/a.mp4", "0123456789abcdef", 1 << 30)
    cache = CacheSettings(str(tmp_path / "cache"), timeout_s=1.5)
    with pytest.raises(StorageFailed), fetched(media, options(store), cache):
        pass
    assert time.monotonic() - started < 8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert probed.value.error_class in ("storage", "not_media", "probe_timeout")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix in ("", ".part") and path.name != "room"]


def test_the_range_that_is_asked_for_is_what_comes(store):
    file = RemoteFile("s3://ignores-ranges/a.mp4", options(store), time.monotonic() + 10)
    assert len(file.read(0, 1000)) == 1000
    with pytest.raises(StorageFailed, match="asked for bytes from 5 on, the server gives the whole object"):
        file.read(5, 1000)


def test_no_request_goes_to_another_host(store):
    with hostile_store() as other:
        store.elsewhere = other.address
        with pytest.raises(StorageFailed, match="redirects to http"):
            probe("s3://redirect/a.mp4", timeout_s=5, storage_options=options(store))
        with pytest.raises(ArchiveError, match="redirects to http"):
            keys(store, "redirect")
        assert other.requests == []
    assert any("x-amz-security-token" in headers for _, headers in store.requests)  # it is sent, and only there


def test_an_endless_reply_is_cut_off(store, monkeypatch):
    monkeypatch.setattr(one_server, "REPLY_BYTES", 1 << 20)
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 0)
    with pytest.raises(ArchiveError, match="longer than 1048576 bytes"):
        keys(store, "endless-listing-body")


MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (lambda token: entry() + MORE.format(token + "x"), "not in S3's order, or repeated"),
        (lambda token: entry(f"{len(token):09}") + MORE.format("same"), "does not end"),
        (lambda token: MORE.format(token + "x"), "does not end"),
        (lambda token: entry() + "<IsTruncated>true</IsTruncated>", "does not end"),
        (lambda token: entry("b") + entry("a"), "not in S3's order"),
        (lambda token: entry(etag=None), "impossible object .*etag 'None'"),
        (lambda token: entry(size=10**30), "impossible object .*size 1000000"),
        (lambda token: entry(size=-1), "impossible object .*size -1"),
        (lambda token: "<Contents><Size>1</Size></Contents>", "impossible object .*key 'None'"),
        (lambda token: entry("x" * 5000), "impossible object"),
        (lambda token: entry(size="many"), "S3 failed"),
        (lambda token: "<Contents><Key>", "S3 failed"),
        (
            lambda token: "<html>please log in</html>" if token else entry() + MORE.format("x"),
            "not an object listing",
        ),
    ],
)
def test_listings_that_lie_are_named(store, monkeypatch, page, said):
    monkeypatch.setattr(s3_client, "EMPTY_PAGES", 20)
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 0)
    store.lists["liar"] = page
    started = time.monotonic()
    with pytest.raises(ArchiveError, match=said):
        keys(store, "liar")
    assert time.monotonic() - started < 10


def test_a_page_that_trickles_ends(store, monkeypatch):
    monkeypatch.setattr(s3_client, "PAGE_S", 0.5)

    def page(token: str) -> str:
        store.over.wait(3)
        return entry()

    store.lists["slow"] = page
    with pytest.raises(ArchiveError, match="FSTimeoutError"):
        keys(store, "slow")


def test_what_a_server_says_is_repeated_in_a_line():
    reply = {"Error": {"Code": "Code\n" * 20, "Message": "word\n" * 100_000}, "ResponseMetadata": {}}
    said = str(s3_client.explain_s3_error(ClientError(reply, "ListObjectsV2"), "s3://bucket/"))
    assert "word word" in said
    assert len(said) < 1500
    assert "\n" not in said


def test_an_honest_listing_passes(store):
    store.lists["honest"] = lambda token: entry("a" if not token else "b") + ("" if token else MORE.format("t"))
    assert keys(store, "honest") == ["a", "b"]


def test_credentials_from_a_profile_are_masked(store, tmp_path, monkeypatch):
    """The server quotes them; they are in no variable."""
    for name in SECRETS:
        monkeypatch.delenv(name)
    lines = ["[of-a-profile]", *(f"{name.lower()} = {value}-p" for name, value in SECRETS.items())]
    (tmp_path / "credentials").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "of-a-profile")
    monkeypatch.setattr(redaction, "_noted", set())
    with pytest.raises(ArchiveError) as caught:
        keys(store, "echo")
    file = RemoteFile("s3://echo/a.mp4", options(store), time.monotonic() + 10)
    with pytest.raises(MediaRefused) as read:
        file.read(0, 10)
    assert "***" in str(read.value)
    for message in (str(caught.value), str(read.value)):
        assert not any(value in message for value in SECRETS.values())
