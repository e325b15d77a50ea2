"""`omnidrop query "SQL" [RESULTS]`: the published results in SQL, as a table, CSV or JSON.

Promises: CSV and JSON go to standard output alone, complete and streaming; a table is cut to what a person reads, and
says so. Knows nothing about where answers come from.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.cli import main
from jobs.options import JsonFile, json_text, write_json
from omnidrop.errors import UserError
from pipeline.addresses import is_s3
from pipeline.job import StorageConfig, load_job

if TYPE_CHECKING:
    from pipeline.query import Answered

PLACES = (".", "results", "demo/results")
"""Where results are looked for when no place is given."""

EXAMPLES = (
    'omnidrop query "SELECT question_id, answer, count(*) FROM answers GROUP BY ALL ORDER BY 3 DESC"',
    'omnidrop query "SELECT * FROM quarantine" s3://bucket/results --format csv > quarantine.csv',
    'omnidrop query "DESCRIBE answers" job.yaml',
)


def command(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement over the tables.", show_default=False)],
    results: Annotated[
        str | None,
        typer.Argument(
            metavar="RESULTS",
            help=f"A job's output (folder or s3://), or its job file; the first of {', '.join(PLACES)} that holds "
            "results where not given.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[Literal["table", "csv", "json"], typer.Option(help="How rows are shown.")] = "table",
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Most rows of a table.")] = 100,
    endpoint_url: Annotated[
        str | None, typer.Option(metavar="URL", help="S3 server other than AWS.", show_default=False)
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Ask the published results in SQL (DuckDB). Tables: answers, clips, media, quarantine, runs."""
    # Here, so that --help need not wait for DuckDB and pyarrow.
    from pipeline.query import Answered, open_results, query

    uri, storage = find_results(results, endpoint_url)
    with open_results(uri, storage) as connection:
        answered = query(connection, sql)
        if json_file is not None:
            kept = list(answered.rows)
            write_json(
                json_file, {"columns": answered.columns, "types": answered.types, "rows": _named(answered, kept)}
            )
            answered = Answered(answered.columns, answered.types, iter(kept))
            if str(json_file) == "-":
                return
        if format == "csv":
            writer = csv.writer(sys.stdout)
            writer.writerow(answered.columns)
            writer.writerows(answered.rows)
        elif format == "json":
            _print_json(answered)
        else:
            _print_table(answered, rows)


def find_results(given: str | None, endpoint_url: str | None = None) -> tuple[str, StorageConfig]:
    """Where results lie and how they are reached. Raises UserError."""
    storage = StorageConfig(endpoint_url=endpoint_url)
    if given is None:
        for place in PLACES:
            if (Path(place) / "tables" / "current.json").is_file():
                return str(Path(place).absolute()), storage
        raise UserError(
            f"no results in {', '.join(PLACES)}; name the output of a job: omnidrop query SQL RESULTS (omnidrop demo "
            "makes some)"
        )
    if given.endswith((".yaml", ".yml")):
        overrides = {} if endpoint_url is None else {"storage.endpoint_url": endpoint_url}
        job = load_job(given, overrides)
        return job.output, job.storage
    return (given.rstrip("/") if is_s3(given) else str(Path(given).absolute())), storage


def _named(answered: Answered, rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(answered.columns, row, strict=True)) for row in rows]


def _print_json(answered: Answered) -> None:
    """A JSON array, one row a line, written as rows come."""
    separator = "[\n"
    for row in answered.rows:
        sys.stdout.write(separator + json_text(dict(zip(answered.columns, row, strict=True))))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def _print_table(answered: Answered, most: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = list(islice(answered.rows, most))
    more = next(answered.rows, None) is not None
    table = Table()
    for name, kind in zip(answered.columns, answered.types, strict=True):
        is_number = kind.startswith(("INT", "BIGINT", "HUGEINT", "DOUBLE", "FLOAT", "DECIMAL", "UBIGINT", "SMALLINT"))
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in shown:
        # Text, not markup: answers and file names are other people's words.
        table.add_row(*(Text(cell) for cell in _cells(row)))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    if more:
        console.print(f"The first {most} rows; --rows N shows more, --format csv all of them.")


def _cells(row: tuple[Any, ...]) -> Iterator[str]:
    for value in row:
        if value is None:
            yield ""
        elif isinstance(value, float):
            yield f"{value:.6g}"
        else:
            # Control characters in a file's name or an answer must not drive the terminal.
            yield "".join(c if c.isprintable() else " " for c in str(value))


if __name__ == "__main__":
    main("query")
