"""Rows of a query as a table, CSV, JSON or Parquet, on standard output or in a file.

Promises: CSV, JSON and Parquet are complete and streaming; a table is cut to what a person reads, and says so; a file
is there whole or not at all. Knows nothing about where rows come from.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TextIO

from jobs._shared.options import json_text
from jobs._shared.terminal import PrintableConsole, on_terminal, printable, say
from jobs._shared.whole_file import replaced
from omnidrop.errors import UserError
from pipeline.counted import counted
from pipeline.report.formats import quantity
from pipeline.spreadsheet import safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipeline.tables.query import Answered

Format = Literal["table", "csv", "json", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}
MOST_ROWS = 100
"""Of a table."""
_NUMBERS = ("INT", "BIGINT", "HUGEINT", "DOUBLE", "FLOAT", "DECIMAL", "UBIGINT", "SMALLINT")
_BREAK = re.compile(r"_(?=[^_]{3})")
"""Where a column's name may be broken: before a word, not before a unit."""
MOST_FRAMED = 20_000
"""Cells of a table that is laid out by Rich, at up to 0.4 ms each."""
MOST_WIDE = 10_000
"""Columns of characters, to measure a table without the terminal's bound."""


def format_of(given: Format | None, output: Path | None) -> Format:
    """The format that was asked for, or that a file's name asks for. Raises UserError."""
    if given is not None:
        if given == "parquet" and output is None:
            raise UserError(
                "--format parquet: Parquet cannot be shown on a screen; write it to a file, for example -o r.parquet"
            )
        return given
    if output is None:
        return "table"
    if output.suffix not in SUFFIXES:
        raise UserError(
            f"-o {output}: the file name does not tell the format; end it in {', '.join(SUFFIXES)}, or add --format"
        )
    return SUFFIXES[output.suffix]


def show(
    answered: Answered, form: Format, output: Path | None, most_rows: int = MOST_ROWS, *, is_csv_raw: bool = False
) -> None:
    """Write rows where they are wanted, and say what a file holds. Raises UserError where it cannot be written."""

    def write(rows: Answered, file: TextIO) -> int:
        if form == "csv":
            return _csv(rows, file, is_raw=is_csv_raw)
        return _json(rows, file) if form == "json" else _table(rows, file, most_rows)

    if output is None:
        write(answered, on_terminal(sys.stdout) if form != "table" else sys.stdout)
        return
    with replaced(output) as file:
        if form == "parquet":
            rows = _parquet(answered, file, output)
        else:
            with os.fdopen(os.dup(file.fileno()), "w", encoding="utf-8", newline="") as text:
                rows = write(answered, text)
    say(f"{output}: {counted(rows, 'row')}, {quantity(output.stat().st_size, 'B')}", err=True)


def _parquet(answered: Answered, file: IO[bytes], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    try:
        with pq.ParquetWriter(file, answered.schema, compression="zstd") as writer:
            for batch in answered.batches:
                writer.write_batch(batch)
                rows += batch.num_rows
    except pa.ArrowException as error:
        raise UserError(f"-o {path}: Parquet cannot hold this: {error}; CAST the column in the SQL") from error
    return rows


def _csv(answered: Answered, file: TextIO, *, is_raw: bool) -> int:
    cell = _csv_cell if is_raw else _safe_csv_cell
    writer = csv.writer(file)
    writer.writerow(map(cell, answered.columns))
    rows = 0
    for row in answered.rows:
        writer.writerow([cell(value) for value in row])
        rows += 1
    return rows


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json_text(value) if isinstance(value, list | dict) else value


def _safe_csv_cell(value: Any) -> Any:
    cell = _csv_cell(value)
    return safe(cell) if isinstance(cell, str) else cell


def _json(answered: Answered, file: TextIO) -> int:
    """An array, one row a line, written as rows come."""
    rows = 0
    for rows, row in enumerate(answered.rows, start=1):
        file.write(("[\n" if rows == 1 else ",\n") + json_text(dict(zip(answered.columns, row, strict=True))))
    file.write("\n]\n" if rows else "[]\n")
    return rows


def _table(answered: Answered, file: TextIO, most: int) -> int:
    rows = answered.rows
    shown = list(islice(rows, most))
    more = next(rows, None) is not None
    console = PrintableConsole(file=file, width=None if file.isatty() else 200)
    if len(shown) * len(answered.columns) > MOST_FRAMED:
        file.writelines(_plain_lines(answered, shown))
        console.print(f"More than {MOST_FRAMED:,} cells: one line a row, however long.")
    else:
        console.print(rich_table(answered, shown, console))
    if not shown:
        console.print("No rows.")
    if more:
        console.print(f"Only the first {most} rows are shown. --rows N shows more, --format csv shows all.")
    return len(shown)


def rich_table(answered: Answered, rows: list[tuple[Any, ...]], console: Console, *, is_narrow: bool = False) -> Table:
    """Rows as a table. One too wide for the console has no vertical lines, and column names break at underscores."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0)) if is_narrow else Table()
    for name, kind in zip(answered.columns, answered.types, strict=True):
        heading = Text(_BREAK.sub("_\n", name) if is_narrow else name)
        table.add_column(heading, justify="right" if kind.startswith(_NUMBERS) else "left", overflow="fold")
    for row in rows:
        # Text, not markup: answers and file names are other people's words.
        table.add_row(*(Text(_table_cell(value)) for value in row))
    if (
        not is_narrow
        and console.measure(table, options=console.options.update(width=MOST_WIDE)).maximum > console.width
    ):
        return rich_table(answered, rows, console, is_narrow=True)
    return table


def _plain_lines(answered: Answered, rows: list[tuple[Any, ...]]) -> Iterator[str]:
    """A heading and a line a row, in columns as wide as their widest cell."""
    from rich.cells import cell_len

    is_number = [kind.startswith(_NUMBERS) for kind in answered.types]
    lines = [
        list(map(_one_line, answered.columns)),
        *([_one_line(_table_cell(value)) for value in row] for row in rows),
    ]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = []
        for cell, width, is_right in zip(line, widths, is_number, strict=True):
            padding = " " * (width - cell_len(cell))
            cells.append(padding + cell if is_right else cell + padding)
        yield "  ".join(cells).rstrip() + "\n"


def _one_line(cell: str) -> str:
    return printable(cell).replace("\n", "\\n").replace("\t", "\\t")


def _table_cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
