"""Credentials stay where they are: errors quote none, and job files with one are refused.

What a run leaves on a cluster and in a bucket is searched in `tests/jobs/test_cluster.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.support.planted_secrets import PLANTED, leaks
from tests.support.small_jobs import cli
from workers.redaction import without_secrets


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
        (
            "https://a.blob.core.windows.net/x?sv=2&sig=ab%2Fc&se=3",
            "https://a.blob.core.windows.net/x?sv=2&sig=***&se=3",
        ),
        ("https://host/x?design=1&signal=2", None),
        ("key planted-aws-secret-0002 is wrong", "key *** is wrong"),
        ("s3://bucket/a@b.mp4 of me@example.org at http://[::1]:80/?list=1", None),
        ("the token file /home/me/token", None),
    ],
)
def test_what_errors_quote_is_masked(text, expected):
    environ = PLANTED | {"AWS_WEB_IDENTITY_TOKEN_FILE": "/home/me/token", "RAY_AUTH_MODE": "token", "MY_SECRET": "word"}
    assert without_secrets(text, environ) == (text if expected is None else expected)


@pytest.mark.parametrize("piece", ["://a", "://:", ":", "?token", "?", "&token=", "token", "\udcff?sig="])
def test_no_error_holds_the_run_while_it_is_masked(piece):
    """A server of an archive chooses what it says, up to 8 MB of it."""
    text = "?" + piece * (200_000 // len(piece))
    started = time.process_time()
    without_secrets(text, {})
    assert time.process_time() - started < 2


def test_an_index_address_that_is_a_password_alone_is_not_shown(job, monkeypatch):
    """Put into the variable by mistake; what a schedule says of it is stored with the results."""
    job.write_text(job.read_text() + "index_url: ${OMNIDROP_INDEX_URL}\n")
    for given in ("planted-pw", "me:planted-pw@db/x", "postgresql+psycopg:me:planted-pw@db/x"):
        monkeypatch.setenv("OMNIDROP_INDEX_URL", given)
        refused = cli("status", job) if given != "planted-pw" else cli("rebuild", job)
        assert refused.exit_code == 2, refused.output
        assert "give index_url as sqlite:///FILE or postgresql+psycopg://" in refused.output
        assert "planted-pw" not in refused.output


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
