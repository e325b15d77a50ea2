"""`omnidrop export`: the published clips and answers as Iceberg tables."""

from __future__ import annotations

from jobs._shared.display import console
from jobs._shared.options import JsonFile, with_job, write_json
from jobs.cli import main
from pipeline.config.job import JobConfig

EXAMPLES = ("omnidrop export job.yaml", "omnidrop export job.yaml --json export.json")


@with_job
def command(job: JobConfig, json_file: JsonFile = None) -> None:
    """Copy the published clips and answers into Iceberg tables: one snapshot more for each generation.

    The catalog is in the savings index's database, the data below `iceberg/` of the output; needs the extra
    omnidrop[iceberg]. Older snapshots stay; `omnidrop forget` deletes these tables whole, as all of them hold the item.
    """
    # Here, so that --help need not wait for DuckDB and pyarrow.
    from pipeline.tables.iceberg import export

    with console.status("exporting"):
        exported = export(job.output, job.resolved_index_url(), job.storage)
    for table in exported:
        done = "" if table.is_new else " (was exported before)"
        line = f"{table.table}: generation {table.generation}, {table.rows} rows, snapshot {table.snapshot_id}{done}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    write_json(json_file, {"tables": exported})


if __name__ == "__main__":
    main("export")
