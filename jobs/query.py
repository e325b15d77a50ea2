"""`omnidrop query [RESULTS] NAME|SQL`: named questions or SQL about the published results.

Promises: results and query may be given in either order; a value that is set is bound, never pasted into SQL. Knows
nothing about where answers come from or how rows are written.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs._shared.notes import note, note_toy_answers, note_wordings
from jobs._shared.options import JsonFile, named_value, write_json
from jobs._shared.precision import keep_precise
from jobs._shared.query_output import MOST_ROWS, Format, format_of, show
from jobs._shared.results import EndpointUrl, Results, find_results, is_place
from jobs._shared.terminal import say
from jobs.cli import main
from omnidrop.models.checkpoints import EMBEDDED
from pipeline.tables.named_queries import NamedQuery, find_query, named_queries

if TYPE_CHECKING:
    from pipeline.tables.query import Answered

EXAMPLES = (
    "omnidrop query results --list",
    "omnidrop query results savings-by-collection",
    "omnidrop query job.yaml ranges --set answer=yes -o ranges.csv",
    "omnidrop query s3://bucket/results unsure --set margin=0.1 --format json",
    'omnidrop query job.yaml "SELECT question_id, answer, count(*) FROM answers GROUP BY ALL ORDER BY 3 DESC"',
    'omnidrop query job.yaml "DESCRIBE answers"',
)

_SQL = re.compile(
    r"\s*(SELECT|FROM|WITH|DESCRIBE|DESC|SHOW|SUMMARIZE|EXPLAIN|VALUES|TABLE|PIVOT|UNPIVOT)\b.*\s",
    re.IGNORECASE | re.DOTALL,
)
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Value of a query parameter. Repeatable.", show_default=False),
]


def command(
    results: Results = None,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE.sql|SQL",
            help="A named query, a file with SQL, or one SQL statement. May come before RESULTS.",
            show_default=False,
        ),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the named queries and their parameters.")] = False,
    settings: Setting = None,
    format: Annotated[
        Format | None, typer.Option(help="Output format. With -o: from the file's name.", show_default="table")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the rows to this file.", show_default=False),
    ] = None,
    csv_raw: Annotated[
        bool,
        typer.Option(
            "--csv-raw", help="Do not escape CSV cells. A spreadsheet may run cells that begin with =, +, - or @."
        ),
    ] = False,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of table rows.")] = MOST_ROWS,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Only answers above the threshold that gives this precision on --labels.",
        ),
    ] = None,
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Labels for --precision.")] = Path("labels.csv"),
    job: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Job whose rows are queried, if the results hold several jobs.",
            show_default="the job file's; SQL may read all",
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Query the published results with a named query or SQL (DuckDB).

    Tables: answers, clips, media, audits, quarantine, runs, whole_answers; views: answer_ranges, noticed, provenance,
    video_answers. SQL can read these only: no other files, no network. If the results hold several jobs, a named query
    is about one of them (--job, or a job file); SQL on a folder reads the rows of all.
    """
    text, place = told_apart(results, question)
    if list_them or text is None:
        _print_queries(json_file)
        return
    form, given = format_of(format, output), dict(named_value("--set", setting) for setting in settings or ())
    # Here, so that --help need not wait for DuckDB and pyarrow.
    from pipeline.tables.query import asked_otherwise, jobs_of, models_of, open_results, query, the_job

    found = find_results(place, endpoint_url)
    is_named = text in named_queries()
    with open_results(found.uri, found.storage, as_stored=not is_named) as connection:
        there = jobs_of(connection)
        if job is None and found.job is not None:
            job = found.job.name
        # A named query puts answers together by their question's id, which jobs may use for different questions.
        if job is not None or precision is not None or (is_named and len(there) > 1):
            job = the_job(connection, found.uri, job)
        elif len(there) > 1:
            of = f"these are the rows of several jobs ({', '.join(there)})"
            note(f"{of}, which may ask different questions under one id; --job NAME queries those of one")
        note_wordings(asked_otherwise(connection))
        if job is not None and precision is not None:
            keep_precise(connection, job, precision, labels)
        asked = find_query(text)
        toys = models_of(connection, EMBEDDED)  # before the query: a table that is cut leaves its result open
        answered = query(connection, asked.sql, asked.values(given))
        if json_file is not None:
            answered = _written(answered, json_file)
            if str(json_file) == "-":
                return
        show(answered, form, output, rows, is_csv_raw=csv_raw)
        note_toy_answers(toys)


def told_apart(first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """Which of two words is the query and which the place of results: (query, place)."""
    if first is None or _is_query(first):
        return first, second
    if second is None:
        return (None, first) if is_place(first) else (first, None)
    return (second, first) if _is_query(second) or is_place(first) else (first, second)


def _is_query(text: str) -> bool:
    return text.endswith(".sql") or text in named_queries() or _SQL.match(text) is not None


def _written(answered: Answered, json_file: Path) -> Answered:
    """Rows written as JSON, and the same rows once more."""
    batches = list(answered.batches)
    names = answered.columns
    named = [dict(zip(names, row, strict=True)) for row in replace(answered, batches=iter(batches)).rows]
    write_json(json_file, {"columns": names, "types": answered.types, "rows": named})
    return replace(answered, batches=iter(batches))


def _print_queries(json_file: Path | None) -> None:
    queries = named_queries()
    write_json(json_file, {name: {"says": q.says, "parameters": q.parameters} for name, q in queries.items()})
    if str(json_file) == "-":
        return
    width = max(map(len, queries))
    for name, asked in queries.items():
        say(f"{name:{width}}  {asked.says}")
        for line in _parameters(asked):
            say(f"{'':{width}}  {line}")
    say("\nomnidrop query RESULTS NAME [--set NAME=VALUE] [-o FILE.csv|.json|.parquet]")


def _parameters(asked: NamedQuery) -> list[str]:
    return [f"--set {p.name}={'...' if p.default is None else p.default}: {p.says}" for p in asked.parameters or ()]


if __name__ == "__main__":
    main("query")
