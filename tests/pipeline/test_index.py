"""The savings index follows from the journal, whoever writes it and in whatever order. On SQLite and on PostgreSQL."""

from __future__ import annotations

import inspect
import sqlite3
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from omnidrop.errors import UserError
from pipeline.archive.probing import Probed
from pipeline.index import database, sync
from pipeline.index.caches import ContextRow
from pipeline.index.database import IndexFailed, IndexFull, IndexMissing, IndexUnavailable
from pipeline.index.migrating import migrations, revisions
from pipeline.index.patient_index import PatientIndex
from pipeline.index.savings_index import SavingsIndex
from pipeline.index.schema import REVISION, prefix_of, tables_of
from pipeline.journal.journal import Journal, check_output_is_ours, format_of
from pipeline.records.checksummed_parquet import FORMAT_VERSION
from pipeline.records.video import VideoMeta
from pipeline.storage.store import open_store
from pipeline.tables import manifest, publish
from tests.support import rows
from tests.support.rows import commit, first

NOBODY = "0" * 12
"""Whose index it is where a test does not say."""
FORMAT_1 = Path(__file__).parents[1] / "data" / "results_format_1.tar.xz"


def test_every_call_of_a_waiting_index_waits() -> None:
    calls = {name: call for name, call in inspect.getmembers(SavingsIndex, inspect.isfunction) if name[0] != "_"}
    streaming = {name for name, call in calls.items() if inspect.isgeneratorfunction(call)}
    not_waiting = {name for name, call in calls.items() if getattr(PatientIndex, name) is call}
    assert {"apply_units", "put_probes", "context_read"} <= calls.keys()
    assert not_waiting == streaming


def test_an_index_that_lacks_a_table_is_said_to_and_can_be_made_again(journal, index):
    commit(journal, index, rows.unit(rows.media()))
    once, engine = index.contents(), index._engine
    with engine.begin() as connection:
        connection.execute(sa.schema.DropTable(index.tables.quarantine))
    for fails in (index.quarantine_classes, lambda: sync.rebuild(journal, index)):
        with pytest.raises(IndexFailed, match=r"quarantine.*run `omnidrop rebuild`"):
            fails()
    with engine.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            connection.exec_driver_sql(f'DROP TABLE "{table}"')
    index.close()
    index = SavingsIndex(engine.url.render_as_string(hide_password=False), NOBODY)
    sync.rebuild(journal, index)
    assert index.contents() == once
    index.close()


def test_applying_twice_changes_nothing(journal, index):
    unit = rows.unit(rows.media())
    stored = commit(journal, index, unit, fail=1)
    once = index.contents()
    assert len(once["clips"]) == 1
    assert len(once["quarantine"]) == 2  # the failed clip, and one unreadable answer
    index.apply_heads([rows.head(unit)])
    index.apply_units([stored, stored])
    assert index.contents() == once


def test_the_newest_attempt_about_a_whole_video_is_known_whoever_comes_last(journal, index):
    stored = commit(journal, index, rows.unit(rows.media()))
    meta = VideoMeta(
        *(stored.meta.asked, stored.meta.label, "1" * 32, stored.meta.version_id, "2" * 32, "run", "3" * 32),
        *((), (stored.meta.key.name,), 1, 0),
        error_class="model_error",
        message="it broke",
    )
    first = journal.commit_video(meta, (), ())
    again = journal.commit_video(replace(meta, attempt=1, error_class=None, message=None), (), ())
    index.apply_videos([again])
    index.apply_videos([first])
    (known,) = index.videos_of([meta.version_id]).values()
    assert (known.key.attempt, known.error_classes, index.failed_videos()) == (1, (), [])
    before = index.contents()
    sync.rebuild(journal, index)
    assert index.contents() == before
    index.forget(["1" * 32])
    assert index.videos_of([meta.version_id]) == {}


def test_what_was_read_of_sidecars_is_kept_by_media_and_forgotten_with_them(journal, index):
    media = rows.media()
    row = ContextRow("a.srt", "1-etag", b"\x00said")
    index.put_context({media.media_id: [ContextRow("a.vtt", "1", b"")], "other": [row]})
    index.put_context({media.media_id: [row]})
    assert index.context_read([media.media_id, "none"]) == {media.media_id: [row]}
    commit(journal, index, rows.unit(media, clips=1))
    (head,) = index.find_media(media.key)
    index.clear()
    index.apply_heads([head])
    index.forget([head.place[1]])
    assert index.context_read([media.media_id, "other"]) == {"other": [row]}


def test_savings_are_summed_over_clips(journal, index):
    commit(journal, index, rows.unit(rows.media(), clips=4))
    totals = index.totals("job")
    assert (totals.media, totals.units, totals.units_done, totals.clips) == (1, 1, 1, 4)
    assert totals.as_run_flops == 4 * 1_005
    assert totals.saved_against_dense_shared == pytest.approx(1 - 1_005 / 1_700)
    assert totals.saved_against_dense == pytest.approx(1 - 1_005 / 4_500)
    assert totals.retained_ratio == pytest.approx(0.375)
    assert index.totals("another job").clips == 0
    assert index.quarantine_classes("job") == [("json_invalid", 4)]


def note_revision(index_url, revision):
    """Make an index that says it is of this revision."""
    SavingsIndex(index_url).close()
    engine = sa.create_engine(index_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {prefix_of(NOBODY)}schema SET version_num = '{revision}'")
    engine.dispose()


def test_an_unknown_schema_is_refused_with_the_way_out(index_url):
    note_revision(index_url, "from the future")
    with pytest.raises(UserError, match="omnidrop rebuild"):
        SavingsIndex(index_url)


@pytest.mark.parametrize(
    "changed",
    [
        "DROP TABLE {0}_runs; CREATE VIEW {0}_runs AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) "
        "SELECT x AS run_id FROM c",
        "CREATE TRIGGER t AFTER INSERT ON {0}_units BEGIN DELETE FROM {0}_units; END",
    ],
)
@pytest.mark.parametrize("is_read_only", [True, False])
def test_an_index_that_a_stranger_prepared_is_refused(tmp_path, changed, is_read_only):
    """SQLite computes without end in such a view, and cannot be interrupted."""
    url = f"sqlite:///{tmp_path}/index.sqlite"
    output_id = "ab" * 16
    database.open_database(url, output_id).dispose()
    with sqlite3.connect(tmp_path / "index.sqlite") as made:
        made.executescript("CREATE VIEW mine AS SELECT * FROM omnidrop_abababababab_units")
    database.open_database(url, output_id, is_read_only=is_read_only).dispose()
    with sqlite3.connect(tmp_path / "index.sqlite") as made:
        made.executescript(changed.format("omnidrop_abababababab"))
    with pytest.raises(database.IndexFailed, match=r"not a table of ours.*omnidrop rebuild"):
        database.open_database(url, output_id, is_read_only=is_read_only)


@pytest.mark.parametrize(
    "url", ["sqlite:////no/such/folder/index.sqlite", "nonsense", "postgresql+psycopg://u:secret@localhost:1/x"]
)
def test_an_unusable_index_url_is_explained_without_its_password(url):
    with pytest.raises(UserError, match="index_url") as caught:
        SavingsIndex(url)
    assert "secret" not in str(caught.value)


def test_a_connection_that_ends_while_the_index_is_opened_may_pass(empty_postgres, monkeypatch):
    def ends(engine, _):
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(database, "_migrate", ends)
    with pytest.raises(IndexUnavailable, match=r"does not respond: .*check the database"):
        SavingsIndex(empty_postgres)


def test_a_lock_that_another_holds_in_postgresql_is_not_waited_for_without_end(empty_postgres):
    index, engine = SavingsIndex(empty_postgres, busy_s=0.2), sa.create_engine(empty_postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"LOCK TABLE {index.tables.marks.name} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(IndexUnavailable, match="lock timeout; check the database"):
            index.heads_mark()
        with pytest.raises(IndexUnavailable, match="lock timeout; check the database"):
            SavingsIndex(empty_postgres, busy_s=0.2).heads_mark()
    engine.dispose()
    index.close()


def test_a_server_without_a_connection_to_spare_may_have_one_soon(empty_postgres):
    engine = sa.create_engine(empty_postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE many LOGIN CONNECTION LIMIT 0")
    engine.dispose()
    with pytest.raises(IndexUnavailable, match="too many connections"):
        SavingsIndex(empty_postgres.replace("//postgres:@", "//many@"))


def test_tables_that_are_not_those_of_the_revision_noted_are_said_to_be(index_url):
    note_revision(index_url, "whole_videos")
    with pytest.raises(IndexFailed, match=r"already exists.*(delete|drop).* run `omnidrop rebuild`"):
        SavingsIndex(index_url)


def test_probes_are_kept_until_the_file_changes(index):
    item = rows.media()
    index.put_probes([(item, Probed(rows.INFO, scene_cuts_s=(1.0, 2.5), scene_threshold=0.3))])
    assert index.probes([item])[item.media_id] == Probed(rows.INFO, None, (1.0, 2.5), 0.3)
    assert index.probes([rows.media(etag="e2")]) == {}


def test_a_retried_unit_keeps_its_answers_and_leaves_the_quarantine(store, journal, index):
    unit = rows.unit(rows.media(), clips=3)
    commit(journal, index, unit, fail=1)
    before = {row[0]: row for row in index.contents()["clips"]}
    assert [f.error_class for f in index.failures("job", ["decode_failed"])] == ["decode_failed"]

    stored = commit(journal, index, first(unit, 1), run_id="run-2", attempt=1)
    assert stored.rows["clip_id"].to_pylist() == [clip.clip_id for clip in unit.clips]
    assert stored.rows["run_id"].to_pylist() == ["run-1", "run-2", "run-1"]
    after = {row[0]: row for row in index.contents()["clips"]}
    assert after.keys() == {clip.clip_id for clip in unit.clips}
    assert {name: after[name] for name in before} == before
    assert list(index.failures("job", ["decode_failed"])) == []
    assert index.totals("job").units_done == 1

    published = publish.publish(store, journal, index)
    # Three clips with four answers each, of which one cannot be read.
    assert (published.rows["clips"], published.rows["answers"], published.rows["quarantine"]) == (3, 12, 3)
    contents = index.contents()
    sync.rebuild(journal, index)
    assert index.contents() == contents
    assert publish.publish(store, journal, index) == published


def test_what_fails_again_stays_with_its_new_reason(journal, index):
    unit = rows.unit(rows.media(), clips=2)
    commit(journal, index, unit, fail=0)
    commit(journal, index, first(unit, 0), fail=0, run_id="run-2", attempt=1)
    assert [(f.attempt, f.clip_id) for f in index.failures("job", ["decode_failed"])] == [(1, unit.clips[0].clip_id)]
    commit(journal, index, first(unit, 0), run_id="run-3", attempt=2)
    assert index.totals("job").clips == 2


def test_a_clip_with_an_unreadable_answer_keeps_the_others_if_it_fails_as_a_whole(journal, index):
    unit = rows.unit(rows.media(), clips=2)
    commit(journal, index, unit)
    once = index.contents()
    assert len(list(index.failures("job", ["json_invalid"]))) == 2
    commit(journal, index, first(unit, 0), fail=0, run_id="run-2", attempt=1)
    assert [index.contents()[name] for name in ("clips", "quarantine")] == [once["clips"], once["quarantine"]]


def test_attempts_count_in_their_order_whoever_tells_the_index_when(journal, index):
    unit = rows.unit(rows.media(), clips=2)
    old = commit(journal, index, unit, fail=1)
    new = commit(journal, index, first(unit, 1), run_id="run-2", attempt=1)
    once = index.contents()
    for late in ([old], [new, old], [old, new]):
        index.apply_units(late)
        assert index.contents() == once
    # A second retry of the same attempt, from a process that did not know of the first, changes nothing.
    other = commit(journal, index, first(unit, 1), fail=0, run_id="run-3", attempt=1)
    assert other.meta.run_id == "run-2"
    assert index.contents() == once


def test_a_lost_attempt_makes_the_one_before_count_again(journal, index):
    unit = rows.unit(rows.media(), clips=2)
    commit(journal, index, unit, fail=1)
    once = index.contents()
    stored = commit(journal, index, first(unit, 1), run_id="run-2", attempt=1)
    journal._store.delete([stored.meta.key.path])
    sync.catch_up(journal, index)
    assert index.contents() == once


def test_forgetting_takes_every_attempt(journal, index):
    unit = rows.unit(rows.media(), clips=2)
    commit(journal, index, unit, fail=1)
    commit(journal, index, first(unit, 1), run_id="run-2", attempt=1)
    sync.forget(journal, index, unit.media.media_id)
    assert list(journal._store.list("journal/units/")) == []
    assert journal.commit(replace(rows.meta(unit), attempt=2), rows.outcomes(first(unit, 1)), unit.questions) is None
    assert list(journal._store.list("journal/units/")) == []


def test_writers_at_once_lose_nothing_and_stand_in_nobodys_way(journal, index_url):
    made = [rows.unit(rows.media(n), clips=2) for n in range(30)]
    indexes = [SavingsIndex(index_url) for _ in range(4)]
    for unit in made:
        commit(journal, indexes[0], unit, fail=0)
    stored = [
        journal.commit(replace(rows.meta(unit, "run-2"), attempt=1), rows.outcomes(first(unit, 0)), unit.questions)
        for unit in made
    ]
    old = [journal.read(rows.meta(unit).key) for unit in made]

    def write(index, number):
        mixed = stored + old if number % 2 else old[::-1] + stored[::-1]
        for start in range(0, len(mixed), 7):
            index.apply_units(mixed[start : start + 7])

    threads = [threading.Thread(target=write, args=(index, n)) for n, index in enumerate(indexes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raced = indexes[0].contents()
    assert len(raced["clips"]) == 60
    sync.rebuild(journal, indexes[0])
    assert indexes[0].contents() == raced
    for index in indexes:
        index.close()


def test_migrations_make_the_tables_that_the_schema_says_and_take_them_away(index_url):
    SavingsIndex(index_url).close()
    engine = sa.create_engine(index_url)
    prefix = prefix_of(NOBODY)
    assert revisions()[0] == REVISION
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": f"{prefix}schema"})
        assert compare_metadata(context, tables_of(NOBODY).metadata) == []
        command.downgrade(migrations(connection, prefix), "base")
        connection.commit()
        assert set(sa.inspect(connection).get_table_names()) <= {f"{prefix}schema"}
    with pytest.raises(IndexMissing):
        SavingsIndex(index_url, is_read_only=True)
    SavingsIndex(index_url).close()
    engine.dispose()


def test_an_index_that_is_as_it_should_be_is_opened_without_alembic(index_url, monkeypatch):
    SavingsIndex(index_url, NOBODY).close()
    monkeypatch.setitem(sys.modules, "pipeline.index.migrating", None)
    SavingsIndex(index_url, NOBODY).close()
    SavingsIndex(index_url, NOBODY, is_read_only=True).close()
    with pytest.raises(IndexMissing):
        SavingsIndex(index_url, "another output", is_read_only=True)
    with pytest.raises(UserError):  # its tables are to be made, so it is wanted
        SavingsIndex(index_url, "another output")


def test_a_revision_that_this_version_does_not_know_is_refused(index_url):
    SavingsIndex(index_url, NOBODY).close()
    engine, noted = sa.create_engine(index_url), f"{prefix_of(NOBODY)}schema"
    for change, found in (
        (f"INSERT INTO {noted} VALUES ('whole_videos')", "context_read, whole_videos"),
        (f"DELETE FROM {noted}; INSERT INTO {noted} VALUES ('of tomorrow')", "of tomorrow"),
    ):
        with engine.begin() as connection:
            for statement in change.split("; "):
                connection.exec_driver_sql(statement)
        for is_read_only in (False, True):
            with pytest.raises(UserError, match=f"revision {found}, which this version does not know"):
                SavingsIndex(index_url, NOBODY, is_read_only=is_read_only)
    engine.dispose()


STRANGERS = """
    CREATE TABLE media (id INTEGER PRIMARY KEY, title TEXT);
    INSERT INTO media VALUES (1, 'a film');
    CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('another program''s');
"""


def test_outputs_share_a_database_with_each_other_and_with_strangers(tmp_path, index_url):
    engine = sa.create_engine(index_url)
    with engine.begin() as connection:
        for statement in filter(None, map(str.strip, STRANGERS.split(";"))):
            connection.exec_driver_sql(statement)
    found = []
    for number, output_id in enumerate(("a" * 32, "b" * 32)):
        journal, index = Journal(open_store(str(tmp_path / output_id))), SavingsIndex(index_url, output_id)
        for item in range(1 + number):
            commit(journal, index, rows.unit(rows.media(item)))
        found.append((journal, index, index.contents()))
    assert [len(contents["clips"]) for *_, contents in found] == [2, 4]
    for journal, index, contents in found:
        assert sync.catch_up(journal, index) == 0
        sync.rebuild(journal, index)
        assert index.contents() == contents
    sync.forget(found[0][0], found[0][1], rows.media(0).media_id)
    assert found[1][1].contents() == found[1][2]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM media").all() == [(1, "a film")]
        assert connection.exec_driver_sql("SELECT * FROM alembic_version").all() == [("another program's",)]
    engine.dispose()
    for _, index, _ in found:
        index.close()


def test_a_read_only_index_cannot_be_written(index_url):
    SavingsIndex(index_url).close()
    index = SavingsIndex(index_url, is_read_only=True)
    assert list(index.rows(index.tables.units)) == []
    with pytest.raises(UserError, match=r"(?i)read-?only"):
        index.clear()
    index.close()


def test_a_reading_of_nothing_leaves_nothing(tmp_path):
    with pytest.raises(IndexMissing, match="no index"):
        SavingsIndex(f"sqlite:///{tmp_path}/index.sqlite", is_read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_results_of_format_1_are_taken_over_as_they_are(tmp_path):
    """Written by the last version before seals and attempts, kept as it was."""
    with tarfile.open(FORMAT_1) as archive:
        archive.extractall(tmp_path, filter="data")
    url = f"sqlite:///{tmp_path}/results/index.sqlite"
    with pytest.raises(IndexMissing):
        SavingsIndex(url, is_read_only=True)
    store = open_store(str(tmp_path / "results"))
    published, journal = manifest.current(store), Journal(store)
    check_output_is_ours(store)
    assert format_of(store) == FORMAT_VERSION == 4
    index = SavingsIndex(url)
    assert sync.catch_up(journal, index) == 2
    contents = index.contents()
    assert (len(contents["clips"]), len(contents["quarantine"])) == (3, 4)
    assert sync.catch_up(journal, index) == 0
    assert sync.rebuild(journal, index) == 2
    assert index.contents() == contents
    # The tables are written anew, once: files before format 3 do not say how many rows they have.
    anew = publish.publish(store, journal, index)
    assert anew.rows.items() >= published.rows.items()
    assert publish.publish(store, journal, index) == anew
    # A unit that format 1 stored is done again as any other.
    failed = rows.unit(rows.media(1))
    commit(journal, index, first(failed, 1), run_id="run-2", attempt=1)
    assert index.totals("job").clips == 4
    index.close()


def test_units_are_looked_up_by_their_version(tmp_path, journal):
    """Not one by one: that is all of them for each item, and hours for a large archive."""
    index = SavingsIndex(f"sqlite:///{tmp_path}/index.sqlite")
    commit(journal, index, rows.unit(rows.media()))
    asked = []
    sa.event.listen(index._engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
    list(index.counted())
    ((statement, parameters),) = asked
    with index._engine.connect() as connection:
        plan = [step[3] for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    assert any("units" in step and "version_id=?" in step for step in plan), plan
    index.close()


def test_an_index_that_cannot_be_opened_says_what_is_wrong_with_it(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/index.sqlite"
    (tmp_path / "index.sqlite").write_bytes(b"no database at all " * 100)
    with pytest.raises(IndexFailed, match=r"not a database; .*delete the index and run `omnidrop rebuild`"):
        SavingsIndex(url)
    (tmp_path / "index.sqlite").unlink()
    with pytest.raises(UserError, match="index_url: mysql is not supported; give sqlite"):
        SavingsIndex("mysql+pymysql://someone@db/index")
    # As on a full disk: SQLite gets no page more.
    monkeypatch.setattr(
        database, "_sqlite_pragmas", lambda connection, _: connection.execute("PRAGMA max_page_count=3")
    )
    with pytest.raises(IndexFull, match=r"disk of the savings index is full .*make room"):
        SavingsIndex(url)
