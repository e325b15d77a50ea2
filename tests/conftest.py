"""What all tests share: settings for a busy machine, and fixtures that are dear."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from filelock import FileLock
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from omnidrop.models.checkpoints import EMBEDDED
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.storage.store import open_store
from tests.support.made_results import make_results
from tests.support.media_files import clip_file
from tests.support.postgres_server import postgres_server
from tests.support.small_jobs import QUESTIONS, cli
from tests.support.stub_hub import stub_hub
from workers.media import probing
from workers.media.ffmpeg import packed_ffmpeg

# Collecting imports some 5,000 modules whose objects stay: looked over once, not each time a test collects garbage.
gc.disable()

# A busy machine may take a second for what takes a millisecond; tests that bound time do so themselves.
settings.register_profile("omnidrop", deadline=None)
settings.load_profile("omnidrop")

# A system's ffmpeg may come, go or be broken while tests run; which one is chosen is a test of its own.
os.environ["OMNIDROP_FFMPEG"] = packed_ffmpeg()

# Two cores are shared by Ray's workers, ffmpeg and the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Of clusters that tests start; a run's own Ray sees to it itself. At Ray's 15 a worker gets nothing beside busy tests.
NICENESS = "RAY_worker_niceness"
os.environ.setdefault(NICENESS, "0")

CORES_BEFORE = pytest.StashKey()

RAY_TOGETHER = ("test_docs", "test_execution", "test_metrics", "test_neighbours", "test_ray_workers", "test_scale")
"""Files with tests that need `ray_session` or `demo`: one test process takes them all, so that one Ray serves them."""
LONGEST_FIRST = (
    *(*RAY_TOGETHER, "test_cluster", "test_crash", "test_run", "test_what_counts", "test_whose_fault"),
    *("test_passes", "test_workers", "test_media", "test_cost_control", "test_run_s3", "test_evaluate", "test_report"),
    *("test_results", "test_retry", "test_evidence", "test_hostile_media", "test_real_media", "test_verify"),
    *("test_train_tiny", "test_archive", "test_any_history", "test_query", "test_index", "test_audit", "test_ask"),
    *("test_cli", "test_memory", "test_mistakes", "test_schedule", "test_probe", "test_whole_videos", "test_export"),
    *("test_secrets",),
)
"""Files of more than ten seconds."""


def pytest_collection_modifyitems(items):
    """Long files come first: processes that take a file at a time (`--dist loadfile`) are then busy to the end. Of
    `RAY_TOGETHER`, what needs a Ray comes before what does not."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}

    def order(item):
        file = item.path.stem
        needs_none = file in RAY_TOGETHER and "ray_session" not in item.fixturenames
        return file not in RAY_TOGETHER, needs_none, place.get(file, len(place))

    items.sort(key=order)


def pytest_collection_finish():
    gc.enable()
    gc.freeze()
    # By default each 700 objects are reason enough to look: a twentieth of the tests' CPU seconds.
    gc.set_threshold(10_000)


def pytest_unconfigure():
    gc.unfreeze()  # or DuckDB prints forty lines of what was never freed


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    session.config.stash[CORES_BEFORE] = psutil.cpu_times()


def pytest_terminal_summary(terminalreporter, config):
    """Whether CPU seconds are what a run of the whole takes, or waiting is."""
    before, now = config.stash[CORES_BEFORE], psutil.cpu_times()
    idle = sum(getattr(now, kind, 0) - getattr(before, kind, 0) for kind in ("idle", "iowait"))
    terminalreporter.write_line(f"all cores: {sum(now) - sum(before):.0f} s, of which {idle:.0f} idle")


class FilesOfOneRay(LoadFileScheduling):
    """A file at a time, but `RAY_TOGETHER` as one."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return "ray" if Path(file).stem in RAY_TOGETHER else file


def pytest_xdist_make_scheduler(config, log):
    return FilesOfOneRay(config, log) if config.getvalue("dist") == "loadfile" else None


class SharedRay:
    """The Ray of a test process, while files that need it follow each other: it takes 8 s of a core to start and one
    second in thirteen while it waits."""

    def __init__(self):
        self._open = contextlib.ExitStack()
        self._file = None

    def start(self, file=None):
        from pipeline.execution.local_ray import local_ray

        if self._file is None:
            # Metrics arrive after a second instead of ten.
            quick = {"metrics_report_interval_ms": 1000}
            self._open.enter_context(pytest.MonkeyPatch.context()).delenv(NICENESS)  # as where a user starts it
            self._open.enter_context(local_ray(4, logging_level="error", log_to_driver=False, _system_config=quick))
        self._file = file or self._file

    def end(self, file=None):
        """End it, unless the last test that needed it is one of `file`."""
        if self._file not in (None, file):
            self._file = None
            self._open.close()


shared_ray = SharedRay()


def pytest_runtest_setup(item):
    if "ray_session" in item.fixturenames:
        shared_ray.start(item.path)
    else:
        shared_ray.end(item.path)


def pytest_sessionfinish():
    shared_ray.end()


@pytest.fixture
def ray_session():
    """A Ray as a run without a cluster starts it (`SharedRay`). Takes 6 s and 1 GB."""


@pytest.fixture(scope="session", autouse=True)
def embedded_models_once():
    """An embedded checkpoint is loaded once by a test process: a third of a second of some 400 runs and models. Nothing
    is left in it but features remembered of clips, which each load forgets."""
    from omnidrop.models import registry

    loaded = {}

    def load(model, **how):
        if model not in EMBEDDED:
            return real(model, **how)
        key = model, *sorted((name, str(given)) for name, given in how.items())
        if key not in loaded:
            loaded[key] = real(model, **how)
            gc.freeze()  # with what it imported: half a second each time that all is looked over
        adapter = loaded[key]
        adapter.memory.clear()
        return adapter

    real, registry.load = registry.load, load
    yield
    registry.load = real


@pytest.fixture(scope="session", autouse=True)
def disks_are_not_waited_for():
    """What this process writes it reads again: that it also outlives a power cut no test can see, and a run of twelve
    small files would wait for the disk seventy times, a quarter of its time."""
    before, os.fsync = os.fsync, lambda file: None
    yield
    os.fsync = before


@pytest.fixture(scope="session", autouse=True)
def probers_one_by_one():
    """On a busy machine a few files wait long enough for a second prober, which takes longer to start than they do."""
    before, probing.ALONE_S = probing.ALONE_S, 10.0
    yield
    probing.ALONE_S = before


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Two videos of different length, made once."""
    folder = tmp_path_factory.mktemp("videos")
    clip_file(folder / "short.mp4", 3, size="64x48", rate=10)
    clip_file(folder / "long.mkv", 7, size="64x48", rate=10)
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory, worker_id):
    """The folder that `omnidrop demo` leaves: archive, job.yaml, results. Shared, so look and do not touch."""
    # Made by whichever of the test processes comes first: it takes half a minute.
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "demo"
    done = folder.with_suffix(".done")
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            shared_ray.start("demo")
            result = cli("demo", "--folder", folder)
            assert result.exit_code == 0, result.output
            done.touch()
    return folder


@pytest.fixture(scope="session")
def made_results(tmp_path_factory):
    """The folder of `made_results`, made once: look and do not touch."""
    folder = tmp_path_factory.mktemp("made") / "results"
    folder.mkdir()
    make_results(open_store(str(folder)), f"sqlite:///{folder}/index.sqlite")
    return folder


@pytest.fixture
def results(made_results, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made_results, tmp_path / "results"))


@pytest.fixture
def no_home(monkeypatch):
    """As a container's user has it that no file names: `docker run --user 1234`."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stub of the hub that serves `acme/tiny`, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(EMBEDDED["tiny"], tmp_path / "hub" / "acme" / "tiny")
    with stub_hub(tmp_path / "hub", tmp_path / "hub-cache", monkeypatch) as served:
        yield served


def write_job(folder, videos):
    """A job file over an archive of the two videos and one file that is no video."""
    shutil.copytree(videos, folder / "archive")
    (folder / "archive" / "notes.mp4").write_text("not a video at all")
    (folder / "questions.yaml").write_text(QUESTIONS)
    (folder / "job.yaml").write_text(
        "name: test\narchive: {uri: archive}\noutput: results\nquestion_set: questions.yaml\n"
        "clips: {length_s: 3, fps: 1}\npruning: {retained_ratio: 0.4}\n"
        "execution: {ray_address: in-process, clips_per_unit: 2}\n"
    )
    return folder / "job.yaml"


@pytest.fixture
def job(tmp_path, videos):
    """A job file over an archive of the two videos and one file that is no video."""
    return write_job(tmp_path, videos)


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of one node with token authentication, on ports of its own: (dashboard address, environment).

    6 s and 1.4 GB, so a module's tests share it.
    """
    # A short path: Ray puts sockets below it, and their names are limited to 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="omnidrop-ray-", dir="/tmp"))
    (folder / "token").write_text("0" * 64)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
    # As on a cluster's machines, `omnidrop` is a command there.
    own["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
    port, dashboard, agent = (free_port() for _ in range(3))
    environment["HEAD_OF_THE_CLUSTER"] = f"127.0.0.1:{port}"
    start = [shutil.which("ray", path=own["PATH"]), "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    start += [f"--temp-dir={folder}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    with open(folder / "head.log", "wb") as log:
        head = psutil.Popen(start, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", dashboard), 1):
                break
            assert head.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        ours = [head, *head.children(recursive=True)]
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(ours, timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_process():
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres(postgres_process):
    return postgres_process.url


@pytest.fixture(params=["sqlite", "postgresql"])
def index_url(request, tmp_path):
    """An empty index: each test that asks for it runs on both databases."""
    if request.param == "sqlite":
        (tmp_path / "results").mkdir(exist_ok=True)
        return f"sqlite:///{tmp_path}/results/index.sqlite"
    return emptied(request.getfixturevalue("postgres"))


def emptied(url):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    engine.dispose()
    return url


@pytest.fixture
def empty_postgres(postgres):
    """The same, on PostgreSQL alone."""
    return emptied(postgres)


@pytest.fixture
def index(index_url):
    opened = SavingsIndex(index_url)
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "results"))


@pytest.fixture
def journal(store):
    return Journal(store)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
