"""What the pages show is run: the README's, the guide's and the commands of pages about results in their order, SQL and
Python on the demo's results. Commands for machines that no test has (```sh blocks, the other pages) at least exist as
written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

import omnidrop.errors
import workers.errors
from jobs.cli import COMMANDS
from jobs.demo import QUERIES
from jobs.query import EXAMPLES, told_apart
from pipeline import failure_rules
from pipeline.asking.ask import ask
from pipeline.config.job import load_job
from pipeline.tables.named_queries import named_queries
from pipeline.tables.query import NAMES, open_results, query
from pipeline.toy_world.demo_archive import TALK_ASKED
from tests.support.small_jobs import cli, run
from workers.media.confinement import AUDIO_DECODERS, DEMUXERS, VIDEO_DECODERS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDE = [
    *sorted((ROOT / "docs/guide").glob("*.md")),
    *(ROOT / "docs" / f"{name}.md" for name in ("analytics", "find", "moments", "report")),
]


def blocks_of(page, kinds):
    """Fenced blocks of these kinds: (kind, text)."""
    return re.findall(rf"^```({kinds})\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands_of(page, kinds="console|bash|sh"):
    """The `omnidrop ...` lines of a page's blocks, without comments."""
    return commands_in(text for _, text in blocks_of(page, kinds))


def commands_in(blocks):
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines]
    return [w[1:] for w in words if w and w[0] == "omnidrop"]


def test_the_readmes_commands_run_in_its_order(job, monkeypatch):
    job.rename(job.with_name("lectures.yaml"))
    monkeypatch.chdir(job.parent)
    # One file asked by hand is run in test_ask.
    shown = [command for command in commands_of(ROOT / "README.md") if command[0] != "ask"]
    assert [c[0] for c in shown] == ["validate", "plan", "index", "index", "status", "query", "report"]
    for command in shown:
        result = cli(*command)
        assert result.exit_code == 0, (command, result.output)


def test_the_page_lists_all_formats_that_are_read():
    _, *parts = (ROOT / "docs/formats.md").read_text().split("\n## ")
    listed = [tuple(re.findall(r"`([^`]+)`", part)) for part in parts]
    assert listed == [DEMUXERS, VIDEO_DECODERS, AUDIO_DECODERS]


def test_the_sql_shown_to_users_works(job):
    run(job)
    words = [shlex.split(example, comments=True)[2:4] for example in EXAMPLES]
    shown = [sql for sql, _ in (told_apart(*pair) for pair in words) if sql and " " in sql] + list(QUERIES)
    assert len(shown) > len(QUERIES)
    for sql in shown:
        result = cli("query", sql, job)
        assert result.exit_code == 0, (sql, result.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_on_the_page_exist(page):
    for command in commands_of(page):
        assert command[0] in COMMANDS or command[0].startswith("-"), command
        if command[0] not in COMMANDS:
            continue
        # A folder's commands have options of their own.
        at = 2 if find_spec(f"jobs.{command[0]}").submodule_search_locations else 1
        known = cli(*command[:at], "--help").output
        for option in (word.split("=")[0] for word in command[1:] if word.startswith("--")):
            assert option in known, (command, option)
        if command[0] == "query" and not command[2].startswith("-"):
            assert told_apart(*command[1:3])[1] == command[1], ("results first, then the query", command)


def test_the_architecture_names_what_is_there_and_every_folder():
    page = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"`((?:benchmarks|dev|docs|jobs|omnidrop|pipeline|tests|training|workers)/[\w./]*)`", page)
    assert [path for path in named if not (ROOT / path).exists() and path != "jobs/NAME.py"] == []
    folders = {
        f"{path.parent.relative_to(ROOT)}/"
        for root in ("pipeline", "workers", "omnidrop", "jobs")
        for path in (ROOT / root).glob("*/__init__.py")
    }
    assert folders <= set(named)


def test_links_between_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


@pytest.fixture
def shown_place(demo, videos, tmp_path, monkeypatch):
    """A working folder as the guide has it: a demo of one's own, and some videos."""
    shutil.copytree(demo, tmp_path / "demo")
    # Under the name that the demo's archive has, so that what is answered there counts here, too.
    name = load_job(demo / "job.yaml").archive.identity
    text = (demo / "job.yaml").read_text()
    assert "archive: {uri: archive}" in text
    (tmp_path / "demo/job.yaml").write_text(text.replace("{uri: archive}", f"{{uri: archive, name: '{name}'}}"))
    shutil.copytree(videos, tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demos_slide_is_read_and_its_words_are_understood(ray_session, demo):
    answered = ask(str(demo / "talk.mp4"), *TALK_ASKED, model="tiny-v3", retained_ratio=0.3)
    assert [answer.text for answer in answered.clips[0].answers.answers] == list(TALK_ASKED.values())


@pytest.mark.parametrize("page", GUIDE, ids=lambda p: p.name)
def test_the_guides_commands_run_in_their_order(page, ray_session, shown_place):
    ran = 0
    for kind, text in blocks_of(page, "console|yaml"):
        if kind == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", text)[1]
            # The demo before it ran on Ray; here that would take another model actor's 8 CPU s of imports.
            here = "execution: {ray_address: in-process}\n" if "\narchive:" in text else ""
            (shown_place / name).write_text(text + here)
            continue
        for command in commands_in([text]):
            result = cli(*command)
            assert result.exit_code == 0, (command, result.output)
            ran += 1
    assert ran


def test_the_analytics_sql_is_that_of_the_named_queries(demo):
    """Each question's SQL gives the rows of the query that is named above it."""
    page = (ROOT / "docs/analytics.md").read_text()
    sections = re.split(r"^### \d+\. ", page, flags=re.MULTILINE)[1:]
    assert len(sections) == 11
    seen = set()
    for section in sections:
        command = shlex.split(re.search(r"`omnidrop (query [^`]+)`", section)[1])
        asked = named_queries()[command[2]]
        seen.add(asked.name)
        assert section.startswith(asked.says)
        given = dict(word.split("=", 1) for flag, word in pairwise(command) if flag == "--set")
        sql = re.findall(r"^```sql\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0]
        with open_results(str(demo / "results")) as connection:
            named = list(query(connection, asked.sql, asked.values(given)).rows)
            assert list(query(connection, sql).rows) == named, asked.name
        assert named
    assert seen == set(named_queries())


def test_what_a_query_can_read_is_listed():
    page, shown = (ROOT / "docs/analytics.md").read_text(), cli("query", "--help").output
    assert [name for name in NAMES if f"| `{name}` |" not in page or name not in shown] == []


def test_the_other_readers_read_what_they_should(shown_place, capsys):
    shown = [text for _, text in blocks_of(ROOT / "docs/analytics.md", "python")]
    assert len(shown) == 3
    published = json.loads((shown_place / "demo/results/tables/current.json").read_text())
    for text in shown:
        if "polars" in text:
            pytest.importorskip("polars")
        names = {}
        exec(text, names)
        assert names["published"] == published
        assert capsys.readouterr().out.strip()


def test_every_error_class_has_an_entry_in_troubleshooting():
    page = (ROOT / "docs/guide/troubleshooting.md").read_text()
    shown = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    of_clips = {
        e.error_class for e in vars(workers.errors).values() if isinstance(e, type) and hasattr(e, "error_class")
    }
    # A user's own mistakes end a command; only these two of them can be a matter of one file.
    of_clips |= {omnidrop.errors.PolicyError.error_class, omnidrop.errors.QuestionError.error_class}
    of_clips |= {"model_error", "model_out_of_memory", "internal"}
    of_clips -= {omnidrop.errors.UserError.error_class}
    source = "".join(
        file.read_text()
        for folder in ("pipeline", "workers", "omnidrop")
        for file in (ROOT / folder).rglob("*.py")
        if "evaluation" not in file.parts  # its classes are of rows of a benchmark, not of clips
    )
    of_clips |= set(re.findall(r'ClipFailure\([^()]*?, "\w+", "(\w+)"', source))
    of_clips |= set(re.findall(r'error_class="(\w+)"', source))
    assert of_clips <= shown, of_clips - shown
    assert all(name in source for name in shown), "an entry for a class that does not exist"
    # A scheduled run that answered nothing is no failure of a clip.
    assert failure_rules.RULES.keys() == shown - {"answered_nothing"}


def test_the_table_of_what_is_tried_again_is_the_one_that_is_followed():
    page = (ROOT / "docs/operations.md").read_text()
    assert failure_rules.rules_table() in page, "python -m pipeline.failure_rules prints the table"


def test_each_fault_of_the_table_names_tests_that_are_there():
    page = (ROOT / "docs/operations.md").read_text()
    table = page.partition("| fault | stage |")[2].partition("## Verify")[0]
    there = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in table.splitlines()[2:]:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or not row, row
        assert all(f"def {name}(" in there for name in named), row
