"""`omnidrop forget`: erase a media item's results for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.display import console
from jobs._shared.options import JsonFile, with_job, write_json
from jobs.cli import main
from pipeline.config.job import JobConfig
from pipeline.counted import counted
from pipeline.identity import media_id
from pipeline.review.labels import forget_labels
from pipeline.runs.maintenance import find_content, forget_media, unforget_media

EXAMPLES = (
    "omnidrop forget job.yaml --media 'interviews/2024-03-01.mp4'",
    "omnidrop forget job.yaml --media 'interviews/2024-03-01.mp4' --undo    # allow it to be indexed again",
)


@with_job
def command(
    job: JobConfig,
    media: Annotated[
        str,
        typer.Option("--media", metavar="KEY", help="The item's key, media_id or content_id, as shown in the tables."),
    ],
    undo: Annotated[
        bool, typer.Option("--undo", help="Lift the ban: the next `omnidrop index` answers the item again.")
    ] = False,
    labels: Annotated[
        Path, typer.Option(metavar="FILE", help="Labels of `omnidrop review`. The item's labels are removed.")
    ] = Path("labels.csv"),
    json_file: JsonFile = None,
) -> None:
    """Permanently erase a media item's answers, costs and quarantine rows from all jobs in this output.

    The item is erased by content: the command lists every key with the same content and erases all of them. It deletes
    journal objects and index rows, and publishes the tables again without older generations. A tombstone keeps later
    runs from bringing the item back. Exported Iceberg tables are deleted with all snapshots (`omnidrop export` makes
    them again), and the item's labels are removed from --labels. The media file itself is not touched.
    """
    if undo:
        lifted = unforget_media(job, media)
        console.print(f"no longer forgotten: {media}; the next `omnidrop index` answers it again", markup=False)
        write_json(json_file, {"media": media, "tombstones_removed": lifted})
        return
    keys = find_content(job, media)
    if len(keys) > 1:
        console.print(f"{len(keys)} keys have this content: {', '.join(keys)}", markup=False, soft_wrap=True)
    with console.status(f"forgetting {media}"):
        erased = forget_media(job, media)
    named = {media, *keys}
    unlabelled = forget_labels(labels, lambda key: key in named or media == media_id(job.archive.identity, key))
    also = f", {counted(unlabelled, 'label')} of {labels}" if unlabelled else ""
    units = counted(erased.units, "work unit")
    console.print(f"forgotten: {', '.join(keys) or media} ({units} erased{also})", markup=False)
    found = {"media": media, "keys": keys, "units_erased": erased.units, "labels_erased": unlabelled}
    write_json(json_file, found)


if __name__ == "__main__":
    main("forget")
