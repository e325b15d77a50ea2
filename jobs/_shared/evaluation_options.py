"""The options of `omnidrop evaluate`, and what they say together: ways of running, and what the model sees.

Promises: what does not go together is refused with a sentence that says what does. Knows nothing about where questions
come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from omnidrop import policies
from omnidrop.engine.modes import DENSE_MODES
from pipeline.config.job import JobConfig
from pipeline.config.sections import PruningConfig
from pipeline.config.yaml_source import parse_yaml
from pipeline.evaluation.benchmarks import BENCHMARKS
from pipeline.evaluation.dataset import DENSE, Arm, EvaluationError, arm_of
from pipeline.evaluation.runner import RunSettings
from pipeline.toy_world.world import WORLDS
from workers.records import DecodeSettings

LABEL_RATIOS = (0.5, 0.3, 0.2, 0.1)
"""What `--labels` compares where no ratio is given."""
BENCHMARK_DECODE_S = 900.0
"""A benchmark's clip may be an hour long."""

_WHAT, _HOW, _SEEN = "What is asked", "How it is run", "What the model sees"

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[WHAT]",
        help="toy-world, archive, labels, or a benchmark: worldsense, daily-omni, video-mme, avut. May be left out "
        "where --archive or --labels says it.",
        show_default=False,
    ),
]
World = Annotated[str, typer.Option("--world", help=f"Toy world: {' or '.join(WORLDS)}.", rich_help_panel=_WHAT)]
Clips = Annotated[
    int,
    typer.Option(
        "--clips",
        help="Clips of the toy world (20), or videos of a benchmark (all).",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Which clips; also for policies that draw.", rich_help_panel=_WHAT)]
Questions = Annotated[
    int, typer.Option("--questions", help="At most so many questions a toy clip; 0 for all.", rich_help_panel=_WHAT)
]
MediaFolder = Annotated[
    Path | None,
    typer.Option(
        "--media", help="Where rendered clips are kept; the user's cache where not given.", rich_help_panel=_WHAT
    ),
]
Archive = Annotated[
    Path | None, typer.Option("--archive", help="Folder of toy clips rendered by anyone.", rich_help_panel=_WHAT)
]
TruthFile = Annotated[
    Path | None,
    typer.Option("--truth", help="What they show: JSON with events per file.", rich_help_panel=_WHAT),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="CSV with file, start, end, question, answer: right answers for an archive of your own.",
        rich_help_panel=_WHAT,
    ),
]
JobOption = Annotated[
    Path | None,
    typer.Option(
        "--job",
        help="Job file with the archive and the question set of the labels; ./job.yaml where not given.",
        rich_help_panel=_WHAT,
        show_default=False,
    ),
]
Tolerance = Annotated[float, typer.Option("--tolerance", help="How far a number may be off.", rich_help_panel=_WHAT)]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder of a benchmark in its own layout.", rich_help_panel=_WHAT)
]
QuestionsFile = Annotated[
    Path | None,
    typer.Option(
        "--questions-file",
        help="The benchmark's questions, where --root holds several files of them.",
        rich_help_panel=_WHAT,
    ),
]
Letters = Annotated[
    bool,
    typer.Option(
        "--letters/--written",
        help="Benchmarks: compare the letters' probabilities, or read the letter from written text as published.",
        rich_help_panel=_WHAT,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Checkpoint: a directory, a hub id, or an embedded one (`tiny`, for world v2 `tiny-v2`).",
        rich_help_panel=_HOW,
        show_default="the one for the world, or the job's",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_HOW)]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16, float16.", rich_help_panel=_HOW)]
ModeName = Annotated[
    str | None,
    typer.Option(
        "--mode",
        help="dense, dense_shared, per_question, staged, set_guided; several with commas.",
        rich_help_panel=_HOW,
        show_default="set_guided, or the job's",
    ),
]
PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help=f"{', '.join(name for name in policies.names() if name != 'none')}; several with commas.",
        rich_help_panel=_HOW,
        show_default="omnidrop, or the job's",
    ),
]
Retained = Annotated[
    list[str] | None,
    typer.Option(
        "--retained",
        metavar="R[,R...]",
        help="Retained ratio, several with commas or given again.",
        rich_help_panel=_HOW,
        show_default="0.3; with --labels 0.5,0.3,0.2,0.1",
    ),
]
EncoderShares = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder-share",
        metavar="S[,S...]",
        help="Share of the picture's cells that is encoded, several with commas or given again; 1 is all.",
        rich_help_panel=_HOW,
        show_default="0.35 with omnidrop, or the job's",
    ),
]
GuidanceName = Annotated[
    str | None,
    typer.Option(
        "--guidance",
        help="max, mean or quota; several with commas.",
        rich_help_panel=_HOW,
        show_default="max, or the job's",
    ),
]
PolicySetting = Annotated[
    list[str] | None,
    typer.Option(
        "--setting",
        metavar="NAME=VALUE",
        help="A parameter of the policy, as in diversity=off.",
        rich_help_panel=_HOW,
    ),
]
QuestionsPerSet = Annotated[
    int | None,
    typer.Option(
        "--questions-per-set",
        min=1,
        help="Split a clip's questions into sets of this many.",
        rich_help_panel=_HOW,
        show_default="one set",
    ),
]
WithDense = Annotated[
    bool | None,
    typer.Option(
        "--dense/--no-dense",
        help="Also ask without pruning, and compare.",
        rich_help_panel=_HOW,
        show_default="only with --labels",
    ),
]
Fps = Annotated[
    float | None,
    typer.Option("--fps", help="Frames a second.", rich_help_panel=_SEEN, show_default="2, or the job's"),
]
MaxFrames = Annotated[
    int | None,
    typer.Option(
        "--max-frames",
        min=2,
        help="Longer clips get fewer frames a second.",
        rich_help_panel=_SEEN,
        show_default="128 for benchmarks, 768 for video-mme",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=784, help="Pixels of a frame.", rich_help_panel=_SEEN, show_default="100352"),
]
SystemPrompt = Annotated[
    str | None,
    typer.Option("--system-prompt", help="System text.", rich_help_panel=_SEEN, show_default="the family's own"),
]
Details = Annotated[
    Path | None,
    typer.Option("--details", metavar="FILE", help="Every answer, one JSON line a clip; run again to resume."),
]


def arms_of(
    kind: str,
    job: JobConfig | None,
    mode: str | None,
    policy: str | None,
    retained: Sequence[str],
    guidance: str | None,
    settings: Sequence[str],
    seed: int,
    dense: bool | None,
    encoder_shares: Sequence[str] = (),
) -> list[Arm]:
    """The ways to run, unpruned first where wanted. Raises EvaluationError and PolicyError."""
    parameters: tuple[tuple[str, policies.registry.Value], ...] = tuple(sorted(_parameter(text) for text in settings))
    if job is not None and mode is None and policy is None and job.pruning.mode not in DENSE_MODES:
        mode, policy, guidance = job.pruning.mode, job.pruning.policy, guidance or job.pruning.guidance
        parameters = parameters or tuple(job.pruning.settings.items())
        if not encoder_shares and job.pruning.encoder_share != PruningConfig(policy=policy).encoder_share:
            encoder_shares = [f"{job.pruning.encoder_share}"]
    modes = _words("--mode", mode or ("dense_shared" if policy == "none" else "set_guided"))
    of_policies = _words("--policy", policy or "omnidrop")
    guidances = _words("--guidance", guidance or "max")
    pruned = [name for name in modes if name not in DENSE_MODES]
    if not pruned and (policy not in (None, "none") or retained not in ([], ["1"], ["1.0"])):
        raise EvaluationError(f"--mode {mode} prunes nothing: leave --policy and --retained out")
    ratios: list[float | None] = [*_ratios("--retained", retained)]
    if not ratios and any(name == "p_final" for name, _ in parameters):
        ratios = [None]  # the policy has its rates
    if not ratios:
        ratios = list(LABEL_RATIOS) if kind == "labels" else [0.3]
    shares: list[float | None] = [*_ratios("--encoder-share", encoder_shares)] or [None]
    unpruned = [arm_of(name, "none", None) for name in modes if name in DENSE_MODES]
    if not unpruned and pruned and (dense or (dense is None and kind == "labels")):
        unpruned = [DENSE]
    made = [
        arm_of(name, of_policy, ratio, of_guidance, parameters, seed, share)  # type: ignore[arg-type]
        for name in pruned
        for of_policy in of_policies
        # Only a set that is pruned together joins its questions' importance.
        for of_guidance in (guidances if name == "set_guided" else guidances[:1])
        for ratio in ratios
        for share in shares
    ]
    return [*unpruned, *made]


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if len(set(words)) < len(words) or not all(words):
        raise EvaluationError(f"{option}: give different names, separated by commas; got {text!r}")
    return words


def _ratios(option: str, given: Sequence[str]) -> list[float]:
    """Different numbers above 0 and at most 1."""
    ratios = [_ratio(option, part) for text in given for part in text.split(",")]
    if len(set(ratios)) < len(ratios):
        raise EvaluationError(f"{option}: the same ratio twice in {', '.join(f'{r:g}' for r in ratios)}")
    return ratios


def _ratio(option: str, text: str) -> float:
    try:
        ratio = float(text)
    except ValueError as error:
        raise EvaluationError(f"{option} must be a number above 0 and at most 1, got {text!r}") from error
    if not 0 < ratio <= 1:
        raise EvaluationError(f"{option} must be above 0 and at most 1, got {text}")
    return ratio


def _parameter(text: str) -> tuple[str, float | int | str | bool]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise EvaluationError(f"--setting: write NAME=VALUE, given: {text!r}")
    # YAML reads a bare off as false, but it is what one policy calls a kind of diversity.
    typed = value if value in ("on", "off", "yes", "no") else parse_yaml(value, Path("--setting")).value
    return name, typed if isinstance(typed, bool | int | float) else value


def run_settings(
    kind: str,
    job: JobConfig | None,
    fps: float | None,
    max_frames: int | None,
    max_pixels: int | None,
    questions_per_set: int | None,
    system_prompt: str | None,
) -> RunSettings:
    """How clips are sampled: as given, else as the job or the benchmark has it. Raises EvaluationError."""
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
