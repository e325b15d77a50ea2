"""`omnidrop rebuild`: make tables and index again from the journal."""

from __future__ import annotations

from jobs._shared.display import console
from jobs._shared.options import JsonFile, with_job, write_json
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.runs.maintenance import rebuild_results

EXAMPLES = ("omnidrop rebuild job.yaml",)


@with_job
def command(job: JobConfig, json_file: JsonFile = None) -> None:
    """Rebuild the published tables and the savings index from the journal.

    Use this if tables or index were deleted or damaged. It is safe at any time: the journal is the source of truth and
    is only read.
    """
    with console.status("rebuilding from the journal"):
        published = rebuild_results(job)
    rows = ", ".join(f"{name} {count}" for name, count in published.rows.items())
    console.print(f"generation {published.generation}: {rows}")
    write_json(json_file, published)


if __name__ == "__main__":
    main("rebuild")
