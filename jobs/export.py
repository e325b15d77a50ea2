"""`omnidrop export`: moments for players, editors and labelling tools; clips and answers as Iceberg tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs._shared.display import console
from jobs._shared.notes import note_toy_answers, note_wordings
from jobs._shared.options import JsonFile, write_json
from jobs._shared.precision import keep_precise
from jobs._shared.results import EndpointUrl, JobName, Results, Videos, find_results
from jobs._shared.terminal import say
from jobs._shared.whole_file import replaced
from jobs.cli import main
from omnidrop.errors import UserError
from omnidrop.models.checkpoints import EMBEDDED
from pipeline.counted import counted
from pipeline.export.registry import FORMATS, find_format

if TYPE_CHECKING:
    from pipeline.export.moments import Video

EXAMPLES = (
    "omnidrop export job.yaml",
    "omnidrop export demo/results --to vtt -o subtitles/",
    "omnidrop export job.yaml --to edl --question red_car --threshold 0.9 --media 'news/*' -o markers/",
    "omnidrop export results --to edl --media news/a.mp4 --rate 29.97 --start-timecode '01:00:00;00' -o a.edl",
    "omnidrop export s3://bucket/results --to label-studio -o tasks.json",
)

Names = list[str] | None
MOST_PROBLEMS = 20


def command(
    results: Results = None,
    to: Annotated[
        str,
        typer.Option(metavar="FORMAT", help=f"iceberg: tables. Moments: {', '.join(FORMATS)}."),
    ] = "iceberg",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--to-file",
            metavar="FILE|FOLDER",
            help="Output: a file, a folder for several videos, or - for standard output.",
            show_default="moments/, or moments.SUFFIX if one file holds all",
        ),
    ] = None,
    questions: Annotated[
        Names,
        typer.Option(
            "--question", metavar="ID", help="Only this question. Repeatable.", show_default="yes/no and choice"
        ),
    ] = None,
    answers: Annotated[
        Names,
        typer.Option("--answer", metavar="TEXT", help="Only this answer. Repeatable.", show_default="all but no"),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, metavar="P", help="Minimum probability of an answer.")
    ] = 0.5,
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Choose the threshold that gives this precision on --labels."),
    ] = None,
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Labels for --precision.")] = Path("labels.csv"),
    media: Videos = None,
    job: JobName = None,
    rate: Annotated[
        float | None, typer.Option(min=1, metavar="FPS", help="Frames per second.", show_default="the file's own")
    ] = None,
    start_timecode: Annotated[
        str | None,
        typer.Option(
            metavar="HH:MM:SS:FF",
            help="Timecode of the first frame. Write ; before the frames for drop-frame.",
            show_default="the file's own, or 00:00:00:00",
        ),
    ] = None,
    found: Annotated[
        str | None,
        typer.Option("--find", metavar="WHAT", help="Export the moments that `omnidrop find` finds."),
    ] = None,
    index_url: Annotated[str | None, typer.Option(metavar="URL", help="For iceberg: URL of the job's index.")] = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Export moments as subtitles, chapters, edit markers or labelling tasks, or export all results as Iceberg tables.

    A moment is a time range of a video with the same answer; adjacent and overlapping clips are merged. By default,
    every yes and every choice with a probability of at least 0.5 is exported. Frames are counted at the file's own rate
    from its own start timecode.

    Without --to, the published clips and answers are copied into Iceberg tables, with one snapshot per generation. The
    catalog is in the savings index's database, the data in `iceberg/` in the output. This needs the extra
    omnidrop[iceberg]. Older snapshots are kept. `omnidrop forget` deletes these tables, because every snapshot may hold
    the erased item.
    """
    if to == "iceberg":
        _iceberg(results, index_url, endpoint_url, json_file)
        return
    if found is not None and (questions or answers):
        raise UserError("--find already selects the answers; remove --question and --answer")
    # Here, so that --help need not wait for DuckDB and pyarrow.
    from pipeline.export.files import with_clocks
    from pipeline.export.moments import Selection, videos_found, videos_with_moments
    from pipeline.tables.query import asked_otherwise, models_of, open_results, the_job

    form = find_format(to)
    selection = Selection(threshold, tuple(questions or ()), tuple(answers or ()), media)
    place = find_results(results, endpoint_url)
    with open_results(place.uri, place.storage) as connection:
        name = the_job(connection, place.uri, job or (place.job.name if place.job else None))
        if precision is not None:
            keep_precise(connection, name, precision, labels, questions or ())
            # Labels are of clips: they promise nothing of answers about whole videos.
            selection = replace(selection, threshold=0.0, takes_whole=False)
        if found is None:
            videos = videos_with_moments(connection, selection, name)
        else:
            videos = videos_found(connection, found, name, media)
        note_wordings(asked_otherwise(connection))
        toys = models_of(connection, EMBEDDED)
    videos, no_place = _with_place(to, videos, questions or ())
    videos, problems = with_clocks(form, videos, rate, start_timecode)
    if problems and not videos:
        raise UserError("\n".join(problems[:MOST_PROBLEMS]))
    target = output or Path(f"moments{form.suffix}" if form.holds_many else "moments")
    written = _write(to, videos, target)
    moments, whole = sum(len(video.moments) for video in videos), sum(len(video.whole) for video in videos)
    where = f"{target}: " if written else ""
    empty = "nothing was found" if found else f"no such answer has a probability of {threshold:g} or more"
    none = "" if moments or whole else f": {empty}"
    and_whole = f" and {counted(whole, 'answer')} about whole videos" if whole else ""
    say(f"{where}{counted(moments, 'moment')}{and_whole} of {counted(len(videos), 'video')}{none}", err=True)
    if no_place:
        say(
            f"note: {counted(no_place, 'answer')} about whole videos left out: {to} has no place for them; export to "
            f"{_holding_whole()}",
            err=True,
        )
    if form.counts_frames and start_timecode is None and (unknown := [v for v in videos if v.start_timecode is None]):
        say(
            f"note: {counted(len(unknown), 'file')} without a usable start timecode, counted from 00:00:00:00; "
            "--start-timecode sets one",
            err=True,
        )
    write_json(
        json_file,
        {"to": to, "videos": len(videos), "moments": moments, "whole": whole, "files": written, "left_out": problems},
    )
    note_toy_answers(toys)
    if problems:
        say(f"left out: {counted(len(problems), 'video')}", err=True)
        for problem in problems[:MOST_PROBLEMS]:
            say(f"  {problem}", err=True)
        raise typer.Exit(1)


def _with_place(to: str, videos: list[Video], questions: Sequence[str]) -> tuple[list[Video], int]:
    """The videos with what format `to` has a place for, and how many answers about whole videos it has none for.
    Raises UserError where one of `questions` is about whole videos."""
    if find_format(to).holds_whole:
        return videos, 0
    if asked := sorted({one.question_id for video in videos for one in video.whole} & set(questions)):
        raise UserError(
            f"--question {asked[0]} is about whole videos, and --to {to} has no place for such answers; use "
            f"another format ({_holding_whole()}), or remove --question {asked[0]}"
        )
    left_out = sum(len(video.whole) for video in videos)
    return [replace(video, whole=()) for video in videos if video.moments], left_out


def _holding_whole() -> str:
    return ", ".join(name for name in FORMATS if find_format(name).holds_whole)


def _write(to: str, videos: list[Video], target: Path) -> list[dict[str, Any]]:
    """Write the moments to a file, a folder or standard output: the files that were written. Raises UserError."""
    from pipeline.export.files import documents

    form = find_format(to)
    if not form.holds_many and _is_one_file(target) and len(videos) > 1:
        raise UserError(
            f"-o {target}: {len(videos)} videos have moments, but a --to {to} file holds one video; give a "
            f"folder, for example -o {target.with_suffix('')}/, or choose one video with --media KEY"
        )
    written: list[dict[str, Any]] = []
    for file_name, content in documents(form, videos):
        path = target if form.holds_many or _is_one_file(target) else target / file_name
        if str(target) == "-":
            sys.stdout.buffer.write(content)
            continue
        with replaced(path) as file:
            file.write(content)
        written.append({"file": str(path), "bytes": len(content)})
    return written


def _is_one_file(target: Path) -> bool:
    return str(target) == "-" or (target.suffix != "" and not target.is_dir())


def _iceberg(results: str | None, index_url: str | None, endpoint_url: str | None, json_file: Path | None) -> None:
    from pipeline.tables.iceberg import export

    job = find_results(results, endpoint_url, index_url=index_url).job
    if job is None:
        raise UserError(
            "Iceberg tables need the job file, which names their catalog: omnidrop export job.yaml. Or choose a format "
            "for moments, for example --to vtt"
        )
    with console.status("exporting"):
        exported = export(job.output, job.resolved_index_url(), job.storage)
    for table in exported:
        done = "" if table.is_new else " (was exported before)"
        line = f"{table.table}: generation {table.generation}, {table.rows} rows, snapshot {table.snapshot_id}{done}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    write_json(json_file, {"tables": exported})


if __name__ == "__main__":
    main("export")
