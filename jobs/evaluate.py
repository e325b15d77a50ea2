"""`omnidrop evaluate`: what pruning costs in right answers, on toy worlds, on labels of one's own, on benchmarks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from jobs._shared.display import console
from jobs._shared.evaluation_options import (
    Archive,
    Clips,
    Details,
    Device,
    Dtype,
    EncoderShares,
    Fps,
    GuidanceName,
    JobOption,
    LabelsFile,
    Letters,
    MaxFrames,
    MaxPixels,
    MediaFolder,
    Model,
    ModeName,
    PolicyName,
    PolicySetting,
    Questions,
    QuestionsFile,
    QuestionsPerSet,
    Retained,
    Root,
    Seed,
    SystemPrompt,
    Tolerance,
    TruthFile,
    What,
    WithDense,
    World,
    arms_of,
    run_settings,
)
from jobs._shared.evaluation_tables import print_evaluation, progress_bar, result_json
from jobs._shared.options import JsonFile, write_json
from jobs.cli import main
from omnidrop.model import OmniModel
from pipeline.archive.probing import source
from pipeline.config.job import JobConfig, load_job
from pipeline.evaluation.benchmarks import BENCHMARKS, benchmark_clips
from pipeline.evaluation.dataset import EvaluatedClip, EvaluationError
from pipeline.evaluation.labels import labelled_clips
from pipeline.evaluation.result_log import ResultLog
from pipeline.evaluation.runner import evaluate
from pipeline.evaluation.summary import summarise
from pipeline.evaluation.toy import CHECKPOINTS, archive_clips, toy_clips
from pipeline.toy_world import read_truth
from workers.media.decode import Source

EXAMPLES = (
    "omnidrop evaluate toy-world --world v1 --clips 20 --retained 0.2 --json result.json",
    "omnidrop evaluate toy-world --world v2 --policy random --retained 0.3,0.2,0.1 --dense",
    "omnidrop evaluate --archive clips/ --truth truth.json",
    "omnidrop evaluate --labels labels.csv --job job.yaml   # which ratio is safe for my archive?",
    "omnidrop evaluate worldsense --root WorldSense/ --model Qwen/Qwen2.5-Omni-7B --details worldsense.jsonl",
)

TOY_CLIPS = 20
"""Enough to see whether it works; a comparison wants hundreds."""


@dataclass(frozen=True)
class _Asked:
    """What a source of questions gives."""

    clips: list[EvaluatedClip]
    about: dict[str, Any]
    model: str = CHECKPOINTS["v1"]
    """Who answers where nothing else is said."""
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
    what: What = None,
    world: World = "v1",
    clips: Clips = 0,
    seed: Seed = 0,
    questions: Questions = 8,
    media: MediaFolder = None,
    archive: Archive = None,
    truth: TruthFile = None,
    labels: LabelsFile = None,
    job_file: JobOption = None,
    tolerance: Tolerance = 0.0,
    root: Root = None,
    questions_file: QuestionsFile = None,
    letters: Letters = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    mode: ModeName = None,
    policy: PolicyName = None,
    retained: Retained = None,
    encoder_share: EncoderShares = None,
    guidance: GuidanceName = None,
    setting: PolicySetting = None,
    questions_per_set: QuestionsPerSet = None,
    dense: WithDense = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    max_pixels: MaxPixels = None,
    system_prompt: SystemPrompt = None,
    details: Details = None,
    json_file: JsonFile = None,
) -> None:
    """Measure what pruning costs in right answers.

    Clips go through the same decoding path as in a job. A question that fails counts as wrong. Standard errors are
    clustered by clip; with --dense the same questions are also asked without pruning, and differences are paired.
    """
    if what is not None and labels is not None and Path(what).suffix in (".yaml", ".yml"):
        what, job_file = "labels", job_file or Path(what)
    kind = _kind(what, archive, labels)
    job = _job(job_file) if kind == "labels" else None
    given = _Given(
        kind, world, clips, seed, media, archive, truth, labels, tolerance, root, questions_file, letters,
        None if questions == 0 else questions,
    )  # fmt: skip
    arms = arms_of(kind, job, mode, policy, retained or [], guidance, setting or [], seed, dense, encoder_share or [])
    settings = run_settings(kind, job, fps, max_frames, max_pixels, questions_per_set, system_prompt)
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("preparing", total=(clips or TOY_CLIPS) if kind == "toy-world" else None)
        asked = _asked(given, job, lambda: bar.advance(task))
        from_job = job.model if job else None
        loaded = OmniModel.load(
            model or (from_job.path if from_job else asked.model),
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
    print_evaluation(found)
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


def _kind(what: str | None, archive: Path | None, labels: Path | None) -> str:
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


def _asked(given: _Given, job: JobConfig | None, step: Any) -> _Asked:
    if given.what == "toy-world":
        count = given.clips or TOY_CLIPS
        clips = toy_clips(given.world, count, given.seed, folder=given.media, questions=given.questions, rendered=step)
        about = {"world": given.world, "clips_asked": count, "questions": given.questions}
        return _Asked(clips, about, CHECKPOINTS[given.world])
    if given.what == "archive":
        if given.archive is None or given.truth is None:
            raise EvaluationError("give both --archive DIR and --truth truth.json")
        clips, notes = archive_clips(
            given.archive, given.truth, seed=given.seed, questions=given.questions, probed=step
        )
        worlds = {truth.world for truth in read_truth(given.truth).values()}
        model = CHECKPOINTS["v2" if worlds == {"v2"} else "v1"]
        return _Asked(clips, {"archive": str(given.archive), "truth": str(given.truth)}, model, notes)
    if given.what == "labels":
        if given.labels is None or job is None:
            raise EvaluationError("give --labels labels.csv")
        clips = labelled_clips(given.labels, job, tolerance=given.tolerance, probed=step)
        return _Asked(clips, {"labels": str(given.labels), "job": job.name}, source=source(job))
    if given.root is None:
        raise EvaluationError(f"{given.what} needs --root DIR, the folder that holds its questions and videos")
    clips, notes = benchmark_clips(
        BENCHMARKS[given.what], given.root, given.questions_file, letters=given.letters, most=given.clips, probed=step
    )
    about = {"root": str(given.root), "scoring": "letters" if given.letters else "written"}
    return _Asked(clips, about, notes=notes)


if __name__ == "__main__":
    main("evaluate")
