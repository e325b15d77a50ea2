"""Where a command's results are: the argument and option that several commands share, and what they stand for.

Promises: a job file, a folder and an `s3://` address all become an output and how it is reached; a job file is read
once, here. Knows nothing about what lies there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from omnidrop.errors import UserError
from pipeline.config.job import JobConfig, StorageConfig, load_job
from pipeline.config.locations import is_s3

PLACES = (".", "results", "demo/results")
"""Where results are looked for when no place is given."""

Results = Annotated[
    str | None,
    typer.Argument(
        metavar="RESULTS",
        help="A job's output (folder or s3:// address) or its job file. Default: the first of "
        f"{', '.join(PLACES)} that holds results.",
        show_default=False,
    ),
]
EndpointUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="URL of an S3 server other than AWS.", show_default=False)
]
JobName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Job name, if the results hold several jobs.", show_default=False)
]
Videos = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Only videos whose key matches; * and ? are wildcards.", show_default=False),
]
Page = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Write the page to this file.")]


@dataclass(frozen=True)
class FoundResults:
    """Where results lie, and how they are reached."""

    uri: str
    storage: StorageConfig
    job: JobConfig | None = None
    """The job, if its file was given."""


def is_job_file(given: str) -> bool:
    """Whether what was given for results names a job file."""
    return given.endswith((".yaml", ".yml"))


def is_place(given: str) -> bool:
    """Whether a word names a place of results rather than a question."""
    return is_s3(given) or is_job_file(given) or (given != "" and _folder(given).is_dir())


def find_results(given: str | None, endpoint_url: str | None = None, *, index_url: str | None = None) -> FoundResults:
    """What was given for results; `index_url` is in place of a job's. Raises UserError."""
    storage = StorageConfig(endpoint_url=endpoint_url)
    if given is None:
        for place in PLACES:
            if (Path(place) / "tables" / "current.json").is_file():
                return FoundResults(str(Path(place).absolute()), storage)
        raise UserError(
            f"no results found in {', '.join(PLACES)}; give a job file or a job's output, for example omnidrop query "
            "job.yaml answers (omnidrop demo makes an example)"
        )
    if is_job_file(given):
        overrides = {"storage.endpoint_url": endpoint_url, "index_url": index_url}
        job = load_job(given, {name: value for name, value in overrides.items() if value is not None})
        return FoundResults(job.output, job.storage, job)
    return FoundResults(given.rstrip("/") if is_s3(given) else str(_folder(given).absolute()), storage)


def _folder(given: str) -> Path:
    return Path(given.removeprefix("file://"))
