"""What commands say beside their results: that answers are a toy model's, and which files cannot be asked."""

from __future__ import annotations

import duckdb
import pytest

from omnidrop.models.checkpoints import TOY_NOTE
from pipeline.tables.query import models_of
from tests.support.small_jobs import cli


@pytest.fixture
def here(job, monkeypatch):
    monkeypatch.chdir(job.parent)
    return job.parent


def test_whatever_shows_answers_of_the_embedded_model_says_so(here):
    said = f"note: {TOY_NOTE}\n"
    assert cli("index", "job.yaml").exit_code == 0
    shown = [("status", "job.yaml"), ("query", "results", "answers"), ("report", "results"), ("plan", "job.yaml")]
    for command in (*shown, ("validate", "job.yaml", "--no-with-model")):
        told = cli(*command)
        assert told.exit_code == 0, told.output
        assert told.stderr.count(said) == 1, command
        assert TOY_NOTE not in told.stdout


def test_only_models_that_answered_are_spoken_of():
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE clips AS SELECT 'Qwen/Qwen2.5-Omni-3B' AS model")
        assert models_of(connection, ["tiny"]) == ()
        connection.execute("INSERT INTO clips VALUES ('tiny')")
        assert models_of(connection, ["tiny"]) == ("tiny",)


def test_a_plan_names_what_cannot_be_asked(here):
    assert "note: notes.mp4 cannot be asked: not_media\n" in cli("plan", "job.yaml").stderr
