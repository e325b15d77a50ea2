"""What every `omnidrop evaluate` does with its questions: load the model, ask in every way, show, write.

Promises: a job's labels are answered by the model as the job loads it. Knows nothing about where questions come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from jobs._shared.display import console
from jobs._shared.evaluation_options import Ways
from jobs._shared.evaluation_tables import print_evaluation, progress_bar, result_json
from jobs._shared.options import write_json
from pipeline.config.job import JobConfig
from pipeline.config.worker_settings import answerer_settings
from pipeline.evaluation.dataset import Arm, EvaluatedClip
from pipeline.evaluation.result_log import ResultLog
from pipeline.evaluation.runner import RunSettings, evaluate
from pipeline.evaluation.summary import summarise
from pipeline.evaluation.toy import CHECKPOINTS
from workers.media.decode import Source
from workers.model.answerer import load_model
from workers.model.settings import AnswererSettings


@dataclass(frozen=True)
class Asked:
    """What a source of questions gives."""

    clips: list[EvaluatedClip]
    about: dict[str, Any]
    model: str = CHECKPOINTS["v1"]
    """The checkpoint that answers if neither an option nor a job names one."""
    notes: tuple[str, ...] = ()
    source: Source | None = None
    job: JobConfig | None = None
    """The job that answers as it does."""


def run_evaluation(
    prepare: Callable[[Callable[[], object]], Asked],
    arms: Sequence[Arm],
    ways: Ways,
    settings: RunSettings,
    json_file: Path | None,
    *,
    total: int | None = None,
) -> None:
    """Ask what `prepare` gives, print the tables and write the JSON. `prepare` is given what to call after each of
    `total` clips.
    """
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("preparing", total=total)
        asked = prepare(lambda: bar.advance(task))
        loaded = load_model(_loading(asked, ways))
        bar.reset(task, description="answering", total=len(asked.clips))
        done = stack.enter_context(ResultLog(ways.details)) if ways.details else None
        run = evaluate(
            loaded, asked.clips, arms, settings, source=asked.source, done=done, progress=lambda: bar.advance(task)
        )
    found = summarise(run, arms)
    for note in asked.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    print_evaluation(found)
    about = asked.about | {
        "seed": ways.seed,
        "questions_per_set": settings.questions_per_set,
        "fps": settings.decode.fps,
        "max_frames": settings.max_frames,
        "max_pixels": settings.decode.max_pixels,
        "system_prompt": settings.system_prompt,
        "family": loaded.family,
        "weights": loaded.weights_hash,
        "device": str(loaded.adapter.device),
        "dtype": str(loaded.adapter.dtype).removeprefix("torch."),
    }
    write_json(json_file, result_json(found, about, asked.notes))


def _loading(asked: Asked, ways: Ways) -> AnswererSettings:
    """As the job loads it, or the source's own model; options come first."""
    job = asked.job
    settings = AnswererSettings(asked.model) if job is None else answerer_settings(job.model, job.pruning)
    return replace(
        settings,
        model=ways.model or settings.model,
        device=ways.device or settings.device,
        dtype=ways.dtype or settings.dtype,
    )
