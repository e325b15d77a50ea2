"""`omnidrop find WHAT RESULTS`: the moments in which words were answered and conditions hold."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from jobs._shared.notes import note_toy_answers, note_wordings
from jobs._shared.options import JsonFile, write_json
from jobs._shared.results import EndpointUrl, JobName, Results, Videos, find_results, is_place
from jobs._shared.terminal import PrintableConsole, say
from jobs.cli import main
from omnidrop.models.checkpoints import EMBEDDED
from pipeline.counted import counted

EXAMPLES = (
    'omnidrop find "red car" results',
    'omnidrop find "people > 2 and setting = studio" job.yaml',
    "omnidrop find '\"red car\" and not night = yes' results --media 'news/*' --json -",
    "omnidrop export results --find 'shapes >= 3' --to vtt",
)

MOST_ANSWERS = 4
"""Of a moment, in the table: one of many clips may have as many sentences."""


def command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="Words and conditions on questions (= != > >= < <=), combined by and, or, not and parentheses. May "
            "come after RESULTS.",
            show_default=False,
        ),
    ],
    results: Results = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of moments.")] = 20,
    media: Videos = None,
    job: JobName = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Find moments by words in answers and by conditions on questions, in any combination.

    Several words must all occur in one answer, in any inflection (car finds cars). "Words in quotes" must be adjacent.
    A condition names a question and must fit its answer type. and, or, not and parentheses combine terms within a clip.
    Adjacent clips are merged into one moment, with the answers that match in any of them; "sure" is the lowest of their
    probabilities. A match in an answer about a whole video is the whole video. The best match comes first.
    """
    # Here, so that --help need not wait for DuckDB and pyarrow.
    from pipeline.find.search import find
    from pipeline.tables.query import asked_otherwise, models_of, open_results, the_job

    if results is not None and is_place(what) and not is_place(results):
        what, results = results, what
    place = find_results(results, endpoint_url)
    name = job or (place.job.name if place.job else None)
    with open_results(place.uri, place.storage) as connection:
        found, total = find(connection, what, the_job(connection, place.uri, name), media=media, most=rows)
        note_wordings(asked_otherwise(connection))
        toys = models_of(connection, EMBEDDED)
    write_json(json_file, {"moments": found, "total": total})
    if str(json_file) != "-":
        table = Table()
        for name in ("video", "from", "to", "sure", "answers"):
            table.add_column(name, overflow="fold", justify="left" if name in ("video", "answers") else "right")
        for one in found:
            span = ("whole", "video") if one.is_whole else (clock(one.start_s), clock(one.end_s))
            sure = "" if one.probability is None else f"{100 * one.probability:.0f} %"
            more = len(one.answers) - MOST_ANSWERS
            answers = [*one.answers[:MOST_ANSWERS], *([f"and {more} more"] if more > 0 else [])]
            words = (one.media_key, *span, sure, "\n".join(answers))
            # Text, not markup: answers and file names are other people's words.
            table.add_row(*(Text("".join(c if c.isprintable() or c == "\n" else " " for c in word)) for word in words))
        if found:
            PrintableConsole(width=None).print(table)
        say(f"{counted(total, 'moment')}" + (f", showing the best {rows}" if total > rows else ""), err=True)
    note_toy_answers(toys)


def clock(seconds: float) -> str:
    """3725.5 -> 1:02:05.5."""
    tenths = round(10 * seconds)
    minutes, tenths = divmod(tenths, 600)
    return f"{minutes // 60}:{minutes % 60:02d}:{tenths // 10:02d}.{tenths % 10}"


if __name__ == "__main__":
    main("find")
