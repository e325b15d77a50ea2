"""Process CPU seconds beside the engine a user would pick: vLLM with prefix caching, on the same weights and tokens.

Promises: both engines hold the same random weights (12 layers of Qwen2.5-Omni-3B's width) and are asked the same token
ids, a new prefix in every round, one thread each; rounds are interleaved and ratios are of one round's own pair;
whether they pick the same first tokens is said. vLLM has an environment of its own, which is made here; where it cannot
be, that is said and ours is measured alone. With `--end-to-end` whole clips are compared in place of tokens: decoding
and encoders in, see `benchmarks.speed.end_to_end`. Knows nothing about accuracy or GPUs.

    python -m benchmarks.speed.engines --json FILE [--full | --quick] [--end-to-end]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import end_to_end
from benchmarks.speed.engine_omnidrop import QUESTION_TOKENS, write_checkpoint
from benchmarks.speed.prefill import LAYERS, QUICK_LAYERS, default_dtype
from benchmarks.speed.random_text_model import ClipShape, RandomTextModel

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = ROOT / "build" / "engines" / ".venv" / "bin" / "python"
MAKE_S = 1200.0
"""For making the second environment: 2 GB of wheels."""

SHAPES = {1000: ClipShape(chunks=5, frames=1, audio=25), 4000: ClipShape(), 10_000: ClipShape(chunks=25)}
QUICK_SHAPE = ClipShape(chunks=4, rows=2, columns=5, audio=5)
BASE = "prefix_caching"
"""The mode of vLLM that everything is compared with."""
ALONE = ("no_prefix_caching", "dense", "per_question")
"""Modes that ask each question as if it were the only one: one is measured and counted as often as there are."""
NOT_COMPARED = {
    "tokens": "encoders, decoding and a job's own work, of which rows of tokens hold nothing; see --end-to-end",
    "whole clips": "starting either engine, Ray and the driver, of which rows of whole clips hold nothing",
}
SIZE, QUICK_SIZE = "qwen2_5_omni_3b", "middle"


@dataclass(frozen=True)
class Case:
    """One row."""

    engine: str
    mode: str
    questions: int
    ratio: float | None = None
    encoder_share: float = 1.0
    """Of the picture's cells, those that are encoded at most: of whole clips alone."""

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f", {self.ratio:.0%} kept"
        return f"{self.engine} {self.mode}{ratio}" + (
            f", {self.encoder_share:.0%} encoded" if self.encoder_share < 1 else ""
        )

    @property
    def measured(self) -> int:
        """Questions that are really asked."""
        return 1 if self.mode in ALONE else self.questions


def cases(questions: int, *, full: bool) -> list[Case]:
    """What is compared for one number of questions."""
    table = [
        Case("vllm", BASE, questions),
        Case("omnidrop", "dense_shared", questions),
        Case("omnidrop", "set_guided", questions, 0.3),
        Case("omnidrop", "set_guided", questions, 0.2),
    ]
    if full:
        table += [
            Case("vllm", "no_prefix_caching", questions),
            Case("omnidrop", "dense", questions),
            Case("omnidrop", "staged", questions, 0.3),
            Case("omnidrop", "per_question", questions, 0.3),
        ]
    return table


class Process:
    """An engine in a process of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.about = self._line()

    def ask(self, case: Case, **asked: Any) -> dict[str, Any]:
        """What the engine measured. Raises RuntimeError where it has ended."""
        assert self._process.stdin is not None
        asked |= {"mode": case.mode, "ratio": case.ratio, "encoder_share": case.encoder_share}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine ended with status {self._process.wait()}: {self._process.args!r}")
        loaded: dict[str, Any] = json.loads(line)
        return loaded

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def no_vllm() -> str | None:
    """Why vLLM cannot be measured here; None once its environment is there."""
    if ENGINE_PYTHON.with_name("ready").exists():
        return None
    print("making an environment for vLLM: 2 GB of wheels", file=sys.stderr, flush=True)
    try:
        made = subprocess.run(["make", "engines"], cwd=ROOT, capture_output=True, text=True, timeout=MAKE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the environment for vLLM cannot be made ({type(error).__name__}: {error})"
    if made.returncode:
        last = (made.stderr.strip() or made.stdout.strip() or "no reason given").splitlines()[-1]
        return f"the environment for vLLM cannot be made: `make engines` says {last[:300]}"
    return None


@contextmanager
def engines(
    shape: ClipShape, size: str, layers: int, dtype: str, questions: int, skipped: str | None
) -> Iterator[dict[str, Process]]:
    """The engines by name, loaded and warm."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        running = {}
        if skipped is None:
            write_checkpoint(RandomTextModel(size, layers, dtype=getattr(torch, dtype)), Path(scratch))
            most = prefix_tokens(shape) + questions * QUESTION_TOKENS + 64
            script = str(Path(__file__).with_name("engine_vllm.py"))
            running["vllm"] = Process([str(ENGINE_PYTHON), script, scratch, str(most)])
            stack.callback(running["vllm"].close)
        ours = [sys.executable, "-m", "benchmarks.speed.engine_omnidrop", size, str(layers), dtype]
        running["omnidrop"] = Process([*ours, json.dumps(asdict(shape))])
        stack.callback(running["omnidrop"].close)
        yield running


def prefix_tokens(shape: ClipShape) -> int:
    """With the text around the clip."""
    return shape.tokens + shape.text_before + shape.text_after


@dataclass(frozen=True)
class Measured:
    """All rounds of one case."""

    case: Case
    tokens: int
    rounds: tuple[dict[str, Any], ...]

    @property
    def cpu_s(self) -> list[float]:
        """By round, for all the case's questions."""
        return [one["cpu_s"] * self.case.questions / self.case.measured for one in self.rounds]

    def row(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "engine": self.case.engine,
            "mode": self.case.mode,
            "questions": self.case.questions,
            "tokens": self.tokens,
            "retained_ratio": self.rounds[0]["retained_ratio"],
            "encoder_share": self.case.encoder_share,
            "cpu_s": min(self.cpu_s),
            "peak_bytes": max(one["peak_bytes"] for one in self.rounds),
            "cpu_s_by_round": self.cpu_s,
        }


def measure(running: dict[str, Process], table: Sequence[Case], tokens: int, rounds: int) -> list[Measured]:
    """Every case in every round, engines in turn, the same token ids for all of a round."""
    found: dict[Case, list[dict[str, Any]]] = {case: [] for case in table if case.engine in running}
    for number in range(rounds):
        drawn = random.Random(number)
        prefix = [drawn.randrange(10, 4000) for _ in range(tokens)]
        questions = [[drawn.randrange(10, 4000) for _ in range(QUESTION_TOKENS)] for _ in range(table[0].questions)]
        for case, answers in found.items():
            answers.append(running[case.engine].ask(case, prefix=prefix, questions=questions[: case.measured]))
            spent = answers[-1]["cpu_s"]
            print(f"round {number + 1}: {case} {spent:.2f} s", file=sys.stderr)
    return [Measured(case, tokens, tuple(answers)) for case, answers in found.items()]


def measure_clips(quick: bool, dtype: str, rounds: int, count: int, skipped: str | None) -> tuple[list[Measured], Any]:
    """Whole clips in every round, engines in turn, after one that is not counted; and what the engines said."""
    with ExitStack() as stack:
        checkpoint, clips = stack.enter_context(end_to_end.prepared(quick, dtype, count))
        running = {}
        vllm = None if skipped else ENGINE_PYTHON
        for name, command in end_to_end.commands(checkpoint, clips, dtype, vllm).items():
            running[name] = Process(command)
            stack.callback(running[name].close)
        size, decoded = end_to_end.picture_size(checkpoint), [{"decode_cpu_s": 0.0, "fps": 0.0}] * count
        # Ours first: vLLM is given what it decoded.
        fewer = Case("omnidrop", "set_guided", end_to_end.QUESTIONS, 0.2, encoder_share=0.35)
        table = sorted([*cases(end_to_end.QUESTIONS, full=False), fewer], key=lambda case: case.engine)
        found: dict[Case, list[dict[str, Any]]] = {case: [] for case in table if case.engine in running}
        for number in range(rounds + 1):
            for case, kept in found.items():
                answers = [
                    running[case.engine].ask(case, **end_to_end.request(case.engine, one, size, was["fps"]))
                    for one, was in zip(clips, decoded, strict=True)
                ]
                decoded = answers if case.engine == "omnidrop" else decoded
                decoding = [0.0 if case.engine == "omnidrop" else was["decode_cpu_s"] for was in decoded]
                of_round = end_to_end.round_of(answers, decoding)
                kept += [of_round] if number else []
                spent = of_round["cpu_s"]
                print(f"round {number}: {case} {spent:.2f} s", file=sys.stderr)
        about = {name: process.about for name, process in running.items()}
    return [Measured(case, _mean(kept[0]["prompt_tokens"]), tuple(kept)) for case, kept in found.items()], about


def _mean(numbers: Sequence[int]) -> int:
    return round(statistics.mean(numbers))


def ratios(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """By case, its CPU seconds over vLLM's with prefix caching in the same round; nothing where that is missing."""
    base = next((one for one in measured if (one.case.engine, one.case.mode) == ("vllm", BASE)), None)
    if base is None:
        return []
    found = []
    for one in measured:
        paired = [mine / theirs for mine, theirs in zip(one.cpu_s, base.cpu_s, strict=True)]
        same = [
            a == b
            for mine, theirs in zip(one.rounds, base.rounds, strict=True)
            for a, b in zip(mine["first_tokens"], theirs["first_tokens"], strict=False)
        ]
        found.append(
            {
                **{"engine": one.case.engine, "mode": one.case.mode, "asked_ratio": one.case.ratio},
                "encoder_share": one.case.encoder_share,
                **{"questions": one.case.questions, "tokens": one.tokens},
                "cpu_s_of_vllm": statistics.median(paired),
                "lowest": min(paired),
                "highest": max(paired),
                "same_first_token": sum(same) / len(same) if one.case.ratio is None else None,
            }
        )
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where to write the rows")
    parser.add_argument("--full", action="store_true", help="1 to 16 questions, 1k to 10k tokens, every mode: hours")
    parser.add_argument("--quick", action="store_true", help="a model of a toy's size: shows that all of it runs")
    parser.add_argument("--layers", type=int, help=f"of the decoder (default {LAYERS}; Qwen2.5-Omni-3B has 36)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--end-to-end", action="store_true", help="whole clips: files in, answers out")
    parser.add_argument("--clips", type=int, default=2, help="of these, with --end-to-end (default 2)")
    given = parser.parse_args()
    if given.end_to_end:
        _end_to_end(given)
        return
    size, layers = (QUICK_SIZE, QUICK_LAYERS) if given.quick else (SIZE, LAYERS)
    layers = given.layers or layers
    shapes = [QUICK_SHAPE] if given.quick else list(SHAPES.values()) if given.full else [SHAPES[4000]]
    counts = [1, 4, 8, 16] if given.full else [8]
    dtype, skipped = default_dtype(), no_vllm()
    report: dict[str, Any] = {"rows": [], "ratios": [], "skipped": [skipped] if skipped else []}
    for shape in shapes:
        try:
            with engines(shape, size, layers, dtype, max(counts), skipped) as running:
                measure(running, cases(2, full=False), prefix_tokens(shape), 1)  # first use of every kernel
                report["setting"] = _setting(dtype, layers, running)
                for count in counts:
                    table = cases(count, full=given.full)
                    measured = measure(running, table, prefix_tokens(shape), given.rounds)
                    report["rows"] += [one.row() for one in measured]
                    report["ratios"] += ratios(measured)
                    given.json.write_text(json.dumps(report, indent=1))
        except RuntimeError as error:
            sys.exit(f"engines: error: {error}")
    _show(report)


def _end_to_end(given: argparse.Namespace) -> None:
    dtype, skipped = "float32" if given.quick else default_dtype(), no_vllm()
    try:
        measured, about = measure_clips(given.quick, dtype, given.rounds, given.clips, skipped)
    except RuntimeError as error:
        sys.exit(f"engines: error: {error}")
    report = {
        "rows": [one.row() | {"mode": f"whole clips, {one.case.mode}", "clips": given.clips} for one in measured],
        "ratios": ratios(measured),
        "skipped": [skipped] if skipped else [],
        "setting": {
            "weights": "the embedded tiny-v3" if given.quick else f"random, {end_to_end.SHAPE}",
            "clip_s": end_to_end.QUICK_SECONDS if given.quick else end_to_end.SECONDS,
            "dtype": dtype,
            "threads": 1,
            "tokens": "mean of a prompt with one question",
            "time": "process CPU seconds for all clips, decoding in, the same decoding on both sides",
            "not_compared": NOT_COMPARED["whole clips"],
            "engines": about,
        },
    }
    given.json.write_text(json.dumps(report, indent=1))
    _show(report)


def _setting(dtype: str, layers: int, running: dict[str, Process]) -> dict[str, Any]:
    return {
        "weights": f"random, the same in both engines; {layers} layers of Qwen2.5-Omni-3B's width, vocabulary 4096",
        "dtype": dtype,
        "threads": 1,
        "time": "process CPU seconds; a row's cpu_s is the least of its rounds, a ratio the median of the rounds' own",
        "peak_bytes": "resident memory of the whole process while answering, weights included",
        "measured_once": "modes that ask every question alone are measured with one and counted as often as there are",
        "machine": platform.processor() or platform.machine(),
        "not_compared": NOT_COMPARED["tokens"],
        "engines": {name: process.about for name, process in running.items()},
    }


def _show(report: dict[str, Any]) -> None:
    for number, row in enumerate(report["rows"]):
        print(
            f"{row['engine']:9} {row['mode']:29} {row['encoder_share']:4.0%} encoded {row['retained_ratio']:4.0%} kept "
            f"{row['questions']:3} questions "
            f"{row['tokens']:6} tokens {row['cpu_s']:7.1f} CPU s {row['peak_bytes'] / 1e9:5.2f} GB",
            end="",
        )
        if report["ratios"]:
            of = report["ratios"][number]
            same = of["same_first_token"]
            print(f"  {of['cpu_s_of_vllm']:.2f} of vLLM ({of['lowest']:.2f} to {of['highest']:.2f})", end="")
            print("" if same is None else f", the same first token in {same:.0%}", end="")
        print()
    print(f"not compared: {report['setting']['not_compared']}")
    for sentence in report["skipped"]:
        print(f"skipped: {sentence}; only our own loop was measured")


if __name__ == "__main__":
    main()
