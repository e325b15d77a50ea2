"""`omnidrop review RESULTS`: a local page to say of answers whether they are right."""

from __future__ import annotations

import signal
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from jobs._shared.notes import note_toy_answers
from jobs._shared.options import JsonFile, write_json
from jobs._shared.results import EndpointUrl, FoundResults, JobName, Results, Videos, find_results
from jobs._shared.terminal import PrintableConsole, say
from jobs.cli import main
from omnidrop.errors import UserError
from omnidrop.models.checkpoints import EMBEDDED
from pipeline.config.job import StorageConfig
from pipeline.counted import counted

if TYPE_CHECKING:
    from pipeline.review.labels import Label
    from pipeline.review.queue import Item
    from pipeline.review.reliability import Curve

EXAMPLES = (
    "omnidrop review results",
    "omnidrop review job.yaml --question red_car --labels red_car.csv",
    "omnidrop review results --curve",
    "omnidrop review results --import label-studio.json --curve",
    "omnidrop export results --to edl --precision 0.9",
)
PRECISIONS = (0.8, 0.9, 0.95)


def command(
    results: Results = None,
    labels: Annotated[Path, typer.Option(metavar="FILE", help="CSV file of labels to read and add to.")] = Path(
        "labels.csv"
    ),
    questions: Annotated[
        list[str] | None, typer.Option("--question", metavar="ID", help="Only this question. Repeatable.")
    ] = None,
    media: Videos = None,
    curve: Annotated[bool, typer.Option("--curve", help="Only show how well probabilities match the labels.")] = False,
    imported: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Add labels from a Label Studio JSON export.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port of the page.", show_default="any free port")
    ] = 0,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    job: JobName = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Label answers on a local page that plays each moment: right, wrong, or a correction.

    The queue starts with answers that the dense model contradicted in an audit, then those with the smallest margin.
    One in five is sampled at random from all others. Labels go to a CSV file that `omnidrop evaluate labels` reads.
    They also show how often answers of a given probability are right, for `--precision 0.9` of `export` and `query`.

    The page is served to this machine only, at a secret address. Ctrl-C stops it. A job may run at the same time.
    """
    # Here, so that --help need not wait for DuckDB and pyarrow.
    from pipeline.review.label_studio import imported as label_studio
    from pipeline.review.labels import labels_file
    from pipeline.review.queue import queue
    from pipeline.review.server import ReviewServer
    from pipeline.storage.store import open_store
    from pipeline.tables.chosen import check_questions, chosen_media
    from pipeline.tables.query import models_of, open_results, the_job

    if media is not None and (curve or imported is not None):
        raise UserError("--media chooses what the page shows; remove it, or --curve and --import")
    place = find_results(results, endpoint_url)
    uri, storage = place.uri, place.storage
    with open_results(uri, storage) as connection:
        name = the_job(connection, uri, job or (place.job.name if place.job else None))
        check_questions(connection, name, questions or ())
        chosen_media(connection, name, media)
        note_toy_answers(models_of(connection, EMBEDDED))
    with labels_file(labels) as file:
        if imported is not None:
            with open_results(uri, storage) as connection:
                found = label_studio(imported, connection, name)
            file.put(*found)
            say(f"{labels}: {counted(len(found), 'label')} from {imported}", err=True)
        if not curve and imported is None:

            def following(labelled: Sequence[Label]) -> tuple[list[Item], dict[str, str]]:
                with open_results(uri, storage) as connection:
                    items = queue(
                        connection, open_store(uri, storage), name, labelled, questions=questions or (), media=media
                    )
                    ids = sorted({item.media_id for item in items})
                    rows = connection.execute(
                        "SELECT media_id, uri FROM media WHERE job = $job AND list_contains($ids, media_id)",
                        {"job": name, "ids": ids},
                    ).fetchall()
                return items, dict(rows)

            try:
                media_storage, anonymous = archive_of(place)
                server = ReviewServer(port, file, following, media_storage, anonymous=anonymous)
            except OSError as error:
                raise UserError(f"--port {port}: {error.strerror}; choose another port, or omit --port") from error
            stop = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            with server:
                threading.Thread(target=server.serve_forever, name="review", daemon=True).start()
                say(f"{server.url}\nlabels: {labels}; press Ctrl-C to stop", err=True)
                with tempfile.TemporaryDirectory(prefix="omnidrop-review-") as folder:
                    if open_it:
                        _open(server.url, Path(folder))
                    while not stop.wait(3600):
                        pass
                server.shutdown()
        made = list(file)
    from pipeline.review.reliability import curves

    with open_results(uri, storage) as connection:
        drawn = [one for one in curves(connection, name, made) if not questions or one.question_id in questions]
    if str(json_file) != "-":
        _show(drawn)
    write_json(json_file, {"labels": len(made), "curves": [_plain(one) for one in drawn]})
    say(f"{labels}: {counted(len(made), 'label')}", err=True)


def archive_of(place: FoundResults) -> tuple[StorageConfig, bool]:
    """How media in a bucket are reached, and whether without credentials: as the job's archive says, which may be on
    another server than its output, and without a job file like the results."""
    if place.job is None:
        return place.storage, False
    archive = place.job.archive
    return place.storage.model_copy(update={"endpoint_url": archive.endpoint_url}), archive.anonymous


def _open(url: str, folder: Path) -> None:
    """In a browser, by way of a page that only this user can read: others see what programs are started with."""
    page = folder / "review.html"
    page.write_text(f'<meta http-equiv="refresh" content="0; url={url}">')
    webbrowser.open(page.as_uri())


def _plain(curve: Curve) -> dict[str, object]:
    return {
        "question_id": curve.question_id,
        "answer": curve.answer,
        "labels": curve.labels,
        "right": curve.right,
        "calibration_error": curve.error,
        "bins": curve.bins,
        "thresholds": {f"{precision:g}": curve.threshold(precision) for precision in PRECISIONS},
    }


def _show(curves: Sequence[Curve]) -> None:
    if not curves:
        return
    table = Table()
    for head in ("question", "labels", "right", "off by", *(f"for {100 * p:g} %" for p in PRECISIONS)):
        table.add_column(head, justify="left" if head == "question" else "right")
    for one in curves:
        thresholds = [one.threshold(precision) for precision in PRECISIONS]
        cells = [one.name, str(one.labels), f"{100 * one.right / one.labels:.0f} %", f"{100 * one.error:.0f} %"]
        cells += ["–" if value is None else f"p ≥ {value:.3f}" for value in thresholds]
        # Text, not markup: answers are other people's words.
        table.add_row(*(Text("".join(c if c.isprintable() else " " for c in cell)) for cell in cells))
    PrintableConsole().print(table)


if __name__ == "__main__":
    main("review")
