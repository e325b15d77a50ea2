"""`omnidrop selfcheck`: an acceptance test for real weights on the machine they will run on."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs._shared.display import console
from jobs._shared.options import JsonFile, write_json
from jobs._shared.terminal import say, waiting
from jobs.cli import main

EXAMPLES = (
    "omnidrop selfcheck --model tiny",
    "omnidrop selfcheck --model Qwen/Qwen2.5-Omni-7B --device cuda",
    "omnidrop selfcheck --model /models/qwen3-omni --device cuda --dtype bfloat16 --json selfcheck.json",
)


def command(
    model: Annotated[str, typer.Option("--model", help="Checkpoint: a folder, a hub id, or `tiny`.")],
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    json_file: JsonFile = None,
) -> None:
    """Check that a checkpoint gives the same answers here as the stock model, in every mode.

    Without pruning, the logits must equal the stock model's. A packed question set must give the logits of separate
    questions. KV caches must have the scheduled lengths. Then one sample clip is timed in all modes.
    Exit status: 0 passed, 1 something differs.
    """
    from omnidrop.selfcheck import selfcheck

    with waiting("loading the model", console) as doing:
        report = selfcheck(model, device, dtype, begins=lambda name, number, of: doing(f"{number} of {of}: {name}"))
    for line in report.lines():
        say(line, err=str(json_file) == "-")
    write_json(json_file, report.to_dict())
    raise typer.Exit(0 if report.passed else 1)


if __name__ == "__main__":
    main("selfcheck")
