"""Credentials stay where they are: planted ones are looked for in every byte that a real run leaves anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs

from pipeline.config.job import load_job
from pipeline.planning.open_job import open_output
from pipeline.storage.store import open_store
from tests.support.s3_server import rclone_server
from tests.support.small_jobs import cli
from workers.redaction import without_secrets

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000001",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret-0002",
    "AWS_SESSION_TOKEN": "planted-aws-token-0003",
    "OMNIDROP_INDEX_PASSWORD": "planted-index-password-0004",
    "HF_TOKEN": "hf_planted_token_0005",
}
IN_FILES = "planted-in-a-file-0006"
ALL = [value.encode() for value in (*PLANTED.values(), IN_FILES)]
KNOWN = b"Is a tone heard?"
"""What must be found, so that finding nothing means something."""


@pytest.fixture(scope="module")
def planted():
    """An S3 server that takes no other credentials, these in the environment, and after them a cluster that inherits
    both."""
    with rclone_server("media", "results", credentials=PLANTED) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def place(planted, request):
    return planted, *request.getfixturevalue("cluster")


def leaks(data: bytes) -> list[bytes]:
    return [secret for secret in ALL if secret in data]


@pytest.mark.cluster
@pytest.mark.slow
def test_a_run_leaves_no_credential_anywhere(job, place, postgres):
    endpoint, address, environment = place
    s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True).put(
        str(job.parent / "archive"), "media/archive", recursive=True
    )
    for name in (".env", "id_rsa", "credentials.json"):
        (job.parent / name).write_text(f"SECRET={IN_FILES}\n")
    url = postgres.replace("postgres:@", "postgres:${OMNIDROP_INDEX_PASSWORD}@")
    text = job.read_text().replace(
        "archive: {uri: archive}", f"archive: {{uri: 's3://media/archive', endpoint_url: '{endpoint}'}}"
    )
    text = text.replace("output: results", "output: s3://results/job").replace("in-process", "auto")
    job.write_text(text + f"storage: {{endpoint_url: '{endpoint}'}}\nindex_url: {url}\n")
    submit = [sys.executable, "-m", "jobs.submit", str(job), "--address", address, "--debug"]
    done = subprocess.run(submit, env=environment, cwd=job.parent, capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert leaks(done.stdout + done.stderr) == []

    config = load_job(job)
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

    # Everything that Ray keeps: logs of every process, and the job as it was uploaded.
    folder = Path(environment["RAY_AUTH_TOKEN_PATH"]).parent
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    uploaded = [path for path in files if "working_dir_files" in str(path)]
    assert {path.name for path in uploaded} >= {"job.yaml", "questions.yaml"}
    assert not {path.name for path in files} & {".env", "id_rsa", "credentials.json"}
    assert any(KNOWN in path.read_bytes() for path in uploaded)
    assert {str(path): leaks(path.read_bytes()) for path in files if leaks(path.read_bytes())} == {}


@pytest.mark.parametrize("secret_part", ["http://me:{}@127.0.0.1:1", "http://127.0.0.1:1/{}?access_token={}"])
def test_an_error_quotes_no_credential(job, tmp_path, secret_part):
    """An address of a server from the environment, with a token in it, that does not answer."""
    storage = "storage: {max_retries: 0}\nindex_url: sqlite:////nowhere/index.sqlite\n"
    job.write_text(job.read_text().replace("output: results", "output: s3://results/job") + storage)
    token = "planted-endpoint-token-0007"
    environment = os.environ | PLANTED | {"AWS_ENDPOINT_URL": secret_part.format(token, token), "MY_TOKEN": token}
    command = [sys.executable, "-m", "jobs.verify", str(job), "--debug"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=250, check=False)
    assert done.returncode == 2, done.stderr
    assert b"s3://results/job" in done.stderr
    assert b"Traceback" in done.stderr
    assert leaks(done.stdout + done.stderr) == []
    assert token.encode() not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('cannot reach "http://me:to/ken@host:9000/x"', 'cannot reach "http://***@host:9000/x"'),
        (
            "GET /a?X-Amz-Credential=AK%2F1&X-Amz-Signature=0a1b&part=2",
            "GET /a?X-Amz-Credential=***&X-Amz-Signature=***&part=2",
        ),
        ("https://host/x?access_token=abc#there", "https://host/x?access_token=***#there"),
        ("key planted-aws-secret-0002 is wrong", "key *** is wrong"),
        ("s3://bucket/a@b.mp4 of me@example.org at http://[::1]:80/?list=1", None),
        ("the token file /home/me/token", None),
    ],
)
def test_what_errors_quote_is_masked(text, expected):
    environ = PLANTED | {"AWS_WEB_IDENTITY_TOKEN_FILE": "/home/me/token", "RAY_AUTH_MODE": "token", "MY_SECRET": "word"}
    assert without_secrets(text, environ) == (text if expected is None else expected)


def test_a_job_with_a_credential_in_it_is_refused_with_what_to_do(job):
    given = {
        "--index-url": ("postgresql+psycopg://me:planted-pw@db/x", "OMNIDROP_INDEX_URL"),
        "--storage-endpoint-url": ("http://me:planted-pw@host:9000", "AWS_ACCESS_KEY_ID"),
        "--archive-uri": ("https://host/x.mp4?X-Amz-Signature=planted-pw", "AWS_ACCESS_KEY_ID"),
    }
    for option, (value, advice) in given.items():
        refused = cli("plan", job, option, value)
        assert refused.exit_code == 2, option
        assert advice in refused.output
        assert "planted-pw" not in refused.output
