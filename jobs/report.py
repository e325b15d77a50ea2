"""`omnidrop report RESULTS -o report.html`: a job's results as one page, for any browser, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.display import quantity
from jobs._shared.notes import note_toy_answers
from jobs._shared.options import JsonFile, write_json
from jobs._shared.results import EndpointUrl, JobName, Page, Results, find_results
from jobs._shared.terminal import say
from jobs._shared.whole_file import replaced
from jobs.cli import main

EXAMPLES = (
    "omnidrop report demo/results -o report.html",
    "omnidrop report job.yaml --usd-per-gpu-hour 2.50",
    "omnidrop report s3://bucket/results --job lectures",
)


def command(
    results: Results = None,
    output: Page = Path("report.html"),
    job: JobName = None,
    usd_per_gpu_hour: Annotated[
        float | None,
        typer.Option(min=0, metavar="USD", help="Price of a GPU hour, to show cost.", show_default=False),
    ] = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Show a job's results on one page: savings, retained ratios, answers as timelines, failures, and time spent.

    The page is a self-contained file of less than 2 MB. You can send it, open it offline, or print it.
    """
    # Here, so that --help need not wait for DuckDB and pyarrow.
    from pipeline.report.page import ANSWERS_BYTES, render
    from pipeline.report.queries import gather

    found = find_results(results, endpoint_url)
    job_file = "JOB.yaml"
    if found.job is not None and results is not None:
        job, job_file = job or found.job.name, results
    report = gather(found.uri, found.storage, job, budget_bytes=ANSWERS_BYTES)
    page = render(report, job_file=job_file, usd_per_gpu_hour=usd_per_gpu_hour)
    with replaced(output) as file:
        file.write(page)
    shown = report.explorer
    write_json(
        json_file,
        {
            "job": report.job,
            "page": str(output),
            "bytes": len(page),
            "media": report.media,
            "clips": report.clips,
            "answers": report.answers,
            "answers_in_page": shown.answers,
            "saved_against_dense_shared": report.spent.saved,
            "saved_against_dense": report.spent.saved_against_dense,
        },
    )
    cut = "" if shown.answers == report.answers else f" of {report.answers} (the rest: `omnidrop query`)"
    say(f"{output}: {quantity(len(page), 'B')}, job {report.job}, {shown.answers} answers{cut}", err=True)
    note_toy_answers(asked.model for asked in report.asked)


if __name__ == "__main__":
    main("report")
