"""How every `omnidrop evaluate` runs its questions: ways of pruning, what the model sees, where answers are kept.

Promises: each subcommand has the same options for it, declared once as `Ways`; what does not go together is refused
with a sentence that says what does. Knows nothing about where questions come from.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from jobs._shared.options import named_value
from omnidrop import policies
from omnidrop.pruning import DENSE_MODES
from pipeline.config.job import JobConfig, PruningConfig
from pipeline.config.worker_settings import decode_settings
from pipeline.config.yaml_source import parse_yaml
from pipeline.evaluation.dataset import DENSE, Arm, EvaluationError, arm_of
from pipeline.evaluation.runner import RunSettings
from workers.records import DecodeSettings

LONG_DECODE_S = 900.0
"""A benchmark's clip may be an hour long."""

_HOW, _SEEN = "Model and pruning", "Model input"

Questions = Annotated[int, typer.Option("--questions", help="Up to N questions about a clip; 0 for all.")]

_Parameters = tuple[tuple[str, policies.registry.Value], ...]


@dataclass(frozen=True)
class Ways:
    """The options that all subcommands share, as they were given."""

    seed: Annotated[
        int, typer.Option("--seed", help="Seed for sampling clips and questions, and for random policies.")
    ] = 0
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Checkpoint: a directory, a hub id, or an embedded one (`tiny`, for other worlds `tiny-v2`, "
            "`tiny-v3`).",
            rich_help_panel=_HOW,
            show_default="the world's, or the job's",
        ),
    ] = None
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_HOW)] = (
        None
    )
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="auto, float32, bfloat16, float16.", rich_help_panel=_HOW)
    ] = None
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="dense, dense_shared, per_question, staged, set_guided; several with commas.",
            rich_help_panel=_HOW,
            show_default="set_guided, or the job's",
        ),
    ] = None
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help=f"{', '.join(name for name in policies.names() if name != 'none')}; several with commas.",
            rich_help_panel=_HOW,
            show_default="omnidrop, or the job's",
        ),
    ] = None
    retained: Annotated[
        list[str] | None,
        typer.Option(
            "--retained",
            metavar="R[,R...]",
            help="Retained ratio. Several: separated by commas, or repeat the option.",
            rich_help_panel=_HOW,
            show_default="0.3; for labels 0.5,0.3,0.2,0.1",
        ),
    ] = None
    encoder_share: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder-share",
            metavar="S[,S...]",
            help="Share of image cells to encode; 1 is all. Several: separated by commas, or repeat the option.",
            rich_help_panel=_HOW,
            show_default="1, or the job's",
        ),
    ] = None
    still_levels: Annotated[
        float | None,
        typer.Option(
            "--still-levels",
            metavar="LEVELS",
            help="Skip image cells that changed by no more than this many 8-bit levels; 0 encodes all.",
            rich_help_panel=_HOW,
            show_default="2 with an encoder share below 1, or the job's",
        ),
    ] = None
    read_left_out: Annotated[
        bool | None,
        typer.Option(
            "--read-left-out/--no-read-left-out",
            help="Let questions attend to tokens that do not enter the decoder.",
            rich_help_panel=_HOW,
            show_default="yes by policy omnidrop with every cell encoded, or the job's",
        ),
    ] = None
    guidance: Annotated[
        str | None,
        typer.Option(
            "--guidance",
            help="max, mean or quota; several with commas.",
            rich_help_panel=_HOW,
            show_default="max, or the job's",
        ),
    ] = None
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            metavar="NAME=VALUE",
            help="A policy parameter, for example diversity=off.",
            rich_help_panel=_HOW,
        ),
    ] = None
    questions_per_set: Annotated[
        int | None,
        typer.Option(
            "--questions-per-set",
            min=1,
            help="Split a clip's questions into sets of this many.",
            rich_help_panel=_HOW,
            show_default="one set",
        ),
    ] = None
    dense: Annotated[
        bool | None,
        typer.Option(
            "--dense/--no-dense",
            help="Also answer without pruning, and compare.",
            rich_help_panel=_HOW,
            show_default="only for labels",
        ),
    ] = None
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Frames per second.", rich_help_panel=_SEEN, show_default="2, or the job's"),
    ] = None
    max_frames: Annotated[
        int | None,
        typer.Option(
            "--max-frames",
            min=2,
            help="Maximum frames per clip; longer clips get fewer frames per second.",
            rich_help_panel=_SEEN,
            show_default="128 for benchmarks, 768 for video-mme",
        ),
    ] = None
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels", min=784, help="Maximum pixels per frame.", rich_help_panel=_SEEN, show_default="100352"
        ),
    ] = None
    system_prompt: Annotated[
        str | None,
        typer.Option("--system-prompt", help="System prompt.", rich_help_panel=_SEEN, show_default="the family's own"),
    ] = None
    details: Annotated[
        Path | None,
        typer.Option(
            "--details", metavar="FILE", help="Write all answers, one JSON line per clip. Run again to resume."
        ),
    ] = None

    def arms(self, job: JobConfig | None = None, *, ratios: Sequence[float] = (0.3,), dense: bool = False) -> list[Arm]:
        """The ways to run, unpruned first if it is wanted. What was not given is as the job has it; `ratios` and
        `dense` are for what neither says. Raises EvaluationError and PolicyError.
        """
        own = None if job is None or job.pruning.mode in DENSE_MODES else job.pruning
        mode = self.mode or ("dense_shared" if self.policy == "none" else own.mode if own else "set_guided")
        modes = _words("--mode", mode)
        of_policies = _words("--policy", self.policy or (own.policy if own else "omnidrop"))
        guidances = _words("--guidance", self.guidance or (own.guidance if own else "max"))
        pruned = [name for name in modes if name not in DENSE_MODES]
        if not pruned and (self.policy not in (None, "none") or self.retained not in (None, [], ["1"], ["1.0"])):
            raise EvaluationError(f"--mode {mode} prunes nothing: leave --policy and --retained out")
        asked: list[float | None] = [*_ratios("--retained", self.retained or ())]
        unpruned = [arm_of(name, "none", None) for name in modes if name in DENSE_MODES]
        if not unpruned and pruned and (dense if self.dense is None else self.dense):
            unpruned = [DENSE]
        settings = {name: self._settings(own if own and own.policy == name else None) for name in of_policies}
        made = [
            arm_of(name, of_policy, ratio, of_guidance, parameters, self.seed, share, still)  # type: ignore[arg-type]
            for name in pruned
            for of_policy, (parameters, shares, still) in settings.items()
            # Only a set that is pruned together joins its questions' importance.
            for of_guidance in (guidances if name == "set_guided" else guidances[:1])
            for ratio in asked or ((None,) if policies.gives_rates(dict(parameters)) else ratios)
            for share in shares
        ]
        return [*unpruned, *made]

    def _settings(self, own: PruningConfig | None) -> tuple[_Parameters, list[float | None], float | None]:
        """A policy's parameters, shares of the cells that are encoded, and levels that stand still; `own` is the job's
        pruning where that is by this policy."""
        parameters = tuple(sorted(_parameter(text) for text in self.setting or ()))
        shares: list[float | None] = [*_ratios("--encoder-share", self.encoder_share or ())] or [None]
        still, reads = self.still_levels, self.read_left_out
        if own is not None:
            parameters = parameters or tuple(own.settings.items())
            if shares == [None] and own.encoder_share != 1.0:
                shares = [own.encoder_share]
            if still is None and own.still_levels != policies.still_levels(own.encoder_share):
                still = own.still_levels
            by_default = policies.reads_left_out(own.policy, None, own.encoder_share, own.still_levels or 0.0)
            if reads is None and own.read_left_out != by_default:
                reads = own.read_left_out
        if reads is not None and "read_left_out" not in dict(parameters):
            parameters = (*parameters, ("read_left_out", reads))
        return parameters, shares, still

    def run_settings(
        self, job: JobConfig | None = None, *, max_frames: int | None = None, is_long: bool = False
    ) -> RunSettings:
        """How clips are sampled: as given, else as the job has it, else up to `max_frames`. Raises EvaluationError."""
        if self.fps is not None and not 0 < self.fps <= 60:
            raise EvaluationError(f"--fps must be above 0 and up to 60, got {self.fps:g}")
        if job is not None:
            decode = decode_settings(job.clips, job.execution)
        else:
            decode = DecodeSettings(timeout_s=LONG_DECODE_S if is_long else DecodeSettings.timeout_s)
        decode = dataclasses.replace(
            decode, fps=self.fps or decode.fps, max_pixels=self.max_pixels or decode.max_pixels
        )
        prompt = self.system_prompt if self.system_prompt is not None or job is None else job.model.system_prompt
        return RunSettings(decode, self.max_frames or max_frames, self.questions_per_set, prompt)


def with_ways(command: Callable[..., None]) -> Callable[..., None]:
    """Turn `command(ways: Ways, ...)` into one that has each of their fields as an option, after its own."""
    fields = get_type_hints(Ways, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=fields[field.name]
        )
        for field in dataclasses.fields(Ways)
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "ways"]

    def run(**given: Any) -> None:
        ways = Ways(**{field.name: given.pop(field.name) for field in dataclasses.fields(Ways)})
        command(ways=ways, **given)

    parameters = [*own, *shared]
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if len(set(words)) < len(words) or not all(words):
        raise EvaluationError(f"{option}: give different names, separated by commas; got {text!r}")
    return words


def _ratios(option: str, given: Sequence[str]) -> list[float]:
    """Different numbers above 0 and up to 1."""
    ratios = [_ratio(option, part) for text in given for part in text.split(",")]
    if len(set(ratios)) < len(ratios):
        raise EvaluationError(f"{option}: a ratio is given twice in {', '.join(f'{r:g}' for r in ratios)}")
    return ratios


def _ratio(option: str, text: str) -> float:
    try:
        ratio = float(text)
    except ValueError as error:
        raise EvaluationError(f"{option} must be a number above 0 and at most 1, got {text!r}") from error
    if not 0 < ratio <= 1:
        raise EvaluationError(f"{option} must be above 0 and at most 1, got {text}")
    return ratio


def _parameter(text: str) -> tuple[str, policies.registry.Value]:
    name, value = named_value("--setting", text)
    # YAML reads a bare off as false, but it is what one policy calls a kind of diversity.
    typed = value if value in ("on", "off", "yes", "no") else parse_yaml(value, Path("--setting")).value
    return name, typed if isinstance(typed, bool | int | float) else value
