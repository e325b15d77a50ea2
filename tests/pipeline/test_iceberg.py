"""Published results as Iceberg tables: read back with pyiceberg, on the catalog in SQLite and in PostgreSQL."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from pipeline.tables import iceberg, manifest, publish
from pipeline.tables.iceberg import IcebergError, export, open_catalog
from tests.support import rows
from tests.support.rows import commit

pytest.importorskip("pyiceberg")


def test_each_generation_is_a_snapshot_and_older_ones_stay(store, journal, index, index_url):
    with pytest.raises(IcebergError, match="omnidrop index"):
        export(store.uri, index_url)
    commit(journal, index, rows.unit(rows.media(0), clips=3))
    publish.publish(store, journal, index)
    first = export(store.uri, index_url)
    assert [(e.table, e.rows, e.generation, e.is_new) for e in first] == [
        ("omnidrop.clips", 3, 1, True),
        ("omnidrop.answers", 12, 1, True),
    ]
    assert [(e.snapshot_id, e.is_new) for e in export(store.uri, index_url)] == [(e.snapshot_id, False) for e in first]

    # A reader that took the first snapshot goes on reading it while two generations are published and exported.
    reader = open_catalog(store.uri, index_url).load_table("omnidrop.answers").scan(snapshot_id=first[1].snapshot_id)
    before = reader.to_arrow().sort_by([("clip_id", "ascending"), ("question_id", "ascending")])
    for number in (1, 2):
        commit(journal, index, rows.unit(rows.media(number), clips=2))
        publish.publish(store, journal, index)
        export(store.uri, index_url)
    assert reader.to_arrow().sort_by([("clip_id", "ascending"), ("question_id", "ascending")]) == before
    answers = open_catalog(store.uri, index_url).load_table("omnidrop.answers").scan().to_arrow()
    query = "SELECT answer, count(*) FROM answers WHERE question_id = 'shape' GROUP BY 1"
    assert duckdb.query(query).fetchall() == [("circle", 7)]
    assert len(answers) == 28

    # What is forgotten is in all these snapshots: they go, and the next export begins anew.
    assert iceberg.erase(store, index_url) > 0
    assert list(store.list("iceberg/")) == []
    assert [e.is_new for e in export(store.uri, index_url)] == [True, True]


def test_a_catalog_that_cannot_be_opened_is_named(store, journal, index, tmp_path):
    commit(journal, index, rows.unit(rows.media(0)))
    publish.publish(store, journal, index)
    with pytest.raises(IcebergError, match=r"the catalog at sqlite:.*/x.sqlite failed: unable to open database"):
        export(store.uri, f"sqlite:///{tmp_path}/nowhere/x.sqlite")


def test_a_column_that_came_later_is_null_in_older_snapshots(store, journal, index, index_url, monkeypatch):
    commit(journal, index, rows.unit(rows.media(0)))
    publish.publish(store, journal, index)
    now = manifest.SCHEMAS["clips"]
    monkeypatch.setitem(manifest.SCHEMAS, "clips", pa.schema([field for field in now if field.name != "peak_bytes"]))
    old = export(store.uri, index_url)[0]
    monkeypatch.setitem(manifest.SCHEMAS, "clips", now)
    commit(journal, index, rows.unit(rows.media(1)))
    publish.publish(store, journal, index)
    export(store.uri, index_url)
    table = open_catalog(store.uri, index_url).load_table((iceberg.NAMESPACE, "clips"))
    assert "peak_bytes" in table.scan().to_arrow().column_names
    assert table.scan(snapshot_id=old.snapshot_id).to_arrow().num_rows == 2
