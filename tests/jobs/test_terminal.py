"""Other people's words on a terminal and in a spreadsheet: file names, answers, errors."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from jobs._shared import query_output
from jobs._shared.query_output import show
from jobs._shared.terminal import PrintableConsole, printable
from pipeline.runs.logs import JsonFormatter
from pipeline.spreadsheet import plain, safe
from pipeline.tables.query import Answered
from tests.support.small_jobs import cli

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe\u200b\r\x00\x7f"


def hostile_characters(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c not in "\n\t"}


@given(st.text())
def test_nothing_that_is_printed_drives_a_terminal(text):
    assert hostile_characters(printable(text)) == set()
    if text.isprintable():
        assert printable(text) == text


def test_escapes_are_seen():
    assert printable("a\x1b[31mb\nc\u202ed") == "a\\x1b[31mb\nc\\u202ed"
    assert printable("ü→名 ok") == "ü→名 ok"


def test_a_console_keeps_its_colours_and_takes_nobody_elses():
    file = io.StringIO()
    console = PrintableConsole(file=file, force_terminal=True, width=120, color_system="standard")
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE), HOSTILE)
    console.print(table)
    console.print(f"[red]{HOSTILE}[/]")
    said = file.getvalue()
    assert "\x1b[31m" in said  # our own red
    assert hostile_characters(re.sub(r"\x1b\[[0-9;]*m", "", said)) == set()  # colours cannot be told from ours
    assert said.count("\x1b[") < 30
    assert "owned" in said


@pytest.mark.parametrize("command", [["validate"], ["index"], ["explain"], ["plan"]])
def test_errors_quote_names_without_their_escapes(command, tmp_path):
    result = cli(*command, str(tmp_path / f"{HOSTILE.replace(chr(0), '')}.yaml"))
    assert result.exit_code != 0
    assert hostile_characters(result.output) - {"\x1b"} == set()
    assert "\x1b]0;" not in result.output


def answered(*cells: str) -> Answered:
    batch = pa.RecordBatch.from_pydict({"answer": list(cells), "n": [-1.5] * len(cells)})
    return Answered(batch.schema, ("VARCHAR", "DOUBLE"), iter([batch]))


FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1+1")


def test_csv_cells_are_no_formulas(tmp_path):
    show(answered(*FORMULAS, "plain", "a=b"), "csv", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert all(row[0].startswith("'") for row in rows[1:-2])
    assert [row[0] for row in rows[-2:]] == ["plain", "a=b"]
    assert [plain(row[0]) for row in rows[1:-2]] == list(FORMULAS)
    assert {row[1] for row in rows[1:]} == {"-1.5"}  # a number is no formula
    show(answered(*FORMULAS), "csv", tmp_path / "raw.csv", is_csv_raw=True)
    with (tmp_path / "raw.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == list(FORMULAS)


@given(st.text(st.sampled_from("=+-@'\t\n\r;| \"ab,\u200b\uff1d")))
def test_no_part_of_a_cell_is_a_formula_and_none_is_lost(text):
    """Split at whatever a spreadsheet may split at: it does not see the quotes of another separator's cells."""
    file = io.StringIO(newline="")
    csv.writer(file).writerow(["n", safe(text)])
    for part in re.split("[;|\t\r\n]", file.getvalue().partition(",")[2]):
        assert not part.strip(' "\u200b\ufeff').startswith(("=", "+", "-", "@", "\uff1d"))
    assert plain(safe(text)) == text


def test_warnings_quote_names_without_their_escapes(capsys):
    cli("--help")  # from here on nothing is shown as it was logged
    record = logging.LogRecord("pipeline", logging.WARNING, "", 0, "a link: %s", (HOSTILE,), None)
    logging.lastResort.handle(record)
    line = JsonFormatter().format(record)
    assert json.loads(line)["message"] == f"a link: {HOSTILE}"
    for said in (capsys.readouterr().err, line):
        assert "owned" in said
        assert hostile_characters(said) == set()


@pytest.mark.parametrize("form", ["csv", "json", "table"])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_rows_on_a_terminal_are_printable_and_in_a_pipe_whole(monkeypatch, form, is_terminal):
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(query_output.sys, "stdout", out)
    show(answered(HOSTILE), form, None)
    if is_terminal or form == "table":
        assert hostile_characters(out.getvalue().replace("\r\n", "\n")) - {"\x1b", "\r"} == set()
        assert "\x1b]0;" not in out.getvalue()
    else:
        assert "\u202e" in out.getvalue()
