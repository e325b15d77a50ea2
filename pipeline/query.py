"""SQL over the published results: DuckDB with the views `answers`, `clips`, `media`, `quarantine` and `runs`.

Promises: a query sees one published generation, streamed from its files, and nothing else: no other file, no network,
no extension, no setting. Knows nothing about how tables are made or how results are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from omnidrop.errors import UserError
from pipeline import tables
from pipeline.addresses import is_s3
from pipeline.s3 import s3_filesystem
from pipeline.sections import StorageConfig
from pipeline.storage import open_store

BATCH_ROWS = 1024


class QueryError(UserError):
    """There is nothing to query, or the SQL cannot be run."""

    error_class = "query"


@dataclass(frozen=True)
class Answered:
    """A query's answer: names and SQL types of its columns, and its rows, which stream."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


@contextmanager
def open_results(uri: str, storage: StorageConfig | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose only tables are those that `uri` (the output of a job) has published. Raises QueryError."""
    published = tables.current(open_store(uri, storage))
    if published is None:
        raise QueryError(f"{uri}: there are no published tables; run `omnidrop index` with this output first")
    filesystem, root = _arrow_filesystem(uri, storage or StorageConfig())
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        for name in tables.NAMES:
            schema = tables.SCHEMAS[name]
            paths = [f"{root}/tables/{path}" for path in published.tables.get(name, [])]
            # The schema as this version writes it: columns that an older file lacks read as NULL.
            data = ds.dataset(paths, schema=schema, filesystem=filesystem, format="parquet") if paths else None
            connection.register(name, data if data is not None else schema.empty_table())
        # From here on DuckDB opens no file and no address, and cannot be told to.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def query(connection: duckdb.DuckDBPyConnection, sql: str) -> Answered:
    """Run one statement. Raises QueryError with what DuckDB says."""
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise QueryError(f"give one SQL statement, got {len(statements)}")
        cursor = connection.execute(statements[0])
    except duckdb.PermissionException as error:
        raise QueryError(f"a query can only read the tables {', '.join(tables.NAMES)}: {_first_line(error)}") from error
    except duckdb.Error as error:
        raise QueryError(f"{error}\nTables: {', '.join(tables.NAMES)}; columns: DESCRIBE answers") from error
    described = cursor.description or []
    names = _unique([str(column[0]) for column in described])
    return Answered(names, tuple(str(column[1]) for column in described), _rows(cursor))


def _rows(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while True:
        try:
            batch = cursor.fetchmany(BATCH_ROWS)
        except duckdb.Error as error:
            raise QueryError(_first_line(error)) from error
        if not batch:
            return
        yield from batch


def _unique(names: list[str]) -> tuple[str, ...]:
    """Column names of which none is there twice, so that a row can be a mapping: a join often repeats `clip_id`."""
    unique: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in unique:
            number, candidate = number + 1, f"{name}_{number}"
        unique.append(candidate)
    return tuple(unique)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _arrow_filesystem(uri: str, storage: StorageConfig) -> tuple[pa.fs.FileSystem, str]:
    """A file system for pyarrow, and what the output's paths begin with on it."""
    if not is_s3(uri):
        return pa.fs.LocalFileSystem(), uri
    filesystem = s3_filesystem(storage.endpoint_url, max_retries=storage.max_retries)
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), uri.removeprefix("s3://")
