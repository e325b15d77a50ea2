"""`omnidrop verify` names every damage done to real results, and the commands it gives mend it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shlex
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from pipeline import memory_bound
from pipeline.checks.findings import SHOWN
from pipeline.checks.verify import verify
from pipeline.config.job import load_job
from pipeline.config.sections import StorageConfig
from pipeline.index import sync
from pipeline.index.savings_index import SavingsIndex
from pipeline.journal.journal import Journal
from pipeline.journal.output_id import claim_output, read_output_id
from pipeline.records import checksummed_parquet
from pipeline.records.checksummed_parquet import JournalError, digest, seal, unseal
from pipeline.storage.store import open_store
from tests.pipeline.test_index import FORMAT_1
from tests.support import rows
from tests.support.made_results import make_results
from tests.support.s3_server import s3_server
from tests.support.small_jobs import ANSWERS, cli, run, select


def report_of(results):
    return verify(open_store(str(results)), f"sqlite:///{results}/index.sqlite")


def everything(folder):
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def spoil_look_ups(file):
    """Every page of SQLite's own indexes without its last entry: all rows are there, some are not found."""
    with sqlite3.connect(file) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray(file.read_bytes())
    for at in range(size, len(data), size):
        if data[at] == 10 and (entries := int.from_bytes(data[at + 3 : at + 5], "big")):  # a leaf of an index
            data[at + 3 : at + 5] = (entries - 1).to_bytes(2, "big")
    file.write_bytes(data)


def copied(path):
    shutil.copy(path, path.with_name(f"copy of {path.name}"))


def unit_files(results, number=0):
    folder = results / "journal/units/job/00" / rows.media(number).media_id
    return sorted(folder.glob("*.parquet"))


def flip(path, share=0.5):
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def table_file(results, name):
    return next((results / "tables/generation=000001" / name).glob("*.parquet"))


def test_whole_results_are_found_well_and_nothing_is_changed(results, tmp_path):
    before = everything(results)
    result = cli("verify", results, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "no problems" in result.output
    assert everything(results) == before
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["problems"], report["checked"]["unit_objects"]) == ([], 4)


def another_row(path):
    """A valid file with one row more."""
    found = pq.read_table(path)
    pq.write_table(pa.concat_tables([found, found.slice(0, 1)]), path)


def in_index(statement):
    def damage(results):
        with sqlite3.connect(results / "index.sqlite") as connection:
            of_output = read_output_id(open_store(str(results)))[:12]
            connection.execute(re.sub(r"(INTO|FROM|UPDATE) (\w+)", rf"\1 omnidrop_{of_output}_\2", statement))
        connection.close()

    return damage


def resealed(change):
    """An object whose seal is right and whose rows are not what its name says."""

    def damage(results):
        path = unit_files(results)[0]
        table, meta = unseal(path.read_bytes(), where="x")
        path.write_bytes(seal(change(table), meta))

    return damage


def with_value(column, value):
    """A unit whose seal is right, with a value that no run writes in its last row."""
    return resealed(lambda table: with_last(table, column, value))


def with_last(table, column, value):
    field = table.schema.field(column)
    values = pa.array([*table[column].to_pylist()[:-1], value], field.type)
    return table.set_column(table.column_names.index(column), field, values)


def with_answer(name, value):
    """The same of its first answer."""

    def changed(table):
        first, *others = table["answers"].to_pylist()[-1]
        return with_last(table, "answers", [first | {name: value}, *others])

    return resealed(changed)


def in_journal(path, text):
    def damage(results):
        (results / "journal" / path).parent.mkdir(exist_ok=True)
        (results / "journal" / path).write_text(text)

    return damage


def in_manifest(change):
    def damage(results):
        path = results / "tables/current.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def in_table(name, column, value):
    """A value in the first row of a published file, with the manifest's mark and the live file as they should be."""

    def damage(results):
        path, table = table_file(results, name), pq.read_table(table_file(results, name))
        place = table.column_names.index(column)
        values = pa.array([value, *table[column].to_pylist()[1:]], table.schema.field(column).type)
        pq.write_table(table.set_column(place, table.schema.field(column), values), path)
        shutil.copy(path, results / "tables/live" / name / path.name)
        data, own = path.read_bytes(), str(path.relative_to(results / "tables"))
        mark = {"bytes": len(data), "blake2b": digest(data)}
        in_manifest(lambda m: m | {"files": m["files"] | {own: m["files"][own] | mark}})(results)

    return damage


DAMAGE = {
    "a byte of a unit": (lambda r: flip(unit_files(r)[0]), "journal", "damaged", "journal/units/job/00/0000"),
    "a byte of a unit's footer": (lambda r: flip(unit_files(r)[0], 0.97), "journal", "damaged", "journal/units"),
    "a unit cut short": (lambda r: unit_files(r)[0].write_bytes(b"PAR1"), "journal", "damaged", "journal/units"),
    "an empty unit": (lambda r: unit_files(r)[0].write_bytes(b""), "journal", "damaged", "journal/units"),
    "a lost unit": (lambda r: unit_files(r)[0].unlink(), "index", "surplus", "clips "),
    "a lost retry": (lambda r: unit_files(r, 1)[0].unlink(), "index", "differs", "units "),
    "a damaged retry": (lambda r: flip(unit_files(r, 1)[0]), "journal", "damaged", "-001.parquet"),
    "a unit under another's name": (
        lambda r: shutil.copy(unit_files(r)[0], unit_files(r, 1)[1]),
        *("journal", "misplaced", rows.media(1).media_id),
    ),
    **{
        f"{value} as {column} of a unit": (with_value(column, value), "journal", "damaged", "journal/units/job/00/0000")
        for column, value in (("start_s", None), ("end_s", math.nan), ("status", None), ("model_s", math.inf))
    },
    "an answer to no question in a unit": (with_answer("question", None), "journal", "damaged", "journal/units"),
    "a probability that is no number in a unit": (with_answer("probability", math.nan), "journal", "damaged", "units"),
    "a doubled clip": (
        resealed(lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        *("journal", "misplaced", "journal/units"),
    ),
    "a shifted clip": (
        resealed(lambda t: t.set_column(t.column_names.index("start_s"), "start_s", pa.array([1.0, 10.0]))),
        *("journal", "misplaced", "journal/units"),
    ),
    "a stranger among the units": (
        lambda r: (unit_files(r)[0].parent / "notes.txt").write_text("hello"),
        *("journal", "foreign", "notes.txt"),
    ),
    "a stranger beside the heads": (
        lambda r: (r / "journal/heads/readme").write_text("hello"),
        *("journal", "foreign", "journal/heads/readme"),
    ),
    "a copy of a head by someone's hand": (
        lambda r: copied(r / "journal/heads/000000000001-run-1.parquet"),
        *("journal", "foreign", "journal/heads/copy of 0000"),
    ),
    "a lost head": (lambda r: (r / "journal/heads/000000000001-run-1.parquet").unlink(), "index", "surplus", "media "),
    "a lost head before others": (
        lambda r: (r / "journal/heads/000000000001-run-1.parquet").unlink(),
        *("journal", "missing", "journal/heads/000000000001-"),
    ),
    "a byte of a head": (
        lambda r: flip(r / "journal/heads/000000000002-run-1.parquet"),
        *("journal", "damaged", "journal/heads/000000000002"),
    ),
    "a run's record cut short": (
        lambda r: (r / "journal/runs/run-1.json").write_text('{"run_id": "run-1"'),
        *("journal", "damaged", "journal/runs/run-1.json"),
    ),
    "a run's record under another name": (
        lambda r: shutil.copy(r / "journal/runs/run-1.json", r / "journal/runs/run-7.json"),
        *("journal", "misplaced", "journal/runs/run-7.json"),
    ),
    "a damaged tombstone": (
        in_journal("tombstones/abc.content.json", "{"),
        *("journal", "damaged", "journal/tombstones/abc.content.json"),
    ),
    "a damaged id of the output": (in_journal("output.json", "{"), "journal", "damaged", "journal/output.json"),
    "a default that is none": (
        in_journal("defaults.json", '{"clips": {"length_s": "long"}, "model": {}, "pruning": {}}'),
        *("journal", "damaged", "journal/defaults.json"),
    ),
    "a damaged mark of the format": (
        lambda r: (r / "journal/format.json").write_text("2"),
        *("journal", "damaged", "journal/format.json"),
    ),
    "a lost mark of the format": (
        lambda r: (r / "journal/format.json").unlink(),
        *("journal", "format", "journal/format.json"),
    ),
    "answers of a forgotten video": (
        lambda r: (r / "journal/tombstones" / f"{rows.media(0).media_id}.json").write_text("{}"),
        *("journal", "forgotten", rows.media(0).media_id),
    ),
    "a lost table file": (lambda r: table_file(r, "clips").unlink(), "tables", "missing", "clips/bucket-001.parquet"),
    "a byte of a table": (lambda r: flip(table_file(r, "answers")), "tables", "damaged", "answers/bucket-001.parquet"),
    "a row added to a table": (lambda r: another_row(table_file(r, "answers")), "tables", "damaged", "answers/bucket"),
    "a NULL in a table": (
        in_table("clips", "media_key", None),
        *("tables", "differs", "clips/bucket-001.parquet"),
    ),
    "a NaN in a table": (
        in_table("answers", "probability", float("nan")),
        *("tables", "differs", "answers/bucket-001.parquet"),
    ),
    "a file added to a table": (
        lambda r: shutil.copy(table_file(r, "answers"), table_file(r, "answers").with_name("bucket-009.parquet")),
        *("tables", "foreign", "answers/bucket-009.parquet"),
    ),
    "a live file that is not the published one": (
        lambda r: shutil.copy(table_file(r, "clips"), r / "tables/live/answers/bucket-001.parquet"),
        *("tables", "differs", "live/answers/bucket-001.parquet"),
    ),
    "a file among the live ones": (
        lambda r: shutil.copy(table_file(r, "answers"), r / "tables/live/answers/more.parquet"),
        *("tables", "foreign", "live/answers/more.parquet"),
    ),
    "a lost live file": (
        lambda r: (r / "tables/live/clips/bucket-001.parquet").unlink(),
        *("tables", "missing", "live/clips/bucket-001.parquet"),
    ),
    "a damaged manifest": (
        lambda r: (r / "tables/current.json").write_text('{"generation": 1'),
        *("tables", "damaged", "tables/current.json"),
    ),
    "a lost manifest": (lambda r: (r / "tables/current.json").unlink(), "tables", "missing", "tables/current.json"),
    "a manifest with another count": (
        in_manifest(lambda m: m | {"rows": m["rows"] | {"answers": 99}}),
        *("tables", "differs", "answers"),
    ),
    "a manifest of another state": (in_manifest(lambda m: m | {"digest": "0"}), "tables", "stale", "generation 1"),
    "an order of the index that lacks rows": (
        lambda r: spoil_look_ups(r / "index.sqlite"),
        *("index", "damaged", "index"),
    ),
    "a lost index": (lambda r: (r / "index.sqlite").unlink(), "index", "missing", "index"),
    "a row added to the index": (
        in_index("INSERT INTO clips (clip_id, job, media_id, media_key, version_id, unit_id, run_id, question_set) "
                 "VALUES ('new', 'job', 'm', 'k', 'v', 'u', 'r', 's')"),
        *("index", "surplus", "clips new"),
    ),
    "a row lost from the index": (in_index("DELETE FROM quarantine"), "index", "missing", "quarantine "),
    "a value changed in the index": (in_index("UPDATE clips SET retained_ratio = 0.1"), "index", "differs", "clips "),
    "a head changed in the index": (in_index("UPDATE media SET units = 7"), "index", "differs", "media job/"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name, results):
    damage, part, kind, where = DAMAGE[name]
    damage(results)
    before = everything(results)
    found = report_of(results)
    assert not found.is_clean
    assert everything(results) == before
    named = [p for p in found.problems if (p.part, p.kind) == (part, kind) and where in p.where]
    assert named, found.problems
    assert all(p.mend.startswith(("rm ", "omnidrop ")) for p in found.problems)


def test_a_byte_flipped_anywhere_in_an_object_is_found(made_results):
    """Also where Parquet itself would not notice: in names, statistics and texts."""
    data = unit_files(made_results)[0].read_bytes()
    for at in range(0, len(data), 97):
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << at % 8
        with pytest.raises(Exception, match="some/key is damaged"):
            unseal(bytes(spoilt), where="some/key")


def test_an_object_that_unpacks_to_more_than_memory_is_refused(monkeypatch):
    """A text of 1 MB that stands once, and 3,000 rows that name it: 10 KB. As a table with and without a dictionary."""
    monkeypatch.setattr(memory_bound, "MEMORY_BYTES", 1 << 30)
    bomb = pa.table({"key": pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), ["x" * 1_000_000])})
    for says_so in (True, False):
        file = io.BytesIO()
        pq.write_table(bomb, file, store_schema=says_so, dictionary_pagesize_limit=1 << 30)
        said = "keeps values once for many rows" if says_so else "unpacks to more than 2 GB"
        with pytest.raises(JournalError, match=f"some/key {said}"):
            unseal(file.getvalue(), where="some/key")
    monkeypatch.setattr(checksummed_parquet, "OBJECT_BYTES", 1000)
    with pytest.raises(JournalError, match="some/key unpacks to more"):
        unseal(seal(pa.table({"key": ["x" * 2000]}), {}), where="some/key")


def test_a_seal_is_not_taken_for_what_an_archive_says():
    table = pa.table({"x": ["0" * 32]})
    meta = {"key": "0" * 32, "omnidrop.seal": "0" * 32}
    read, found = unseal(seal(table, meta), where="x")
    assert (read, found.items() >= meta.items()) == (table, True)


def test_many_problems_are_counted_and_some_are_shown(results):
    for number in range(SHOWN + 5):
        (results / "journal/units" / f"stranger {number}").write_text("")
    found = report_of(results)
    assert len(found.problems) == SHOWN
    assert found.counts == (("journal", "foreign", SHOWN + 5),)


def test_newer_results_and_no_results_are_refused(results, tmp_path):
    (results / "journal/format.json").write_text('{"format_version": 99}')
    refused = cli("verify", results)
    assert refused.exit_code == 2
    assert "upgrade omnidrop" in refused.output
    nothing = cli("verify", tmp_path / "nowhere")
    assert nothing.exit_code == 2
    assert "there is no journal" in nothing.output


def test_results_of_format_1_are_read_and_named(tmp_path):
    with tarfile.open(FORMAT_1) as archive:
        archive.extractall(tmp_path, filter="data")
    found = report_of(tmp_path / "results")
    assert [(p.part, p.kind) for p in found.problems] == [("index", "missing")]
    assert any("the journal has format 1" in note for note in found.notes)
    store = open_store(str(tmp_path / "results"))
    index = SavingsIndex(f"sqlite:///{tmp_path}/results/index.sqlite", claim_output(store))
    sync.catch_up(Journal(store), index)
    index.close()
    assert report_of(tmp_path / "results").is_clean


def test_an_index_in_postgresql_is_verified(store, index_url, tmp_path):
    make_results(store, index_url)
    assert verify(store, index_url).is_clean
    engine = sa.create_engine(index_url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"DELETE FROM omnidrop_{read_output_id(store)[:12]}_clips WHERE start_s = 0"))
    engine.dispose()
    found = verify(store, index_url)
    assert [(p.part, p.kind) for p in found.problems] == [("index", "missing")]


@pytest.mark.cluster
def test_results_in_s3_are_verified(tmp_path):
    with s3_server("results") as endpoint:
        store = open_store("s3://results/job", StorageConfig(endpoint_url=endpoint))
        url = f"sqlite:///{tmp_path}/index.sqlite"
        make_results(store, url)
        command = ("verify", "s3://results/job", "--endpoint-url", endpoint)
        clean = cli(*command, "--index-url", url)
        assert clean.exit_code == 0, clean.output
        assert "index was not checked" in cli(*command).output
        path = next(path for path, _ in store.list("journal/units/"))
        store.write(path, store.read_bytes(path)[:-1] + b"?")
        damaged = cli(*command)
    assert damaged.exit_code == 1
    assert f"aws s3 rm s3://results/job/{path} && omnidrop index JOB.yaml" in damaged.output


def follow(mend):
    """Do what verify says."""
    for line in mend.split(" && "):
        words = shlex.split(line.partition(" (")[0])
        if words[0] == "rm":
            Path(words[1]).unlink()
        else:
            result = cli(*words[1:])
            assert result.exit_code == 0, result.output


def test_the_commands_given_mend_what_is_wrong(job):
    run(job)
    results = Path(load_job(job).output)
    answers = select(job, ANSWERS)
    published = select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips")
    units = sorted((results / "journal/units").rglob("*.parquet"))
    damages = (
        lambda: flip(units[0]),
        lambda: next((results / "journal/heads").iterdir()).unlink(),
        lambda: (results / "tables/current.json").write_text("{"),
        lambda: (results / "index.sqlite").write_bytes(b"no database at all"),
        lambda: next((results / "journal/runs").iterdir()).write_text("{"),
        lambda: (results / "journal/defaults.json").unlink(),
        lambda: (results / "journal/output.json").write_text("{"),
        lambda: max((results / "tables/live/clips").iterdir()).write_bytes(b"PAR1"),
    )
    for number, damage in enumerate(damages):
        damage()
        found = cli("verify", job, "--json", job.parent / "report.json")
        assert found.exit_code == 1, (number, found.output)
        follow(json.loads((job.parent / "report.json").read_text())["problems"][0]["mend"])
        well = cli("verify", job)
        assert well.exit_code == 0, (number, well.output)
    assert select(job, "SELECT count(*), count(DISTINCT clip_id) FROM clips") == published
    assert select(job, ANSWERS) == answers
