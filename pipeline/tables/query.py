"""SQL over the published results: DuckDB with `answers`, `clips`, `media`, ..., and views on them.

Promises: a query sees one published generation, streamed from its files, and nothing else: it reads and writes no other
file, no network, no extension, no setting. Knows nothing about how tables are made or how results are shown.

Commands that may not read tables at all import this in the function that does: it imports DuckDB.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.fs

from omnidrop.errors import UserError, first_line
from pipeline.config.locations import is_s3
from pipeline.config.sections import StorageConfig
from pipeline.journal.recipes import recall
from pipeline.memory_bound import MEMORY_BYTES, bounded_memory, is_out_of_memory
from pipeline.records.columns import MEASURED
from pipeline.storage.arrow import arrow_filesystem
from pipeline.storage.store import Store, open_store
from pipeline.tables import manifest
from pipeline.tables.named_queries import VIEWS
from pipeline.tables.written import checked_select, refusal, unwritten_in

if TYPE_CHECKING:
    import pyarrow.dataset as ds

BATCH_ROWS = 1024
LIMITS: dict[str, str | bool | int | float | list[str]] = {
    **{"python_enable_replacements": "false", "memory_limit": "4GB", "max_temp_directory_size": "20GB"}
}
"""Of one query: it may be a stranger's, and `range(1e12)` is short to write."""
TIME_S = 3600.0
"""Of all queries of one connection."""
_TOO_LARGE = (
    f"this takes more than the {MEMORY_BYTES >> 30} GB of memory that queries may take; select fewer columns or rows "
    "at once (tables from somebody else may unpack to any size)"
)
_TOO_LONG = f"the query took longer than {TIME_S:g} s and was stopped; ask for less of it"
NAMES = (*manifest.NAMES, *VIEWS)
"""What a query can read."""


RECIPE_QUESTIONS_SCHEMA = pa.schema([(name, pa.string()) for name in ("recipe_hash", "question_id", "asked", "rule")])


class QueryError(UserError):
    """There is nothing to query, or the SQL cannot be run."""

    error_class = "query"


class NothingPublished(QueryError):
    """There are no tables, or no rows of the job."""


@dataclass(frozen=True)
class Answered:
    """A query's answer: its columns with Arrow and SQL types, and its rows, which stream and can be read once."""

    schema: pa.Schema
    types: tuple[str, ...]
    batches: Iterator[pa.RecordBatch]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names, of which none is there twice."""
        return tuple(self.schema.names)

    @property
    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Plain values, row by row."""
        for batch in self.batches:
            yield from zip(*map(_values, batch.columns), strict=True)


@contextmanager
def open_results(
    uri: str, storage: StorageConfig | None = None, *, as_stored: bool = False, views: Collection[str] = tuple(VIEWS)
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose only tables are those that `uri` (the output of a job) has published, and `views` on them,
    which take 30 ms in all. Raises QueryError, also for values that no run writes; `as_stored` these are what they are,
    for SQL of a user's own: its conditions then leave out files and parts of them by their statistics."""
    published = manifest.current(open_store(uri, storage))
    if published is None:
        if not is_s3(uri) and not Path(uri).is_dir():
            raise NothingPublished(
                f"{uri}: there is no such folder; run `omnidrop index` first, or give another job's output, its job "
                "file, or s3://bucket/prefix"
            )
        raise NothingPublished(f"{uri}: there are no published tables; run `omnidrop index` with this output first")
    with (
        ExitStack() as stack,
        bounded_memory(),
        # What does not fit into memory goes here. DuckDB lets a query write into its temporary folder, whatever else it
        # is denied, and the default one is in the working folder.
        tempfile.TemporaryDirectory(prefix="omnidrop-query-") as own,
        duckdb.connect(":memory:", config={**LIMITS, "temp_directory": own}) as connection,
    ):
        try:
            for name in manifest.NAMES:
                stored = name if as_stored else f"stored_{name}"
                connection.register(stored, published_dataset(uri, storage, published, name))
                if not as_stored:
                    connection.execute(f"CREATE VIEW {name} AS {checked_select(name, manifest.SCHEMAS[name], stored)}")
            connection.register("recipe_questions", _recipe_questions(connection, open_store(uri, storage)))
            for name in views:
                connection.execute(f"CREATE VIEW {name} AS {VIEWS[name]}")
            timer = threading.Timer(TIME_S, connection.interrupt)
            timer.daemon = True
            timer.start()
            # Waited for: a thread that still holds the connection when Python ends makes DuckDB print what leaked.
            stack.callback(timer.join)
            stack.callback(timer.cancel)
            # From here on DuckDB opens no file and no address, and cannot be told to.
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection
        except (duckdb.Error, pa.ArrowException, MemoryError, QueryError) as error:
            if (unwritten := unwritten_in(error)) is not None:
                path = manifest.first_unwritten(open_store(uri, storage), published, *unwritten)
                raise QueryError(f"{uri}: {refusal(*unwritten, path or 'one of its files')}") from error
            if isinstance(error, QueryError):
                raise
            # A published file that is damaged or gone: `omnidrop verify` says which.
            said = _TOO_LARGE if is_out_of_memory(error) else first_line(error)
            raise QueryError(f"{uri}: {said}") from error


def published_dataset(uri: str, storage: StorageConfig | None, published: manifest.Published, name: str) -> ds.Dataset:
    """One table of a generation by this version's schema: columns that an older file lacks read as null."""
    # Here, because it imports pandas where that is installed: half a second of commands that read no table.
    import pyarrow.dataset as ds

    filesystem, root = arrow_filesystem(uri, storage or StorageConfig())
    schema = manifest.SCHEMAS[name]
    paths = [f"{root}/tables/{path}" for path in published.tables.get(name, [])]
    if not paths:
        return ds.dataset(schema.empty_table())
    return ds.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")


def query(connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Any] | None = None) -> Answered:
    """Run one statement with `values` bound to its `$name` parameters. Raises QueryError with what DuckDB says."""
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise QueryError(f"give one SQL statement, got {len(statements)}")
        relation = connection.sql(statements[0], params=dict(values) if values else None)
        reader = relation.to_arrow_reader(BATCH_ROWS)
    except duckdb.PermissionException as error:
        raise QueryError(f"a query can only read the tables {', '.join(NAMES)}: {first_line(error)}") from error
    except duckdb.InterruptException as error:
        raise QueryError(_TOO_LONG) from error
    except (duckdb.Error, MemoryError) as error:
        if is_out_of_memory(error):
            raise QueryError(_TOO_LARGE) from error
        raise QueryError(f"{error}\nTables: {', '.join(NAMES)}; columns: DESCRIBE answers") from error
    schema = pa.schema(
        [field.with_name(name) for field, name in zip(reader.schema, _unique(relation.columns), strict=True)]
    )
    return Answered(schema, tuple(map(str, relation.types)), _batches(reader, schema.names))


def models_of(connection: duckdb.DuckDBPyConnection, models: Iterable[str]) -> tuple[str, ...]:
    """Which of `models` answered some clip. Looks no further than the first clip of each."""
    first = "SELECT 1 FROM clips WHERE model = $model LIMIT 1"
    return tuple(model for model in models if connection.execute(first, {"model": model}).fetchone())


def asked_otherwise(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Questions that some of a job's media were asked in other words, or as another type, than others: a set was
    changed, and only a part of the archive was asked since."""
    found = connection.execute(
        "SELECT DISTINCT question_id FROM (SELECT DISTINCT job, recipe_hash FROM media WHERE status <> 'failed') "
        "JOIN recipe_questions USING (recipe_hash) GROUP BY job, question_id HAVING count(DISTINCT asked) > 1 "
        "ORDER BY question_id"
    )
    return [name for (name,) in found.fetchall()]


def _recipe_questions(connection: duckdb.DuckDBPyConnection, store: Store) -> pa.Table:
    """What each recipe that counts asked, and how answers become those of videos."""
    rows = []
    for (recipe_hash,) in connection.execute("SELECT DISTINCT recipe_hash FROM media ORDER BY 1").fetchall():
        kept = recall(store, recipe_hash) if recipe_hash else None
        if kept is None:
            continue
        for one in (*kept.question_set.questions, *kept.question_set.whole):
            asked = repr((one.text, one.answer, kept.variables_of(one)))
            rows.append({"recipe_hash": recipe_hash, "question_id": one.id, "asked": asked, "rule": one.video})
    return pa.Table.from_pylist(rows, schema=RECIPE_QUESTIONS_SCHEMA)


def keep_sure(connection: duckdb.DuckDBPyConnection, least: Mapping[tuple[str, str | None], float]) -> None:
    """From here on `answers`, and what is made of it, has only answers with at least such a probability.

    `least` is by question, and answer or None for all answers of the question; other questions have none.
    """
    connection.execute(
        "CREATE TEMP TABLE least_probabilities AS "
        "SELECT unnest($questions) AS question_id, unnest($answers) AS answer, unnest($least) AS least",
        {"questions": [q for q, _ in least], "answers": [a for _, a in least], "least": list(least.values())},
    )
    connection.execute("ALTER VIEW answers RENAME TO all_answers")
    connection.execute(
        "CREATE TEMP VIEW answers AS SELECT a.* FROM all_answers AS a WHERE EXISTS (SELECT 1 FROM least_probabilities "
        "AS l WHERE l.question_id = a.question_id AND coalesce(l.answer, a.answer) = a.answer "
        "AND a.probability >= l.least)"
    )


def jobs_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The jobs whose rows these are. Raises QueryError."""
    listing = "SELECT DISTINCT unnest(coalesce(jobs, [job])) AS name FROM media"
    return job_names(name for (name,) in connection.execute(listing).fetchall())


def job_names(found: Iterable[Any]) -> list[str]:
    """Names of jobs in tables, each once and in order. Raises QueryError for one that would break a line in two where
    it is printed: no job file has such a name, so somebody else wrote it."""
    names = set(found)
    if odd := [name for name in names if not (isinstance(name, str) and name.isprintable())]:
        raise QueryError(f"the published tables name a job {odd[0]!r}, which no run wrote; do not trust these results")
    return sorted(names)


def the_job(connection: duckdb.DuckDBPyConnection, uri: str, job: str | None) -> str:
    """The job to look at: the one that is named, or the only one. Raises QueryError.

    Rows that several jobs list are published once, under the first one's name: where there are several, the
    connection's tables become what this one lists, under its name.
    """
    jobs = jobs_of(connection)
    name = chosen_job(jobs, uri, job)
    if len(jobs) > 1:
        _show_only(connection, name)
    return name


def chosen_job(jobs: Sequence[str], uri: str, job: str | None) -> str:
    """The job to look at of those that results hold: the one that is named, or the only one. Raises QueryError."""
    if job is None and len(jobs) == 1:
        return jobs[0]
    if job is not None and job in jobs:
        return job
    if not jobs:
        raise NothingPublished(
            f"{uri}: the published tables name no media; run `omnidrop index` with this output first"
        )
    given = "they hold several jobs" if job is None else f"they hold no job {job!r}"
    kind = QueryError if job is None else NothingPublished
    raise kind(f"{uri}: {given}; choose one with --job: {', '.join(jobs)}")


def _show_only(connection: duckdb.DuckDBPyConnection, job: str) -> None:
    tables = [name for name in manifest.NAMES if {"job", "media_id"} <= set(manifest.SCHEMAS[name].names)]
    for name in tables:
        connection.execute(f"ALTER VIEW {name} RENAME TO every_jobs_{name}")
    wanted = job.replace("'", "''")
    listed = f"SELECT job, media_id FROM every_jobs_media WHERE list_contains(coalesce(jobs, [job]), '{wanted}')"
    for name in tables:
        connection.execute(
            f"CREATE VIEW listed_{name} AS SELECT * REPLACE ('{wanted}' AS job) FROM every_jobs_{name} "
            f"WHERE (job, media_id) IN ({listed})"
        )
    # A run of another job counts where it answered what this one lists.
    connection.execute("ALTER VIEW runs RENAME TO every_jobs_runs")
    answered = " UNION ".join(f"SELECT run_id FROM listed_{name}" for name in ("clips", "answers", "whole_answers"))
    connection.execute(
        f"CREATE VIEW runs AS SELECT * FROM every_jobs_runs WHERE job = '{wanted}' OR run_id IN ({answered})"
    )
    # What a clip cost stands with the first file of its content: that may be one that only another job lists.
    connection.execute(
        "CREATE TEMP TABLE stand_ins AS SELECT copy_of AS asked, arg_min(clip_id, (media_key, media_id)) AS clip_id "
        "FROM listed_clips WHERE copy_of NOT IN (SELECT clip_id FROM listed_clips) GROUP BY copy_of"
    )
    costs = ", ".join(f"coalesce(mine.{name}, asked.{name}) AS {name}" for name in MEASURED)
    copy_of = "nullif(coalesce(stand_ins.clip_id, mine.copy_of), mine.clip_id) AS copy_of"
    mine = "AS mine LEFT JOIN stand_ins ON stand_ins.asked = mine.copy_of"
    shown = dict.fromkeys(tables, "SELECT * FROM listed_{0}")
    shown["answers"] = f"SELECT mine.* REPLACE ({copy_of}) FROM listed_answers {mine}"
    shown["clips"] = (
        f"SELECT mine.* REPLACE ({copy_of}, {costs}) FROM listed_clips {mine} LEFT JOIN every_jobs_clips AS asked "
        "ON asked.clip_id = stand_ins.asked AND stand_ins.clip_id = mine.clip_id"
    )
    shown["audits"] += (
        " UNION ALL SELECT asked.* REPLACE (mine.job AS job, mine.media_id AS media_id, mine.media_key AS media_key, "
        "mine.clip_id AS clip_id) FROM every_jobs_audits AS asked JOIN stand_ins ON stand_ins.asked = asked.clip_id "
        "JOIN listed_clips AS mine ON mine.clip_id = stand_ins.clip_id"
    )
    for name, select in shown.items():
        connection.execute(f"CREATE VIEW {name} AS {select.format(name)}")


def _batches(reader: pa.RecordBatchReader, names: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        for batch in reader:
            yield batch.rename_columns(names)
    except (duckdb.Error, pa.ArrowException, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            raise QueryError(_TOO_LARGE) from error
        if "INTERRUPT" in str(error).upper():
            raise QueryError(_TOO_LONG) from error
        raise QueryError(first_line(error)) from error


def _values(column: pa.Array) -> list[Any]:
    """Plain values of a column. DuckDB's sums of whole numbers come as decimals without digits after the point."""
    values: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    if pa.types.is_decimal(column.type):
        number = float if column.type.scale else int
        values = [None if value is None else number(value) for value in values]
    return values


def _unique(names: list[str]) -> tuple[str, ...]:
    """Column names of which none is there twice, so that a row can be a mapping: a join often repeats `clip_id`."""
    unique: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in unique:
            number, candidate = number + 1, f"{name}_{number}"
        unique.append(candidate)
    return tuple(unique)
