"""Notes beside results: answers of a toy model, files that cannot be used, a job that has not run yet."""

from __future__ import annotations

import json

import duckdb
import pytest

from omnidrop.models.checkpoints import TOY_NOTE
from pipeline.tables.query import models_of
from tests.support.small_jobs import cli


@pytest.fixture
def here(job, monkeypatch):
    monkeypatch.chdir(job.parent)
    return job.parent


def test_commands_that_show_answers_of_the_embedded_model_say_so_and_no_others(here):
    said = f"note: {TOY_NOTE}\n"
    assert cli("index", "job.yaml").exit_code == 0
    showing = [("query", "results", "answers"), ("report", "results")]
    for command in (*showing, ("status", "job.yaml"), ("plan", "job.yaml")):
        told = cli(*command)
        assert told.exit_code == 0, told.output
        assert told.stderr.count(said) == (command in showing), command
        assert TOY_NOTE not in told.stdout


def test_only_models_that_answered_are_spoken_of():
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE clips AS SELECT 'Qwen/Qwen2.5-Omni-3B' AS model")
        assert models_of(connection, ["tiny"]) == ()
        connection.execute("INSERT INTO clips VALUES ('tiny')")
        assert models_of(connection, ["tiny"]) == ("tiny",)


def test_a_plan_names_what_cannot_be_asked(here):
    assert "note: notes.mp4 cannot be used: not_media\n" in cli("plan", "job.yaml").stderr


def test_the_status_of_a_job_that_never_ran_makes_nothing(here):
    before = sorted(here.rglob("*"))
    told = cli("status", "job.yaml", "--json", "-")
    assert told.exit_code == 0, told.output
    assert told.stderr == "note: this job has not run yet; start it with: omnidrop index job.yaml\n"
    assert json.loads(told.stdout)["totals"]["clips"] == 0
    assert sorted(here.rglob("*")) == before
