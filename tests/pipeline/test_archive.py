"""Listing archives and storing results, on local disk and on a real S3 server."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import batches
from pipeline.archive import probing
from pipeline.archive.beside import Beside
from pipeline.archive.listing import ArchiveError, ArchiveUnavailable, list_media
from pipeline.archive.not_taken import NotTaken
from pipeline.archive.probing import is_named_as_media, source_of
from pipeline.config.globs import KeyFilter, compile_glob
from pipeline.config.job import ArchiveConfig, ContextConfig, ModelConfig, StorageConfig, load_job
from pipeline.identity import media_id
from pipeline.planning.context import ContextReader
from pipeline.storage.errors import StorageError, StorageUnavailable
from pipeline.storage.local_store import LocalStore
from pipeline.storage.store import Store, open_store
from tests.support.media_files import clip_file
from tests.support.s3_server import CREDENTIALS, s3_server
from workers.errors import MediaRefused
from workers.media.decode import Looked, decode_one
from workers.media.opening import local_path, opened_below
from workers.media.probing import ProbePool, probe
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings, Media, MediaInfo

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("media", "results", "many") as address:
        yield address


@pytest.fixture(scope="module")
def s3(server: str) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(endpoint_url=server, skip_instance_cache=True)


def fill(root: Path, *keys: str) -> None:
    for key in keys:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())


def keys(root: Path | str, *, output: str | None = None, **fields: object) -> list[str]:
    return [media.key for media in list_media(ArchiveConfig(uri=str(root), **fields), leave_out=output)]


# Listing a folder


def test_a_folder_is_listed_in_the_order_of_its_keys(tmp_path: Path):
    fill(tmp_path, "b.mp4", "a/z.mp4", "a.mp4", "a-b/x.mp4", "a/b/c.mp4", "a/b.mp4")
    assert keys(tmp_path) == sorted(["b.mp4", "a/z.mp4", "a.mp4", "a-b/x.mp4", "a/b/c.mp4", "a/b.mp4"])


def test_an_item_knows_its_address_size_and_a_mark_of_its_content(tmp_path: Path):
    fill(tmp_path, "a/b.mp4")
    (media,) = list_media(ArchiveConfig(uri=str(tmp_path)))
    status = (tmp_path / "a/b.mp4").stat()
    assert media.uri == str(tmp_path / "a/b.mp4")
    assert media.size_bytes == len("a/b.mp4")
    assert media.etag == f"{status.st_size}-{status.st_mtime_ns}"
    assert media.media_id == media_id(str(tmp_path), "a/b.mp4")
    os.utime(tmp_path / "a/b.mp4", ns=(0, 1))
    (changed,) = list_media(ArchiveConfig(uri=str(tmp_path)))
    assert (changed.media_id, changed.etag) == (media.media_id, f"{status.st_size}-1")


def test_a_named_archive_may_move(tmp_path: Path):
    for place in ("here", "there"):
        fill(tmp_path / place, "a.mp4")
    here, there = (
        [m.media_id for m in list_media(ArchiveConfig(uri=str(tmp_path / place), name="talks"))]
        for place in ("here", "there")
    )
    assert here == there


def test_hidden_files_and_the_jobs_own_output_are_left_out(tmp_path: Path):
    fill(tmp_path, "a.mp4", ".b.mp4", ".git/c.mp4", "out/tables/answers.parquet", "out2/d.mp4", "x/.y/e.mp4")
    assert keys(tmp_path, output=str(tmp_path / "out")) == ["a.mp4", "out2/d.mp4"]


STRANGE = [
    "new\nline.mp4",
    "quote'\"`.mp4",
    "söme 影片 🎬.mp4",
    "-rf.mp4",
    "$(touch x).mp4",
    "a\\b.mp4",
    " .mp4",
    "%2e%2e.mp4",
]


def test_strange_names_are_kept_exactly(tmp_path: Path):
    fill(tmp_path, *STRANGE)
    listed = list(list_media(ArchiveConfig(uri=str(tmp_path))))
    assert [media.key for media in listed] == sorted(STRANGE)
    assert all(Path(media.uri).read_bytes() == media.key.encode() for media in listed)


def test_a_name_that_is_not_text_is_listed_in_a_form_that_is(tmp_path: Path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    (media,) = list_media(ArchiveConfig(uri=str(tmp_path)))
    assert media.key == "caf\\xe9.mp4"
    assert media.uri == f"file://{tmp_path}/caf%E9.mp4"
    assert Path(local_path(media.uri)).read_bytes() == b"x"


def test_a_name_that_is_not_text_is_decoded(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"ao\xfbt")
    folder.mkdir()
    shutil.copy(clip_file(tmp_path / "plain.mp4", 1), folder / os.fsdecode(b"caf\xe9 %E9?.mp4"))
    config = ArchiveConfig(uri=str(tmp_path), exclude=["plain.mp4"])
    (media,) = list_media(config)
    with ProbePool(1, below=str(tmp_path)) as pool:
        ((_, info),) = pool.probe_many([(media.key, media.uri)])
    decoded = decode_one(media, info, Clip("c", 0, 0, 1), DecodeSettings(), source_of(config))
    assert isinstance(decoded, DecodedClip), decoded
    assert decoded.decoded_share == 1


def test_linked_folders_count_once_and_never_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    archive, outside = tmp_path / "archive", tmp_path / "outside"
    fill(archive, "a/one.mp4")
    fill(outside, "two.mp4", "deep/three.mp4")
    (archive / "a/loop").symlink_to(archive)
    (archive / "a/up").symlink_to(tmp_path)
    (archive / "again").symlink_to(archive / "a")
    (archive / "link1").symlink_to(outside)
    (archive / "link2").symlink_to(outside / "deep")
    (archive / "file.mp4").symlink_to(outside / "two.mp4")
    (archive / "broken.mp4").symlink_to(tmp_path / "nothing")
    (outside / "back").symlink_to(archive)
    followed = ["a/one.mp4", "file.mp4", "link1/deep/three.mp4", "link1/two.mp4"]
    assert keys(archive, follow_links=True) == followed
    (archive / "a/two.mp4").symlink_to(archive / "a/one.mp4")
    with caplog.at_level("WARNING"):
        assert keys(archive) == ["a/one.mp4"]
    assert "3 links point outside the archive and are skipped: " in caplog.text
    assert "file.mp4" in caplog.text
    # The archive's own folder may be a link.
    (tmp_path / "mounted").symlink_to(archive)
    assert keys(tmp_path / "mounted") == ["a/one.mp4"]


def test_a_link_to_what_is_listed_counts_once(tmp_path: Path):
    fill(tmp_path, "a.mp4", "b/x.mp4", ".store/1.mp4", "raw/2.mp4")
    for link, target in {"z.mp4": "a.mp4", "0.mp4": "b/x.mp4", "m.mp4": ".store/1.mp4", "n.mp4": ".store/1.mp4",
                         "o.mp4": "raw/2.mp4"}.items():  # fmt: skip
        (tmp_path / link).symlink_to(target)
    # What cannot be met under its own name is taken once by a link.
    assert keys(tmp_path, exclude=["raw/**"]) == ["a.mp4", "b/x.mp4", "m.mp4", "o.mp4"]
    assert keys(tmp_path) == ["a.mp4", "b/x.mp4", "m.mp4", "raw/2.mp4"]


BINS = [
    *("$RECYCLE.BIN/S-1/a.mp4", "#recycle/b.mp4", "x/lost+found/c.mp4", "x/@eaDir/d.mp4/thumb.mp4"),
    *(".Trash-1000/e.mp4", "System Volume Information/f.mp4", "FOUND.000/g.mp4"),
]


def test_recycle_bins_are_left_out_unless_asked_for(tmp_path: Path):
    fill(tmp_path, "a.mp4", "found.mp4", "lost+found.mp4", *BINS)
    assert keys(tmp_path) == ["a.mp4", "found.mp4", "lost+found.mp4"]
    assert set(BINS) - set(keys(tmp_path, recycle_bins=True)) == {".Trash-1000/e.mp4"}  # hidden, whatever it is


def test_what_is_not_taken_is_counted_by_reason_and_suffix(tmp_path: Path):
    fill(tmp_path / "a", "1.mp4", "2.MP4", "3.mkv", "4.MKV", ".5.mp4", "out/6.mp4", *BINS)
    (tmp_path / "a/7.mp4").symlink_to("1.mp4")
    (tmp_path / "a/8.mp4").symlink_to("/nothing")
    (tmp_path / "a/9").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "a/pipe")
    left = NotTaken()
    config = ArchiveConfig(uri=str(tmp_path / "a"), include=["*.mp4"])
    for _ in range(2):  # a listing that begins again counts anew
        assert [m.key for m in list_media(config, not_taken=left)] == ["1.mp4", "2.MP4", "out/6.mp4"]
    assert left.counts == {
        "by include and exclude": {".mkv": 2},
        "hidden": {".mp4": 1},
        "in recycle bins and systems' own folders": {"folders": 7},
        "links to what is taken anyway": {".mp4": 1},
        "links out of the archive": {"without suffix": 1},
        "no regular files": {".mp4": 1, "without suffix": 1},
    }
    assert ("not taken: by include and exclude", "2 (.mkv 2)") in left.lines()
    with pytest.raises(ArchiveError, match="none of"):
        list(list_media(ArchiveConfig(uri=str(tmp_path / "a"), include=["*.mp4"], exclude=["*.mp4"])))
    strict = ArchiveConfig(uri=str(tmp_path / "a"), include=["*.mp4"], match_case=True)
    assert [m.key for m in list_media(strict)] == ["1.mp4", "out/6.mp4"]


@pytest.mark.parametrize("follows", [False, True])
def test_a_file_that_becomes_a_link_out_of_the_archive_is_not_opened(tmp_path: Path, follows: bool):
    """Between listing and decoding, with the same size and time, so that no etag tells."""
    archive = tmp_path / "archive"
    archive.mkdir()
    secret = clip_file(tmp_path / "secret.mp4", 1)
    shutil.copy2(secret, archive / "a.mp4")
    config = ArchiveConfig(uri=str(archive), follow_links=follows)
    (media,) = list_media(config)
    (archive / "a.mp4").unlink()
    (archive / "a.mp4").symlink_to(secret)
    with ProbePool(1, below=None if follows else str(archive)) as pool:
        ((_, found),) = pool.probe_many([(0, media.uri)])
    decoded = decode_one(media, probe(secret), Clip("c", 0, 0, 1), DecodeSettings(), source_of(config))
    if follows:
        assert isinstance(found, MediaInfo)
        assert isinstance(decoded, DecodedClip)
    else:
        assert found.error_class == decoded.error_class == "media_missing"
        assert "archive.follow_links" in decoded.message


def test_only_regular_files_are_media(tmp_path: Path):
    fill(tmp_path, "a.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.mp4"))
        assert keys(tmp_path) == ["a.mp4"]


def test_archives_that_cannot_be_listed_say_why(tmp_path: Path):
    with pytest.raises(ArchiveError, match=r"does not exist; give the folder .* or s3://"):
        keys(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match="is a file"):
        keys(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match="the archive is empty"):
        keys(tmp_path / "empty")
    with pytest.raises(ArchiveError, match=r"none of 1 files is taken by include \['\*\.mp4'\]"):
        keys(tmp_path, include=["*.mp4"])


@contextmanager
def without_root() -> Iterator[None]:
    """Root reads everything, so for a moment be somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["", "a", "a/link.mp4"])
def test_a_mount_whose_other_end_is_gone_is_an_outage_and_leaves_nothing_out(tmp_path: Path, monkeypatch, name: str):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.mp4").touch()
    (tmp_path / "a/link.mp4").symlink_to("/mnt/else/where.mp4")
    gone, ask = str(tmp_path / name), {"stat": os.stat, "scandir": os.scandir}

    def asked(of: str, path: Any, **options: Any) -> Any:
        if os.fspath(path) == gone:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), gone)
        return ask[of](path, **options)

    monkeypatch.setattr("os.stat", partial(asked, "stat"))
    monkeypatch.setattr("os.scandir", partial(asked, "scandir"))
    with pytest.raises(ArchiveUnavailable, match=r"cannot be listed: .*not connected; check its disk or mount"):
        keys(str(tmp_path), follow_links=True)


@pytest.mark.parametrize("may_be_listed", [False, True])
def test_an_unreadable_folder_stops_the_listing_rather_than_looking_deleted(may_be_listed):
    """Where its names can be read but not followed, each file by itself would look deleted."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        fill(root, "a.mp4", "locked/b.mp4")
        (root / "locked").chmod(
            (0o744 if os.geteuid() == 0 else 0o444) if may_be_listed else 0o700 * (not os.geteuid())
        )
        with without_root():
            with pytest.raises(
                ArchiveError, match=r"locked(/b\.mp4)?: Permission denied; make it readable, or exclude it"
            ):
                keys(root)
            assert keys(root, exclude=["locked/**"]) == ["a.mp4"]
        (root / "locked").chmod(0o700)


def test_a_file_that_may_not_be_read_is_refused_and_not_missing():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        fill(Path(folder), "a.mp4")
        (Path(folder) / "a.mp4").chmod(0)
        with without_root(), pytest.raises(MediaRefused, match="Permission denied"), opened_below(f"{folder}/a.mp4"):
            pass


# Patterns


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("**", ["a", "a/b", "a/b/c\nd"], []),
        ("*.mp4", ["a.mp4", "x/y/a.mp4", ".mp4"], ["a.mkv", "a.mp4/b"]),
        ("talks/*.mp4", ["talks/a.mp4"], ["talks/x/a.mp4", "a.mp4", "x/talks/a.mp4"]),
        ("talks/**", ["talks/a", "talks/x/y"], ["talks", "talks2/a"]),
        ("**/raw/**", ["raw/a", "x/raw/a", "x/y/raw/z/a"], ["raw", "draw/a"]),
        ("a/**/b.mp4", ["a/b.mp4", "a/x/b.mp4", "a/x/y/b.mp4"], ["ab.mp4", "a/xb.mp4"]),
        ("20[12]?/[!x]*", ["201a/b", "2020/yx"], ["203a/b", "2010/x", "201/a"]),
        ("*.{mp4,mkv}", ["a.mp4", "x/a.mkv", "A.MKV"], ["a.webm", "a.mp4,mkv"]),
        ("{Raw,Cut}/*.{Mp4,m*}", ["Raw/a.mP4", "Cut/a.MXF"], ["raw/a.mp4", "CUT/a.mxf"]),
        ("v1.A/{x.b,y}.c/e.Mov", ["v1.A/x.B.c/e.MOV", "v1.A/y.c/e.mov"], ["v1.a/y.c/e.mov", "v1.A/y.c/E.mov"]),
        ("[", ["[", "x/["], ["a"]),
        ("a+(b).mp4", ["a+(b).mp4"], ["aab.mp4"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], other: list[str]):
    compiled = compile_glob(pattern)
    assert [key for key in matching + other if compiled.fullmatch(key)] == matching


@given(st.text(alphabet="ab/.*?[]!{},\\-^\n", min_size=1, max_size=20), st.text(alphabet="ab/.-^\n", max_size=12))
def test_any_pattern_is_refused_or_can_be_matched(pattern: str, key: str):
    try:
        matches = compile_glob(pattern).fullmatch(key) is not None
    except ValueError:
        assert pattern.startswith("/") or pattern.endswith("/") or set(pattern) & set("{}-") or "[/" in pattern
        return
    if not set(pattern) & set("*?[]{}"):
        assert matches == (key == pattern or ("/" not in pattern and key.endswith("/" + pattern)))


@given(st.lists(st.text(alphabet="abc/", min_size=1, max_size=8), max_size=8))
def test_a_folder_that_is_not_entered_holds_nothing_that_is_taken(candidates: list[str]):
    keys_filter = KeyFilter(("**",), ("a/**", "**/b/**"))
    for key in candidates:
        folders = [key[:at] for at, character in enumerate(key) if character == "/"]
        if any(not keys_filter.enters(folder) for folder in folders):
            assert not keys_filter.takes(key)


def test_patterns_fit_accents_in_either_normal_form(tmp_path: Path):
    for form in ("NFC", "NFD"):
        fill(tmp_path / form, *(unicodedata.normalize(form, key) for key in ("privé/x.mp4", "été.mp4", "e.mp4")))
        for pattern in map(unicodedata.normalize, ("NFC", "NFD"), ["privé/**"] * 2):
            assert len(keys(tmp_path / form, exclude=[pattern])) == 2
        assert len(keys(tmp_path / form, include=["?t[é].mp4"])) == 1


def test_exclude_wins_over_include(tmp_path: Path):
    fill(tmp_path, "a/x.mp4", "a/y.mp4", "b/x.mp4", "a/raw/z.mp4")
    assert keys(tmp_path, include=["a/**", "b/*"], exclude=["*/raw/**", "y.*"]) == ["a/x.mp4", "b/x.mp4"]


# Identity and samples


@given(st.text(), st.text(), st.text(), st.text())
def test_ids_are_32_hex_digits_and_differ_with_archive_and_key(archive: str, key: str, archive2: str, key2: str):
    try:
        first, second = media_id(archive, key), media_id(archive2, key2)
    except UnicodeEncodeError:  # lone surrogates never come out of a listing
        return
    assert (first == second) == ((archive, key) == (archive2, key2))
    assert len(first) == 32
    assert int(first, 16) >= 0
    assert media_id(archive + "x", key) != media_id(archive, "x" + key)


def test_a_sample_is_random_reproducible_and_in_order(tmp_path: Path):
    names = [f"{number:03d}.mp4" for number in range(200)]
    fill(tmp_path, *names)
    sample = keys(tmp_path, sample=20, seed=1)
    assert sample == keys(tmp_path, sample=20, seed=1)
    assert sample == sorted(sample)
    assert len(set(sample)) == 20
    assert sample != keys(tmp_path, sample=20, seed=2)
    assert sample != names[:20]
    assert set(keys(tmp_path, sample=10, seed=1)) < set(sample)
    assert keys(tmp_path, sample=999) == names


def test_a_new_file_changes_a_sample_by_at_most_one(tmp_path: Path):
    fill(tmp_path, *[f"{number:03d}.mp4" for number in range(100)])
    before = keys(tmp_path, sample=10)
    for number in range(100, 130):
        fill(tmp_path, f"{number:03d}.mp4")
        after = keys(tmp_path, sample=10)
        assert len(set(before) - set(after)) <= 1
        before = after


def test_samples_are_uniform(tmp_path: Path):
    fill(tmp_path, *[f"{number}.mp4" for number in range(10)])
    counts = dict.fromkeys(keys(tmp_path), 0)
    for seed in range(300):
        for key in keys(tmp_path, sample=3, seed=seed):
            counts[key] += 1
    # 90 expected each; 4.5 standard deviations of a binomial(300, 0.3) are 36.
    assert all(54 <= count <= 126 for count in counts.values()), counts


# Listing S3


def test_s3_and_a_folder_list_the_same(tmp_path: Path, server: str, s3: s3fs.S3FileSystem):
    # This server cannot take a line break in a key; one comes in the listing that is made up below.
    names = [*STRANGE[1:], "b.mp4", "a/z.mp4", "a.mp4", "a-b/x.mp4", "ä/x.mp4", "ÿ.mp4"]
    fill(tmp_path, *names)
    for name in names:
        s3.pipe_file(f"media/same/{name}", name.encode())
    config = ArchiveConfig(uri="s3://media/same", endpoint_url=server)
    listed = list(list_media(config))
    assert [media.key for media in listed] == keys(tmp_path)
    assert all(s3.cat_file(media.uri) == media.key.encode() for media in listed)
    assert all(media.size_bytes == len(media.key.encode()) and '"' not in media.etag for media in listed)


def test_s3_keys_are_kept_exactly_and_stay_below_their_prefix(server: str, s3: s3fs.S3FileSystem):
    inside = ["../up.mp4", "./dot.mp4", "a//b.mp4", "a?versionId=1.mp4", "plus+and space#.mp4", "x/../../y.mp4"]
    for key in inside:
        s3.call_s3("put_object", Bucket="media", Key=f"exact/{key}", Body=key.encode())
    for key in ("exact/", "exact/folder/", "exact/.hidden.mp4", "exact/x/.y/z.mp4", "exact2/other.mp4"):
        s3.call_s3("put_object", Bucket="media", Key=key, Body=b"")
    listed = list(list_media(ArchiveConfig(uri="s3://media/exact", endpoint_url=server)))
    assert [media.key for media in listed] == sorted(inside)
    assert all(media.uri == f"s3://media/exact/{media.key}" for media in listed)


def test_the_own_output_in_s3_is_left_out(server: str, s3: s3fs.S3FileSystem):
    for key in ("a.mp4", "out/tables/x.parquet", "out2/b.mp4"):
        s3.pipe_file(f"media/own/{key}", b"x")
    assert keys("s3://media/own", endpoint_url=server, output="s3://media/own/out") == ["a.mp4", "out2/b.mp4"]
    # An output around the archive leaves it as it is, as with folders.
    assert keys("s3://media/own/out2", endpoint_url=server, output="s3://media/own") == ["b.mp4"]
    assert keys("s3://media/own/out2", endpoint_url=server, output="s3://media") == ["b.mp4"]


def test_what_lies_beside_an_object_is_found_a_page_at_a_time(server: str, s3: s3fs.S3FileSystem):
    names = ["a/b.mp4", "a/b.en.vtt", "a/b.srt", "a/b.c.mp4", "a/b.c.srt", "a/b.d/x.srt", "c.mp4", "z.mp4", "z.txt"]
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for name in (*names, f"a/{composed}.mp4", f"a/{decomposed}.txt"):
        s3.pipe_file(f"media/beside/{name}", name.encode())
    config = ArchiveConfig(uri="s3://media/beside", endpoint_url=server)
    listed = {media.key: media for media in list_media(config)}
    for most in (1000, 3):  # objects in a page
        with (
            mock.patch("pipeline.storage.s3_client.S3_PAGE", most),
            mock.patch("pipeline.archive.beside.S3_PAGE", most),
        ):
            beside = Beside(config)
            found = {key: list(beside.near(listed[key], key.rpartition("/")[2].rpartition(".")[0])) for key in listed}
        assert found["z.mp4"] == ["z.mp4", "z.txt"]
        assert found["a/b.c.mp4"] == ["b.c.mp4", "b.c.srt"]
    assert list(beside.near(listed["a/b.mp4"], "b"))[:2] == ["b.c.mp4", "b.c.srt"]
    near = Beside(config).near(listed["a/b.mp4"], "b")
    assert list(near) == ["b.c.mp4", "b.c.srt", "b.en.vtt", "b.mp4", "b.srt"]
    assert near["b.srt"] == beside.at("a/b.srt")  # by its mark, too
    assert beside.read(near["b.srt"], 3) == (near["b.srt"], b"a/b")
    assert beside.at("z.none.txt") is None
    reader = ContextReader(config, ContextConfig(), ModelConfig(), ("clip.transcript",))
    item = reader.read(listed["z.mp4"])
    assert [cue.text for cue in item.context.cues] == ["z.txt"]
    assert item.of_item(listed["z.mp4"]).sidecars == (("z.txt", hashlib.sha256(b"z.txt").hexdigest()),)
    assert reader.read(listed["a/b.mp4"]).failure.startswith("a/b.srt: cannot be read as context")
    assert not reader.read(listed["c.mp4"]).sidecars
    for sidecars in ((), ("{folder}/{stem}.txt",)):
        reader = ContextReader(config, ContextConfig(sidecars=sidecars), ModelConfig(), ("clip.transcript",))
        (found,) = reader.read(listed[f"a/{composed}.mp4"]).sidecars
        assert found[0] == f"a/{decomposed}.txt"
    s3.pipe_file("media/beside/empty.txt", b"")
    assert beside.read(beside.at("empty.txt"), 3)[1] == b""


def test_an_etag_follows_the_content(server: str, s3: s3fs.S3FileSystem):
    config = ArchiveConfig(uri="s3://media/etag", endpoint_url=server)
    s3.pipe_file("media/etag/a.mp4", b"one")
    (before,) = list_media(config)
    s3.pipe_file("media/etag/a.mp4", b"two")
    (after,) = list_media(config)
    assert before.media_id == after.media_id
    assert before.etag != after.etag


def test_s3_archives_that_cannot_be_listed_say_why(server: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ArchiveError, match="there is no bucket missing; check the name, the region and endpoint_url"):
        keys("s3://missing/x", endpoint_url=server)
    with pytest.raises(ArchiveError, match="the archive is empty"):
        keys("s3://media/nothing-here", endpoint_url=server)
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(ArchiveError, match="no S3 credentials were found; set AWS_ACCESS_KEY_ID"):
        keys("s3://media/x", endpoint_url=server)


def test_a_public_bucket_needs_no_credentials(server: str, s3: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch):
    s3.call_s3("put_object", Bucket="media", Key="public/a.mp4", Body=b"x", ACL="public-read")
    s3.call_s3("put_bucket_acl", Bucket="media", ACL="public-read")
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    assert keys("s3://media/public", endpoint_url=server, anonymous=True) == ["a.mp4"]


def test_a_listing_of_several_pages_is_whole(server: str, s3: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.storage.s3_client.S3_PAGE", 10)
    for number in range(25):
        s3.pipe_file(f"many/{number:02d}.mp4", b"x")
    assert keys("s3://many", endpoint_url=server) == [f"{number:02d}.mp4" for number in range(25)]
    assert len(keys("s3://many", endpoint_url=server, sample=7)) == 7


def test_listing_a_huge_bucket_stays_flat_in_memory():
    """A server that makes up 12 pages of 1,000 keys, each key with a line break in it."""

    class Pages(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            page = int(self.path.partition("continuation-token=")[2].partition("&")[0] or 0)
            entry = "<Contents><Key>{}</Key><ETag>&quot;{}&quot;</ETag><Size>5</Size></Contents>"
            entries = "".join(entry.format(f"{page:04d}/%0A{n:04d}.mp4", f"{page}x{n}") for n in range(1000))
            last = page == 11
            body = (
                f'<?xml version="1.0"?><ListBucketResult><EncodingType>url</EncodingType>{entries}'
                f"<IsTruncated>{'false' if last else 'true'}</IsTruncated>"
                f"{'' if last else f'<NextContinuationToken>{page + 1}</NextContinuationToken>'}</ListBucketResult>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with serving(Pages) as address:
        after_4_000, count = 0, 0
        tracemalloc.start()
        try:
            for media in list_media(ArchiveConfig(uri="s3://huge", endpoint_url=address, anonymous=True)):
                count += 1
                if count == 4_000:
                    after_4_000 = held()
                    assert media.key == "0003/\n0999.mp4"
            grown = held() - after_4_000
        finally:
            tracemalloc.stop()
        assert count == 12_000
        assert grown < 1 << 20, "8,000 items that are kept take 3.6 MB"


class serving:
    """An HTTP server of a given behaviour on a free port, in a thread."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


# Storing


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "results"))
    config = StorageConfig(endpoint_url=request.getfixturevalue("server"))
    return open_store(f"s3://results/{tmp_path.name}", config)


def test_objects_come_back_as_they_were_written(store: Store):
    assert not store.exists("a/b.bin")
    store.write("a/b.bin", b"one")
    assert store.exists("a/b.bin")
    assert not store.exists("a")
    assert store.read_bytes("a/b.bin") == b"one"
    store.write("a/b.bin", b"other")
    with store.open("a/b.bin") as file:
        file.seek(2)
        assert file.read() == b"her"


def test_what_is_not_there_is_a_missing_file(store: Store):
    with pytest.raises(FileNotFoundError):
        store.read_bytes("none")
    with pytest.raises(FileNotFoundError):
        store.open("none")
    assert list(store.list()) == []
    store.delete(["none", "no/such"])


def test_an_object_is_created_once(store: Store):
    assert store.write_once("unit", b"first")
    assert not store.write_once("unit", b"second")
    assert store.read_bytes("unit") == b"first"
    store.delete(["unit"])
    assert store.write_once("unit", b"third")


def test_of_many_writers_at_once_one_creates_the_object(store: Store):
    barrier = threading.Barrier(8)

    def attempt(number: int) -> bool:
        barrier.wait()
        return store.write_once("race/unit", bytes([number]) * 100_000)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert won.count(True) == 1
    assert store.read_bytes("race/unit") == bytes([won.index(True)]) * 100_000
    assert [key for key, _ in store.list()] == ["race/unit"]


def test_listing_gives_keys_and_sizes_in_order(store: Store):
    for key in ("b", "a/2", "a/10", "a-/1", "ab/1"):
        store.write(key, key.encode())
    assert list(store.list()) == [(key, len(key)) for key in sorted(["b", "a/2", "a/10", "a-/1", "ab/1"])]
    assert [key for key, _ in store.list("a/")] == ["a/10", "a/2"]
    assert [key for key, _ in store.list("a/1")] == ["a/10"]
    assert [key for key, _ in store.list("a")] == ["a-/1", "a/10", "a/2", "ab/1"]
    assert list(store.list("zzz/")) == []


def test_deleting_takes_what_is_named(store: Store):
    for number in range(9):
        store.write(f"d/{number % 3}/{number}", b"x")
    store.delete(f"d/{number % 3}/{number}" for number in range(8))
    assert [key for key, _ in store.list()] == ["d/2/8"]


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/../b", "a//b", "a/", "."])
def test_a_key_never_leaves_its_store(store: Store, key: str):
    with pytest.raises(ValueError, match="not a key"):
        store.write(key, b"")


def test_whoever_reads_sees_the_old_or_the_new_object(tmp_path: Path):
    store = LocalStore(tmp_path)
    contents = [bytes([n]) * 200_000 for n in range(20)]
    store.write("current", contents[0])
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(store.read_bytes("current"))

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        store.write("current", content)
    done.set()
    reader.join()
    assert set(seen) <= set(contents)
    assert os.listdir(tmp_path) == ["current"]


def test_a_place_that_cannot_be_written_says_why(tmp_path: Path, server: str):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        open_store(str(tmp_path / "file")).write("a/b", b"")
    with pytest.raises(StorageError, match="there is no bucket missing"):
        open_store("s3://missing/x", StorageConfig(endpoint_url=server)).write("a", b"")
    with pytest.raises(StorageError, match="cannot be reached"):
        open_store("s3://b/x", StorageConfig(endpoint_url="http://127.0.0.1:9", max_retries=0)).write("a", b"")


def test_objects_are_encrypted_as_configured(server: str, s3: s3fs.S3FileSystem):
    open_store("s3://results/sse", StorageConfig(endpoint_url=server, sse="AES256")).write("a", b"x")
    assert s3.call_s3("head_object", Bucket="results", Key="sse/a")["ServerSideEncryption"] == "AES256"
    config = StorageConfig(endpoint_url=server, sse="aws:kms", sse_kms_key_id="alias/mine")
    assert open_store("s3://results/kms", config).write_once("a", b"x")
    assert s3.call_s3("head_object", Bucket="results", Key="kms/a")["SSEKMSKeyId"] == "alias/mine"


def test_failures_that_may_pass_are_tried_again(monkeypatch: pytest.MonkeyPatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    requests: list[str] = []

    class Flaky(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append(self.command)
            failed = len(requests) < 3
            body = b"<Error><Code>ServiceUnavailable</Code><Message>later</Message></Error>" if failed else b""
            self.send_response(503 if failed else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Flaky) as address:
        open_store("s3://b/x", StorageConfig(endpoint_url=address)).write("a", b"data")
        assert len(requests) == 3
        requests.clear()
        with pytest.raises(StorageError, match=r"S3 failed \(ServiceUnavailable\)"):
            open_store("s3://b/x", StorageConfig(endpoint_url=address, max_retries=1)).write("a", b"data")
        assert len(requests) == 2


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (412, "PreconditionFailed", False),
        (409, "ConditionalRequestConflict", StorageError),
        (403, "AccessDenied", StorageError),
    ],
)
def test_what_a_server_says_to_a_second_writer(
    status: int, code: str, expected: object, monkeypatch: pytest.MonkeyPatch
):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    conditions: list[str | None] = []

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            # Nothing before the first PUT; another writer's object after it was refused for one.
            self.send_response(200 if conditions and status == 412 else 404)
            self.send_header("Content-Length", "5")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"other")

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            conditions.append(self.headers.get("If-None-Match"))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Answering) as address:
        store = open_store("s3://b/x", StorageConfig(endpoint_url=address, max_retries=0))
        if expected is StorageError:
            said = {403: r"S3 refuses access .*check the credentials in use", 409: "conflicting requests"}[status]
            with pytest.raises(StorageError, match=said):
                store.write_once("a", b"data")
        else:
            assert store.write_once("a", b"data") is expected
    assert set(conditions) == {"*"}


def test_a_writer_that_is_killed_leaves_whole_objects_only(tmp_path: Path):
    size = 3_000_000
    code = f"""
import sys
from pathlib import Path
from pipeline.storage.store import LocalStore

store, number = LocalStore(Path(sys.argv[1])), 0
while True:
    store.write_once(f"u/{{number}}", bytes({size}))
    store.write("current", bytes({size}))
    number += 1
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "u/5").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    listed = list(LocalStore(tmp_path).list())
    assert len(listed) > 5
    assert {found for _, found in listed} == {size}


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_without_hard_links_objects_are_still_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    def refuse(*_: object) -> None:
        raise OSError(code, "no hard links here")

    monkeypatch.setattr("os.link", refuse)
    store = LocalStore(tmp_path)
    assert store.write_once("a/b", b"first")
    assert not store.write_once("a/b", b"second")
    assert store.read_bytes("a/b") == b"first"
    assert os.listdir(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("write", [LocalStore.write, LocalStore.write_once])
def test_a_mount_that_goes_away_between_writing_and_naming_is_an_outage(tmp_path: Path, monkeypatch, write: Any):
    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    for name in ("os.replace", "os.link", "os.unlink"):
        monkeypatch.setattr(name, gone)
    with pytest.raises(StorageUnavailable, match="not connected"):
        write(LocalStore(tmp_path), "a/b", b"data")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y/z", "y"])), max_size=12), st.randoms())
def test_a_local_store_behaves_like_a_dictionary(tmp_path_factory, operations, chance: random.Random):
    store, expected = LocalStore(tmp_path_factory.mktemp("store")), {}
    for folder, name in operations:
        key, data = f"{folder}/{name}.bin", chance.randbytes(4)
        match chance.choice(["write", "once", "delete"]):
            case "write":
                store.write(key, data)
                expected[key] = data
            case "once":
                assert store.write_once(key, data) == (key not in expected)
                expected.setdefault(key, data)
            case "delete":
                store.delete([key])
                expected.pop(key, None)
    assert [(key, store.read_bytes(key)) for key, _ in store.list()] == sorted(expected.items())


@pytest.mark.parametrize("end", ["IVF", "nut", "caf", "w64", "gxf", "rmvb", "m4b", "trp", "dv", "m2ts", "h264"])
def test_a_name_that_says_media_makes_a_failure_of_what_is_none(end):
    """Whatever the machine's table of types knows: without it the file would only be counted as one beside media."""
    assert is_named_as_media(f"tapes/1999.{end}")
    assert not is_named_as_media(f"tapes/{end}.txt")
    assert not is_named_as_media(end)


def test_what_waits_to_be_fetched_is_not_begun_when_nobody_wants_it_any_more(job, monkeypatch):
    begun, goes_on = [], threading.Event()

    def slow(media, *_):
        begun.append(media.key)
        goes_on.wait(30)
        return Looked("0" * 64, ClipFailure(None, "probe", "not_media", "no"), 0)

    monkeypatch.setattr(probing, "looked_at", slow)
    monkeypatch.setattr(batches, "LEAVE_S", 0.0)
    many = [Media(f"m{n}", f"{n}.mp4", f"s3://media/{n}.mp4", "etag", 10) for n in range(12)]
    with probing.prober(load_job(job, {"archive.uri": "s3://media"})) as probe:
        found = batches.ahead(probe(many), 4)
        while len(begun) < probing.LOOKS_HERE:
            assert next(found) is None
        found.close()
        threading.Timer(0.2, goes_on.set).start()
    assert len(begun) == probing.LOOKS_HERE
