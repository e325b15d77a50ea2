"""The commands that the README shows are run, in its order; those of the other pages at least exist as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jobs.cli import COMMANDS
from jobs.demo import QUERIES
from jobs.query import EXAMPLES
from tests.small_jobs import cli, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page):
    """The `omnidrop ...` lines of a page's console blocks, without comments."""
    blocks = re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines]
    return [w[1:] for w in words if w and w[0] == "omnidrop"]


def test_the_readmes_commands_run_in_its_order(job, monkeypatch):
    job.rename(job.with_name("lectures.yaml"))
    monkeypatch.chdir(job.parent)
    # One file asked by hand is run in test_ask.
    shown = [command for command in commands_of(ROOT / "README.md") if command[0] != "ask"]
    assert [c[0] for c in shown] == ["validate", "plan", "index", "index", "status", "query"]
    for command in shown:
        result = cli(*command)
        assert result.exit_code == 0, (command, result.output)


def test_the_sql_shown_to_users_works(job):
    run(job)
    shown = [shlex.split(example, comments=True)[2] for example in EXAMPLES] + list(QUERIES)
    for sql in shown:
        result = cli("query", sql, job)
        assert result.exit_code == 0, (sql, result.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_on_the_page_exist(page):
    for command in commands_of(page):
        assert command[0] in COMMANDS or command[0].startswith("-"), command
        if command[0] not in COMMANDS:
            continue
        known = cli(command[0], "--help").output
        for option in (word.split("=")[0] for word in command[1:] if word.startswith("--")):
            assert option in known, (command, option)


def test_links_between_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
