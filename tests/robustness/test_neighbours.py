"""Places that others on the machine, or whoever made a results folder or a checkpoint, may have prepared."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from omnidrop.models import checkpoints
from pipeline.config.job import JobError, make_job
from pipeline.execution import local_ray
from pipeline.records.checksummed_parquet import JournalError
from pipeline.storage.store import open_store
from pipeline.tables import manifest
from workers.errors import CacheUnsafe
from workers.media.fetching import CacheSettings, fetched, own_folder
from workers.records import Media

MEDIA = Media("id", "a.mp4", "s3://nowhere/a.mp4", "etag", 10)
OPTIONS = {"endpoint_url": "http://127.0.0.1:9"}


def prepared_by_link(folder: Path, victim: Path) -> None:
    folder.symlink_to(victim.parent)


def open_to_all(folder: Path, victim: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def of_another_user(folder: Path, victim: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


def in_a_place_for_all(folder: Path, victim: Path) -> None:
    folder.parent.chmod(0o777)


@pytest.mark.parametrize("prepare", [prepared_by_link, open_to_all, of_another_user, in_a_place_for_all])
def test_a_cache_that_somebody_else_prepared_is_not_used(tmp_path, prepare):
    if prepare is of_another_user and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "home").mkdir()
    victim = tmp_path / "home" / "victim"
    victim.write_text("of the user")
    (tmp_path / "tmp").mkdir()
    folder = tmp_path / "tmp" / "omnidrop-media-0"
    prepare(folder, victim)
    with pytest.raises(CacheUnsafe, match="set TMPDIR"), fetched(MEDIA, OPTIONS, CacheSettings(str(folder))):
        pass
    assert victim.read_text() == "of the user"
    assert list(victim.parent.iterdir()) == [victim]


@pytest.mark.parametrize("suffix", [".lock", ".part", ""])
def test_a_link_in_the_cache_is_not_followed(tmp_path, suffix):
    """Left from a time when the folder was open."""
    victim = tmp_path / "victim"
    victim.write_text("of the user")
    folder = own_folder(tmp_path / "cache")
    planted: list[Path] = []
    for path in list(folder.iterdir()):
        path.unlink()
    import hashlib

    entry = folder / hashlib.blake2b(f"{MEDIA.uri}\0{MEDIA.etag}".encode(), digest_size=16).hexdigest()
    planted.append(entry.with_suffix(suffix))
    planted[0].symlink_to(victim)
    with pytest.raises(Exception), fetched(MEDIA, OPTIONS, CacheSettings(str(folder))):  # noqa: B017, PT011 - any, but not the victim
        pytest.fail("somebody else's file was given out")
    assert victim.read_text() == "of the user"


def test_a_local_ray_has_a_folder_of_its_own():
    folder = local_ray.own_ray_folder()
    status = folder.parent.lstat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o700, os.geteuid())
    assert len(str(folder)) < 27  # sockets below it
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)  # as Ray does
    assert local_ray.own_ray_folder() == folder


def test_of_local_rays_that_have_ended_the_last_few_leave_their_logs(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    names = [f"session_2026-11-{day:02d}_00-00-00_000000_{ended.pid}" for day in range(1, 15)]
    names[1] = names[1].replace(str(ended.pid), str(os.getpid()))
    for name in (*names, "another"):
        (tmp_path / name / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(names[-1])
    local_ray._sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "another",
        names[1],
        *names[-local_ray.KEPT :],
        "session_latest",
    ]
    local_ray._sweep(tmp_path / "none yet")


def test_a_local_ray_listens_on_loopback_alone(ray_session):
    open_here = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker of the test before, which is ending
            if process.name().startswith(("raylet", "gcs_server", "ray::")):
                open_here.append(process.net_connections("inet"))
    assert len(open_here) >= 4
    listening = [c.laddr.ip for connections in open_here for c in connections if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 5
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_without_a_loopback_interface_that_is_said_at_once():
    local_ray.check_interface(local_ray.LOOPBACK)
    with pytest.raises(local_ray.RayUnavailable, match=r"no loopback interface \(192\.0\.2\.1: .*ip link set lo up"):
        local_ray.check_interface("192.0.2.1")  # of documentation: no machine has it


def test_the_workers_of_a_local_ray_wait_for_no_other_program(ray_session):
    ray.get(ray.remote(lambda: None).remote())
    levels = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::"):
                levels.add(process.nice())
    assert levels == {psutil.Process().nice()}


ASK = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=None))
"""
"""What a neighbour would do first: whoever reads Ray's key-value store writes it, too, and runs code that way."""


@pytest.mark.parametrize("token", ["none", "another", "ours"])
def test_a_local_ray_asks_for_its_token(ray_session, token):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"none": {"RAY_AUTH_MODE": "disabled"}, "another": {"RAY_AUTH_TOKEN": "1" * 64}, "ours": {}}[token]
    if token == "ours":
        environment["RAY_AUTH_TOKEN_PATH"] = os.environ["RAY_AUTH_TOKEN_PATH"]
    if token != "none":
        environment["RAY_AUTH_MODE"] = "token"
    address = ray.get_runtime_context().gcs_address
    asked = [sys.executable, "-c", ASK, address]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) == (token == "ours"), done.stderr[-2000:]
    assert token == "ours" or "Unauthenticated" in done.stderr


def test_a_token_that_others_can_read_is_not_used(tmp_path, monkeypatch):
    token = local_ray._token(own_folder(tmp_path / "own") / "r")
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    assert local_ray._token(tmp_path / "own" / "r").read_text() == token.read_text()  # runs at once share it
    token.chmod(0o644)
    with pytest.raises(CacheUnsafe, match="mode 600"):
        local_ray._token(tmp_path / "own" / "r")
    token.unlink()
    token.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheUnsafe, match="mode 600"):
        local_ray._token(tmp_path / "own" / "r")


@pytest.mark.parametrize(
    "path",
    [
        *("../../etc/passwd", "/etc/passwd", "generation=000001/../../x", "generation=000001/answers/../../../x"),
        *("other/part-00000.parquet", "generation=000001//x", ""),
    ],
)
@pytest.mark.parametrize("where", ["tables", "files"])
def test_a_manifest_names_nothing_outside_its_tables(tmp_path, path, where):
    given = {
        **{"generation": 1, "digest": "", "rows": {}, "published_at": "", "format_version": manifest.FORMAT_VERSION},
        "tables": {"answers": [path] if where == "tables" else []},
        "files": {path: {"bytes": 1, "blake2b": "", "rows": 1}} if where == "files" else {},
    }
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "current.json").write_text(json.dumps(given))
    with pytest.raises(JournalError, match="is damaged"):
        manifest.current(open_store(str(tmp_path)))


def test_weights_that_are_replaced_with_the_same_size_and_time_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = tmp_path / "checkpoint" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"honest")
    before = weights.stat()
    first = checkpoints.checkpoint_hash(weights.parent)
    assert checkpoints.checkpoint_hash(weights.parent) == first
    weights.write_bytes(b"planted"[:6])
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checkpoints.checkpoint_hash(weights.parent) != first


def test_a_memory_of_hashes_that_others_may_write_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = tmp_path / "checkpoint" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"honest")
    first = checkpoints.checkpoint_hash(weights.parent)
    memory = tmp_path / "cache" / "omnidrop" / "file_hashes.json"
    memory.write_text(json.dumps(dict.fromkeys(json.loads(memory.read_text()), "f" * 64)))
    assert checkpoints.checkpoint_hash(weights.parent) != first  # ours to write, so ours to be fooled by
    memory.chmod(0o666)
    assert checkpoints.checkpoint_hash(weights.parent) == first


def test_a_revision_goes_with_a_name_on_the_hub(tmp_path):
    base = {"name": "a", "archive": {"uri": str(tmp_path / "in")}, "output": str(tmp_path / "out")}
    base["question_set"] = "toy-world"
    job = make_job({**base, "model": {"path": "Qwen/Qwen2.5-Omni-3B", "revision": "0123abc"}})
    assert job.model.checkpoint == "Qwen/Qwen2.5-Omni-3B@0123abc"
    for path in ("tiny", str(tmp_path)):
        with pytest.raises(JobError, match="is only for hub checkpoints"):
            make_job({**base, "model": {"path": path, "revision": "0123abc"}})
