"""`omnidrop evaluate`: what pruning costs in right answers, on toy worlds, on labels of one's own, on benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jobs.cli import main
from jobs.display import console, share
from jobs.options import JsonFile, write_json
from omnidrop.model import OmniModel
from omnidrop.modes import DENSE_MODES
from pipeline.evaluation.items import DENSE, Arm, EvaluatedClip, EvaluationError, arm_of
from pipeline.evaluation.log import ResultLog
from pipeline.evaluation.running import RunSettings, evaluate
from pipeline.evaluation.summary import Evaluation, Score, summarise
from pipeline.job import JobConfig, load_job
from pipeline.toy_world.world import WORLDS
from pipeline.yaml_file import parse_yaml
from workers.decoding import Source
from workers.records import DecodeSettings

EXAMPLES = (
    "omnidrop evaluate toy-world --world v1 --clips 20 --retained 0.2 --json result.json",
    "omnidrop evaluate toy-world --world v2 --policy random --retained 0.3,0.2,0.1 --dense",
    "omnidrop evaluate --archive clips/ --truth truth.json",
    "omnidrop evaluate --labels labels.csv --job job.yaml   # which ratio is safe for my archive?",
    "omnidrop evaluate worldsense --root WorldSense/ --model Qwen/Qwen2.5-Omni-7B --details worldsense.jsonl",
)
LABEL_RATIOS = (0.5, 0.3, 0.2, 0.1)
"""What `--labels` compares where no ratio is given."""
BENCHMARK_DECODE_S = 900.0
"""A benchmark's clip may be an hour long."""

_WHAT, _HOW, _SEEN = "What is asked", "How it is run", "What the model sees"


@dataclass(frozen=True)
class _Asked:
    """What a source of questions gives."""

    clips: list[EvaluatedClip]
    about: dict[str, Any]
    notes: tuple[str, ...] = ()
    source: Source | None = None


@dataclass(frozen=True)
class _Given:
    """The options of the sources."""

    what: str
    world: str
    clips: int
    seed: int
    media: Path | None
    archive: Path | None
    truth: Path | None
    labels: Path | None
    tolerance: float
    root: Path | None
    questions_file: Path | None
    letters: bool
    questions: int | None


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]",
            help="toy-world, archive, labels, or a benchmark: worldsense, daily-omni, video-mme, avut. May be left out "
            "where --archive or --labels says it.",
            show_default=False,
        ),
    ] = None,
    world: Annotated[
        str, typer.Option("--world", help=f"Toy world: {' or '.join(WORLDS)}.", rich_help_panel=_WHAT)
    ] = "v1",
    clips: Annotated[
        int,
        typer.Option(
            "--clips", help="Clips of the toy world; of a benchmark: videos, 0 for all.", rich_help_panel=_WHAT
        ),
    ] = 0,
    seed: Annotated[
        int, typer.Option("--seed", help="Which clips; also for policies that draw.", rich_help_panel=_WHAT)
    ] = 0,
    questions: Annotated[
        int, typer.Option("--questions", help="At most so many questions a toy clip; 0 for all.", rich_help_panel=_WHAT)
    ] = 8,
    media: Annotated[
        Path | None,
        typer.Option(
            "--media", help="Where rendered clips are kept; the user's cache where not given.", rich_help_panel=_WHAT
        ),
    ] = None,
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Folder of toy clips rendered by anyone.", rich_help_panel=_WHAT)
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="What they show: JSON with events per file.", rich_help_panel=_WHAT),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="CSV with file, start, end, question, answer: right answers for an archive of your own.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    job_file: Annotated[
        Path | None,
        typer.Option(
            "--job",
            help="Job file with the archive and the question set of the labels; ./job.yaml where not given.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="How far a number may be off.", rich_help_panel=_WHAT)
    ] = 0.0,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of a benchmark in its own layout.", rich_help_panel=_WHAT)
    ] = None,
    questions_file: Annotated[
        Path | None,
        typer.Option(
            "--questions-file",
            help="The benchmark's questions, where --root holds several files of them.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    letters: Annotated[
        bool,
        typer.Option(
            "--letters/--written",
            help="Benchmarks: compare the letters' probabilities, or read the letter from written text as published.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Checkpoint: a directory, a hub id, or `tiny`.",
            rich_help_panel=_HOW,
            show_default="tiny, or the job's",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_HOW)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="auto, float32, bfloat16, float16.", rich_help_panel=_HOW)
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="dense, dense_shared, per_question, staged or set_guided.",
            rich_help_panel=_HOW,
            show_default="set_guided, or the job's",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help="omnidrop, random, fastv, divprune, omnizip, dash, seats.",
            rich_help_panel=_HOW,
            show_default="omnidrop, or the job's",
        ),
    ] = None,
    retained: Annotated[
        list[str] | None,
        typer.Option(
            "--retained",
            metavar="R[,R...]",
            help="Retained ratio, several with commas or given again.",
            rich_help_panel=_HOW,
            show_default="0.3; with --labels 0.5,0.3,0.2,0.1",
        ),
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option("--guidance", help="max, mean or quota.", rich_help_panel=_HOW, show_default="max, or the job's"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            metavar="NAME=VALUE",
            help="A parameter of the policy, as in diversity=off.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    questions_per_set: Annotated[
        int | None,
        typer.Option(
            "--questions-per-set",
            min=1,
            help="Split a clip's questions into sets of this many.",
            rich_help_panel=_HOW,
            show_default="one set",
        ),
    ] = None,
    dense: Annotated[
        bool | None,
        typer.Option(
            "--dense/--no-dense",
            help="Also ask without pruning, and compare.",
            rich_help_panel=_HOW,
            show_default="only with --labels",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Frames a second.", rich_help_panel=_SEEN, show_default="2, or the job's"),
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            "--max-frames",
            min=2,
            help="Longer clips get fewer frames a second.",
            rich_help_panel=_SEEN,
            show_default="128 for benchmarks, 768 for video-mme",
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option("--max-pixels", min=784, help="Pixels of a frame.", rich_help_panel=_SEEN, show_default="100352"),
    ] = None,
    system_prompt: Annotated[
        str | None,
        typer.Option("--system-prompt", help="System text.", rich_help_panel=_SEEN, show_default="the family's own"),
    ] = None,
    details: Annotated[
        Path | None,
        typer.Option("--details", metavar="FILE", help="Every answer, one JSON line a clip; run again to resume."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure what pruning costs in right answers.

    Clips go through the same decoding path as in a job. A question that fails counts as wrong. Standard errors are
    clustered by clip; with --dense the same questions are also asked without pruning, and differences are paired.
    """
    kind = _kind(what, archive, labels)
    job = _job(job_file) if kind == "labels" else None
    given = _Given(
        kind, world, clips, seed, media, archive, truth, labels, tolerance, root, questions_file, letters,
        None if questions == 0 else questions,
    )  # fmt: skip
    arms = _arms(kind, job, mode, policy, retained or [], guidance, setting or [], seed, dense)
    settings = _settings(kind, job, fps, max_frames, max_pixels, questions_per_set, system_prompt)
    with ExitStack() as stack:
        bar = stack.enter_context(_bar())
        task = bar.add_task("preparing", total=None)
        asked = _asked(given, job, lambda: bar.advance(task))
        from_job = job.model if job else None
        loaded = OmniModel.load(
            model or (from_job.path if from_job else "tiny"),
            device=device or (from_job.device if from_job else "auto"),
            dtype=dtype or (from_job.dtype if from_job else "auto"),
        )
        bar.reset(task, description="answering", total=len(asked.clips))
        done = stack.enter_context(ResultLog(details)) if details else None
        run = evaluate(
            loaded, asked.clips, arms, settings, source=asked.source, done=done, progress=lambda: bar.advance(task)
        )
    found = summarise(run, arms)
    for note in asked.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    _print(found)
    about = asked.about | {
        "evaluation": kind,
        "seed": seed,
        "questions_per_set": questions_per_set,
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


def result_json(found: Evaluation, about: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """What `--json` writes: the figures of the first pruned way (or the only one) at the top, all ways in `arms`."""
    main_arm = next((arm for arm in found.arms if arm.mode not in DENSE_MODES), found.arms[0])
    return {
        **asdict(main_arm),
        "arms": [asdict(arm) for arm in found.arms],
        "refused": found.refused,
        "setting": about,
        "notes": list(notes),
    }


def _kind(what: str | None, archive: Path | None, labels: Path | None) -> str:
    from pipeline.evaluation.published import BENCHMARKS

    allowed = ("toy-world", "archive", "labels", *BENCHMARKS)
    if what is None:
        if archive is not None and labels is None:
            return "archive"
        if labels is not None and archive is None:
            return "labels"
        raise EvaluationError(f"say what to evaluate: {', '.join(allowed)}; or give --archive or --labels")
    if what not in allowed:
        raise EvaluationError(f"there is no evaluation {what!r}; allowed: {', '.join(allowed)}")
    if (archive is not None and what != "archive") or (labels is not None and what != "labels"):
        raise EvaluationError(f"--archive and --labels are evaluations of their own and do not go with {what}")
    return what


def _job(path: Path | None) -> JobConfig:
    if path is None and not Path("job.yaml").exists():
        raise EvaluationError("--labels needs the job whose question set and archive are meant; give --job JOB.yaml")
    return load_job(path or Path("job.yaml"))


def _arms(
    kind: str,
    job: JobConfig | None,
    mode: str | None,
    policy: str | None,
    retained: Sequence[str],
    guidance: str | None,
    settings: Sequence[str],
    seed: int,
    dense: bool | None,
) -> list[Arm]:
    if job is not None and mode is None and policy is None and job.pruning.mode not in DENSE_MODES:
        mode, policy, guidance = job.pruning.mode, job.pruning.policy, guidance or job.pruning.guidance
    mode = mode or "set_guided"
    if mode in DENSE_MODES:
        if policy not in (None, "none") or retained not in ([], ["1"], ["1.0"]):
            raise EvaluationError(f"--mode {mode} prunes nothing: leave --policy and --retained out")
        return [arm_of(mode, "none", None)]
    ratios = [_ratio(part) for text in retained for part in text.split(",")]
    if not ratios:
        ratios = list(LABEL_RATIOS) if kind == "labels" else [0.3]
    if len(set(ratios)) < len(ratios):
        raise EvaluationError(f"--retained: the same ratio twice in {', '.join(f'{r:g}' for r in ratios)}")
    parameters = tuple(sorted(_parameter(text) for text in settings))
    made = [
        arm_of(mode, policy or "omnidrop", ratio, guidance or "max", parameters, seed)  # type: ignore[arg-type]
        for ratio in ratios
    ]
    return [DENSE, *made] if dense or (dense is None and kind == "labels") else made


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError as error:
        raise EvaluationError(f"--retained must be a number above 0 and at most 1, got {text!r}") from error
    if not 0 < ratio <= 1:
        raise EvaluationError(f"--retained must be above 0 and at most 1, got {text}")
    return ratio


def _parameter(text: str) -> tuple[str, float | int | str | bool]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise EvaluationError(f"--setting: write NAME=VALUE, given: {text!r}")
    # YAML reads a bare off as false, but it is what one policy calls a kind of diversity.
    typed = value if value in ("on", "off", "yes", "no") else parse_yaml(value, Path("--setting")).value
    return name, typed if isinstance(typed, bool | int | float) else value


def _settings(
    kind: str,
    job: JobConfig | None,
    fps: float | None,
    max_frames: int | None,
    max_pixels: int | None,
    questions_per_set: int | None,
    system_prompt: str | None,
) -> RunSettings:
    from pipeline.evaluation.published import BENCHMARKS

    if fps is not None and not 0 < fps <= 60:
        raise EvaluationError(f"--fps must be above 0 and at most 60, got {fps:g}")
    published = BENCHMARKS.get(kind)
    decode = DecodeSettings(
        fps=fps or (job.clips.fps if job else DecodeSettings.fps),
        max_pixels=max_pixels or (job.clips.max_pixels if job else None) or DecodeSettings.max_pixels,
        timeout_s=BENCHMARK_DECODE_S if published else job.execution.decode_timeout_s if job else 120.0,
    )
    frames = max_frames or (published.max_frames if published else None)
    prompt = system_prompt if system_prompt is not None else job.model.system_prompt if job else None
    return RunSettings(decode, frames, questions_per_set, prompt)


def _asked(given: _Given, job: JobConfig | None, step: Any) -> _Asked:
    if given.what == "toy-world":
        from pipeline.evaluation.toy import toy_clips

        count = given.clips or 20
        clips = toy_clips(given.world, count, given.seed, folder=given.media, questions=given.questions, rendered=step)
        return _Asked(clips, {"world": given.world, "clips_asked": count, "questions": given.questions})
    if given.what == "archive":
        from pipeline.evaluation.toy import archive_clips

        if given.archive is None or given.truth is None:
            raise EvaluationError("give both --archive DIR and --truth truth.json")
        clips, notes = archive_clips(
            given.archive, given.truth, seed=given.seed, questions=given.questions, probed=step
        )
        return _Asked(clips, {"archive": str(given.archive), "truth": str(given.truth)}, notes)
    if given.what == "labels":
        from pipeline.evaluation.labels import labelled_clips
        from pipeline.probing import source

        if given.labels is None or job is None:
            raise EvaluationError("give --labels labels.csv")
        clips = labelled_clips(given.labels, job, tolerance=given.tolerance, probed=step)
        return _Asked(clips, {"labels": str(given.labels), "job": job.name}, (), source(job))
    from pipeline.evaluation.published import BENCHMARKS, benchmark_clips

    if given.root is None:
        raise EvaluationError(f"{given.what} needs --root DIR, the folder that holds its questions and videos")
    clips, notes = benchmark_clips(
        BENCHMARKS[given.what], given.root, given.questions_file, letters=given.letters, most=given.clips, probed=step
    )
    return _Asked(clips, {"root": str(given.root), "scoring": "letters" if given.letters else "written"}, notes)


def _bar() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console,
    )  # fmt: skip


def _print(found: Evaluation) -> None:
    names = _short([arm.name for arm in found.arms])
    table = Table(title="accuracy, with 95 % intervals clustered by clip", title_justify="left")
    for column in ("", "retained", "accuracy", "to dense", "same", "saved", "failed"):
        table.add_column(column, no_wrap=column != "")
    for arm, name in zip(found.arms, names, strict=True):
        against = arm.against_dense
        table.add_row(
            escape(name),
            share(arm.retained_ratio),
            f"{100 * arm.accuracy:.1f} {_span(arm.interval)}",
            "" if against is None else f"{100 * against.difference:+.1f} {_span(against.difference_interval)}",
            "" if against is None else share(against.agreement),
            "" if arm.mode == DENSE.name else share(arm.saved_against_dense_shared),
            str(sum(arm.failures.values()) + arm.unparsable or "-"),
        )
    console.print(table)
    console.print(
        f"[dim]{found.arms[0].count} questions about {found.arms[0].clips} clips. to dense: points against the unpruned "
        "answers; same: share of equal answers; saved: FLOPs against prefix reuse; failed: unanswered or unreadable[/]"
    )
    for name, why in found.refused.items():
        console.print(f"[yellow]not possible:[/] {escape(name)}: {escape(why)}")
    _print_tasks(names, "task", [arm.tasks for arm in found.arms])
    for kind in found.arms[0].groups:
        _print_tasks(names, kind, [arm.groups.get(kind, {}) for arm in found.arms])
    failures = {name: count for arm in found.arms for name, count in arm.failures.items()}
    if failures:
        console.print("questions without an answer: " + ", ".join(f"{name} {n}" for name, n in failures.items()))


def _print_tasks(names: Sequence[str], kind: str, scores: Sequence[dict[str, Score]]) -> None:
    table = Table(title=f"accuracy by {kind}", title_justify="left")
    for column in (kind, "questions", "guess", *names):
        table.add_column(escape(column))
    for name, first in scores[0].items():
        cells = [f"{100 * s.accuracy:.1f} {_span(s.interval)}" if (s := of_arm.get(name)) else "" for of_arm in scores]
        table.add_row(escape(name), str(first.count), f"{100 * first.guess:.0f}", *cells)
    console.print(table)


def _short(names: Sequence[str]) -> list[str]:
    """The ways' names without the words that all pruned ones share: terminals are narrow."""
    pruned = [name.split() for name in names if name.split()[0] not in DENSE_MODES]
    shared = (
        {word for word in pruned[0] if all(word in words for words in pruned)} - {"%"} if len(pruned) > 1 else set()
    )
    return [" ".join(word for word in name.split() if word not in shared) for name in names]


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[dim]({100 * interval[0]:.0f} to {100 * interval[1]:.0f})[/]"


if __name__ == "__main__":
    main("evaluate")
