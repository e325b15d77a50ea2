"""The command line: help, options made from the model, errors, and the commands that need no run."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import io
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner, Result

from jobs._shared import query_output
from jobs._shared.options import json_text, settings, settings_table, with_job, write_json
from jobs._shared.results import FoundResults, find_results
from jobs.cli import COMMANDS, app, load_command
from jobs.evaluate import SUBCOMMANDS
from omnidrop.errors import ModelError, UserError
from pipeline.config.job import JobConfig, StorageConfig, load_job
from pipeline.questions.question_set import load_question_set
from pipeline.records.columns import NEVER_NULL
from pipeline.records.unit import FORMAT_VERSION
from pipeline.storage.store import open_store
from pipeline.tables import manifest as manifests
from pipeline.tables.query import Answered, QueryError, open_results, query
from tests.support import published_tables
from tests.support.postgres_server import postgres_server
from tests.support.s3_server import s3_server
from workers.media.ffmpeg import find_ffmpeg

JOB = """\
name: talks
archive: {uri: videos}
output: results
question_set: lecture
variables: {subject: bees}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("bucket") as address:
        yield address


def omnidrop(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


# Help


@pytest.mark.parametrize("arguments", [[], ["query"], ["validate"]])
def test_help_comes_without_importing_anything_heavy(arguments: list[str]):
    code = (
        "import sys\nfrom jobs.cli import main\ntry:\n    main()\nfinally:\n"
        "    print([m for m in ('torch', 'ray', 'sqlalchemy', 'pyarrow', 'duckdb') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert COMMANDS[arguments[0] if arguments else "validate"][:20] in done.stdout
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("name", ["query", "validate"])
def test_help_of_a_command_has_its_options_and_examples(name: str):
    text = omnidrop(name, "--help").output
    assert "--json" in text
    assert "Examples:" in text
    assert f"omnidrop {name}" in text


def test_brackets_in_help_are_shown():
    assert "needs the extra omnidrop[iceberg]." in " ".join(omnidrop("export", "--help").output.split())


def test_every_setting_of_the_job_is_an_option_of_every_job_command():
    offered = {name for parameter in load_command("validate").params for name in parameter.opts}
    all_settings = list(settings())
    assert len(all_settings) > 40
    for setting in all_settings:
        assert setting.info.description, setting.path
        assert setting.names[-1] == "--" + "-".join(setting.path).replace("_", "-")
        assert set(setting.names) <= offered


def test_a_module_and_the_console_script_are_the_same_command(tmp_path: Path):
    script = Path(sys.executable).parent / "omnidrop"
    for command in ([sys.executable, "-m", "jobs.query"], [str(script), "query"]):
        done = subprocess.run([*command, "SELECT 1", str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"omnidrop: error: {tmp_path}: there are no published tables")
        assert done.stdout == ""


def test_a_process_that_has_imported_much_ends_without_a_word():
    # DuckDB's module prints what of it was never freed.
    done = subprocess.run([sys.executable, "-m", "jobs.status", "--help"], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_version_is_the_packages():
    assert omnidrop("--version").output.startswith("omnidrop 0.")


def test_a_command_that_does_not_exist_is_a_usage_error():
    result = omnidrop("indx")
    assert result.exit_code == 2
    assert "No such command" in result.output


# Errors


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def command() -> None:
        raise error

    single = typer.Typer(add_completion=False)
    single.command("query")(command)
    monkeypatch.setattr("jobs.cli.load_command", lambda name, package: typer.main.get_command(single))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("name is wrong; write it right"), 2, "omnidrop: error: name is wrong; write it right\n"),
        (ModelError("the model failed"), 1, "omnidrop: error: the model failed\n"),
        (OSError(107, "not connected", "/mnt/videos/a.mp4"), 1, "omnidrop: error: /mnt/videos/a.mp4: not connected\n"),
        (KeyboardInterrupt(), 130, "omnidrop: interrupted\n"),
    ],
)
def test_errors_are_one_plain_message_and_a_status(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, message: str
):
    failing(monkeypatch, error)
    result = omnidrop("query")
    assert result.exit_code == status
    assert result.stderr == message
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("query", "--debug"), ("--debug", "query")])
def test_debug_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]):
    failing(monkeypatch, UserError("name is wrong"))
    result = omnidrop(*arguments)
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("omnidrop: error: name is wrong\n")


FAILS = """
from threading import Thread
from jobs import cli, status
def fail() -> None:
    raise KeyError("postgresql://me:hunter2@h/d")
def command(in_a_thread: bool = False) -> None:
    Thread(target=fail).start() if in_a_thread else fail()
status.command = command
cli.main("status")
"""


@pytest.mark.parametrize("options", [(), ("--in-a-thread",)])
def test_what_nobody_foresaw_is_one_line_and_a_file_without_credentials(tmp_path: Path, options: tuple[str, ...]):
    # A process of its own: what Python does with an error at last is what is tested.
    environment, command = os.environ | {"TMPDIR": str(tmp_path)}, [sys.executable, "-c", FAILS, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    (file,) = tmp_path.iterdir()
    assert done.returncode == (0 if options else 1)
    assert done.stderr.startswith("omnidrop: error: KeyError: ")
    assert done.stderr.endswith(f"please report it with the file {file}\n")
    assert done.stderr.count("\n") == 1
    assert "Traceback" in file.read_text()
    assert "hunter2" not in done.stdout + done.stderr + file.read_text()


def test_help_names_values_plainly():
    shown = omnidrop("ask", "--help").stdout
    assert "Usage: omnidrop ask [OPTIONS] FILE [QUESTION]..." in shown
    assert not {"<bool>", "<str>", "<float>"} & set(shown.split())


def test_debug_as_a_commands_own_argument_stays_there(tmp_path: Path):
    result = omnidrop("query", "--", "--debug", tmp_path)
    assert "no published tables" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bad_job_file_is_explained_with_its_place(job_file: Path):
    job_file.write_text(JOB + "clips: {lenght_s: 3}\n")
    result = omnidrop("validate", job_file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"omnidrop: error: {job_file}:6:9: clips.lenght_s: there is no such field; did you")
    assert omnidrop("validate", "none.yaml").stderr.startswith("omnidrop: error: none.yaml: there is no such file")


# Options


def taken(job_file: Path, *arguments: str) -> JobConfig:
    """The job that a command gets."""
    seen: list[JobConfig] = []

    @with_job
    def command(job: JobConfig, extra: int = 1) -> None:
        seen.append(job)

    single = typer.Typer(add_completion=False)
    single.command()(command)
    CliRunner().invoke(single, [str(job_file), *arguments], catch_exceptions=False)
    return seen[0]


def test_options_lie_over_the_file(job_file: Path):
    job = taken(
        job_file,
        *("--clips-length-s", "12.5", "--sample", "7", "--seed", "3", "--model", "org/model", "--archive-anonymous"),
        *("--archive-include", "*.mp4", "--archive-include", "*.mkv", "--variable", "language=German"),
        *("--variable", "subject=2024", "--model-actors", "auto", "--pruning-mode", "dense_shared"),
    )
    assert job.clips.length_s == 12.5
    assert (job.archive.sample, job.archive.seed, job.archive.anonymous) == (7, 3, True)
    assert job.archive.include == ("*.mp4", "*.mkv")
    assert job.model.path == "org/model"
    assert job.variables == {"subject": 2024, "language": "German"}
    assert (job.pruning.policy, job.pruning.retained_ratio) == ("none", None)
    assert job.archive.uri == str(job_file.parent / "videos")


def test_without_options_the_file_counts(job_file: Path):
    assert taken(job_file) == load_job(job_file)


def test_an_option_can_take_a_setting_back(job_file: Path):
    job_file.write_text(JOB + "clips: {max_pixels: 100352}\n")
    assert taken(job_file).clips.max_pixels == 100352
    assert taken(job_file, "--clips-max-pixels", "none").clips.max_pixels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clips-fps", "many"), "option --clips-fps: clips.fps: input should be a valid number"),
        (("--clips-fps", "none"), "option --clips-fps: clips.fps: input should be a valid number"),
        (("--sample", "0"), "option --archive-sample: archive.sample: input should be greater than or equal to 1"),
        (("--variable", "subject"), "option --variable: write NAME=VALUE, given: 'subject'"),
        (
            ("--storage-endpoint-url", "http://u:hunter2@h"),
            "option --storage-endpoint-url: storage.endpoint_url: the add",
        ),
    ],
)
def test_a_bad_option_is_named(job_file: Path, arguments: tuple[str, ...], message: str):
    result = omnidrop("validate", job_file, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"omnidrop: error: {message}")
    assert "hunter2" not in result.output


# JSON files


def test_a_link_stays_a_link_and_a_pipe_a_pipe_where_results_are_written(tmp_path, monkeypatch):
    link, pipe = tmp_path / "latest.json", tmp_path / "pipe"
    link.symlink_to("all/1.json")
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads((tmp_path / "all/1.json").read_text()) == {"a": 1}
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_json(pipe, {"b": 2})
        assert json.loads(read.result(30)) == {"b": 2}
    assert pipe.is_fifo()
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(UserError, match="--json -: cannot be written: No space left"):
            write_json(Path("-"), {"c": 3})
        monkeypatch.undo()


def test_a_json_file_is_written_whole_and_strictly(tmp_path: Path):
    path = tmp_path / "new" / "result.json"
    write_json(path, {"config": StorageConfig(), "nan": float("nan"), "path": Path("/x"), "set": (1, "ü")})
    assert json.loads(path.read_text()) == {
        "config": StorageConfig().model_dump(mode="json"),
        "nan": None,
        "path": "/x",
        "set": [1, "ü"],
    }
    assert os.listdir(path.parent) == ["result.json"]
    with pytest.raises(UserError, match=r"--json .*cannot be written"):
        write_json(path / "below", {})


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_value_is_strict_json(value: object):
    json.loads(json_text({"value": value}), parse_constant=pytest.fail)


# Query


def publish(uri: str, storage: StorageConfig | None = None, answers: int = 3) -> None:
    """A small published generation: `answers` rows in two files, one row of runs, the other tables empty."""
    store = open_store(uri, storage)
    schema = manifests.SCHEMAS["answers"]
    paths = []
    for part in range(2):
        rows = [
            {
                **dict.fromkeys(NEVER_NULL["answers"], "x"),
                **{"start_s": 0.0, "end_s": 1.0},
                "media_key": f"v{n}.mp4",
                "clip_id": f"c{n}",
                "question_id": "q",
                "answer": f"[red]{n}",
                "probability": n / 8,
            }
            for n in range(part, answers, 2)
        ]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
        paths.append(f"generation=000001/answers/part-{part:05d}.parquet")
        store.write(f"tables/{paths[-1]}", sink.getvalue())
    listed = {name: paths if name == "answers" else [] for name in manifests.NAMES}
    manifest = {"generation": 1, "digest": "x", "tables": listed, "rows": {}, "published_at": "2026-01-01T00:00:00Z"}
    manifest |= {"format_version": FORMAT_VERSION}
    store.write(manifests.MANIFEST, json.dumps(manifest).encode())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    publish(str(tmp_path / "results"))
    return tmp_path / "results"


SQL = "SELECT clip_id, answer, probability FROM answers ORDER BY clip_id"


def test_answers_are_shown_as_a_table_csv_and_json(results: Path, tmp_path: Path):
    table = omnidrop("query", SQL, results).stdout
    assert "clip_id" in table
    assert "[red]2" in table  # text, never markup
    rows = list(csv.DictReader(io.StringIO(omnidrop("query", SQL, results, "--format", "csv").stdout)))
    assert rows[1] == {"clip_id": "c1", "answer": "[red]1", "probability": "0.125"}
    expected = [{"clip_id": f"c{n}", "answer": f"[red]{n}", "probability": n / 8} for n in range(3)]
    assert json.loads(omnidrop("query", SQL, results, "--format", "json").stdout) == expected
    assert json.loads(omnidrop("query", SQL + " LIMIT 0", results, "--format", "json").stdout) == []
    assert omnidrop("query", SQL, results, "--json", tmp_path / "out.json").stdout == table
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"] == expected
    assert written["columns"] == ["clip_id", "answer", "probability"]
    assert json.loads(omnidrop("query", SQL, results, "--json", "-").stdout) == written


def test_a_long_table_is_cut_and_says_so(tmp_path: Path):
    publish(str(tmp_path), answers=20)
    result = omnidrop("query", SQL, tmp_path, "--rows", "5")
    assert result.exit_code == 0, result.output
    assert "c12" in result.stdout
    assert "c2 " not in result.stdout
    assert "Only the first 5 rows" in result.stdout
    assert "the first" not in omnidrop("query", SQL, tmp_path, "--rows", "20").stdout


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "interrupted"),
        (signal.SIGHUP, 129, "interrupted"),
        (signal.SIGXCPU, 152, "the CPU time that this process may take is used up (`ulimit -t`)"),
    ],
)
def test_a_query_that_is_interrupted_leaves_nothing(tmp_path: Path, number: int, status: int, said: str):
    results, scratch, out = tmp_path / "r", tmp_path / "tmp", tmp_path / "out"
    publish(str(results))
    scratch.mkdir()
    out.mkdir()
    asked = ["jobs.query", str(results), "SELECT * FROM range(1000000000)", "-o", str(out / "q.csv")]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    # What runs in a shell's background ignores Ctrl-C, and hands that on.
    heard = functools.partial(signal.signal, number, signal.SIG_DFL)
    command = [sys.executable, "-m", *asked]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, preexec_fn=heard) as process:
        while not list(out.iterdir()):
            time.sleep(0.05)
        process.send_signal(number)
        told = process.stderr.read()
    assert (process.returncode, told) == (status, f"omnidrop: {said}\n".encode())
    assert not [*scratch.iterdir(), *out.iterdir()]


def test_a_terminal_that_closes_stops_a_run_without_a_word(tmp_path: Path):
    program = """
import os, sys, time
from jobs._shared import interrupts
from jobs._shared.display import ProgressBar
from jobs._shared.stopping import StopOnSignal
interrupts.handle()
with StopOnSignal() as stop, ProgressBar():
    os.write(int(sys.argv[1]), b"begun\\n")
    while not stop.is_set():
        time.sleep(0.1)  # the bar is drawn meanwhile
os.write(int(sys.argv[1]), b"ended\\n")
"""
    told, tell = os.pipe()
    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever ignores it here, as `nohup` does
        os.set_inheritable(tell, True)
        os.environ["TMPDIR"] = str(tmp_path)
        os.execv(sys.executable, [sys.executable, "-c", program, str(tell)])
    os.close(tell)
    assert os.read(told, 100) == b"begun\n"
    os.close(terminal)
    assert os.read(told, 100) == b"ended\n"
    assert os.waitpid(child, 0) == (child, 0)
    assert not list(tmp_path.iterdir())


def test_no_temporary_folder_is_a_sentence(results: Path, monkeypatch: pytest.MonkeyPatch):
    def unusable():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", unusable)
    result = omnidrop("query", SQL, results)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "set TMPDIR" in result.stderr


def test_an_interrupt_that_a_finaliser_swallows_comes_again():
    program = """
import os, signal, time
from jobs._shared import interrupts
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
interrupts.handle()
try:
    Finalised()
    time.sleep(30)
except KeyboardInterrupt:
    print(interrupts.exit_status())
"""
    started = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("143\n", "")
    assert time.monotonic() - started < 30, "it ended the wait"


def test_a_large_table_has_a_line_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(query_output, "MOST_FRAMED", 5)
    clips = {key: [(0, 1, {"q": ("boolean", "yes", 0.9)})] for key in ("a.mp4", "b\n.mp4", "全.mp4")}
    uri = published_tables.publish(tmp_path / "r", clips)
    result = omnidrop("query", uri, "SELECT media_key, probability FROM answers ORDER BY 1")
    *lines, note = result.stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["media_key", "probability"], ["a.mp4", "0.9"], [r"b\n.mp4", "0.9"], ["全.mp4", "0.9"]
    ]  # fmt: skip
    assert len({cell_len(line) for line in lines}) == 1
    assert note == "More than 5 cells: one line a row, however long."


def test_names_of_columns_stay_readable_on_a_narrow_terminal():
    names = ["collection", "retained_ratio", "dense_shared_tflop", "saved_against_dense_shared", "saved_against_dense"]
    rows = pa.RecordBatch.from_pydict({name: [0.123] for name in names})
    console = Console(width=56, file=io.StringIO())
    table = query_output.rich_table(Answered(rows.schema, ("DOUBLE",) * 5, iter([rows])), [(0.123,) * 5], console)
    console.print(table)
    shown = console.file.getvalue().split()
    assert [shown.count(word) for word in ("collection", "against_", "dense_", "shared", "tflop")] == [1, 2, 2, 1, 1], (
        shown
    )


def test_all_five_tables_are_there_even_when_empty(results: Path):
    with open_results(str(results)) as connection:
        for name in manifests.NAMES:
            answered = query(connection, f"SELECT * FROM {name}")
            assert answered.columns == tuple(manifests.SCHEMAS[name].names)
            assert len(list(answered.rows)) == (3 if name == "answers" else 0)


def test_results_are_found_where_the_demo_and_a_job_put_them(
    results: Path, job_file: Path, monkeypatch: pytest.MonkeyPatch
):
    assert find_results(str(job_file)) == FoundResults(str(results), StorageConfig(), load_job(job_file))
    moved = find_results(str(job_file), "http://h:9", index_url="sqlite:///x").job
    assert (moved.storage.endpoint_url, moved.index_url) == ("http://h:9", "sqlite:///x")
    monkeypatch.chdir(results.parent)
    assert find_results(None).uri == str(results)
    monkeypatch.chdir(results)
    assert find_results(None).uri == str(results)
    there = FoundResults("s3://bucket/x", StorageConfig(endpoint_url="http://h:9"))
    assert find_results("s3://bucket/x/", "http://h:9") == there
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"no results found in \., results, demo/results; give a job file"):
        find_results(None)


def test_a_query_sees_the_tables_and_nothing_else(results: Path, tmp_path: Path):
    victim = tmp_path / "victim.csv"
    victim.write_text("a\n1\n")
    attempts = [
        f"SELECT * FROM '{victim}'",
        f"SELECT * FROM read_csv('{victim}')",
        f"SELECT * FROM read_text('{victim}')",
        f"SELECT * FROM read_parquet('{results}/tables/generation=000001/answers/part-00000.parquet')",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"COPY answers TO '{tmp_path}/stolen.csv'",
        f"COPY (SELECT 1) TO '{victim}'",
        f"ATTACH '{tmp_path}/new.db'",
        f"EXPORT DATABASE '{tmp_path}/export'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM 'https://example.com/x.parquet'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET enable_external_access",
        "SET python_enable_replacements = true",
        "SELECT * FROM victim",
        "SELECT * FROM connection",
    ]
    before = sorted(tmp_path.rglob("*"))
    with open_results(str(results)) as connection:
        for sql in attempts:
            with pytest.raises(QueryError):
                list(query(connection, sql).rows)
    assert sorted(tmp_path.rglob("*")) == before
    assert victim.read_text() == "a\n1\n"


def test_sql_that_cannot_run_says_what_there_is(results: Path):
    result = omnidrop("query", "SELECT anser FROM answers", results)
    assert result.exit_code == 2
    assert '"answer"' in result.stderr  # DuckDB's own suggestion
    assert "Tables: answers, audits, clips, media, quarantine, runs" in result.stderr
    assert "one SQL statement, got 2" in omnidrop("query", "SELECT 1; SELECT 2", results).stderr
    assert "one SQL statement, got 0" in omnidrop("query", "", results).stderr
    assert "Conversion Error" in omnidrop("query", "SELECT clip_id::INT FROM answers", results).stderr


def test_columns_of_one_name_are_told_apart(results: Path):
    result = omnidrop("query", "SELECT 1 AS a, 2 AS a, 3 AS a_2", results, "--format", "json")
    assert list(json.loads(result.stdout)[0].values()) == [1, 2, 3]


@pytest.mark.cluster
def test_results_in_s3_are_queried_where_they_lie(server: str):
    publish("s3://bucket/results", StorageConfig(endpoint_url=server))
    sql = "SELECT count(*) AS n FROM answers"
    result = omnidrop("query", sql, "s3://bucket/results", "--endpoint-url", server, "--format", "json")
    assert json.loads(result.stdout) == [{"n": 3}]


# Validate


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a broken one.mp4").write_bytes(b"no video")
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=1"]
    command = [find_ffmpeg(), "-loglevel", "error", *source, "-c:v", "mpeg4", str(folder / "good.mp4")]
    subprocess.run(command, check=True)
    return folder


def test_a_job_that_is_well_passes_every_check_and_leaves_nothing(job_file: Path, videos: Path, tmp_path: Path):
    result = omnidrop("validate", job_file, "--json", tmp_path / "checks.json")
    assert result.exit_code == 0, result.output
    checks = json.loads((tmp_path / "checks.json").read_text())
    assert checks["ok"]
    assert [check["ok"] for check in checks["checks"]] == [True] * 12
    assert "good.mp4: 1.0 s, mpeg4" in result.stdout
    assert "subject=bees" in result.stdout
    assert "9 questions about a black second" in result.stdout
    assert not (tmp_path / "results").exists()


def test_each_failure_is_shown_and_says_what_to_do(job_file: Path, tmp_path: Path):
    (tmp_path / "results").touch()
    result = omnidrop(
        *("validate", job_file, "--question-set", "lectur", "--model", tmp_path),
        *("--index-url", "postgresql+psycopg://127.0.0.1:9/none"),
    )
    assert result.exit_code == 1
    for expected in (
        "FAILED   question set: question_set: ",
        "did you mean lecture?",
        f"FAILED   archive: archive.uri: {tmp_path}/videos does not exist",
        "skipped  questions fit the media: an earlier check failed",
        "FAILED   output: cannot write",
        "FAILED   savings index: index_url: postgresql+psycopg://127.0.0.1:9/none cannot be used",
        "ok       ffmpeg: ffmpeg version",
        f"FAILED   checkpoint answers: the checkpoint {tmp_path} lacks",
    ):
        assert expected in result.stdout
    assert "5 of 12 checks failed" in result.stderr


def test_media_that_lack_what_a_template_reads_are_found_before_the_run(job_file: Path, videos: Path, tmp_path: Path):
    (tmp_path / "set.yaml").write_text(
        "name: s\nversion: 1\nquestions: [{id: q, text: 'Is {{ media.tags.artist }} seen?', answer: {type: boolean}}]\n"
    )
    arguments = ("--question-set", tmp_path / "set.yaml", "--no-with-model")
    job_file.write_text(JOB.replace("variables: {subject: bees}\n", ""))
    result = omnidrop("validate", job_file, *arguments)
    assert result.exit_code == 1
    assert "question q: media.tags.artist does not exist here" in result.stdout


def test_an_archive_without_a_readable_item_fails(job_file: Path, videos: Path):
    (videos / "good.mp4").unlink()
    result = omnidrop("validate", job_file, "--no-with-model")
    assert (
        "FAILED   questions fit the media: none of the first 1 items can be read; check archive.incl" in result.stdout
    )


@pytest.mark.cluster
def test_a_job_in_s3_is_validated_where_it_lies(
    job_file: Path, videos: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storage = StorageConfig(endpoint_url=server)
    open_store("s3://bucket/media", storage).write("good.mp4", (videos / "good.mp4").read_bytes())
    arguments = [
        "validate",
        job_file,
        "--no-with-model",
        "--output",
        "s3://bucket/out",
        "--storage-endpoint-url",
        server,
    ]
    arguments += ["--archive-uri", "s3://bucket/media", "--archive-endpoint-url", server]
    (tmp_path / "new").mkdir()
    result = omnidrop(*arguments, "--index-url", f"sqlite:///{tmp_path}/new/index.sqlite")
    assert result.exit_code == 0, result.output
    assert list(open_store("s3://bucket/out", storage).list()) == []
    assert list((tmp_path / "new").iterdir()) == []
    unnamed = omnidrop(*arguments)
    assert unnamed.exit_code == 1
    assert "FAILED   savings index: index_url: the output s3://bucket/out is not a local folder" in unnamed.stdout


@pytest.mark.cluster
def test_the_index_is_really_connected_to(job_file: Path, videos: Path, monkeypatch: pytest.MonkeyPatch):
    with postgres_server() as server:
        url = server.url
        monkeypatch.setenv("OMNIDROP_MY_INDEX", url)
        result = omnidrop("validate", job_file, "--no-with-model", "--index-url", "${OMNIDROP_MY_INDEX}")
    assert result.exit_code == 0, result.output
    assert "savings index: postgresql+psycopg://" in result.stdout
    assert ": connected" in result.stdout
    missing = omnidrop("validate", job_file, "--no-with-model", "--index-url", "${OMNIDROP_NOT_SET}")
    assert "FAILED   savings index: index_url: ${OMNIDROP_NOT_SET} refers to OMNIDROP_NOT_SET" in missing.stdout


@pytest.mark.parametrize(
    ("package", "name"),
    [*(("jobs", name) for name in COMMANDS if find_spec(f"jobs.{name}")), *(("jobs.evaluate", n) for n in SUBCOMMANDS)],
)
def test_every_command_loads_and_explains_itself(package: str, name: str):
    command = load_command(name, package)
    assert command.help
    assert "Examples:" in (command.epilog or "")


# Documentation

DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_settings_are_those_of_the_model():
    assert settings_table() in (DOCS / "job-file.md").read_text(), "python -m jobs._shared.options prints the table"


def test_the_documented_files_are_valid(tmp_path: Path):
    questions, job = (
        (DOCS / name).read_text().partition("```yaml\n")[2].partition("```")[0]
        for name in ("questions.md", "job-file.md")
    )
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions/interviews.yaml").write_text(questions)
    (tmp_path / "job.yaml").write_text(job)
    loaded = load_job(tmp_path / "job.yaml")
    assert load_question_set(loaded.question_set).values(loaded.variables) == {
        "topic": "climate",
        "language": "English",
    }


def test_a_standard_output_that_is_closed_is_an_error_and_no_file_takes_its_number():
    opened = (
        "import os, sys, jobs.cli; jobs.cli._open_streams(); sys.stderr.write(str(os.open('/dev/zero', 0)) + '\\n')"
    )
    command = f'"$0" -c "{opened}" >&- && exec "$0" -m jobs.cli --version >&-'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    number, said = done.stderr.splitlines()
    assert int(number) > 2
    assert (done.returncode, said.startswith("omnidrop: error: standard output is closed")) == (1, True)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ('raise RuntimeError("can\'t start new thread")', "no more threads or processes can be started"),
        ("bytearray(1 << 60)", "there is not enough memory"),
        ("import os, resource as r; r.setrlimit(r.RLIMIT_NOFILE, (3, 64)); os.pipe()", "no more files can be opened"),
    ],
)
def test_what_a_machine_lacks_is_no_bug(raised, said):
    """At a place where nobody expected it: the command line is the real one, what the command does is not."""
    program = f"""if 1:
        import sys
        from jobs import cli, selfcheck
        def command(): {raised}
        selfcheck.command = command
        sys.argv[1:] = ["selfcheck"]
        cli.main()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"omnidrop: error: {said}")
    assert len(done.stderr.splitlines()) == 1
