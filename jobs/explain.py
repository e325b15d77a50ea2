"""`omnidrop explain CLIP_ID -o page.html`: why a clip was answered as it was, on one page.

Promises: the page is written whole or not at all. Knows nothing about how a clip is asked again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs._shared.notes import note
from jobs._shared.options import JsonFile, write_json
from jobs._shared.results import EndpointUrl, Page, Results, find_results
from jobs._shared.terminal import PrintableConsole, say
from jobs._shared.whole_file import replaced
from jobs.cli import main

EXAMPLES = (
    "omnidrop explain 3f9c21aa demo/results -o page.html",
    "omnidrop explain 3f9c21aa job.yaml --device cpu",
    'omnidrop query job.yaml "SELECT clip_id, media_key, start_s, answer FROM answers WHERE margin < 0.2"',
)


def command(
    clip_id: Annotated[str, typer.Argument(metavar="CLIP_ID", help="The clip's id, or its first few digits.")],
    results: Results = None,
    output: Page = Path("page.html"),
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N. Default: the job's device.", show_default=False),
    ] = None,
    endpoint_url: EndpointUrl = None,
    json_file: JsonFile = None,
) -> None:
    """Show which parts of a clip the model kept in each layer, and what each question attended to.

    The clip is decoded and answered again, once pruned and once dense. The page is self-contained and marks answers
    that differ from the stored ones.
    """
    found = find_results(results, endpoint_url)
    with PrintableConsole(stderr=True).status("asking the clip again"):
        # Here, so that --help need not wait for torch.
        from pipeline.explain.find_clip import find_clip
        from pipeline.explain.page import render
        from pipeline.explain.replay import ask_again
        from pipeline.explain.view_model import facts

        clip = find_clip(found.uri, clip_id, found.storage)
        asked = ask_again(clip, found.job, device=device, endpoint_url=found.storage.endpoint_url)
        board = facts(asked)
        page = render(board)
    with replaced(output) as file:
        file.write(page)
    changed = [question.id for question in board.questions if question.is_same is False]
    write_json(
        json_file,
        {
            "clip_id": board.clip_id,
            "media_key": board.media_key,
            "page": str(output),
            "bytes": len(page),
            "changes": board.changes,
            "answers": {question.id: question.answer for question in board.questions},
            "dense_answers": {question.id: question.dense for question in board.questions},
        },
    )
    say(f"{output}: {len(page) / 1000:.0f} kB, {board.media_key} from {board.start_s:g} s", err=True)
    for change in board.changes:
        note(change)
    if changed:
        say(f"dense gives other answers: {', '.join(changed)}", err=True)


if __name__ == "__main__":
    main("explain")
