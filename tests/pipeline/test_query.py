"""Asking results: named queries, parameters, time ranges, files, S3, and SQL from strangers."""

from __future__ import annotations

import csv
import io
import json
import math
import resource
import threading
from itertools import groupby, pairwise

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop.errors import UserError, first_line
from pipeline import memory_bound
from pipeline.config.job import StorageConfig
from pipeline.records.checksummed_parquet import JournalError
from pipeline.records.columns import NEVER_NULL
from pipeline.storage.store import open_store
from pipeline.tables import manifest
from pipeline.tables.job_rows import job_rows
from pipeline.tables.named_queries import VIEWS, NamedQueryError, find_query, named_queries, read_query
from pipeline.tables.query import QueryError, open_results, query
from tests.support.published_tables import publish
from tests.support.s3_server import s3_server
from tests.support.small_jobs import cli

REQUIRED = {"together": {"first": "first_colour", "second": "first_sound"}}
"""Values of parameters that have no default."""


@pytest.fixture
def results(demo):
    return demo / "results"


def spoil(uri, table, column, value):
    """Write a value into each row of a published table, as somebody else might."""
    (path,) = (uri / "tables").glob(f"generation=*/{table}/*.parquet")
    rows = pq.read_table(path, partitioning=None)
    place = rows.schema.get_field_index(column)
    pq.write_table(rows.set_column(place, column, pa.array([value] * len(rows), rows.schema.types[place])), path)


def rows_of(results, *arguments):
    result = cli("query", results, *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def set_options(values):
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


# Named queries


def test_a_query_leaves_no_thread_behind(results):
    """One that still holds the connection when Python ends has DuckDB print forty lines about what leaked."""
    before = threading.enumerate()
    with open_results(str(results)) as connection:
        query(connection, "SELECT 1")
    assert threading.enumerate() == before


@pytest.mark.parametrize("name", named_queries())
def test_every_named_query_has_an_answer(name, results):
    asked = named_queries()[name]
    assert asked.says.endswith((".", "?"))
    assert rows_of(results, name, *set_options(REQUIRED.get(name, {})))


def test_the_list_names_every_query_and_parameter(results):
    listed = cli("query", results, "--list").stdout
    assert cli("query", results).stdout == listed
    for name, asked in named_queries().items():
        assert f"\n{name} " in f"\n{listed}"
        assert asked.says in listed
        assert all(f"--set {p.name}=" in listed for p in asked.parameters)
    assert set(json.loads(cli("query", "--list", "--json", "-").stdout)) == set(named_queries())


def test_results_and_query_stand_in_either_order(results, monkeypatch):
    first = cli("query", "answers", results).stdout
    assert first == cli("query", results, "answers").stdout
    assert "first_sound" in first
    monkeypatch.chdir(results)
    assert cli("query", "answers").stdout == first


def test_values_are_bound_and_never_pasted(results):
    noise = rows_of(results, "ranges", "--set", "question=first_sound", "--set", "answer=noise")
    assert {(row["question_id"], row["answer"]) for row in noise} == {("first_sound", "noise")}
    assert rows_of(results, "ranges", "--set", "answer=' OR 1=1 --") == []
    counted = rows_of(results, "SELECT count(*) AS n FROM answers WHERE answer = $a AND probability > $p",
                      *set_options({"a": "noise", "p": "0.5"}))  # fmt: skip
    assert counted[0]["n"] > 0
    (middle,) = rows_of(results, "SELECT median(margin) AS margin FROM answers WHERE margin < 1")
    sharp, loose = (rows_of(results, "unsure", "--set", f"margin={m}") for m in (middle["margin"] + 1e-9, 1.1))
    assert 0 < len(sharp) < len(loose)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("savings-by-colection",), "no query named savings-by-colection; did you mean savings-by-collection?"),
        (("unsure", "--set", "margn=1"), "--set margn: unsure has no such parameter; did you mean margin?"),
        (("unsure", "--set", "margin=small"), "--set margin=small: unsure takes a number here"),
        (("unsure", "--set", "margin"), "option --set: write NAME=VALUE, given: 'margin'"),
        (("answers", "--set", "x=1"), "--set x: answers has no such parameter; it has: none"),
        (("together",), "together needs first (a question id); add --set first=VALUE"),
        (("SELECT $x AS x",), "x"),
        (("none.sql",), "none.sql: the query cannot be read: No such file or directory"),
        (
            ("answers", "--format", "parquet"),
            "Parquet cannot be shown on a screen; write it to a file, for example -o r",
        ),
        (("answers", "-o", "rows.xlsx"), "-o rows.xlsx: the file name does not tell the format; end it in .csv, .json"),
    ],
)
def test_what_cannot_be_asked_says_what_can(results, arguments, message):
    result = cli("query", results, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_query_of_ones_own_is_a_file(results, tmp_path):
    file = tmp_path / "loud.sql"
    file.write_text("-- Which clips are loud?\n-- $sound = noise: what is heard\nSELECT $sound AS sound\n")
    assert rows_of(results, file) == [{"sound": "noise"}]
    assert rows_of(results, file, "--set", "sound=2") == [{"sound": "2"}]
    assert read_query(file).says == "Which clips are loud?"
    with pytest.raises(NamedQueryError, match="there is no query named loud"):
        find_query("loud")


# Files


def test_rows_go_to_files_of_each_format(results, tmp_path):
    sql = "SELECT clip_id, probability > 0.5 AS likely, sum(margin) AS n, ['a', NULL] AS l FROM answers GROUP BY ALL"
    expected = rows_of(results, sql)
    for name in ("new/rows.csv", "rows.json", "rows.parquet", "rows.txt"):
        wrote = cli("query", results, sql, "-o", tmp_path / name)
        assert wrote.stdout == ""
        assert f"{name}: {len(expected)} rows, " in wrote.stderr
    assert sorted(json.loads((tmp_path / "rows.json").read_text()), key=str) == sorted(expected, key=str)
    assert sorted(pq.read_table(tmp_path / "rows.parquet").to_pylist(), key=str) == sorted(expected, key=str)
    lines = list(csv.DictReader((tmp_path / "new/rows.csv").open(newline="")))
    assert {line["l"] for line in lines} == {'["a", null]'}
    assert {line["likely"] for line in lines} <= {"true", "false"}
    assert {line["clip_id"] for line in lines} == {row["clip_id"] for row in expected}
    assert "clip_id" in (tmp_path / "rows.txt").read_text()


def test_a_file_is_there_whole_or_not_at_all(results, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("before")
    # The text that is no number comes after thousands of rows that were written.
    sql = "SELECT CAST(CASE WHEN i = 500000 THEN 'x' ELSE '1' END AS INT) AS n FROM range(600000) AS t(i)"
    result = cli("query", results, sql, "-o", file)
    assert result.exit_code == 2
    assert "Could not convert string 'x'" in result.stderr
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert "cannot be written" in cli("query", results, "answers", "-o", file / "below.csv").stderr


@pytest.mark.cluster
def test_named_queries_and_files_work_on_results_in_s3(results, tmp_path):
    with s3_server("bucket") as server:
        store = open_store("s3://bucket/results", StorageConfig(endpoint_url=server))
        for file in results.joinpath("tables").rglob("*"):
            if file.is_file():
                store.write(str(file.relative_to(results)), file.read_bytes())
        at = ("query", "s3://bucket/results", "ranges", "--endpoint-url", server)
        assert cli(*at, "-o", tmp_path / "rows.csv").exit_code == 0
    local = cli("query", results, "ranges", "--format", "csv").stdout
    assert list(csv.reader((tmp_path / "rows.csv").open(newline=""))) == list(csv.reader(io.StringIO(local)))


# Time ranges

MOMENT = 0.1
"""Spans of the property test lie on a grid of tenths of a second, so that moments can be counted one by one."""

clip_answers = st.lists(
    st.tuples(
        st.sampled_from(["a.mp4", "b.mp4"]),
        st.sampled_from(["who", "what"]),
        st.sampled_from(["yes", "no", None]),
        st.integers(0, 60),
        st.integers(1, 20),
    ),
    max_size=40,
)


def ranges_of(answered):
    """`answer_ranges` of made-up (media, question, answer, first moment, moments)."""
    columns = {
        "job": ["j"] * len(answered),
        "media_id": [f"id of {row[0]}" for row in answered],
        "media_key": [row[0] for row in answered],
        "question_id": [row[1] for row in answered],
        "answer_type": ["choice"] * len(answered),
        "answer_boolean": pa.nulls(len(answered), pa.bool_()),
        "answer": pa.array([row[2] for row in answered], pa.string()),
        # Rounded to microseconds, as spans are.
        "start_s": pa.array([round(row[3] * MOMENT, 6) for row in answered], pa.float64()),
        "end_s": pa.array([round((row[3] + row[4]) * MOMENT, 6) for row in answered], pa.float64()),
        "probability": pa.array([row[4] / 20 for row in answered], pa.float64()),
    }
    table = pa.table({k: v if isinstance(v, pa.Array) else pa.array(v, pa.string()) for k, v in columns.items()})
    with duckdb.connect() as connection:
        connection.register("answers", table)
        return connection.sql(VIEWS["answer_ranges"]).to_arrow_table().to_pylist()


@given(clip_answers)
def test_ranges_cover_each_moment_of_an_answer_once_and_no_other(answered):
    made = ranges_of(answered)
    moments = {(*row[:3], m) for row in answered if row[2] is not None for m in range(row[3], row[3] + row[4])}
    covered = []
    for r in made:
        first, end = round(r["start_s"] / MOMENT), round(r["end_s"] / MOMENT)
        covered += [(r["media_key"], r["question_id"], r["answer"], m) for m in range(first, end)]
    assert sorted(covered) == sorted(moments)  # as lists: nothing is counted twice
    assert sum(r["clips"] for r in made) == sum(row[2] is not None for row in answered)
    key = lambda r: (r["media_key"], r["question_id"], r["answer"])  # noqa: E731
    for _, same in groupby(sorted(made, key=lambda r: (*key(r), r["start_s"])), key):
        assert all(before["end_s"] < after["start_s"] - 1e-6 for before, after in pairwise(same))


def test_ranges_of_overlapping_clips_by_hand():
    clips = [("yes", 0, 30), ("yes", 25, 30), ("no", 50, 30), ("yes", 75, 30), (None, 100, 30)]
    made = ranges_of([("v", "q", *clip) for clip in clips])
    found = sorted((r["answer"], round(r["start_s"], 6), round(r["end_s"], 6), r["clips"]) for r in made)
    assert found == [("no", 5.0, 8.0, 1), ("yes", 0.0, 5.5, 2), ("yes", 7.5, 10.5, 1)]


def test_ranges_of_a_real_run_cover_what_was_answered(results):
    with open_results(str(results)) as connection:
        asked = "SELECT question_id, sum(end_s - start_s) AS s FROM {} GROUP BY 1 ORDER BY 1"
        of_clips, of_ranges = (list(query(connection, asked.format(t)).rows) for t in ("answers", "answer_ranges"))
    assert [name for name, _ in of_ranges] == [name for name, _ in of_clips]
    assert [s for _, s in of_ranges] == pytest.approx([s for _, s in of_clips])


# SQL from strangers


def test_sql_can_neither_write_nor_read_files_wherever_it_runs(results, tmp_path, monkeypatch):
    """Beside what tests/jobs/test_cli.py tries: DuckDB's temporary folder, logs, profiles."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "secret.csv").write_text("a\n1\n")
    attempts = [
        "COPY answers TO '.tmp/stolen.csv'",
        "SELECT * FROM read_csv('.tmp/secret.csv')",
        f"COPY (SELECT 1) TO '{tmp_path}/.tmp/x'",
        "COPY (SELECT 1) TO '/dev/stdout'",
        f"PRAGMA profile_output='{tmp_path}/profile.json'",
        f"SET profiling_output = '{tmp_path}/profile.json'",
        f"CALL enable_logging(storage='file', storage_config={{'path': '{tmp_path}'}})",
        "SET temp_directory = '.'",
        "SET memory_limit = '1TB'",
        "SELECT getenv('HOME')",
        "SELECT * FROM duckdb_secrets()",
        "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
        "IMPORT DATABASE '/tmp'",
        "CREATE VIEW v AS SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
    ]
    for sql in attempts:
        with open_results(str(results)) as connection, pytest.raises(QueryError):
            list(query(connection, sql).rows)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [".tmp", ".tmp/secret.csv"]


def test_what_does_not_fit_into_memory_goes_to_a_folder_of_its_own_and_away(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_results(str(results)) as connection:
        (own,) = tmp_path.iterdir()
        assert list(query(connection, "SELECT current_setting('temp_directory')").rows) == [(str(own),)]
    assert list(tmp_path.iterdir()) == []


def test_one_query_leaves_nothing_for_the_next(results):
    for _ in range(2):
        assert cli("query", results, "CREATE TABLE mine AS SELECT 1").exit_code == 0
        assert cli("query", results, "DROP VIEW answers").exit_code == 0
    assert rows_of(results, "answers")


def test_a_setting_without_results_is_a_users_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("query", "answers")
    assert result.exit_code == 2
    assert "no results found in ., results, demo/results" in result.stderr
    with pytest.raises(UserError):
        find_query("anwsers")


def test_an_error_that_says_nothing_is_named_by_its_class():
    assert first_line(OSError()) == first_line(OSError("\n \n")) == "OSError"
    assert first_line(ValueError("\n  no such table\nLINE 1: ...")) == "no such table"


def test_tables_that_cannot_be_read_are_no_tables_without_rows(tmp_path, caplog):
    assert job_rows(str(tmp_path / "nowhere"), StorageConfig(), "test").answers == 0
    uri = str(publish(tmp_path / "r", {"a.mp4": [(0, 1, {"q": ("boolean", "yes", 0.9)})]}))
    assert job_rows(uri, StorageConfig(), "test").answers == 1
    assert job_rows(uri, StorageConfig(), "other").answers == 0
    (path,) = (tmp_path / "r" / "tables").glob("generation=*/media/*.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    assert job_rows(uri, StorageConfig(), "test").answers is None
    assert "check them with `omnidrop verify`" in caplog.text
    with pytest.raises(QueryError, match="media"), open_results(uri):
        pass


def test_a_jobs_name_that_breaks_lines_is_refused(tmp_path):
    uri = publish(tmp_path / "r", {"a.mp4": [(0, 1, {"q": ("boolean", "yes", 0.9)})]}, job="a\nomnidrop: error: b")
    for command in (("query", uri, "answers"), ("report", uri), ("find", uri, "q=yes"), ("audit", uri)):
        result = cli(*command)
        assert result.exit_code == 2
        assert r"name a job 'a\nomnidrop: error: b', which no run wrote" in result.output


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        *(("answers", "start_s", value) for value in (None, math.nan, math.inf)),
        *(("answers", column, None) for column in ("clip_id", "question", "media_key")),
        *(("clips", "start_s", math.nan), ("answers", "probability", math.nan), ("quarantine", "message", None)),
    ],
)
def test_what_no_run_writes_is_refused_by_column_and_file(tmp_path, table, column, value):
    uri = publish(tmp_path / "r", {"a.mp4": [(0, 1, {"q": ("boolean", "yes", 0.9)})]}, failed=["b.mp4"])
    spoil(uri, table, column, value)
    assert cli("query", uri, "SELECT count(*) FROM answers").exit_code == 0  # it reads no such value
    own = cli("query", uri, f"SELECT {column} FROM {table}")
    assert own.exit_code == 0, "SQL of a user's own reads what is there"
    result = cli("report", uri, "-o", tmp_path / "r.html")
    assert result.exit_code == 2, result.output
    said = f"column {column} of the published table {table} holds NULL, NaN or infinity in tables/generation=000001"
    assert said in result.output
    assert "omnidrop rebuild" in result.output


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("model_s", math.nan), ("dense_shared_model_s", None)),
        *(("start_s", None), ("answers", [{"agrees": True}])),
    ],
)
def test_audits_that_no_run_writes_are_refused(tmp_path, column, value):
    clip = {name: 1 for name in NEVER_NULL["audits"] if name.startswith(("as_run", "dense"))} | {"model_s": 1.0}
    uri = publish(tmp_path / "r", {"a.mp4": [(0, 1, {"q": ("boolean", "yes", 0.9)})]}, audits=clip)
    assert cli("audit", uri).exit_code == 0
    spoil(uri, "audits", column, value)
    result = cli("audit", uri)
    name = "answers.question_id" if column == "answers" else column
    assert (result.exit_code, f"column {column} of the published table audits" in result.output) == (1, True), name


# Memory


def test_tables_that_unpack_to_more_than_memory_are_refused(tmp_path, monkeypatch):
    """A text of 1 MB that stands once in a dictionary, and 3,000 rows that name it: 10 KB."""
    monkeypatch.setattr(memory_bound, "MEMORY_BYTES", 1 << 30)
    uri = publish(tmp_path / "r", {"a.mp4": [(0, 1, {"q": ("text", "a", None)})] * 3000})
    (path,) = (tmp_path / "r" / "tables").glob("generation=*/answers/*.parquet")
    table = pq.read_table(path, partitioning=None)
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), ["x" * 1_000_000])
    place = table.schema.get_field_index("text")
    pq.write_table(table.set_column(place, "text", bomb), path, dictionary_pagesize_limit=1 << 30)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with open_results(str(uri)) as connection:
        assert list(query(connection, "SELECT count(*) FROM answers").rows) == [(3000,)]
        with pytest.raises(QueryError, match="takes more than the 8 GB of memory that queries may take"):
            list(query(connection, "SELECT max(length(text)) FROM answers").rows)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    for command in (("query", uri, "SELECT text FROM answers"), ("report", uri, "-o", tmp_path / "report.html")):
        result = cli(*command)
        assert (result.exit_code, "takes more than the 8 GB of memory" in result.output) == (2, True), result.output
    published = manifest.current(open_store(str(uri)))
    with pytest.raises(JournalError, match="the published table answers cannot be read"):
        manifest.read(open_store(str(uri)), published, "answers")


def test_bounds_of_memory_may_overlap(monkeypatch):
    monkeypatch.setattr(memory_bound, "MEMORY_BYTES", 1 << 28)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    first, second = memory_bound.bounded_memory(), memory_bound.bounded_memory()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert resource.getrlimit(resource.RLIMIT_DATA) != before
    with pytest.raises(MemoryError):
        bytearray(1 << 30)
    second.__exit__(None, None, None)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
