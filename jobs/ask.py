"""`omnidrop ask VIDEO "QUESTION" ...`: one file, asked here and now, with its answers as a table.

Promises: answers go to standard output, everything else to standard error. Knows nothing about how a file is read or a
question answered.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs._shared.options import JsonFile, named_value, scalar, write_json
from jobs._shared.terminal import PrintableConsole, waiting
from jobs.cli import main
from omnidrop import policies
from omnidrop.errors import UserError
from omnidrop.models.checkpoints import EMBEDDED, TOY_NOTE
from omnidrop.question_text import forms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from omnidrop.answers import Answer
    from omnidrop.questions import Question
    from pipeline.asking.answered_file import AnsweredFile
    from workers.records import ClipFailure, ClipResult

EXAMPLES = (
    'omnidrop ask video.mp4 "Is a circle shown?"',
    'omnidrop ask video.mp4 "What colour is the circle? [red|green|blue]" "How many sounds are heard? [0-6]"',
    'omnidrop ask talk.mp4 "What is this part about?" --span 1:30-4:00 --length 60 --model Qwen/Qwen2.5-Omni-3B',
    'omnidrop ask talk.mp4 "What is this part about?" --whole "What is the talk about?" --model Qwen/Qwen2.5-Omni-3B',
    "omnidrop ask talk.mp4 --questions lecture --variable subject=algebra --json -",
    'omnidrop ask talk.mp4 "What is promised here?" --context        # with talk.en.vtt, talk.info.json, ... beside it',
)
_POLICIES = [name for name in policies.names() if name != "none"]
_FORMS_IN_HELP = forms().replace("[", "\\[")
_TIME = r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)"
_SPAN = re.compile(rf"{_TIME}-(?:{_TIME})?")
WORTH_A_WORD = 0.005
"""A less probable answer is not shown beside the chosen one."""


def command(
    video: Annotated[str, typer.Argument(metavar="FILE", help="A video or audio file.")],
    questions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION",
            help=f"A question, with the answer type in brackets: {_FORMS_IN_HELP}. Without brackets: yes/no if it "
            "begins with a verb such as is or does, free text otherwise.",
            show_default=False,
        ),
    ] = None,
    question_set: Annotated[
        str | None,
        typer.Option("--questions", metavar="FILE.yaml", help="Ask a question set: a file or a built-in name."),
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Value of a question-set variable.", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(help="Checkpoint: a folder, a hub id, or tiny.")] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    retained: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO", help="Share of audio and video tokens to keep; 1 prunes nothing.", show_default="0.3"
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help=f"Pruning policy: {', '.join(_POLICIES)}.")] = "omnidrop",
    setting: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A policy parameter, for example merge=false.", show_default=False),
    ] = None,
    span: Annotated[
        str | None,
        typer.Option(metavar="START-END", help="Only this part, for example 0-30 or 1:30-4:00.", show_default=False),
    ] = None,
    length: Annotated[float, typer.Option(metavar="SECONDS", help="Clip length.")] = 30.0,
    fps: Annotated[float, typer.Option(help="Frames per second that the model sees.")] = 2.0,
    audio_track: Annotated[str, typer.Option(help="Audio track: auto, all, a number from 0, or lang:xx.")] = "auto",
    video_track: Annotated[str, typer.Option(help="Video track: auto, a number from 0, or lang:xx.")] = "auto",
    context: Annotated[
        bool,
        typer.Option(
            "--context",
            help="Give the model the subtitles, transcripts and metadata next to the file (same stem), or its own "
            "subtitle track.",
        ),
    ] = False,
    context_file: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Use this file as context. Repeatable.", show_default=False),
    ] = None,
    whole: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUESTION",
            help="A question about the whole file, answered from the text of its clips' answers. Repeatable.",
            show_default=False,
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Ask questions about one video or audio file. Needs no cluster and no job file, and stores nothing.

    The file is cut into clips. One pruned pass per clip answers all questions.
    """

    # Here, so that --help need not wait for torch.
    from pipeline.asking.ask import ask
    from pipeline.counted import counted

    settings = _named_values("--setting", setting or ())
    messages = PrintableConsole(stderr=True)
    with waiting("reading the file", messages) as says:
        done = clips = 0

        def begin(count: int) -> None:
            nonlocal clips
            clips = count
            says(f"loading the model; {counted(clips, 'clip')} to ask")

        def tell(outcome: ClipResult | ClipFailure) -> None:
            nonlocal done
            done += 1
            says(f"{done} of {counted(clips, 'clip')} asked")

        answered = ask(
            video,
            *(questions or ()),
            question_set=question_set,
            variables=_named_values("--variable", variable or ()),
            model=model,
            device=device,
            retained_ratio=0.3 if retained is None and not policies.gives_rates(settings) else retained,
            policy=policy,
            settings=settings,
            span_s=None if span is None else read_span(span),
            length_s=length,
            fps=fps,
            audio_track=audio_track,
            video_track=video_track,
            context=context_file or context,
            whole=whole or (),
            begins=begin,
            answered=tell,
        )
    if str(json_file) != "-":
        _print(answered, PrintableConsole(width=None if sys.stdout.isatty() else 160))
    write_json(json_file, _as_json(answered))
    for note in _notes(answered, model):
        messages.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    is_whole = answered.whole is None or answered.whole.failure is None
    raise typer.Exit(0 if answered.clips and is_whole else 1)


def read_span(given: str) -> tuple[float, float]:
    """`0-30`, `1:30-4:00` or `90-` (to the end) in seconds. Raises UserError."""
    found = _SPAN.fullmatch(given.replace(" ", ""))
    if not found:
        raise UserError(f"--span {given}: write START-END in seconds or minutes, as in 0-30, 1:30-4:00 or 90-")
    parts = [float(part) if part else 0.0 for part in found.groups()]
    start, end = (3600 * h + 60 * m + s for h, m, s in (parts[:3], parts[3:]))
    return start, end if found[6] else float("inf")


def _named_values(option: str, given: list[str] | tuple[()]) -> dict[str, str | bool | int | float]:
    named = (named_value(option, item) for item in given)
    return {name: scalar(text) for name, text in named}


def _print(answered: AnsweredFile, console: Console) -> None:
    from rich.text import Text

    from workers.records import ClipFailure
    from workers.whole_text import clock

    for one in answered.outcomes:
        assert one.clip is not None
        span = f"{clock(one.clip.start_s)} to {clock(one.clip.end_s)}"
        if isinstance(one, ClipFailure):
            console.print(Text(f"{span}: {one.error_class}: {one.message}", style="red"))
            continue
        console.print(_table(f"{answered.media.key}, {span}", answered.questions_of(one.clip), one.answers.answers))
    if answered.whole is not None and answered.whole.failure is not None:
        console.print(Text(f"whole file: {answered.whole.failure}", style="red"))
    elif answered.whole is not None:
        title = f"{answered.media.key}, whole file"
        console.print(_table(title, answered.whole.questions, answered.whole.answers))
    console.print(Text(answered.cost_line), soft_wrap=True)
    if answered.whole is not None and answered.whole.costs:
        console.print(Text(answered.whole.cost_line), soft_wrap=True)


def _table(title: str, questions: Sequence[Question], answers: Sequence[Answer]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from pipeline.asking.answered_file import options, shown

    table = Table(title=Text(title), title_justify="left")
    table.add_column("question", overflow="fold")
    table.add_column("answer", overflow="fold", style="bold")
    table.add_column("probability", justify="right")
    table.add_column("next best", overflow="fold", style="dim")
    for question, answer in zip(questions, answers, strict=True):
        # Text, not markup: names, questions and answers are other people's words.
        table.add_row(
            Text(question.text),
            Text(shown(question, answer)),
            "" if answer.probability is None else f"{answer.probability:.2f}",
            Text(", ".join(f"{name} {p:.2f}" for name, p in options(question, answer)[1:] if p >= WORTH_A_WORD)),
        )
    return table


def _notes(answered: AnsweredFile, model: str) -> list[str]:
    from pipeline.tables.noticed import lines, noticed_here

    notes = [TOY_NOTE] if model in EMBEDDED else []
    seen = noticed_here(answered.info, (one.noticed for one in answered.clips))
    notes += [f"{name}: {what}" for name, what in lines(seen)]
    if not answered.info.has_audio:
        notes.append("the file has no audio; the answers are based on its pictures only")
    if not answered.info.has_video:
        notes.append("the file has no video; the answers are based on its sound only")
    return [*notes, *answered.context_notes, *dict.fromkeys(note for one in answered.clips for note in one.notes)]


def _as_json(answered: AnsweredFile) -> dict[str, object]:
    spent, dense = answered.flops
    from pipeline.tables.noticed import noticed_here

    return {
        "noticed": noticed_here(answered.info, (one.noticed for one in answered.clips)),
        "file": answered.media.uri,
        "answers": answered.to_arrow().to_pylist(),
        "failures": answered.failures,
        "context": answered.context_notes,
        "whole": answered.whole,
        "retained_ratio": answered.retained_ratio,
        "flops": spent,
        "flops_dense_shared": dense,
    }


if __name__ == "__main__":
    main("ask")
