"""A small job over real files with the embedded model, as tests run it again and again."""

from __future__ import annotations

import threading

from typer.testing import CliRunner

from jobs.cli import app
from pipeline.config.job import load_job
from pipeline.runs.run import run_job
from pipeline.tables.named_queries import VIEWS
from pipeline.tables.query import open_results, query

QUESTIONS = """\
name: small
version: "1"
questions:
  - {id: shape, text: "Which shape is shown in {{ media.name }}?", answer: {type: choice, options: [circle, square]}}
  - {id: heard, text: 'Is a tone heard?', answer: {type: boolean}}
"""


CLIPS = "SELECT media_key, start_s, round(end_s) FROM clips ORDER BY ALL"
ANSWERS = "SELECT media_key, start_s, question_id, question, answer FROM answers ORDER BY ALL"


class Silent:
    """An observer that only counts."""

    def __init__(self):
        self.units = 0

    def stage(self, name):
        pass

    def planned(self, clips, finished):
        pass

    def unit_done(self, result):
        self.units += 1


def run(job, **overrides):
    return run_job(load_job(job, overrides), Silent(), threading.Event())


def select(job, sql):
    config = load_job(job)
    views = VIEWS if any(name in sql for name in VIEWS) else ()
    with open_results(config.output, config.storage, views=views) as connection:
        return list(query(connection, sql).rows)


def other_content(source, target, number=1):
    """A copy of an mp4 file that shows and sounds the same and is another content: a box that nobody reads is added."""
    target.write_bytes(source.read_bytes() + b"\0\0\0\x10free" + number.to_bytes(8, "big"))


def cli(*arguments):
    # Wide enough that help never cuts an option in two.
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
