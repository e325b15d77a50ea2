"""`omnidrop verify`: check journal, published tables and savings index against each other."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from jobs._shared.display import console
from jobs._shared.options import JsonFile, write_json
from jobs._shared.results import EndpointUrl, find_results
from jobs._shared.terminal import waiting
from jobs.cli import main
from pipeline.checks.findings import Report
from pipeline.checks.verify import verify
from pipeline.config.job import StorageConfig
from pipeline.config.locations import is_s3, sqlite_url
from pipeline.counted import counted
from pipeline.storage.store import open_store

_CHECKED = {
    "heads": "pointer object",
    "runs": "run record",
    "video_objects": "whole-video object",
    "unit_objects": "unit object",
    "index_rows": "index row",
    "table_files": "table file",
}
"""What was read is called, by the name of its count."""

EXAMPLES = (
    "omnidrop verify job.yaml",
    "omnidrop verify s3://bucket/results --endpoint-url http://host:9000    # without the index",
    "omnidrop verify job.yaml --public-key archive.key.pub    # also check the signature",
    "omnidrop verify job.yaml --json report.json",
)


def command(
    results: Annotated[
        str, typer.Argument(metavar="JOB.yaml|RESULTS", help="A job file, or a job's output.", show_default=False)
    ],
    index_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of the savings index, if it is not the job's own.", show_default=False),
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|KEY", help="Also check that the tables are signed with this key pair.", show_default=False
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Check that journal, published tables and savings index are complete and agree, and say how to fix each problem.

    Reads everything and changes nothing. Exit status: 0 no problems, 1 problems found, 2 nothing to check.
    """
    uri, storage, index, job = _places(results, index_url, endpoint_url)
    with _progress() as advance:
        report = verify(open_store(uri, storage), index, job=job, public_key=public_key, advance=advance)
    _print(report)
    write_json(json_file, report)
    raise typer.Exit(0 if report.is_clean else 1)


def _places(
    results: str, index_url: str | None, endpoint_url: str | None
) -> tuple[str, StorageConfig, str | None, str]:
    """Output, how it is reached, index, and how the job is named in commands."""
    found = find_results(results, endpoint_url, index_url=index_url)
    if found.job is not None:
        return found.uri, found.storage, found.job.resolved_index_url(), shlex.quote(results)
    beside = Path(found.uri) / "index.sqlite"
    if index_url is None and not is_s3(found.uri) and beside.is_file():
        index_url = sqlite_url(str(beside))
    return found.uri, found.storage, index_url, "JOB.yaml"


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    done: dict[str, int] = {}
    with waiting("verifying", console) as tell:

        def advance(what: str, count: int) -> None:
            done[what] = done.get(what, 0) + count
            if done[what] % 50 < count:
                tell(f"verifying: {', '.join(f'{n:,} {name}' for name, n in done.items())}")

        yield advance


def _print(report: Report) -> None:
    for problem in report.problems:
        console.print(f"[red]{problem.part}: {problem.kind}[/] {escape(problem.where)}", soft_wrap=True)
        console.print(f"    {problem.what}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"    fix: {problem.mend}", markup=False, highlight=False, soft_wrap=True)
    for note in report.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    looked_at = ", ".join(counted(count, _CHECKED.get(name, name)) for name, count in report.checked.items())
    console.print(f"checked: {looked_at}")
    if report.is_clean:
        console.print("[green]no problems[/]")
        return
    total = sum(count for _, _, count in report.counts)
    kinds = ", ".join(f"{part} {kind} {count}" for part, kind, count in report.counts)
    console.print(f"[red]{counted(total, 'problem')}[/]: {kinds}")


if __name__ == "__main__":
    main("verify")
