"""Readers that know a newer version's columns read tables that lack them: DuckDB, pyarrow and Polars, and ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.index.savings_index import SavingsIndex
from pipeline.tables import manifest, publish
from pipeline.tables.query import open_results, query
from tests.support import rows
from tests.support.rows import commit


@pytest.fixture
def old_and_new(store, journal, tmp_path):
    """Files of `clips`: one as a version without `peak_bytes` wrote it, and one of this version."""
    index = SavingsIndex(f"sqlite:///{tmp_path}/index.sqlite")
    commit(journal, index, rows.unit(rows.media(), clips=3))
    published = publish.publish(store, journal, index)
    index.close()
    new = Path(store.uri) / "tables" / published.tables["clips"][0]
    old = tmp_path / "old.parquet"
    pq.write_table(pq.read_table(new, partitioning=None).drop_columns(["peak_bytes"]), old)
    return [str(old), str(new)]


def test_duckdb(old_and_new):
    found = duckdb.read_parquet(old_and_new, union_by_name=True).aggregate("count(*), count(as_run_flops)")
    assert found.fetchall() == [(6, 6)]
    assert "peak_bytes" in duckdb.read_parquet(old_and_new, union_by_name=True).columns


def test_pyarrow_dataset(old_and_new):
    data = ds.dataset(old_and_new, schema=manifest.SCHEMAS["clips"])
    assert data.to_table(columns=["clip_id", "peak_bytes"])["peak_bytes"].null_count == 6
    assert len(data.to_table(filter=ds.field("as_run_flops") > 0)) == 6


def test_polars(old_and_new):
    import polars as pl

    # The newer file first: its columns are the table's.
    data = pl.scan_parquet(old_and_new[::-1], missing_columns="insert")
    assert data.select(pl.len(), pl.col("as_run_flops").sum()).collect().row(0) == (6, 6 * 1_005)
    assert data.select(pl.col("peak_bytes").null_count()).collect().item() == 6


def test_our_own_queries(store, old_and_new):
    old, new = map(Path, old_and_new)
    new.write_bytes(old.read_bytes())
    with open_results(store.uri) as connection:
        found = list(query(connection, "SELECT count(*), count(peak_bytes), sum(as_run_flops) FROM clips").rows)
    assert found == [(3, 0, 3 * 1_005)]


@pytest.fixture
def two_generations(store, journal, tmp_path):
    """Files of `clips` in the folders of two generations, which together are the table: 3 rows and 2."""
    index = SavingsIndex(f"sqlite:///{tmp_path}/index.sqlite")
    for number, clips in enumerate((3, 2)):
        item = replace(rows.media(number), media_id=f"{number:08x}{0:024x}")
        commit(journal, index, rows.unit(item, clips=clips))
        published = publish.publish(store, journal, index)
    index.close()
    paths = [f"{store.uri}/tables/{path}" for path in published.tables["clips"]]
    assert len({Path(path).parent for path in paths}) == 2
    return paths


@pytest.mark.parametrize(
    "count",
    [
        lambda paths: duckdb.read_parquet(paths).aggregate("count(*)").fetchall()[0][0],
        lambda paths: ds.dataset(paths).count_rows(),
        lambda paths: pytest.importorskip("polars").scan_parquet(paths).collect().height,
    ],
    ids=["duckdb", "pyarrow", "polars"],
)
def test_a_table_in_files_of_two_generations(two_generations, count):
    assert count(two_generations) == 5


@pytest.mark.slow
def test_spark(two_generations, old_and_new):
    """Where Spark is installed, which it is not by our extras: 450 MB and a Java of its own."""
    sql = pytest.importorskip("pyspark.sql", reason="needs pyspark (pip install pyspark) and a Java 17")
    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        found = session.read.parquet(*two_generations).selectExpr("count(*)", "sum(as_run_flops)").first()
        assert tuple(found) == (5, 5 * 1_005)
        both = session.read.option("mergeSchema", "true").parquet(*old_and_new)
        assert tuple(both.selectExpr("count(*)", "count(peak_bytes)", "sum(as_run_flops)").first()) == (6, 0, 6 * 1_005)
        clip_ids = {row.clip_id for row in both.select("clip_id").collect()}
        assert len(clip_ids) == 3
    finally:
        session.stop()
