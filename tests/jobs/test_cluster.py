"""Running on a cluster: what `omnidrop submit` sends and says, on a real Ray of one node."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest
import s3fs
from aiohttp import web

from pipeline.config.job import load_job
from pipeline.launch import submit
from pipeline.launch.submit import (
    MAX_UPLOAD_BYTES,
    Cluster,
    ClusterError,
    LostCluster,
    SubmissionError,
    make_upload,
)
from pipeline.planning.open_job import open_output
from pipeline.questions.question_set import QuestionSetError
from pipeline.storage.store import open_store
from tests.conftest import free_port
from tests.support.forked_commands import forked_commands
from tests.support.planted_secrets import IN_FILES, PLANTED, leaks
from tests.support.s3_server import s3_server
from tests.support.small_jobs import ANSWERS, QUESTIONS, run, select
from workers.media.confinement import end, start
from workers.media.ffmpeg import find_ffmpeg

KNOWN = b"Is a tone heard?"
"""What must be found, so that finding no credential means something."""


@pytest.fixture(scope="module")
def bucket():
    """An S3 server with two buckets, and credentials in the environment."""
    with s3_server("media", "results") as endpoint, mock.patch.dict(os.environ, PLANTED):
        yield endpoint


@pytest.fixture(scope="module")
def cluster(bucket, cluster):
    """A cluster whose processes have the credentials, as on a cluster's machines."""
    return cluster


@pytest.fixture(scope="module")
def commands(cluster):
    """The command line as of one who has the cluster's token."""
    with forked_commands(cluster[1], ["jobs.submit", "ray.job_submission", "ray.dashboard.modules.job.sdk"]) as made:
        yield made


# What is sent


def test_only_the_job_and_its_questions_are_sent(job, tmp_path):
    job.write_text(job.read_text() + "index_url: postgresql+psycopg://me:${OMNIDROP_INDEX_PASSWORD}@db/omnidrop\n")
    upload = make_upload(load_job(job, {"clips.length_s": 5}), [tmp_path])
    assert sorted(upload) == ["job.yaml", "questions.yaml"]
    assert upload["questions.yaml"] == (tmp_path / "questions.yaml").read_bytes()
    there = tmp_path / "on-the-cluster"
    there.mkdir()
    for name, content in upload.items():
        (there / name).write_bytes(content)
    arrived = load_job(there / "job.yaml")
    changed = {"question_set": str(there / "questions.yaml"), "clips.length_s": 5, "execution.ray_address": "auto"}
    assert arrived == load_job(job, changed)
    assert arrived.index_url == "postgresql+psycopg://me:${OMNIDROP_INDEX_PASSWORD}@db/omnidrop"


def test_a_built_in_question_set_is_named_and_not_sent(job, tmp_path):
    assert list(make_upload(load_job(job, {"question_set": "toy-world"}), [tmp_path])) == ["job.yaml"]


def test_paths_of_this_machine_are_refused_by_name(job, tmp_path, monkeypatch):
    with pytest.raises(SubmissionError) as refused:
        make_upload(load_job(job))
    assert f"archive.uri: {tmp_path}/archive is a path on this machine" in str(refused.value)
    assert f"output: {tmp_path}/results" in str(refused.value)
    assert "--shared" in str(refused.value)
    with pytest.raises(SubmissionError, match=r"^output: "):
        make_upload(load_job(job), [tmp_path / "archive"])
    # A folder whose name begins alike is another folder.
    with pytest.raises(SubmissionError, match=r"archive\.uri"):
        make_upload(load_job(job), [f"{tmp_path}/arch"])
    remote = {"archive.uri": "s3://media", "output": "s3://results", "index_url": "sqlite:////var/index.sqlite"}
    assert make_upload(load_job(job, remote))
    # A checkpoint named like a hub id counts as a folder where it is one, as in `omnidrop index`.
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SubmissionError, match=r"model\.path"):
        make_upload(load_job(job, remote | {"model.path": "org/model"}))
    with pytest.raises(SubmissionError, match=r"index_url: .* relative"):
        make_upload(load_job(job, remote | {"index_url": "sqlite:///index.sqlite"}))


def test_a_job_that_cannot_run_is_refused_before_it_is_sent(job, tmp_path):
    (tmp_path / "questions.yaml").write_text(QUESTIONS.replace("circle, square", "circle"))
    with pytest.raises(QuestionSetError):
        make_upload(load_job(job), [tmp_path])


def test_the_largest_files_that_are_read_are_refused(job, tmp_path):
    comment = "# " + "x" * (400 * 1024) + "\n"
    (tmp_path / "questions.yaml").write_text(QUESTIONS + comment)
    long_prompts = {f"name{n}": "y" * 20_000 for n in range(40)}
    declared = "".join(f"  {name}: null\n" for name in long_prompts)
    (tmp_path / "questions.yaml").write_text(QUESTIONS + "variables:\n" + declared + comment)
    with pytest.raises(SubmissionError, match=f"allowed are {MAX_UPLOAD_BYTES:,}"):
        make_upload(load_job(job, {"variables": long_prompts}), [tmp_path])


# Where it is sent to


@pytest.mark.parametrize(
    "address",
    [
        *("ray://head:10001", "http://me:secret@head:8265", "/tmp/ray", "", " "),
        *("http://head:dashboard", "http://head:82650", "http://[::1", "http://head..local:8265"),
    ],
)
def test_what_is_no_dashboard_address_is_said(address):
    with pytest.raises(ClusterError, match="is not a valid dashboard address"):
        Cluster(address)


@pytest.mark.parametrize(
    ("version", "runs", "said"),
    [
        *((b"[]", b"", "is not a Ray dashboard"), (b"null", b"", "is not a Ray dashboard")),
        (
            b'{"version": "4", "ray_version": "2.0.0", "session_name": "s"}',
            None,
            "cannot do it.*status code 500.*try again",
        ),
        (b'{"version": "4", "ray_version": "2.0.0", "session_name": "s"}', b"[]", "is not a Ray dashboard"),
    ],
)
def test_what_answers_otherwise_than_a_dashboard_is_said(version, runs, said):
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            body = version if self.path == "/api/version" else runs
            self.send_response(200 if body is not None else 500)
            self.end_headers()
            self.wfile.write(body or b"broken")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            with pytest.raises(ClusterError, match=said):
                Cluster(f"http://127.0.0.1:{server.server_port}").run("nightly")
        finally:
            server.shutdown()


def test_no_cluster_is_said_at_once():
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match=f"no Ray cluster at {address}: .*--address"):
        Cluster(address)


@pytest.mark.parametrize(
    ("address", "tried"),
    [
        ("127.0.0.9", "http://127.0.0.9:8265"),
        ("http://127.0.0.9", r"http://127.0.0.9 \(port 80\)"),
        ("127.0.0.9:1", "http://127.0.0.9:1"),
    ],
)
def test_a_host_alone_means_rays_own_port(address, tried):
    with pytest.raises(ClusterError, match=f"no Ray cluster at {tried}: "):
        Cluster(address)


LOG = ["one\n", "two\n", "three\n"]


@contextmanager
def dashboard(*connections):
    """A dashboard whose one run has ended; gives its address. For each connection that asks for its log: how many lines
    it gets, and what happens then. None after these: then the whole log comes. After "silence" nothing is replied any
    more, whatever is asked."""
    given, is_silent, over = iter(connections), threading.Event(), asyncio.Event()

    async def reply(request):
        if is_silent.is_set():
            await over.wait()
        if request.path == "/api/version":
            return web.json_response({"version": "4", "ray_version": "2.0.0", "session_name": "s"})
        if not request.path.endswith("/tail"):
            ended = {"submission_id": "nightly", "type": "SUBMISSION", "status": "SUCCEEDED", "entrypoint": "x"}
            return web.json_response(ended)
        lines, then = next(given, (len(LOG), "end"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for line in LOG[:lines]:
            await socket.send_str(line)
        if then == "break":
            request.transport.abort()
        elif then != "end":
            if then == "silence":
                is_silent.set()
            await over.wait()
        return socket

    async def serve():
        app = web.Application()
        app.router.add_get("/{path:.*}", reply)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, address = asyncio.run_coroutine_threadsafe(serve(), loop).result(30)
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(over.set)
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


@pytest.mark.parametrize(
    "connections",
    [[(2, "break")], [(2, "hang")], [(1, "break"), (0, "hang"), (2, "break"), (1, "break")], [(3, "hang")]],
)
def test_a_log_comes_once_whatever_becomes_of_its_connection(monkeypatch, connections):
    monkeypatch.setattr(submit, "QUIET_S", 0.3)
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    written = []
    with dashboard(*connections) as address:
        assert Cluster(address).follow("nightly", written.append).status == "SUCCEEDED"
    assert "".join(written) == "".join(LOG)


def test_a_reader_of_the_log_that_has_gone_is_no_lost_connection():
    def closed(text):
        raise BrokenPipeError

    with dashboard((3, "hang")) as address, pytest.raises(BrokenPipeError):
        Cluster(address).follow("nightly", closed)


def test_a_head_that_falls_silent_is_given_up(monkeypatch):
    for name, value in {"QUIET_S": 0.2, "REPLY_TIMEOUT_S": 0.2, "LOST_AFTER_S": 0.5, "POLL_S": 0.01}.items():
        monkeypatch.setattr(submit, name, value)
    written = []
    with (
        dashboard((1, "silence")) as address,
        pytest.raises(LostCluster, match=r"has not answered for 0.5 s .*timed out"),
    ):
        Cluster(address).follow("nightly", written.append)
    assert written == LOG[:1]


@pytest.mark.cluster
@pytest.mark.slow
def test_the_token_is_asked_for_and_checked(job, cluster):
    address, environment = cluster
    without = {k: v for k, v in environment.items() if not k.startswith("RAY_AUTH")}

    def submitted(own):
        command = [sys.executable, "-m", "jobs.submit", job, "--address", address, *_shared(job, ()), "--no-wait"]
        own = {**without, **own, "PYTHONPATH": os.getcwd()}
        return subprocess.run(command, env=own, capture_output=True, text=True, timeout=200, check=False)

    missing = submitted({"RAY_AUTH_MODE": "disabled"})
    assert missing.returncode == 2, missing.stderr
    assert "asks for a token; set RAY_AUTH_MODE=token" in missing.stderr
    wrong = submitted({"RAY_AUTH_TOKEN": "1" * 64})
    assert wrong.returncode == 2, wrong.stderr
    assert "refuses the token given" in wrong.stderr
    assert "Traceback" not in missing.stderr + wrong.stderr


# A run on the cluster


@pytest.mark.cluster
@pytest.mark.slow
def test_a_submitted_job_is_refused_twice_stopped_and_resumed(job, videos, tmp_path, cluster, commands):
    address, environment = cluster
    # Named, since this process and the cluster's might take different types for `auto`, which is another recipe.
    job.write_text(job.read_text() + "model: {dtype: float32}\n")
    for number in range(8):
        # An empty box behind the others: contents of their own, so that a stop finds some that are not done.
        other = (videos / "short.mp4").read_bytes() + struct.pack(">I4sI", 12, b"free", number)
        (tmp_path / "archive" / f"video {number:02d}.mp4").write_bytes(other)
    for name in (".env", "id_rsa", "credentials.json"):
        (tmp_path / name).write_text(f"SECRET={IN_FILES}\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text(IN_FILES)

    started = _submit(commands, job, address, "--no-wait", "--json", str(tmp_path / "started.json"))
    assert started.returncode == 0, started.stderr
    first = json.loads((tmp_path / "started.json").read_text())["run_id"]
    assert first.startswith("test-")
    assert first.endswith("-1")

    twice = _submit(commands, job, address)
    assert twice.returncode == 2, twice.stderr
    assert f"the run {first} of job test is " in twice.stderr
    assert "--follow" in twice.stderr

    with _ready_to_stop(job, address, environment) as stopper:
        deadline = time.monotonic() + 200
        while not list((tmp_path / "results").rglob("units/**/*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.05)
        said, _ = stopper.communicate("now\n", timeout=120)
    assert said.split() == [first, "STOPPED"]
    assert (tmp_path / "results" / "tables").is_dir()
    done = select(job, "SELECT count(*) FROM clips")[0][0]
    assert 1 <= done < 12

    resumed = _submit(commands, job, address, "--debug")
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    second = first.removesuffix("1") + "2"
    assert resumed.stderr.splitlines() == [f"run {second} on {address}", f"run {second}: SUCCEEDED"]
    assert "clips" in resumed.stdout
    too_late = _submit(commands, job, address, "--stop")
    assert (too_late.returncode, f"run {second}: SUCCEEDED" in too_late.stderr) == (0, True)
    assert select(job, "SELECT run_id, status, clips_answered FROM runs ORDER BY started_at") == [
        (first, "stopped", done),
        (second, "complete", 12 - done),
    ]
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == [(12, 12)]
    assert select(job, "SELECT media_key, error_class FROM quarantine") == [("notes.mp4", "not_media")]
    assert run(job).did_nothing

    kept = _kept_by_ray(environment)
    sent = [path for path in kept if path.name == "job.yaml"]
    assert len(sent) == 1, "the same upload is sent once"
    assert sorted(path.name for path in sent[0].parent.iterdir()) == ["job.yaml", "questions.yaml"]
    assert any(KNOWN in path.read_bytes() for path in sent[0].parent.iterdir())
    told = "".join(one.stdout + one.stderr for one in (started, twice, resumed, too_late)).encode()
    assert [leaks(data) for data in (told, *(path.read_bytes() for path in kept)) if leaks(data)] == []


ASKED_TO_STOP = """
import os, signal, sys, threading, time
from pipeline.config.job import load_job
from pipeline.execution import backends

signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
connect = lambda: backends.decoding_machines(load_job(sys.argv[2], {"execution.ray_address": sys.argv[1]}))
if sys.argv[3] == "here":
    connect()
else:
    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
os.kill(os.getpid(), signal.SIGTERM)
until = time.monotonic() + 4
while time.monotonic() < until:
    time.sleep(0.1)
print("still there")
"""


@pytest.mark.cluster
@pytest.mark.parametrize("where", ["here", "in a thread"])
def test_a_run_that_is_asked_to_stop_is_not_ended_by_ray(where, job, cluster):
    """Ray's own handler ends a process 3 s after SIGTERM, and takes hold of it wherever it connects."""
    _, environment = cluster
    command = [sys.executable, "-c", ASKED_TO_STOP, environment["HEAD_OF_THE_CLUSTER"], str(job), where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.splitlines()[-2:] == ["asked to stop", "still there"], done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.cluster
@pytest.mark.slow
def test_rays_own_submit_runs_a_job_that_leaves_no_credential_anywhere(job, tmp_path, bucket, cluster, postgres):
    """Planted ones are looked for in every byte that the run leaves: output, index, and all that Ray keeps."""
    address, environment = cluster
    files = s3fs.S3FileSystem(endpoint_url=bucket, skip_instance_cache=True)
    files.put(str(tmp_path / "archive"), "media/archive", recursive=True)
    url = postgres.replace("postgres:@", "postgres:${OMNIDROP_INDEX_PASSWORD}@")
    text = job.read_text().replace(
        "archive: {uri: archive}", f"archive: {{uri: 's3://media/archive', endpoint_url: '{bucket}'}}"
    )
    text = text.replace("output: results", "output: s3://results/job").replace("in-process", "auto")
    job.write_text(text + f"storage: {{endpoint_url: '{bucket}'}}\nindex_url: {url}\n")
    ray = shutil.which("ray", path=environment["PATH"])
    command = [sys.executable, "-m", "jobs.index", str(job), "--debug", "--json", str(tmp_path / "summary.json")]
    submit = [ray, "job", "submit", "--address", address, "--", *command]
    done = subprocess.run(submit, env=environment, capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "summary.json").read_text())["run"]["clips_answered"] == 4
    assert leaks(done.stdout + done.stderr) == []

    config = load_job(job)
    assert len(select(job, ANSWERS)) == 8
    store = open_store(config.output, config.storage)
    seen = b""
    for path, _ in store.list():
        data = store.read_bytes(path)
        assert leaks(data) == [], path
        if path.endswith(".parquet"):
            with store.open(path) as file:
                table = pq.read_table(file)
            seen += repr((table.to_pylist(), table.schema.metadata)).encode()
    assert KNOWN in seen
    assert leaks(seen) == []

    _, _, index = open_output(config)
    contents = repr(index.contents()).encode()
    index.close()
    assert b"long.mkv" in contents
    assert leaks(contents) == []

    kept = [path.read_bytes() for path in _kept_by_ray(environment)]
    assert any(b"jobs.index" in data for data in kept)
    assert [leaks(data) for data in kept if leaks(data)] == []


@pytest.mark.cluster
@pytest.mark.slow
def test_the_exit_status_is_the_jobs_and_a_name_is_one_runs(job, tmp_path, cluster, commands):
    address, _ = cluster
    shutil.rmtree(tmp_path / "archive")
    failed = _submit(commands, job, address, "--run-id", "nightly-20261122")
    assert failed.returncode == 2, failed.stderr
    assert "omnidrop: error: " in failed.stdout
    assert f"{tmp_path}/archive does not exist" in failed.stdout
    assert "run nightly-20261122: FAILED" in failed.stderr
    again = _submit(commands, job, address, "--run-id", "nightly-20261122")
    assert again.returncode == 2
    assert "the run nightly-20261122 was there before" in again.stderr
    assert "and FAILED" in again.stderr
    followed = _submit(commands, job, address, "--run-id", "nightly-20261122", "--follow")
    assert (followed.returncode, followed.stdout) == (2, failed.stdout)
    unknown = _submit(commands, job, address, "--stop")
    assert unknown.returncode == 2
    assert f"job test with output {tmp_path}/results has no run" in unknown.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_of_the_whole_tree_leaves_files_in_hand_alone(number):
    # Ray signals every process below the driver. A probe or an ffmpeg that died of it would quarantine a healthy file.
    endless = [find_ffmpeg(), "-nostdin", "-re", "-f", "lavfi", "-i", "anullsrc", "-f", "null", "-"]
    for program in ([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], endless):
        child = start(program, timeout_s=60, file_bytes=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            child.stdout.read(1)
            child.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(timeout=0.5)
        finally:
            end(child)
            child.stdout.close()
        assert child.returncode == -signal.SIGKILL


def _ready_to_stop(job, address, environment):
    """A process that stops the newest run when a line comes: the command starts as slowly as the job runs."""
    code = (
        "import sys\nfrom pipeline.config.job import load_job\nfrom pipeline.launch.submit import Cluster\n"
        "cluster, job = Cluster(sys.argv[1]), load_job(sys.argv[2])\nsys.stdin.readline()\n"
        "run = cluster.stop(cluster.latest(job).run_id, timeout_s=60)\nprint(run.run_id, run.status)"
    )
    command = [sys.executable, "-c", code, address, str(job)]
    env = {**environment, "PYTHONPATH": os.getcwd()}
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _kept_by_ray(environment):
    """Logs of every process, and the jobs as they were uploaded."""
    folder = Path(environment["RAY_AUTH_TOKEN_PATH"]).parent
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _submit(commands, job, address, *options):
    return commands.run("submit", job, "--address", address, *_shared(job, options), *options)


def _shared(job, options):
    return [] if "--follow" in options or "--stop" in options else ["--shared", str(job.parent)]
