"""The journal is the truth; the index and the tables follow from it. The same tests on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop.errors import UserError
from pipeline.archive.probing import Probed
from pipeline.checks.verify import verify
from pipeline.index import sync
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal, check_output_is_ours
from pipeline.records.checksummed_parquet import JournalError
from pipeline.records.columns import RUNS_SCHEMA, run_row
from pipeline.records.heads_and_runs import StoredRun, decode_run
from pipeline.records.run_record import RunCounts, RunRecord, RunResources, RunSpending, RunTime
from pipeline.records.unit import UnitKey, decode_unit, encode_unit
from pipeline.runs.committer import Committer
from pipeline.storage.errors import StorageError
from pipeline.storage.store import Store, open_store
from pipeline.tables import manifest as manifests
from pipeline.tables import publish
from tests.support import rows
from tests.support.rows import commit


def table(store, name):
    current = manifests.current(store)
    paths = [Path(store.uri) / "tables" / p for p in current.tables[name]]
    return pa.concat_tables(pq.read_table(p) for p in paths).to_pylist()


def test_a_unit_comes_back_as_it_was():
    unit = rows.unit(rows.media())
    read = decode_unit(encode_unit(rows.meta(unit), rows.outcomes(unit, fail=1), unit.questions), where="x")
    assert read.meta == replace(rows.meta(unit), committed_at=read.meta.committed_at)
    answered, failed = read.rows.to_pylist()
    assert (answered["clip_id"], answered["status"], failed["status"]) == (
        unit.clips[0].clip_id,
        "answered",
        "quarantined",
    )
    assert [(a["question_id"], a["answer"], a["answer_boolean"], a["answer_number"]) for a in answered["answers"]] == [
        ("shape", "circle", None, None),
        ("heard", "yes", True, None),
        ("count", "0", None, 0.0),
        ("all", None, None, None),
    ]
    # (10 + 5) / 2 of 20 audio tokens, (30 + 15) / 2 of 60 video tokens.
    ratios = [answered[f"retained_ratio{m}"] for m in ("_audio", "_video", "")]
    assert ratios == [0.375, 0.375, 0.375]
    assert answered["as_run_flops"] == 500 + 5 + 500
    assert answered["layer_video_tokens"] == [30, 15]


@pytest.mark.parametrize("damage", [lambda d: d[:-20], lambda d: b"", lambda d: d[:200] + b"\0" * 50 + d[250:]])
def test_a_damaged_object_is_named(damage):
    unit = rows.unit(rows.media())
    data = encode_unit(rows.meta(unit), rows.outcomes(unit), unit.questions)
    with pytest.raises(JournalError, match="some/key"):
        decode_unit(damage(data), where="some/key")


def test_a_newer_format_is_refused(store):
    unit = rows.unit(rows.media())
    newer = encode_unit(replace(rows.meta(unit), format_version=99), rows.outcomes(unit), unit.questions)
    with pytest.raises(JournalError, match="format 99"):
        decode_unit(newer, where="x")
    check_output_is_ours(store)
    check_output_is_ours(store)
    store.write("journal/format.json", b'{"format_version": 99}')
    with pytest.raises(UserError, match="another output folder"):
        check_output_is_ours(store)


def test_the_first_attempt_stays_and_a_later_one_learns_of_it(journal):
    unit = rows.unit(rows.media())
    first = journal.commit(rows.meta(unit, "run-1"), rows.outcomes(unit), unit.questions)
    second = journal.commit(rows.meta(unit, "run-2"), rows.outcomes(unit, fail=0), unit.questions)
    assert second.meta.run_id == first.meta.run_id == "run-1"
    assert second.rows.equals(first.rows)
    assert list(journal.units()) == [UnitKey("job", unit.media.media_id, unit.version_id, unit.unit_id)]


def test_strangers_files_in_the_journal_are_left_alone(journal, store):
    store.write("journal/units/job/00/x/notes.txt", b"hello")
    store.write("journal/units/readme.parquet", b"hello")
    assert list(journal.units()) == []


def test_a_new_version_replaces_the_old_one_and_can_be_taken_back(store, journal, index):
    old = rows.unit(rows.media(etag="e1"))
    new = rows.unit(rows.media(etag="e2"))
    commit(journal, index, old)
    publish.publish(store, journal, index)
    before = table(store, "answers")
    commit(journal, index, new, run_id="run-2")
    publish.publish(store, journal, index)
    assert {r["version_id"] for r in table(store, "answers")} == {new.version_id}
    assert len(table(store, "answers")) == len(before)
    # The file is put back as it was: its old answers count again, without being asked again.
    journal.write_heads([rows.head(old)], "run-3")
    sync.catch_up(journal, index)
    publish.publish(store, journal, index)
    assert table(store, "answers") == before


def test_a_version_without_finished_units_hides_the_old_answers(store, journal, index):
    commit(journal, index, rows.unit(rows.media(etag="e1")))
    changed = rows.head(rows.unit(rows.media(etag="e2")))
    journal.write_heads([changed], "run-2")
    index.apply_heads([changed])
    publish.publish(store, journal, index)
    assert table(store, "answers") == []
    assert [r["status"] for r in table(store, "media")] == ["pending"]


def test_heads_that_are_forgotten_while_they_are_read_are_passed_over(store, journal):
    units = [rows.unit(rows.media(n)) for n in range(3)]
    for number, unit in enumerate(units):
        journal.write_heads([rows.head(unit)], f"run-{number}")
    found = journal.heads_after(None)
    first, _ = next(found)
    gone = next(path for path, _ in store.list("journal/heads/") if path > first)
    store.delete([gone])
    assert [heads for _, heads in found] == [[rows.head(units[2])]]


def test_rebuilding_gives_equal_contents(store, journal, index):
    for number in range(5):
        commit(journal, index, rows.unit(rows.media(number)), fail=number % 3)
    commit(journal, index, rows.unit(rows.media(0, "e2")), run_id="run-2")
    run = RunRecord(
        "run-1", "job", "recipe-1", {"a": 1}, "2026-01-01T00:00:00+00:00", counts=RunCounts(units_finished=6)
    )
    journal.write_run(run)
    index.write_run(run)
    publish.publish(store, journal, index)
    contents, published = index.contents(), {name: table(store, name) for name in manifests.NAMES}
    # Items 0 and 3 lost their first clip, 1 and 4 their second; then item 0 changed and has both: 4 answers a clip.
    assert len(published["answers"]) == (2 + 1 + 2 + 1 + 1) * 4

    sync.rebuild(journal, index)
    store.delete([path for path, _ in store.list("tables/")])
    assert manifests.current(store) is None
    publish.publish(store, journal, index)
    assert index.contents() == contents
    assert {name: table(store, name) for name in manifests.NAMES} == published


def test_an_index_that_fell_behind_or_ran_ahead_is_mended(journal, index):
    units = [rows.unit(rows.media(n)) for n in range(3)]
    for unit in units[:2]:
        commit(journal, index, unit)
    # A writer died between the journal and the index.
    journal.commit(rows.meta(units[2]), rows.outcomes(units[2]), units[2].questions)
    journal.write_heads([rows.head(units[2])], "run-2")
    assert sync.catch_up(journal, index) == 1
    assert index.totals("job").clips == 6
    # Someone deleted an object.
    journal.drop([rows.meta(units[0]).key])
    sync.catch_up(journal, index)
    assert index.totals("job").clips == 4


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_pointer_object_is_said_once_and_its_item_declared_anew(store, journal, index, caplog, lost):
    units = [rows.unit(rows.media(n)) for n in range(3)]
    for number, unit in enumerate(units):
        commit(journal, index, unit, run_id=f"run-{number}")
    sync.catch_up(journal, index)
    # Forgetting leaves nothing that looks like a loss.
    sync.forget(journal, index, units[lost - 1].media.media_id)
    sync.rebuild(journal, index)
    assert not caplog.records
    before = index.contents()
    gone = journal.head_paths()[lost]
    store.delete([gone])
    sync.catch_up(journal, index)
    assert f"1 current-version pointer objects are missing (the first: {gone[:26]}" in caplog.text
    assert len(index.contents()["media"]) == 1
    # What plans finds the index without it, and declares it again.
    journal.write_heads([rows.head(units[lost])], "run-3")
    caplog.clear()
    sync.catch_up(journal, index)
    assert index.contents() == before
    sync.rebuild(journal, index)
    assert index.contents() == before
    assert not caplog.records


def test_a_write_that_fails_ends_the_writers_and_keeps_the_rest(store, journal, index, tmp_path):
    bad, good = rows.unit(rows.media(0)), rows.unit(rows.media(1))
    in_the_way = tmp_path / "results" / Path(rows.meta(bad).key.path).parent
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where a folder should be")
    committer = Committer(journal, index, rows.ASKED, "run-1")
    committer.add(bad, rows.outcomes(bad))
    committer.add(good, rows.outcomes(good))
    with pytest.raises(StorageError, match="is a file, not a folder"):
        committer.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("commit")]
    assert journal.read_if_kept(rows.meta(good).key) is not None


def test_publishing_what_is_published_does_nothing(store, journal, index):
    commit(journal, index, rows.unit(rows.media()))
    first = publish.publish(store, journal, index)
    files = sorted(store.list("tables/"))
    assert publish.publish(store, journal, index) == first
    assert sorted(store.list("tables/")) == files


def test_old_generations_go_but_the_last_one_stays_for_its_readers(store, journal, index):
    for etag in ("e1", "e2", "e3", "e4"):
        commit(journal, index, rows.unit(rows.media(etag=etag)))
        publish.publish(store, journal, index)
    generations = {path.split("/")[1] for path, _ in store.list("tables/") if "generation" in path}
    assert generations == {"generation=000003", "generation=000004"}
    assert len(table(store, "media")) == 1


def in_bucket(bucket, number=0, **given):
    """An item of a bucket of the tables: number `number` of those there are."""
    item = rows.media(number, **given)
    return replace(item, media_id=f"{bucket:08x}{number:024x}")


def test_files_that_nothing_changed_in_stay_and_are_not_written_again(store, journal, index):
    for bucket in (1, 2):
        commit(journal, index, rows.unit(in_bucket(bucket, bucket)))
    before = publish.publish(store, journal, index)
    live = {path: store.read_bytes(path) for path, _ in store.list("tables/live/")}
    commit(journal, index, rows.unit(in_bucket(2, 3)))
    read = []
    after = publish.publish(store, journal, index, advance=read.append)
    assert len(read) == 1
    for name in ("answers", "clips", "media"):
        assert before.tables[name] == [f"generation=000001/{name}/bucket-00{n + 1}.parquet" for n in (1, 2)]
        assert after.tables[name] == [f"generation=00000{n}/{name}/bucket-00{n + 1}.parquet" for n in (1, 2)]
        assert (
            store.read_bytes(f"tables/live/{name}/bucket-002.parquet") == live[f"tables/live/{name}/bucket-002.parquet"]
        )
    # An item of the first file changes: its rows are made anew.
    commit(journal, index, rows.unit(in_bucket(1, 1, etag="e2")), run_id="run-2")
    changed = publish.publish(store, journal, index)
    assert changed.tables["clips"] == [
        f"generation=00000{n}/clips/bucket-00{b + 1}.parquet" for n, b in ((3, 1), (2, 2))
    ]
    assert [r["media_key"] for r in table(store, "media")] == [f"folder/video {n}.mp4" for n in (1, 2, 3)]
    assert changed.rows["clips"] == len(table(store, "clips")) == 6


def test_a_bucket_that_is_emptied_keeps_a_live_file_without_rows(store, journal, index):
    """A reader may just have listed it."""
    kept, gone = rows.unit(in_bucket(1)), rows.unit(in_bucket(2, 1))
    for unit in (kept, gone):
        commit(journal, index, unit)
    publish.publish(store, journal, index)
    index.apply_heads([replace(rows.head(gone), is_listed=False)])
    publish.publish(store, journal, index)
    found = {path.rsplit("/", 1)[1]: rows_of(store, path) for path, _ in store.list("tables/live/clips/")}
    assert found == {"bucket-000.parquet": 0, "bucket-002.parquet": 2, "bucket-003.parquet": 0}


def rows_of(store, path):
    return pq.ParquetFile(pa.BufferReader(store.read_bytes(path))).metadata.num_rows


def reader_of(kind):
    """What reads clip ids of files, and the errors of one who opens a file twice and finds another."""
    if kind == "duckdb":
        return lambda glob: duckdb.sql(f"SELECT clip_id FROM read_parquet('{glob}')").fetchall(), (duckdb.Error,)
    import polars as pl

    errors = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
    return lambda glob: pl.scan_parquet(glob).select("clip_id").collect().rows(), errors


@pytest.mark.parametrize("reader", ["duckdb", pytest.param("polars", marks=pytest.mark.long)])
def test_readers_that_glob_while_tables_are_published_see_each_row_once(tmp_path, store, journal, reader):
    """Items change, leave and come back; what never changes is there at any moment, and nothing is there twice."""
    index = SavingsIndex(f"sqlite:///{tmp_path}/index.sqlite")
    units = [rows.unit(in_bucket(number % 5, number)) for number in range(15)]
    for unit in units:
        commit(journal, index, unit)
    publish.publish(store, journal, index)
    always = {clip.clip_id for unit in units[:10] for clip in unit.clips}
    glob, seen, over = f"{store.uri}/tables/live/clips/*.parquet", [], threading.Event()

    rows_by, errors = reader_of(reader)

    def read():
        while not over.is_set():
            # It says that it found another file the second time, and reads again.
            with contextlib.suppress(*errors):
                seen.append([clip_id for (clip_id,) in rows_by(glob)])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(12):
            head = rows.head(units[10 + number % 5])
            again = index.apply_heads([replace(head, is_listed=number % 2 == 1)])
            index.apply_units([journal.read(key) for key in again])
            commit(journal, index, rows.unit(in_bucket(number % 5, 20 + number)))
            publish.publish(store, journal, index)
    finally:
        over.set()
        thread.join()
        index.close()
    assert len(seen) > 5
    for found in seen:
        assert len(found) == len(set(found))
        assert always <= set(found)


def test_fewer_than_the_journal_has_are_never_published(store, journal, index, monkeypatch):
    """Somebody empties the index while the tables are made from it."""
    for number in range(3):
        commit(journal, index, rows.unit(in_bucket(number, number)))
    before = publish.publish(store, journal, index)
    commit(journal, index, rows.unit(in_bucket(3, 3)))
    monkeypatch.setattr(publish, "what_counts", lambda store, journal, index: iter(()))
    with pytest.raises(UserError, match="were not published: 0 of 4 finished work units"):
        publish.publish(store, journal, index)
    monkeypatch.undo()
    assert manifests.current(store) == before
    assert publish.publish(store, journal, index).rows["clips"] == 8


STEPS = ("ask", "ask", "change", "retry", "take back", "forget", "damage")


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), min_size=3, max_size=14))
@settings(max_examples=5, deadline=None)
def test_whatever_happened_the_tables_are_those_written_anew(steps):
    with tempfile.TemporaryDirectory() as folder:
        store, url = open_store(f"{folder}/results"), f"sqlite:///{folder}/index.sqlite"
        journal, index = Journal(store), SavingsIndex(url)
        commit(journal, index, rows.unit(rows.media(99)))
        for at, (step, number) in enumerate(steps):
            _step(step, number, at, store, journal, index)
            publish.publish(store, journal, index, keeps_before=step != "forget")
        found = {name: sorted(table(store, name), key=repr) for name in manifests.NAMES}
        assert [p for p in verify(store, url).problems if p.part == "tables"] == []
        publish.publish(store, journal, index, keeps_before=False, anew=True)
        assert {name: sorted(table(store, name), key=repr) for name in manifests.NAMES} == found
        index.close()


def _step(step: str, number: int, at: int, store: Store, journal: Journal, index: SavingsIndex) -> None:
    """What happens to media item `number` as the step `at`, as far as it can."""
    unit = rows.unit(rows.media(number))
    attempts = [key.attempt for key in journal.units() if key.unit_id == unit.unit_id]
    if unit.media.media_id in journal.tombstones():
        return
    if step == "ask" and not attempts:
        commit(journal, index, unit, fail=number % 3)
    elif step == "change":
        commit(journal, index, rows.unit(rows.media(number, "e2"), clips=1), run_id="run-2")
    elif step == "retry" and attempts == [0] and number % 3 < 2:
        failed = replace(unit, clips=(unit.clips[number % 3],))
        commit(journal, index, failed, run_id="run-3", attempt=1)
    elif step == "take back" and attempts:
        journal.write_heads([rows.head(unit)], "run-4")
        sync.catch_up(journal, index)
    elif step == "forget":
        sync.forget(journal, index, unit.media.media_id)
    elif step == "damage" and (published := manifests.current(store)):
        store.delete([f"tables/{published.tables['clips'][0]}"])
        commit(journal, index, rows.unit(rows.media(6 + at), clips=1))


def test_a_run_that_changes_the_index_meanwhile_doubles_and_loses_nothing(store, journal, index):
    for number in range(4):
        commit(journal, index, rows.unit(rows.media(number)))
        publish.publish(store, journal, index)
    changes = iter(range(3))

    def meanwhile(_: int) -> None:
        # An item of a file that was to stay.
        if (number := next(changes, None)) is not None:
            commit(journal, index, rows.unit(rows.media(number, "e2")), run_id="run-2")

    commit(journal, index, rows.unit(rows.media(4)))
    publish.publish(store, journal, index, advance=meanwhile)
    keys = [r["media_key"] for r in table(store, "media")]
    assert sorted(keys) == [f"folder/video {n}.mp4" for n in range(5)]


def test_tables_of_an_older_format_are_written_anew(store, journal, index):
    commit(journal, index, rows.unit(rows.media(0)))
    publish.publish(store, journal, index)
    manifest = json.loads(store.read_bytes(manifests.MANIFEST)) | {"format_version": 2}
    for mark in manifest["files"].values():
        del mark["rows"]
    store.write(manifests.MANIFEST, json.dumps(manifest).encode())
    commit(journal, index, rows.unit(rows.media(1)))
    published = publish.publish(store, journal, index)
    assert published.tables["clips"] == ["generation=000002/clips/bucket-001.parquet"]
    assert published.rows["clips"] == len(table(store, "clips")) == 4


def test_forgotten_media_leave_no_trace_and_do_not_come_back(store, journal, index, tmp_path):
    keep, erase = rows.unit(rows.media(1)), rows.unit(rows.media(2))
    for unit in (keep, erase):
        commit(journal, index, unit)
        index.put_probes([(unit.media, Probed(rows.INFO))])
    publish.publish(store, journal, index)
    assert sync.forget(journal, index, erase.media.media_id) == 1
    publish.publish(store, journal, index, keeps_before=False)
    # A late attempt, and an index that is rebuilt afterwards.
    assert journal.commit(rows.meta(erase), rows.outcomes(erase), erase.questions) is None
    sync.rebuild(journal, index)
    publish.publish(store, journal, index)
    assert {r["media_id"] for r in table(store, "answers")} == {keep.media.media_id}
    assert [m for m, _ in index.find_media(erase.media.key)] == []
    for path in (tmp_path / "results").rglob("*"):
        if path.is_file() and "journal/tombstones" not in str(path):
            contents = path.read_bytes()
            assert erase.media.key.encode() not in contents, path
            assert erase.media.media_id.encode() not in contents, path


def test_a_late_object_of_forgotten_media_is_swept_out(journal, index):
    unit = rows.unit(rows.media())
    commit(journal, index, unit)
    data = encode_unit(rows.meta(unit), rows.outcomes(unit), unit.questions)
    sync.forget(journal, index, unit.media.media_id)
    journal._store.write(rows.meta(unit).key.path, data)  # written by an attempt that never looked again
    assert sync.catch_up(journal, index) == 0
    assert list(journal.units()) == []


def test_a_runs_record_is_one_flat_row_with_the_columns_of_runs():
    spent = RunSpending(gpu_hours=2.0, answering_gpu_hours=1.0, usd=5.0, estimated_gpu_hours=0.9)
    run = RunRecord("run-1", "job", "recipe-1", {"a": 1}, "2026-01-01T00:00:00+00:00", spending=spent)
    run = replace(run, counts=RunCounts(answers=8), time=RunTime(wall_s=3.0), resources=RunResources(actors=("cpu",)))
    assert run_row(run).keys() == set(RUNS_SCHEMA.names)
    assert decode_run(StoredRun.of(run).text.encode(), where="a run").run == run
    begun = replace(run, spending=None)
    assert decode_run(StoredRun.of(begun).text.encode(), where="a run").run == begun
