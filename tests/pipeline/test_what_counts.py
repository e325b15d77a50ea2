"""What counts: the content of a file under whatever name, while the archive of some job lists it. Whole runs with a
stub for ffmpeg and the model (`tests.support.stub_runs`), so that what is asked can be counted."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import pytest
import s3fs
import sqlalchemy as sa

from pipeline.config.job import StorageConfig, load_job
from pipeline.planning.listing import _replayed
from pipeline.planning.media_plan import ANSWER_FORMAT
from pipeline.planning.open_job import open_output
from pipeline.report.formats import quantity
from pipeline.report.page import costs, render
from pipeline.report.queries import gather
from pipeline.tables import publish
from tests.support.s3_server import s3_server
from tests.support.small_jobs import cli, run, select
from tests.support.stub_runs import QUESTIONS, stub_runs, video
from workers.records import Media

ROWS = "SELECT media_key, start_s, question_id, answer FROM answers ORDER BY ALL"
FORMAT_3 = Path(__file__).parents[1] / "data" / "results_format_3.tar.xz"


@pytest.fixture
def asked():
    with stub_runs() as counted:
        yield counted


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the project of each test lies: always there, so that what its first run leaves can be put back."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def project(home):
    """A project folder with a job over twelve small videos: eleven may go before one in ten is missing."""
    yield make_project(home / "project")
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def first_run(home):
    """The project after its first run, made once, and what that asked."""
    with stub_runs() as asked:
        index(make_project(home / "project"))
    return home.rename(home.with_name("after_the_first_run")), asked


@pytest.fixture
def indexed(first_run, home, asked):
    """The project after its first run."""
    kept, asked_before = first_run
    shutil.copytree(kept, home)
    asked.update(asked_before)
    asked.times = asked_before.times
    yield home / "project"
    shutil.rmtree(home)


def make_project(folder, name="test", videos=12):
    for number in range(videos):
        video(folder / "archive" / f"{number:02d}.mp4", f"video {number}")
    (folder / "questions.yaml").write_text(QUESTIONS)
    (folder / "job.yaml").write_text(
        f"name: {name}\narchive: {{uri: archive}}\noutput: results\nquestion_set: questions.yaml\n"
        "clips: {length_s: 10}\nmodel: {device: cpu}\nexecution: {ray_address: in-process}\naudit: {share: 0}\n"
    )
    return folder


def index(folder, *options, status=0):
    result = cli("index", folder / "job.yaml", *options)
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


def rows(folder):
    return select(folder / "job.yaml", ROWS)


def touch(folder):
    for path in (folder / "archive").iterdir():
        os.utime(path)


def copy_without_times(folder):
    shutil.copytree(folder / "archive", folder / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(folder / "archive")
    (folder / "copy").rename(folder / "archive")


def give_a_name(folder):
    edit(folder, "{uri: archive}", "{uri: archive, name: films}")


def move_the_archive(folder):
    (folder / "archive").rename(folder / "elsewhere")
    edit(folder, "uri: archive", "uri: elsewhere")


def link_to_it(folder):
    (folder / "link").symlink_to(folder / "archive")
    edit(folder, "uri: archive", "uri: link")


def edit(folder, old, new, file="job.yaml"):
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_results_and_media_among_the_journal_or_tables_of_results_are_refused(indexed, asked):
    for part in ("tables", "journal/units"):
        refused = index(indexed, "--output", indexed / "results" / part, status=2)
        assert f"is a part of the results in {indexed}/results; give" in refused
        assert "lies in the" in index(indexed, "--archive-uri", indexed / "results" / part, status=2)
    assert "nothing to do" in index(indexed)


def test_an_output_may_have_any_name(project, asked, monkeypatch):
    output = project / "a%20b?x=1#y"
    index(project, "--output", output)
    assert sorted(path.name for path in output.iterdir()) == ["index.sqlite", "journal", "tables"]
    assert not (project / "a%20b").exists()
    for refused in (0, os.W_OK):  # a place that is only read is opened otherwise
        monkeypatch.setattr(os, "access", lambda path, mode, refused=refused, **how: not mode & refused)
        verified = cli("verify", f"file://{output}")
        assert (verified.exit_code, "index rows" in verified.output) == (0, True), verified.output


def test_a_clock_that_goes_back_hides_no_publishing(project, asked, monkeypatch):
    monkeypatch.setattr(publish, "utc_now", lambda: "2000-01-01T00:00:00Z")
    assert run(project / "job.yaml").has_published
    assert not run(project / "job.yaml").has_published


def test_who_may_only_read_sees_the_status(project, asked, empty_postgres):
    edit(project, "output:", f"index_url: {empty_postgres}\noutput:")
    index(project)
    # There is more in the journal than this index knows.
    video(project / "archive" / "12.mp4", "video 12")
    index(project, "--index-url", f"sqlite:///{project}/index.sqlite")
    engine = sa.create_engine(empty_postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE reader LOGIN")
        connection.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        connection.exec_driver_sql("GRANT USAGE ON SCHEMA public TO reader")
    reader = empty_postgres.replace("//postgres:@", "//reader@")
    status = cli("status", project / "job.yaml", "--index-url", reader, "--json", "-")
    assert (status.exit_code, json.loads(status.stdout)["totals"]["clips"]) == (0, 24), status.output
    assert "What follows is what the index knew before" in " ".join(status.stderr.split())
    (table,) = (name for name in sa.inspect(engine).get_table_names() if name.endswith("_context"))
    with engine.begin() as connection:
        connection.exec_driver_sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO reader")
        connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO reader")
        connection.exec_driver_sql(f"REVOKE UPDATE ON {table} FROM reader")
    engine.dispose()
    found = cli("validate", project / "job.yaml", "--index-url", reader, "--no-weights")
    assert f"permission denied for table {table}" in " ".join(found.output.split())


@pytest.mark.parametrize("what", [touch, copy_without_times, give_a_name, move_the_archive, link_to_it])
def test_the_same_content_elsewhere_or_later_is_not_asked_again(indexed, asked, what):
    before = rows(indexed)
    assert (len(before), asked.clips()) == (48, 24)
    what(indexed)
    assert "nothing to do" in index(indexed)
    assert rows(indexed) == before
    assert asked.clips() == 24
    assert cli("verify", indexed / "job.yaml").exit_code == 0


def test_a_moved_project_folder_is_the_same_project(indexed, asked):
    before = rows(indexed)
    moved = indexed.rename(indexed.with_name("moved"))
    index(moved)
    assert (rows(moved), asked.clips()) == (before, 24)


def test_a_renamed_file_keeps_its_answers_unless_a_question_reads_its_name(indexed, asked):
    (indexed / "archive" / "03.mp4").rename(indexed / "archive" / "renamed.mp4")
    said = index(indexed)
    assert "1 of 12 listed under another name or place now (03.mp4): they count there" in said
    assert "no longer listed" not in said
    assert asked.clips() == 24
    assert {row[0] for row in rows(indexed)} == {f"{n:02d}.mp4" for n in range(12) if n != 3} | {"renamed.mp4"}
    edit(indexed, "Which shape is shown?", "Which shape is shown in {{ media.name }}?", "questions.yaml")
    index(indexed)
    assert asked.clips() == 48
    (indexed / "archive" / "renamed.mp4").rename(indexed / "archive" / "again.mp4")
    planned = cli("plan", indexed / "job.yaml")
    assert (
        "2 clips are asked again because the files were moved or renamed and the questions read media.name"
        in " ".join(planned.output.split())
    )
    index(indexed)
    assert asked.clips() == 50


def test_a_renamed_job_continues(indexed, asked):
    before = rows(indexed)
    edit(indexed, "name: test", "name: renamed")
    assert "continues that job" in index(indexed)
    assert (rows(indexed), asked.clips()) == (before, 24)
    assert select(indexed / "job.yaml", "SELECT DISTINCT job FROM media") == [("renamed",)]
    # What is deleted later is not kept by the name of before.
    (indexed / "archive" / "00.mp4").unlink()
    index(indexed)
    assert len(rows(indexed)) == 44


def test_exact_copies_are_asked_once_and_answered_under_both_keys(project, asked):
    shutil.copy(project / "archive" / "00.mp4", project / "archive" / "copy of 00.mp4")
    assert "1 of the media are exact copies" in index(project)
    assert asked.clips() == 24
    found = rows(project)
    assert len(found) == 52
    assert [row[1:] for row in found if row[0] == "00.mp4"] == [row[1:] for row in found if row[0] == "copy of 00.mp4"]
    job = project / "job.yaml"
    assert select(job, "SELECT count(*), count(DISTINCT clip_id), count(copy_of) FROM clips") == [(26, 26, 2)]
    # What it cost counts once.
    assert select(job, "SELECT count(as_run_flops), count(model_s) FROM clips") == [(24, 24)]
    report = gather(str(project / "results"), StorageConfig(), budget_bytes=10_000)
    assert (report.clips, report.clips_asked) == (26, 24)
    assert [run.spent.clips for run in report.runs] == [one.spent.clips for one in report.collections] == [24]
    assert "of 13 videos, 2 clips in exact copies" in " ".join(render(report).decode().split())
    assert ",24,2," in cli("query", job, "savings-by-collection", "--format", "csv").output
    assert ",complete,48,24," in cli("query", job, "savings-by-run", "--format", "csv").output
    ((mean,),) = select(job, "SELECT avg(as_run_kv_bytes) FROM clips")
    assert {name: values[0] for name, values, _ in costs(report, None)}["KV cache a clip"] == quantity(mean, "B")
    assert cli("verify", job).exit_code == 0
    said = {name: " ".join(cli(name, job).output.replace("│", " ").split()) for name in ("status", "plan")}
    assert "media 13 (1 exact copy: clips count once)" in said["status"]
    assert "work units 12 of 12 planned" in said["status"]
    assert f"({quantity(mean, 'B')} instead of" in said["status"]
    assert "media 13 (0.07 hours; 1 exact copy: clips count as done)" in said["plan"]
    assert "work units 0 to do, 13 done" in said["plan"]
    (project / "archive" / "00.mp4").unlink()
    index(project)
    assert asked.clips() == 24
    assert select(job, "SELECT count(*) FROM clips WHERE media_key = 'copy of 00.mp4' AND copy_of IS NULL") == [(2,)]


def test_a_changed_file_is_asked_and_the_one_before_comes_back_for_nothing(project, asked):
    index(project, "--run-id", "nightly")
    before = rows(project)
    old = (project / "archive" / "05.mp4").read_text()
    video(project / "archive" / "05.mp4", "another", clips=1)
    assert "the id nightly is an earlier run's; this run is nightly-2" in index(project, "--run-id", "nightly")
    assert asked.clips() == 25
    of_run = "(SELECT clips_answered FROM runs WHERE runs.run_id = clips.run_id)"
    runs = f"SELECT run_id, count(*), {of_run} FROM clips GROUP BY 1"
    assert select(project / "job.yaml", f"{runs} ORDER BY 1") == [("nightly", 22, 24), ("nightly-2", 1, 1)]
    (project / "archive" / "05.mp4").write_text(old)
    index(project)
    assert (rows(project), asked.clips()) == (before, 25)


def test_what_is_written_otherwise_and_means_the_same_is_the_same(indexed, asked):
    before = rows(indexed)
    edit(
        indexed,
        "clips: {length_s: 10}",
        "clips: {length_s: 10.0, overlap_s: 0, scene_threshold: 0.5, max_pixels: 100352}",
    )
    edit(
        indexed,
        "model: {device: cpu}",
        "model: {device: cpu, dtype: float32}\npruning: {mode: set_guided, guidance: max}",
    )
    edit(indexed, "in-process}", "in-process, clips_per_unit: 1}")
    lines = QUESTIONS.replace("shown?", "shown?  ").splitlines(keepends=True)
    (indexed / "questions.yaml").write_text("".join([*lines[:3], lines[4], lines[3]]))
    assert "nothing to do" in index(indexed)
    assert (rows(indexed), asked.clips()) == (before, 24)


def test_an_output_keeps_the_defaults_it_was_begun_with(indexed, asked, monkeypatch):
    from pipeline.config.sections import PruningConfig

    monkeypatch.setattr(PruningConfig.model_fields["retained_ratio"], "default", 0.2)
    PruningConfig.model_rebuild(force=True)
    try:
        assert "nothing to do" in index(indexed)
    finally:
        monkeypatch.undo()
        PruningConfig.model_rebuild(force=True)
    assert asked.clips() == 24


def test_answers_of_older_software_stay_and_are_redone_on_request(indexed, asked, monkeypatch):
    now = ANSWER_FORMAT + 1
    monkeypatch.setattr("pipeline.planning.media_plan.ANSWER_FORMAT", now)
    monkeypatch.setattr("pipeline.runs.committer.ANSWER_FORMAT", now)
    video(indexed / "archive" / "new.mp4", "new")
    said = index(indexed)
    assert "24 clips keep answers of an older version" in said
    assert asked.clips() == 26
    formats = "SELECT answer_format, count(*) FROM clips GROUP BY 1 ORDER BY 1"
    assert select(indexed / "job.yaml", formats) == [(now - 1, 24), (now, 2)]
    planned = cli("plan", indexed / "job.yaml", "--redo-older")
    assert "24 to do, 2 done" in " ".join(planned.output.split())
    index(indexed, "--redo-older")
    assert select(indexed / "job.yaml", formats) == [(now, 26)]
    assert asked.clips() == 50
    assert "nothing to do" in index(indexed)


def test_what_is_no_longer_listed_stops_counting_and_comes_back(indexed, asked):
    before = rows(indexed)
    edit(indexed, "{uri: archive}", "{uri: archive, exclude: ['00.*']}")
    planned = cli("plan", indexed / "job.yaml")
    assert "1 of 12 no longer listed (00.mp4)" in " ".join(planned.output.split())
    assert rows(indexed) == before
    said = index(indexed)
    assert "1 of 12 no longer listed" in said
    assert "is finished; the tables were published again" in said
    assert rows(indexed) == [row for row in before if row[0] != "00.mp4"]
    assert "media │ 11" in " ".join(cli("status", indexed / "job.yaml").output.split())
    assert cli("verify", indexed / "job.yaml").exit_code == 0
    assert cli("rebuild", indexed / "job.yaml").exit_code == 0
    assert len(rows(indexed)) == 44
    edit(indexed, ", exclude: ['00.*']", "")
    index(indexed)
    assert (rows(indexed), asked.clips()) == (before, 24)
    assert "is finished; the results are unchanged" in index(indexed)


def test_an_archive_that_lost_much_is_refused_and_nothing_changes(indexed, asked):
    before = rows(indexed)
    (indexed / "archive").rename(indexed / "away")
    (indexed / "archive").mkdir()
    assert "12 of 12 media items are no longer listed" in index(indexed, status=2)
    shutil.copy(indexed / "away" / "00.mp4", indexed / "archive")
    said = index(indexed, status=2)
    assert "11 of 12 media items are no longer listed" in said
    assert "--allow-shrink" in said
    assert rows(indexed) == before
    index(indexed, "--sample", "1")
    assert rows(indexed) == before
    index(indexed, "--allow-shrink")
    assert len(rows(indexed)) == 4
    (indexed / "archive" / "00.mp4").unlink()
    index(indexed, "--allow-shrink", status=1)
    assert rows(indexed) == []
    (indexed / "archive").rmdir()
    (indexed / "away").rename(indexed / "archive")
    index(indexed)
    assert (rows(indexed), asked.clips()) == (before, 24)


def test_a_row_counts_while_any_job_of_the_output_lists_it(project, asked):
    edit(project, "{uri: archive}", "{uri: archive, include: ['0[0-6].mp4'], max_missing: 1}")
    index(project)
    other = (project / "job.yaml").read_text().replace("name: test", "name: other").replace("[0-6]", "[5-9]")
    (project / "other.yaml").write_text(other)
    assert cli("index", project / "other.yaml").exit_code == 0
    keys = "SELECT media_key, count(*) FROM answers GROUP BY 1 ORDER BY 1"
    assert select(project / "job.yaml", keys) == [(f"0{n}.mp4", 4) for n in range(10)]
    assert asked.clips() == 20
    # What both list is in the report of each.
    for name in ("test", "other"):
        assert (
            gather(str(project / "results"), StorageConfig(), name, budget_bytes=10**6).clips
            == (14, 10)[name == "other"]
        )
    edit(project, "[0-6]", "[0-2]")
    index(project)
    assert [key for key, _ in select(project / "job.yaml", keys)] == [f"0{n}.mp4" for n in (0, 1, 2, 5, 6, 7, 8, 9)]
    assert "clips with answers │ 10" in " ".join(cli("status", project / "other.yaml").output.split())
    assert cli("verify", project / "job.yaml").exit_code == 0


def test_each_job_of_an_output_has_figures_of_its_own(project, asked):
    """Also of contents whose costs stand with a file that only another job lists."""
    run(project / "job.yaml")
    shutil.copytree(project / "archive", project / "more", ignore=lambda folder, names: sorted(names)[6:])
    shutil.copy(project / "more" / "00.mp4", project / "more" / "zz.mp4")
    video(project / "more" / "new.mp4", "new")
    other = (project / "job.yaml").read_text().replace("name: test", "name: other").replace("archive}", "more}")
    (project / "other.yaml").write_text(other)
    assert "answers │ 32 " in " ".join(cli("index", project / "other.yaml").output.split())
    _, _, known = open_output(load_job(project / "job.yaml"))
    with contextlib.closing(known):
        of_jobs = {name: known.totals(name) for name in ("test", "other")}
    for name, totals in of_jobs.items():
        found = gather(str(project / "results"), StorageConfig(), name, budget_bytes=10**6)
        assert 0 < found.spent.as_run_flops == totals.as_run_flops
        assert found.spent.dense_shared_flops == totals.dense_shared_flops
    many = "SELECT count(*), count(retained_ratio) FROM provenance"
    for place, job, count in (("other.yaml", (), 32), ("results", ("--job", "test"), 48), ("results", (), 80)):
        said = cli("query", project / place, many, "--format", "csv", *job)
        assert f"{count},{count}" in said.output
        assert ("rows of several jobs (other, test), which may ask" in said.output) is (count == 80)
    # Under one id two jobs may ask different things, so a named query is about one of them.
    refused = cli("query", project / "results", "answers")
    assert refused.exit_code == 2
    assert "they hold several jobs; choose one with --job: other, test" in refused.output
    by_file = cli("query", project / "other.yaml", "answers", "--format", "csv")
    assert by_file.stdout == cli("query", project / "results", "answers", "--job", "other", "--format", "csv").stdout
    for name, count in (("test", 1), ("other", 2)):  # answers of both runs count for the second
        shown = cli("query", project / "results", "savings-by-run", "--job", name, "--format", "csv").stdout
        assert len(shown.splitlines()) == 1 + count
    said = cli("index", project / "other.yaml").output
    assert f"omnidrop query {project / 'results'} answers --job other" in said
    refused = cli("query", project / "results", many, "--job", "none")
    assert refused.exit_code == 2
    assert "choose one with --job: other, test" in refused.output
    refused = cli("audit", project / "results")
    assert refused.exit_code == 2
    assert "they hold several jobs; choose one with --job: other, test" in refused.output


def test_answers_to_two_wordings_of_a_question_are_said(indexed):
    """Only a sample was asked since the set was changed: what counts of the others are answers to another question."""
    edit(indexed, "Which shape", "Which kind of shape", "questions.yaml")
    index(indexed, "--sample", "2")
    said = "note: shape: worded or typed otherwise since, and some videos still have answers to what was asked before"
    for command in (("query", "answers"), ("find", "shape = circle")):
        assert said in cli(command[0], indexed / "job.yaml", command[1]).stderr
    index(indexed)
    assert "note: shape" not in cli("query", indexed / "job.yaml", "answers").stderr


def test_forget_names_all_keys_and_can_be_undone(project, asked):
    copy = unicodedata.normalize("NFD", "copié.mp4")
    shutil.copy(project / "archive" / "00.mp4", project / "archive" / copy)
    index(project)
    before = rows(project)
    # As people type it: the accent and its letter are one character.
    said = " ".join(cli("forget", project / "job.yaml", "--media", "copi\xe9.mp4").output.split())
    assert f"2 keys have this content: 00.mp4, {copy}" in said
    assert {row[0] for row in rows(project)} == {f"{n:02d}.mp4" for n in range(1, 12)}
    (project / "archive" / copy).rename(project / "archive" / "hidden as.mp4")
    said = index(project)
    assert "2 forgotten files are in the archive and skipped: 00.mp4, hidden as.mp4" in said
    assert asked.clips() == 24
    assert cli("forget", project / "job.yaml", "--media", "hidden as.mp4", "--undo").exit_code == 0
    (project / "archive" / "hidden as.mp4").rename(project / "archive" / copy)
    index(project)
    assert (rows(project), asked.clips()) == (before, 26)
    never = cli("forget", project / "job.yaml", "--media", "01.mp4", "--undo")
    assert never.exit_code == 2
    assert "nothing with the key" in never.output
    (project / "archive").rename(project / "away")
    unknown = cli("forget", project / "job.yaml", "--media", "01.mp4", "--undo")
    assert unknown.exit_code != 0
    assert "nothing with the key" not in unknown.output
    assert "archive" in unknown.output


def test_what_was_there_before_is_forgotten_too_and_what_counts_elsewhere_is_not(project, asked):
    first, second = project / "archive" / "00.mp4", project / "archive" / "01.mp4"
    index(project)
    video(first, "another")
    index(project)
    second.write_text(first.read_text())
    video(first, "a third")
    index(project)
    assert asked.clips() == 28
    # Of 00.mp4 three contents were known, of which 01.mp4 has the second now.
    assert "forgotten: 00.mp4 (2 work units" in cli("forget", project / "job.yaml", "--media", "00.mp4").output
    job = project / "job.yaml"
    assert cli("verify", job).exit_code == cli("rebuild", job).exit_code == cli("verify", job).exit_code == 0
    assert {row[0] for row in rows(project)} == {f"{n:02d}.mp4" for n in range(1, 12)}
    video(first, "video 0")
    assert "skipped: 00.mp4" in index(project)
    cli("forget", job, "--media", "00.mp4", "--undo")
    index(project)
    assert (len(rows(project)), asked.clips()) == (48, 30)


def test_what_a_file_held_before_does_not_count_again_when_it_is_forgotten(indexed, asked):
    video(indexed / "archive" / "05.mp4", "another", clips=1)
    index(indexed)
    assert cli("forget", indexed / "job.yaml", "--media", "05.mp4").exit_code == 0
    left = rows(indexed)
    assert "05.mp4" not in {row[0] for row in left}
    assert cli("rebuild", indexed / "job.yaml").exit_code == 0
    assert rows(indexed) == left


def test_files_that_are_no_media_cost_no_row_and_no_object_each(project, asked):
    for number in range(30):
        (project / "archive" / f"{number}.srt").write_text(f"subtitles {number}")
    assert "30 (.srt 30)" in index(project)
    job = project / "job.yaml"
    assert select(job, "SELECT count(*) FROM quarantine") == [(0,)]
    assert select(job, "SELECT count(*), sum(files_not_media) FROM media, runs GROUP BY runs.run_id") == [(12, 360)]
    assert len(list((project / "results/journal/units").rglob("*.parquet"))) == 12


def test_results_of_format_3_are_taken_over_without_asking(tmp_path):
    """Made by the last version that named things after keys: two versions of the questions, one video forgotten."""
    with tarfile.open(FORMAT_3) as archive:
        archive.extractall(tmp_path, filter="data")
    job = tmp_path / "job.yaml"
    before = select(job, ROWS)
    assert len(before) == 8
    said = index(tmp_path)
    assert "nothing to do" in said
    assert "1 forgotten file is in the archive and skipped: gone.mp4" in said
    assert select(job, ROWS) == before
    assert cli("verify", job).exit_code == 0
    # The other wording was asked, too, and the forgotten video is known by its content now.
    edit(tmp_path, "a tone", "a beep", "questions.yaml")
    (tmp_path / "archive" / "gone.mp4").rename(tmp_path / "archive" / "hidden.mp4")
    for path in (tmp_path / "archive").iterdir():
        os.utime(path)
    said = index(tmp_path)
    assert "nothing to do" in said
    assert "skipped: hidden.mp4" in said
    assert len(select(job, ROWS)) == 8
    assert select(job, "SELECT DISTINCT question FROM answers WHERE question_id = 'heard'") == [("Is a beep heard?",)]
    assert cli("verify", job).exit_code == 0
    edit(tmp_path, "name: test", "name: renamed")
    said = index(tmp_path)
    assert "nothing to do" in said
    assert "continues that job" in said
    assert len(select(job, ROWS)) == 8


def test_a_run_in_the_real_world_reads_each_file_once(job):
    """With ffmpeg and the embedded model: nothing is asked again after `touch`, and the tables stay equal."""
    run(job)
    before = select(job, "SELECT * EXCLUDE (run_id) FROM answers ORDER BY ALL")
    for path in (job.parent / "archive").iterdir():
        os.utime(path)
    assert run(job).did_nothing
    assert select(job, "SELECT * EXCLUDE (run_id) FROM answers ORDER BY ALL") == before


def test_what_a_listing_says_twice_of_an_item_is_that_items_own():
    """A listing is looked at whole before it is planned, from a file. What one item says twice was the first item's."""
    items = [Media("id", key, key, f"{key}-etag", 1) for key in (f"{n}.mp4" for n in range(3))]
    with tempfile.TemporaryFile() as spool:
        for item in items:
            pickle.dump(item, spool)
        assert list(_replayed(spool)) == items


@pytest.mark.cluster
def test_a_bucket_of_the_same_content_is_the_same_archive(project, asked, tmp_path, monkeypatch):
    """From a folder to S3, uploaded in parts (another ETag), and a key that s3fs would take for a version."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    index(project)
    before = rows(project)
    with s3_server("media") as address:
        filesystem = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
        for path in (project / "archive").iterdir():
            filesystem.put_file(str(path), f"media/films/{path.name}")
        edit(project, "{uri: archive}", f"{{uri: 's3://media/films', endpoint_url: '{address}'}}")
        assert "nothing to do" in index(project)
        assert (rows(project), asked.clips()) == (before, 24)
        key = {"Bucket": "media", "Key": "films/00.mp4"}
        upload = filesystem.call_s3("create_multipart_upload", **key)["UploadId"]
        body = (project / "archive" / "00.mp4").read_bytes()
        part = filesystem.call_s3("upload_part", **key, PartNumber=1, UploadId=upload, Body=body)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        filesystem.call_s3("complete_multipart_upload", **key, UploadId=upload, MultipartUpload=parts)
        assert "-1" in filesystem.call_s3("head_object", **key)["ETag"]
        filesystem.call_s3("put_object", Bucket="media", Key="films/q?versionId=abc.mp4", Body=b"1 a key as it is")
        index(project)
        assert asked.clips() == 25
        assert {row[0] for row in rows(project)} == {row[0] for row in before} | {"q?versionId=abc.mp4"}


def test_yaml_that_cuts_or_changes_text_is_warned_about(project, asked):
    question = "  - id: shape\n    text: Which team is # 1?\n    answer: {type: boolean}\n"
    written = f"name: stub\nversion: 1.10\nquestions:\n{question}"
    (project / "questions.yaml").write_text(written)
    edit(project, "{length_s: 10}", "{length_s: 10, max_length_s: 5}")
    said = index(project)
    assert "clips.max_length_s does nothing here: clips.cut is fixed" in said
    assert "questions.yaml:5:5" in said
    assert "ends before '# 1?', because YAML reads the rest as a comment" in said
    assert select(project / "job.yaml", "SELECT DISTINCT question_set_version FROM clips") == [("1.10",)]
    (project / "questions.yaml").write_text(QUESTIONS.replace('"Which shape is shown?"', "Is it red?"))
    assert "quote the text" in index(project, status=2)


def test_the_index_obeys_the_umask(project, asked):
    before = os.umask(0o002)
    try:
        index(project)
    finally:
        os.umask(before)
    assert (project / "results" / "index.sqlite").stat().st_mode & 0o777 == 0o664


def test_a_copied_output_gets_an_index_of_its_own(indexed, asked):
    shutil.copytree(indexed, indexed.with_name("copy"))
    copied = indexed.with_name("copy")
    edit(copied, "output: results", f"output: results\nindex_url: 'sqlite:///{indexed}/results/index.sqlite'")
    video(copied / "archive" / "new.mp4", "new")
    index(copied)
    assert (len(rows(indexed)), len(rows(copied)), asked.clips()) == (48, 52, 26)
    assert "nothing to do" in index(indexed)
    assert cli("verify", indexed / "job.yaml").exit_code == cli("verify", copied / "job.yaml").exit_code == 0


def test_what_is_left_out_is_counted_once_also_where_an_archive_was_moved(project, asked):
    (project / "archive" / "notes.srt").write_text("subtitles")
    index(project)
    move_the_archive(project)
    assert "1 (.srt 1)" in index(project)
    assert asked.clips() == 24
