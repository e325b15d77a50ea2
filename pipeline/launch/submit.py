"""Sends a job to a Ray cluster and watches it there: what is uploaded, under which name, and how it ended.

Promises: only the job and its question set are uploaded, never anything else that lies beside them; a run has one name
for Ray, results and people, and one job is never submitted twice at a time; local paths are refused unless every
machine of the cluster has them. Knows nothing about what a run does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omnidrop.errors import OmniDropError, UserError, first_line
from pipeline.config.job import JobConfig, builtin_question_sets
from pipeline.config.locations import is_s3
from pipeline.identity import checked_run_id
from pipeline.questions.question_set import load_question_set

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

log = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 1_000_000
"""Ray keeps uploads in the head's memory. A job file and a question set are 512 KiB at most each, usually 10 kB."""
DASHBOARD_PORT = 8265
CONNECT_TIMEOUT_S = 10.0
REPLY_TIMEOUT_S = 60.0
POLL_S = 0.5
QUIET_S = 60.0
"""A log that says nothing for this long is asked for anew: the connection may have died without a word."""
LOST_AFTER_S = 120.0
"""A head that cannot be reached for this long is given up; the run itself may still go on."""
PUBLISH_S = 120
"""What a stopped run gets beyond `execution.stop_grace_s`, to publish what it finished before Ray kills it."""
NOT_FOUND_EXIT = 127
RAYS_CHATTER = (
    *("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging"),
)
"""Loggers that tell of each step of an upload and each connection that closes."""

ACTIVE = frozenset({"PENDING", "RUNNING"})


class SubmissionError(UserError):
    """The job cannot be submitted as given: a local path, a run that is there already, no such run."""


class ClusterError(UserError):
    """The cluster cannot be reached, or does not let us in."""


class LostCluster(OmniDropError):
    """The cluster could not be reached any more while a run was followed."""

    error_class = "cluster"


@dataclass(frozen=True)
class Run:
    """A run as Ray sees it."""

    run_id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None = None
    """What `omnidrop index` ended with; None where it was stopped or never started."""
    message: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in ACTIVE


# -- what is sent -----------------------------------------------------------------------------------------------------


def make_upload(job: JobConfig, shared: Sequence[str | Path] = ()) -> dict[str, bytes]:
    """The files that a cluster needs to run a job, by name.

    `shared` names folders that every machine of the cluster has at the same path. Raises SubmissionError for local
    paths outside of them and for an upload above `MAX_UPLOAD_BYTES`, QuestionError for the question set.
    """
    _check_paths(job, shared)
    load_question_set(job.question_set).values(job.variables)
    fields = job.model_dump(mode="json")
    fields["execution"]["ray_address"] = "auto"
    files: dict[str, bytes] = {}
    if job.question_set not in builtin_question_sets():
        fields["question_set"] = "questions.yaml"
        files["questions.yaml"] = Path(job.question_set).read_bytes()
    # JSON is YAML, and every setting is written out: defaults of another version on the cluster change nothing.
    files["job.yaml"] = json.dumps(fields, indent=1).encode()
    if (size := sum(map(len, files.values()))) > MAX_UPLOAD_BYTES:
        raise SubmissionError(
            f"job and question set have {size:,} bytes, allowed are {MAX_UPLOAD_BYTES:,}; shorten {job.question_set}"
        )
    return files


def _check_paths(job: JobConfig, shared: Sequence[str | Path]) -> None:
    folders = [Path(os.path.abspath(os.path.expanduser(folder))) for folder in shared]
    problems = [
        f"{field}: {path} is a path on this machine"
        for field, path in _local_paths(job)
        if not any(Path(path).is_relative_to(folder) for folder in folders)
    ]
    if problems:
        raise SubmissionError(
            "; ".join(problems) + ". Use s3:// addresses, a hub id or a checkpoint in the cluster's image, or "
            "use --shared FOLDER to name folders that all machines of the cluster share at the same path"
        )
    sqlite = re.fullmatch(r"sqlite(?:\+\w+)?:///(.*)", job.index_url or "")
    if sqlite and not sqlite[1].startswith("/"):
        raise SubmissionError(
            f"index_url: {job.index_url} is relative to a folder that is deleted after the run; give a path on the "
            "head's disk, for example sqlite:////var/lib/omnidrop/index.sqlite, or a PostgreSQL database"
        )


def _local_paths(job: JobConfig) -> Iterator[tuple[str, str]]:
    for field, location in (("archive.uri", job.archive.uri), ("output", job.output)):
        if not is_s3(location):
            yield field, location
    if job.model.path.startswith("/") or Path(job.model.path).is_dir():
        yield "model.path", os.path.abspath(job.model.path)


# -- the cluster ------------------------------------------------------------------------------------------------------


class Cluster:
    """A Ray cluster, by its dashboard's address such as http://head:8265. Raises ClusterError where there is none."""

    def __init__(self, address: str) -> None:
        self.address = _checked_address(address)
        # A token that is at hand is meant to be used. Ray looks only where it is told to, and reads this once.
        if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray's types are not given
            """Ray's, which waits without a limit for a head that has fallen silent. Not in its public part."""

            def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
                given.setdefault("timeout", (CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S))
                return super()._do_request(method, endpoint, **given)

        for name in RAYS_CHATTER:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._explained():
            self._client: JobSubmissionClient = Client(self.address)
            # Not in the client's public part. Two clusters at one address one after the other differ in it.
            self._session = str(self._client._do_request("GET", "/api/version").json()["session_name"])

    def submit(self, job: JobConfig, upload: Mapping[str, bytes], run_id: str | None = None) -> str:
        """Start a run and return its name. Raises SubmissionError where the job is running or the name was used.

        The name counts a job's runs on this cluster, so that of two submissions at once Ray refuses the second.
        """
        if run_id is None:
            runs = self.runs(job)
            if runs and runs[-1].is_active:
                raise SubmissionError(self._twice(job, runs[-1]))
            run_id = f"{self._prefix(job)}{len(runs) + 1}"
        checked_run_id(run_id)
        if (known := self._find(run_id)) is not None:
            raise SubmissionError(self._twice(job, known))
        with tempfile.TemporaryDirectory(prefix="omnidrop-submit-") as folder, self._explained():
            for name, content in upload.items():
                (Path(folder) / name).write_bytes(content)
            stop_s = int(job.execution.stop_grace_s) + PUBLISH_S
            try:
                self._client.submit_job(
                    # exec: otherwise a stop, which signals the shell and its children, ends the shell first.
                    entrypoint=f"exec omnidrop index job.yaml --run-id {shlex.quote(run_id)}",
                    submission_id=run_id,
                    # Ray kills a stopped job after 3 s otherwise, in the middle of what it has in flight.
                    runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(stop_s)}},
                    metadata={"omnidrop_job": job.name},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                raise SubmissionError(self._twice(job, self.run(run_id))) from error
        return run_id

    def runs(self, job: JobConfig) -> list[Run]:
        """A job's runs on this cluster that were submitted without a name of their own, in order."""
        prefix = self._prefix(job)
        with self._explained():
            found = [_run(details) for details in self._client.list_jobs() if details.submission_id]
        numbered = [(int(r.run_id[len(prefix) :]), r) for r in found if re.fullmatch(prefix + r"\d+", r.run_id)]
        return [run for _, run in sorted(numbered, key=lambda pair: pair[0])]

    def latest(self, job: JobConfig) -> Run:
        """A job's newest run. Raises SubmissionError where it has none here."""
        runs = self.runs(job)
        if not runs:
            raise SubmissionError(
                f"job {job.name} with output {job.output} has no run on {self.address}; name one with --run-id"
            )
        return runs[-1]

    def run(self, run_id: str) -> Run:
        """A run by its name. Raises SubmissionError where there is none."""
        found = self._find(run_id)
        if found is None:
            raise SubmissionError(f"there is no run {run_id} on {self.address}")
        return found

    def follow(self, run_id: str, write: Callable[[str], object]) -> Run:
        """Hand on the run's output as it comes, each line once, until the run ends. Raises LostCluster, and OSError
        where it cannot be written."""
        import aiohttp

        written = 0
        unwritten: list[OSError] = []

        async def tail() -> bool:
            """Follow the log, which comes from its beginning; whether that ended before it was quiet for long."""
            nonlocal written
            position, texts = 0, self._client.tail_job_logs(run_id)
            try:
                while True:
                    async with asyncio.timeout(QUIET_S):
                        text = await anext(texts, None)
                    if text is None:
                        return True
                    start, position = position, position + len(text)
                    if position > written:
                        try:
                            write(text[max(0, written - start) :])
                        except OSError as error:  # no fault of the connection's
                            unwritten.append(error)
                            return False
                        written = position
            except TimeoutError:
                return False

        reached_at = time.monotonic()
        while True:
            problem: Exception = TimeoutError("the end of its log does not come")
            try:
                is_whole = asyncio.run(tail())
                if unwritten:
                    break
                run = self.run(run_id)
                if is_whole and not run.is_active:
                    return run
                if run.is_active:
                    reached_at = time.monotonic()
            except (OSError, RuntimeError, aiohttp.ClientError, ClusterError) as error:
                problem = error
            if time.monotonic() - reached_at > LOST_AFTER_S:
                raise LostCluster(
                    f"{self.address} has not answered for {LOST_AFTER_S:g} s ({first_line(problem)}); the run "
                    f"{run_id} may go on: look again with --follow"
                ) from problem
            time.sleep(POLL_S)
        raise unwritten[0]

    def stop(self, run_id: str, timeout_s: float) -> Run:
        """Ask a run to stop, and wait until it has. What is finished is kept; submitting again resumes."""
        if not (run := self.run(run_id)).is_active:
            return run
        with self._explained():
            self._client.stop_job(run_id)
        deadline = time.monotonic() + timeout_s
        while (run := self.run(run_id)).is_active:
            if time.monotonic() > deadline:
                raise LostCluster(f"the run {run_id} has not ended {timeout_s:g} s after it was asked to stop")
            time.sleep(POLL_S)
        return run

    def _prefix(self, job: JobConfig) -> str:
        """What the names of a job's runs begin with: the same for the same results, another on another cluster."""
        place = hashlib.blake2b(json.dumps([self._session, job.output]).encode(), digest_size=4).hexdigest()
        return f"{job.name}-{place}-"

    def _find(self, run_id: str) -> Run | None:
        with self._explained():
            try:
                return _run(self._client.get_job_info(run_id))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def _twice(self, job: JobConfig, run: Run) -> str:
        if run.is_active:
            return (
                f"the run {run.run_id} of job {job.name} is {run.status} on {self.address}: follow it with --follow or "
                "end it with --stop; to run beside it, give --run-id NAME"
            )
        return (
            f"the run {run.run_id} was there before on {self.address} and {run.status}: a name is one run's; leave "
            "--run-id out, or give another; finished work is not done again"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Ray's and the network's errors as ours."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            has_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
            reason = "refuses the token given" if has_token else "asks for a token"
            raise ClusterError(
                f"{self.address} {reason}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (by "
                "default ~/.ray/auth_token) to the token that the cluster was started with"
            ) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout, ConnectionError) as error:
            raise ClusterError(f"{self.address} can no longer be reached: {first_line(error)}") from error
        except (requests.exceptions.RequestException, KeyError, TypeError, ValueError) as error:
            raise ClusterError(f"{self.address} answers, but is not a Ray dashboard: {first_line(error)}") from error
        except RuntimeError as error:
            raise ClusterError(
                f"{self.address} cannot do it: {first_line(error)}; see dashboard.log on its head, or try again"
            ) from error


def _run(details: Any) -> Run:
    status = getattr(details.status, "value", details.status)
    return Run(details.submission_id, str(status), details.driver_exit_code, details.message or "")


def _checked_address(address: str) -> str:
    invalid = ClusterError(
        f"{address!r} is not a valid dashboard address; write http://HOST:8265 (not the ray://HOST:10001 of Ray "
        "Client, nor HOST:6379)"
    )
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        if "://" not in address and parts.hostname and parts.port is None:
            # A host alone is no address of the web: Ray's own port is meant, and said with the run.
            parts = urlsplit(f"http://{parts.netloc.rstrip(':')}:{DASHBOARD_PORT}{parts.path}")
            url = parts.geturl()
        if parts.scheme not in ("http", "https") or not (parts.hostname or "").strip() or "@" in parts.netloc:
            raise invalid
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT_S).close()
    except ValueError as error:  # of a port that is none, brackets that do not close, a label that no name has
        raise invalid from error
    except OSError as error:
        # Ray's own client has no time limit, and a firewall that drops packets would hold it for minutes.
        place = url if parts.port else f"{url} (port {port})"
        raise ClusterError(
            f"there is no Ray cluster at {place}: {error}. Give the dashboard's address with --address. From outside "
            "its network, open a tunnel first, with `ray dashboard ray_cluster.yaml` or `kubectl port-forward`"
        ) from error
    return url.rstrip("/")
