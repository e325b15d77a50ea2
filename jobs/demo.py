"""`omnidrop demo`: a small archive of real videos, indexed from end to end, with what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from jobs._shared.display import ProgressBar, console
from jobs._shared.options import JsonFile, write_json
from jobs._shared.run_summary import print_summary
from jobs._shared.stopping import STOPPED_EXIT, StopOnSignal
from jobs.cli import main
from jobs.index import summary_json
from pipeline.asking.ask import ask
from pipeline.config.job import StorageConfig, load_job
from pipeline.runs.run import run_job
from pipeline.toy_world import Truth
from pipeline.toy_world.demo_archive import CLIP_S, FILES, TALK_ASKED, make_demo_archive, make_talk
from pipeline.toy_world.fixed_set import right_answers

EXAMPLES = ("omnidrop demo", "omnidrop demo --folder /tmp/omnidrop-demo", "omnidrop demo --json demo.json")

JOB = f"""\
# Written by `omnidrop demo`. Change it and run it again: omnidrop index demo/job.yaml
name: demo
archive: {{uri: archive}}
output: results
question_set: toy-world
model: {{path: tiny}}
pruning: {{mode: set_guided, policy: omnidrop, retained_ratio: 0.3}}
clips: {{length_s: {CLIP_S:g}}}
"""
QUERIES = (
    "SELECT question_id, answer, count(*) AS clips FROM answers GROUP BY ALL ORDER BY ALL",
    "SELECT media_key, start_s, answer, probability FROM answers WHERE question_id = 'first_sound' ORDER BY ALL",
    "SELECT media_key, error_class, message FROM quarantine",
)


def command(
    folder: Annotated[Path, typer.Option("--folder", help="Where archive, job file and results go.")] = Path("demo"),
    json_file: JsonFile = None,
) -> None:
    """Make a small archive of real videos, index it on a local Ray and show what came out.

    The archive holds mp4, mkv and webm files of several codecs, sizes and frame rates; one has no sound, one is
    truncated, one is not a video. Run it again and nothing is done twice. Beside the archive lies a clip with a slide
    and spoken words; that one is asked alone.
    """
    with console.status("making an archive of real videos") as status:
        made: list[str] = []

        def tell(name: str) -> None:
            made.append(name)
            status.update(f"making an archive of real videos: {len(made)} of {FILES}, {escape(name)}")

        truths = make_demo_archive(folder / "archive", tell)
    job_file = folder / "job.yaml"
    if not job_file.exists():
        job_file.write_text(JOB, encoding="utf-8")
    job = load_job(job_file)
    with StopOnSignal() as stop, ProgressBar() as bar:
        summary = run_job(job, bar, stop)
    print_summary(job, summary, output=str(folder / "results"))
    if not summary.answered_nothing:
        score = print_answers(job.output, truths)
        talk = print_talk(folder / "talk.mp4")
        console.print("\nTry these queries:")
        for query in QUERIES:
            line = f'  omnidrop query {folder / "results"} "{query}"'
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        write_json(
            json_file,
            summary_json(summary) | {"answers_right": score[0], "answers_known": score[1], "talk_right": talk},
        )
    if summary.run.status == "stopped":
        raise typer.Exit(STOPPED_EXIT)
    raise typer.Exit(1 if summary.answered_nothing else 0)


def print_answers(output: str, truths: dict[str, Truth]) -> tuple[int, int]:
    """Some answers beside the truth; returns how many are right and of how many the truth is known."""
    from pipeline.tables.query import open_results, query  # here, so that --help need not wait for DuckDB

    with open_results(output, StorageConfig()) as connection:
        found = query(
            connection,
            "SELECT media_key, start_s, end_s, question_id, answer, probability FROM answers ORDER BY ALL",
        )
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    table = Table(title="some answers beside the truth", title_justify="left")
    for column in ("video", "question", "answer", "probability", "truth"):
        table.add_column(column)
    right = known = 0
    for row in rows:
        truth = truths.get(row["media_key"])
        # A file without sound has the sounds in its truth, but not in the file.
        if truth is None or "silent" in row["media_key"]:
            continue
        expected = right_answers(truth.events, row["start_s"], row["end_s"]).get(row["question_id"])
        if expected is None:
            continue
        known += 1
        right += row["answer"] == expected
        if row["question_id"] in ("first_colour", "first_sound") and row["start_s"] == 0 and table.row_count < 12:
            mark = "[green]right[/]" if row["answer"] == expected else f"[red]{expected}[/]"
            cells = (row["media_key"], row["question_id"], str(row["answer"]))
            table.add_row(*map(escape, cells), f"{row['probability']:.2f}", mark)
    console.print(table)
    console.print(f"right: {right} of {known} answers whose truth is known")
    return right, known


def print_talk(path: Path) -> int:
    """Make the clip with a slide and spoken words, and ask the model that knows some; how many answers are right."""
    make_talk(path)
    answered = ask(str(path), *TALK_ASKED, model="tiny-v3", retained_ratio=0.3)
    table = Table(title=f"one file asked alone: {path.name}, a slide and three spoken words", title_justify="left")
    for column in ("question", "answer", "probability", "truth"):
        table.add_column(column)
    right = 0
    for clip in answered.clips:
        for question, answer, truth in zip(answered.questions, clip.answers.answers, TALK_ASKED.values(), strict=True):
            right += answer.text == truth
            mark = "[green]right[/]" if answer.text == truth else f"[red]{truth}[/]"
            table.add_row(escape(question.text), escape(answer.text), f"{answer.probability or 0:.2f}", mark)
    console.print(table)
    return right


if __name__ == "__main__":
    main("demo")
