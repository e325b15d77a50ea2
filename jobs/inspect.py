"""`omnidrop inspect FILE`: what the product makes of one file, without a model.

Promises: standard output has the table, or with `--json -` the JSON; a file that cannot be used ends with status 1.
Knows nothing about how a file is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs._shared.options import JsonFile, write_json
from jobs._shared.terminal import printable, say
from jobs.cli import main
from omnidrop.errors import UserError

EXAMPLES = (
    "omnidrop inspect lecture.mkv",
    "omnidrop inspect recording.ts --length 60 --json -",
    "omnidrop inspect talk.mp4 --at 90 --dump talk-at-90",
)


RARE = ("silent_s", "held_s", "missing_s", "error_class")
"""Of a clip, left out of the table where no clip has it."""


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A video or audio file.")],
    length: Annotated[float, typer.Option(metavar="SECONDS", help="Clip length.")] = 30.0,
    at: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Only the clip that starts at this time.", show_default=False),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second that the model sees.")] = 2.0,
    audio_track: Annotated[str, typer.Option(help="Audio track: auto, all, a number from 0, or lang:xx.")] = "auto",
    video_track: Annotated[str, typer.Option(help="Video track: auto, a number from 0, or lang:xx.")] = "auto",
    json_file: JsonFile = None,
    dump: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write each clip's frames and audio, and a page that shows them.", show_default=False
        ),
    ] = None,
) -> None:
    """Show a file's tracks, continuous segments and clips as the model would see them.

    The file is probed and decoded exactly as in a run. No question is asked.
    """
    from pipeline.asking.dump import clip_section, dump_clip, page
    from pipeline.asking.inspect import about_clip, about_file, clips_of, inspect_file
    from pipeline.asking.one_file import checked_clips
    from workers.records import DecodedClip

    clips = checked_clips(length_s=length, fps=fps, audio_track=audio_track, video_track=video_track)
    inspected = inspect_file(file, clips, at)
    about: dict[str, Any] = about_file(inspected) | {"clips": []}
    sections: list[str] = []
    try:
        for one in clips_of(inspected, clips) if inspected.info is not None else ():
            assert inspected.info is not None
            about["clips"].append(about_clip(one, inspected.info))
            if dump is None:
                continue
            decoded = one if isinstance(one, DecodedClip) else None
            if decoded is not None:
                dump_clip(decoded, dump / f"clip-{len(sections):03d}")
            sections.append(clip_section(about["clips"][-1], decoded))
        if dump is not None:
            dump.mkdir(parents=True, exist_ok=True)
            (dump / "index.html").write_text(page(inspected.media.key, about, sections), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--dump {dump}: cannot be written: {error.strerror}") from error
    if str(json_file) != "-":
        _print(inspected.media.key, about)
    write_json(json_file, about)
    if inspected.failure is not None:
        failure = inspected.failure
        say(f"omnidrop: error: {inspected.media.key}: {failure.error_class}: {failure.message}", err=True)
    answerable = [clip for clip in about["clips"] if clip["error_class"] is None]
    raise typer.Exit(0 if answerable else 1)


def _print(name: str, about: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.asking.dump import shown

    console = Console(soft_wrap=True)
    if about["duration_s"] is None:
        return
    console.print(Text(f"{name}: {about['duration_s']:.2f} s"))
    for note in about.get("notes", ()):
        console.print(Text(printable(note)))
    for title, rows in (("tracks", about["tracks"]), ("segments", about["segments"]), ("clips", about["clips"])):
        # A terminal is 80 columns wide: notes stand below, and of what is rarely there only what is.
        columns = [
            name
            for name in (rows[0] if rows else ())
            if name != "notes" and (name not in RARE or any(row[name] for row in rows))
        ]
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in columns:
            table.add_column(column.replace("segment_pts_s", "pts_s"), overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(shown(row[column]))) for column in columns))
        console.print(table)
        for row in rows:
            for note in row.get("notes", ()):
                console.print(Text(f"{shown(row['start_s'])} to {shown(row['end_s'])} s: {printable(note)}"))


if __name__ == "__main__":
    main("inspect")
