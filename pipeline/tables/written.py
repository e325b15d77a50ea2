"""What a run always writes: a published table that lacks it is somebody else's work, and nothing is concluded from it.

Promises: the columns of `NEVER_NULL` have values wherever they are read, and numbers are finite; a refusal names
column, table and file. Knows nothing about where tables lie.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.columns import NEVER_NULL, NEVER_NULL_OF_A_SUCCESS

_SAYS = "column {column} of the published table {table} holds NULL, NaN or infinity"
_SAID = re.compile(_SAYS.format(column=r"(?P<column>\w+)", table=r"(?P<table>\w+)"))


def checked_select(name: str, schema: pa.Schema, stored: str) -> str:
    """A SELECT of all columns of the published table `name`, which DuckDB knows as `stored`. A query that reads what no
    run writes fails, with an error for `unwritten_in`; what a query does not read costs nothing."""
    checks = []
    for column in schema:
        is_needed = column.name in NEVER_NULL[name]
        refused = f"error('{_SAYS.format(column=column.name, table=name)}')"
        if pa.types.is_floating(column.type):
            may_be = "" if is_needed else f"{column.name} IS NULL OR "
            checks.append(
                f"CASE WHEN {may_be}isfinite({column.name}) THEN {column.name} ELSE {refused} END AS {column.name}"
            )
        elif is_needed:
            checks.append(f"coalesce({column.name}, {refused}) AS {column.name}")
    return f"SELECT * REPLACE ({', '.join(checks)}) FROM {stored}"


def unwritten_in(error: BaseException) -> tuple[str, str] | None:
    """Table and column that an error of a query is about; None where it is another error."""
    found = _SAID.search(str(error))
    return None if found is None else (found["table"], found["column"])


def unwritten_column(table: pa.Table, name: str) -> str | None:
    """The first column of rows of the published table `name` with a value that no run writes, None without any."""
    found = next((c for c in table.column_names if _is_unwritten(table[c], name, c)), None)
    if found is None and "error_class" in table.column_names:
        succeeded = table.filter(pc.is_null(table["error_class"]))
        found = next(
            (c for c in NEVER_NULL_OF_A_SUCCESS.get(name, ()) if c in table.column_names and succeeded[c].null_count),
            None,
        )
    return found


def refusal(name: str, column: str, path: str) -> str:
    """What is said of a value that no run writes, and what to do."""
    return (
        f"{_SAYS.format(column=column, table=name)} in {path}, which no run writes: if the results are yours, "
        "`omnidrop rebuild` makes the tables again; if not, do not trust them"
    )


def _is_unwritten(column: pa.ChunkedArray, table: str, name: str) -> bool:
    if name in NEVER_NULL[table] and column.null_count:
        return True
    if pa.types.is_floating(column.type):
        return not pc.all(pc.is_finite(column), min_count=0).as_py()
    if pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type):
        items = pc.list_flatten(column)
        parts = (field.name for field in column.type.value_type)
        return any(_is_unwritten(pc.struct_field(items, part), table, f"{name}.{part}") for part in parts)
    return False
