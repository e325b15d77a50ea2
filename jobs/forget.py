"""`omnidrop forget`: erase a media item's results for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.display import console
from jobs._shared.options import JsonFile, with_job, write_json
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.identity import media_id
from pipeline.report.formats import counted
from pipeline.review.labels import forget_labels
from pipeline.runs.maintenance import forget_media

EXAMPLES = ("omnidrop forget job.yaml --media 'interviews/2024-03-01.mp4'",)


@with_job
def command(
    job: JobConfig,
    media: Annotated[str, typer.Option("--media", metavar="KEY", help="The item's key or media_id, as in the tables.")],
    labels: Annotated[
        Path, typer.Option(metavar="FILE", help="Labels of `omnidrop review`; the item's are taken out.")
    ] = Path("labels.csv"),
    json_file: JsonFile = None,
) -> None:
    """Erase a media item's answers, costs and quarantine rows for good, of all jobs in this output.

    Journal objects are deleted, index rows removed and the tables published again without older generations; a
    tombstone keeps late attempts and later runs from bringing it back. Exported Iceberg tables are deleted with all
    their snapshots (`omnidrop export` makes them again), and the item's labels are taken out of --labels. The media
    file itself is not touched.
    """
    with console.status(f"forgetting {media}"):
        erased = forget_media(job, media)
    unlabelled = forget_labels(labels, lambda key: media in (key, media_id(job.archive.identity, key)))
    also = f", {counted(unlabelled, 'label')} of {labels}" if unlabelled else ""
    console.print(f"forgotten: {media} ({erased} work units erased{also})", markup=False)
    write_json(json_file, {"media": media, "units_erased": erased, "labels_erased": unlabelled})


if __name__ == "__main__":
    main("forget")
