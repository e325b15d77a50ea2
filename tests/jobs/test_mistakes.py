"""The likeliest mistakes of a new user, each through the real command line: status 2, no traceback, and a message that
names what was given, what is allowed and what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.storage import s3_client
from tests.support.s3_server import s3_server
from tests.support.small_jobs import cli
from workers.media import ffmpeg


@pytest.fixture
def here(job, monkeypatch):
    """A folder with a job, as the working folder; no credential and no hub is at hand."""
    monkeypatch.chdir(job.parent)
    for name in list(os.environ):
        if name.startswith("AWS_") or name == "RAY_ADDRESS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    (job.parent / "empty").mkdir()
    return job.parent


def teaches(*arguments, says):
    """The mistake ends as one should, and its message holds all of `says`; what was shown."""
    result = cli(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    message = " ".join(result.stderr.replace("│", " ").split())
    for part in says:
        assert part in message, (part, message)
    return result.output


def change(name, old, new):
    """Edit a file as a person would."""
    path = Path(name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


INDEX = ("index", "job.yaml")

OPTIONS = {
    "a missing job file": (("index", "jop.yaml"), ["jop.yaml: there is no such file", "looked in"]),
    "a folder instead of a job file": (("index", "."), ["cannot be read", "give a YAML file, such as job.yaml"]),
    "a video instead of a job file": (("index", "archive/short.mp4"), ["not UTF-8 text", "give a YAML file"]),
    "a misspelt command": (("indx", "job.yaml"), ["No such command 'indx'", "did you mean index?"]),
    "a misspelt option": ((*INDEX, "--clips-lenght-s", "3"), ["No such option", "--clips-length-s"]),
    "a missing archive": ((*INDEX, "--archive-uri", "vidoes"), ["vidoes does not exist", "give the folder", "s3://"]),
    "a file as archive": ((*INDEX, "--archive-uri", "archive/short.mp4"), ["is a file", "give the folder"]),
    "an empty archive": ((*INDEX, "--archive-uri", "empty"), ["the archive is empty", "check archive.uri"]),
    "a pattern that takes nothing": (
        (*INDEX, "--archive-include", "*.MOV"),
        ["none of 3 files is taken by include ['*.MOV']", "*.mp4 fits in any folder"],
    ),
    "another cloud": ((*INDEX, "--archive-uri", "gs://b/x"), ["only local folders and s3://", "not gs://"]),
    "no S3 credentials": (
        (*INDEX, "--archive-uri", "s3://media/x"),
        ["no S3 credentials were found", "AWS_ACCESS_KEY_ID", "archive.anonymous: true"],
    ),
    "an unknown model": (
        (*INDEX, "--model", "tinny"),
        ["no checkpoint 'tinny'", "neither a folder, nor a hub id", "(tiny, tiny-v2, tiny-v3)"],
    ),
    "a folder that is no checkpoint": (
        (*INDEX, "--model", "./archive"),
        ["lacks config.json", "copy the whole published repository"],
    ),
    "a device that does not exist": ((*INDEX, "--model-device", "gpu"), ["given: 'gpu'", "auto, cpu, cuda or cuda:N"]),
    "a GPU where there is none": ((*INDEX, "--model-device", "cuda"), ["'cuda' was asked for", "no CUDA", "use cpu"]),
    "a wrong index address": ((*INDEX, "--index-url", "postgres"), ["must be a SQLAlchemy URL", "postgresql+psycopg"]),
    "a database that does not answer": (
        (*INDEX, "--index-url", "postgresql+psycopg://127.0.0.1:9/none"),
        [
            "cannot use the index at postgresql+psycopg://127.0.0.1:9/none",
            "Connection refused",
            "check that the server",
        ],
    ),
    "a password in the job": (
        (*INDEX, "--index-url", "postgresql+psycopg://u:hunter2@h/d"),
        ["the address contains a password", "use ${OMNIDROP_INDEX_URL}"],
    ),
    "a question set that does not exist": (
        (*INDEX, "--question-set", "lectur"),
        ["does not exist", "did you mean lecture?", "broadcast, lecture, toy-world"],
    ),
    "a question set's file with another suffix": (
        (*INDEX, "--question-set", "questions.yml"),
        ["questions.yml does not exist", "did you mean questions.yaml?"],
    ),
    "an error class that does not exist": (
        ("retry", "job.yaml", "--error-class", "decode_timout"),
        ["no failures with error class decode_timout; did you mean decode_timeout?"],
    ),
    "a variable that does not exist": (
        (*INDEX, "--variable", "topic=x"),
        ["variables.topic", "has no such variable", "it has: none"],
    ),
    "a policy that does not exist": (
        (*INDEX, "--pruning-policy", "omnidrp"),
        ["given: 'omnidrp'", "did you mean omnidrop?", "'fastv'"],
    ),
    "a ratio in percent": ((*INDEX, "--pruning-retained-ratio", "30"), ["less than or equal to 1", "written 0.3"]),
    "a ratio that cannot be reached": (
        ("plan", "job.yaml", "--pruning-retained-ratio", "0.01"),
        ["retained_ratio 0.01 cannot be reached", "the floor is", "ask for at least that"],
    ),
    "the same in a run": (
        (*INDEX, "--pruning-retained-ratio", "0.01"),
        ["a clip of 3 s of long.mkv: retained_ratio 0.01 cannot be reached", "the floor is", "ask for at least that"],
    ),
    "a length of zero": ((*INDEX, "--clips-length-s", "0"), ["greater than or equal to 0.5; given: '0'"]),
    "results in the archive's own folder": (
        (*INDEX, "--output", "archive"),
        ["the same place", "choose another folder"],
    ),
    "a query where no results are": (("query", "empty", "answers"), ["no published tables", "run `omnidrop index`"]),
    "a query of a folder that is not there": (("query", "reslts", "answers"), ["no such folder", "its job file"]),
}


def test_a_ray_that_is_not_running(here):
    """In a process of its own: one that has joined a Ray already keeps to it."""
    command = [Path(sys.executable).with_name("omnidrop"), *INDEX, "--execution-ray-address", "127.0.0.1:9"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200)
    message = " ".join(found.stderr.replace("│", " ").split())
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in message
    for part in ("cannot use Ray at 127.0.0.1:9", "Connection refused", "ray start --head", "leave it out"):
        assert part in message


@pytest.mark.parametrize("mistake", OPTIONS)
def test_an_option_that_is_not_right(here, mistake, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments, says = OPTIONS[mistake]
    assert "hunter2" not in teaches(*arguments, says=says)


FILES = {
    "YAML that ends too early": ("job.yaml", "fps: 1}", "fps: 1", ["job.yaml:", "not valid YAML"]),
    "a tab": ("job.yaml", "archive:", "\tarchive:", ["job.yaml:2:1: not valid YAML", "'\\t'"]),
    "an unknown key": ("job.yaml", "clips:", "clip:", ["job.yaml:5:1: clip: there is no such", "mean clips?"]),
    "a missing key": ("job.yaml", "output: results\n", "", ["output: is missing", "Folder or s3://bucket/prefix"]),
    "an id that is there twice": (
        "questions.yaml", "id: heard", "id: shape", ["questions.yaml:5:6: question shape: the id is", "rename one"],
    ),
    "two answer types in one": (
        "questions.yaml", "type: boolean", "type: boolean, options: [a, b]",
        ["questions[1].answer.options: there is no such field; allowed: type"],
    ),
    "an answer type that does not exist": (
        "questions.yaml", "type: boolean", "type: bool", ["no type 'bool'; did you mean boolean?", "choice, boolean"],
    ),
    "a variable that no file has": (
        "questions.yaml", "media.name", "media.titel", ["question shape: media.titel does not exist", "has: key, "],
    ),
    "a template that is not closed": ("questions.yaml", "media.name }}", "media.name", ["question shape: not a valid"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", FILES)
def test_a_file_that_is_not_right(here, mistake):
    name, old, new, says = FILES[mistake]
    change(name, old, new)
    assert "problems:" not in teaches(*INDEX, says=[name, *says])  # one mistake, one message


def elsewhere(*arguments, **environment):
    """The command line in a process of its own: what a process has found out once, such as its ffmpeg, it keeps."""
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    own = {"PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=os.environ | own)
    assert "Traceback" not in done.stderr
    return done


def test_ffmpeg_that_is_not_there_ends_the_run_before_it_spoils_anything(here):
    done = elsewhere(*INDEX, OMNIDROP_FFMPEG="/no/ffmpeg")
    assert done.returncode == 2, done.stderr
    assert "OMNIDROP_FFMPEG is '/no/ffmpeg', which is not a program; unset it or give a full path" in done.stderr
    assert not (here / "results").exists()


def test_an_ffmpeg_without_a_codec_is_found_by_validate(here, monkeypatch):
    """A check that fails is status 1: `validate` itself did what it was asked to."""
    monkeypatch.setattr(ffmpeg, "NEEDED_DECODERS", ("h264", "no_such_codec"))
    done = cli("validate", "job.yaml", "--no-with-model")
    assert done.exit_code == 1, done.output
    shown = " ".join(done.output.split())
    assert "was built without no_such_codec" in shown
    assert "install a complete ffmpeg, or unset OMNIDROP_FFMPEG" in shown


@pytest.mark.cluster
def test_a_wrong_bucket_and_a_server_that_is_not_there(here, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with s3_server("media") as server:
        at = ("--archive-endpoint-url", server)
        teaches(*INDEX, "--archive-uri", "s3://medai/x", *at, says=["there is no bucket medai", "check the name"])
        teaches(*INDEX, "--archive-uri", "s3://media/x", *at, says=["the archive is empty", "check archive.uri"])
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 1)
    gone = ("--archive-endpoint-url", "http://127.0.0.1:9")
    teaches(*INDEX, "--archive-uri", "s3://media/x", *gone, says=["cannot be reached", "check endpoint_url"])


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a place where nobody may write")
def test_a_place_where_nothing_can_be_written(here):
    teaches(*INDEX, "--output", "/sys/kernel/omnidrop", says=["cannot write /sys/kernel/omnidrop", "choose a"])
    teaches("query", "--list", "--json", "/sys/kernel/x.json", says=["--json /sys/kernel/x.json: cannot be written"])


def test_results_of_a_newer_version_are_left_alone(here):
    (here / "results" / "journal").mkdir(parents=True)
    (here / "results" / "journal" / "format.json").write_text(json.dumps({"format_version": 99}))
    teaches(*INDEX, says=["holds a journal of format 99", "upgrade", "or use another output"])


@pytest.mark.cluster
@pytest.mark.long
def test_a_gpu_that_this_machine_has_not_is_not_waited_for(here):
    """Not on the tests' Ray, which would be taken for a cluster that may grow."""
    done = elsewhere(*INDEX, "--model-gpus-per-actor", "16", "--execution-ray-address", "none")
    assert done.returncode == 2, done.stderr
    assert "each model actor needs 16 GPUs" in done.stderr
    assert "leave it out to answer on the CPU" in done.stderr
