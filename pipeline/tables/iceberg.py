"""Published results as Iceberg tables, for engines that read nothing else and for those who need yesterday's answers.

Promises: `omnidrop.clips` and `omnidrop.answers` hold exactly the published generation, each as one snapshot more;
readers of older snapshots are not disturbed, and what is exported already is not exported again. The tables are copies:
nothing follows from them, and `erase` deletes them whole. Knows nothing about the journal.

The catalog lies in the savings index's database, data and metadata below `iceberg/` of the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from omnidrop.errors import UserError
from pipeline.config.locations import is_s3
from pipeline.config.sections import StorageConfig
from pipeline.index.database import reason_of, shown
from pipeline.journal.output_id import read_output_id
from pipeline.storage.store import open_store
from pipeline.tables import manifest

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

    from pipeline.storage.store import Store

NAMESPACE = "omnidrop"
NAMES = ("clips", "answers")
GENERATION, DIGEST = "omnidrop.generation", "omnidrop.digest"
"""Properties of a snapshot: which published generation it is."""


class IcebergError(UserError):
    """There is nothing to export, or nothing to export with."""

    error_class = "iceberg"


@dataclass(frozen=True)
class Exported:
    """One Iceberg table after an export."""

    table: str
    generation: int
    snapshot_id: int
    rows: int
    is_new: bool
    """False where the generation was exported before."""
    metadata: str
    """Where its newest metadata file is, for readers without a catalog."""


def export(uri: str, index_url: str, storage: StorageConfig | None = None) -> list[Exported]:
    """Export what is published at `uri` (the output of a job).

    Raises IcebergError where nothing is published, pyiceberg is not installed, or either place fails.
    """
    published = manifest.current(open_store(uri, storage))
    if published is None:
        raise IcebergError(f"{uri}: there are no published tables; run `omnidrop index` with this output first")
    try:
        catalog = open_catalog(uri, index_url, storage)
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return [_export(catalog, name, published, uri, storage) for name in NAMES]
    except (sa.exc.SQLAlchemyError, OSError) as error:
        # By SQLAlchemy itself, or by pyiceberg and pyarrow: a lock, a full disk, a right that is missing.
        raise IcebergError(
            f"exporting to {uri}/iceberg with the catalog at {shown(index_url)} failed: {reason_of(error, index_url)}; "
            "check both, and export again"
        ) from error


def open_catalog(uri: str, index_url: str, storage: StorageConfig | None = None) -> SqlCatalog:
    """The catalog in the database of the index. Raises IcebergError where pyiceberg is not installed."""
    try:
        from pyiceberg.catalog.sql import SqlCatalog
    except ImportError as error:
        raise IcebergError("exporting to Iceberg needs pyiceberg; run pip install 'omnidrop[iceberg]'") from error
    # Outputs that share a database have catalogs of their own in it.
    whose = read_output_id(open_store(uri, storage)) or ""
    options = {"uri": index_url, "warehouse": f"{uri if is_s3(uri) else f'file://{uri}'}/iceberg"}
    if storage is not None and storage.endpoint_url:
        options["s3.endpoint"] = storage.endpoint_url
    return SqlCatalog(f"{NAMESPACE}_{whose[:12]}", **options)


def erase(store: Store, index_url: str) -> int:
    """Delete all that was exported, all snapshots of it, also where pyiceberg is not installed; returns how many files.

    For a media item that is forgotten: its rows are in every snapshot since it was indexed.
    """
    copies = [path for path, _ in store.list("iceberg/")]
    if copies:
        engine = sa.create_engine(index_url)
        with engine.begin() as connection:
            if sa.inspect(connection).has_table("iceberg_tables"):
                # By where they lie: catalogs of other outputs are in the same table.
                ours = sa.text("DELETE FROM iceberg_tables WHERE substr(metadata_location, 1, :length) = :place")
                place = f"{store.uri if is_s3(store.uri) else f'file://{store.uri}'}/iceberg/"
                connection.execute(ours, {"length": len(place), "place": place})
        engine.dispose()
        store.delete(copies)
    return len(copies)


def _export(
    catalog: SqlCatalog, name: str, published: manifest.Published, uri: str, storage: StorageConfig | None
) -> Exported:
    from pipeline.tables.query import published_dataset  # here, so that forgetting need not wait for DuckDB

    data = published_dataset(uri, storage, published, name)
    table = catalog.create_table_if_not_exists((NAMESPACE, name), data.schema)
    is_new = _property(table, DIGEST) != published.digest
    if is_new:
        # A later version may have further columns; they are nullable.
        with table.update_schema() as update:
            update.union_by_name(data.schema)
        reader = data.scanner(batch_readahead=1, fragment_readahead=1).to_reader()
        properties = {GENERATION: str(published.generation), DIGEST: published.digest}
        if table.current_snapshot() is None:
            table.append(reader, snapshot_properties=properties)
        else:
            table.overwrite(reader, snapshot_properties=properties)
    snapshot = table.current_snapshot()
    assert snapshot is not None, "an export makes a snapshot, also of no rows"
    generation = int(_property(table, GENERATION) or 0)
    where = f"{NAMESPACE}.{name}"
    return Exported(where, generation, snapshot.snapshot_id, published.rows[name], is_new, table.metadata_location)


def _property(table: Any, name: str) -> str | None:
    snapshot = table.current_snapshot()
    found: str | None = None if snapshot is None or snapshot.summary is None else snapshot.summary.get(name)
    return found
