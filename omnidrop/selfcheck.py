"""An acceptance test of a checkpoint on this machine: does our way through the decoder say what the stock model says?

Promises: a report of named checks with measured differences and of every mode's time and memory on one sample clip; it
raises only where the checkpoint cannot be loaded. Knows nothing about benchmarks or how good answers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omnidrop import policies
from omnidrop.answers import ClipAnswers
from omnidrop.engine import modes, question_rows
from omnidrop.engine.attention import own_attention
from omnidrop.engine.state import ClipTokens
from omnidrop.errors import ModelError, PolicyError
from omnidrop.model import OmniModel, Request
from omnidrop.models.base import VIDEO, ClipPrompt, SomeOf
from omnidrop.models.qwen_omni import QwenOmniAdapter
from omnidrop.models.stock import stock_logits
from omnidrop.policies.base import Policy, read_of
from omnidrop.policies.schedule import Schedule, full
from omnidrop.pruning import DENSE_MODES, MODES, Pruning
from omnidrop.questions import Boolean, Choice, Number, Question, Text

QUESTIONS = (
    Question("colour", "What colour is the square?", Choice(("red", "green", "blue"))),
    Question("tone", "Is a rising tone heard?", Boolean()),
    Question("count", "How many squares are seen?", Number(0, 5)),
    Question("scene", "What is seen and heard?", Text(max_tokens=8)),
)
INSTRUCTION = "Answer in few words."
FPS = 2.0
PROMPT = ClipPrompt(FPS, instruction=INSTRUCTION)
RATIOS = (0.3, 0.5, 0.7)
"""Retained ratios tried in turn: a shallow decoder cannot reach the paper's 0.3."""
SELF_NOISE = 4.0
"""Our logits may differ from stock by this many times what stock differs from itself with another attention kernel: in
bfloat16 that is the only yardstick that holds for every depth and device."""
EXACT = 1e-5
"""And by this share of the largest logit in any case."""
COARSE = 0.02
"""And encoder features, keys and values below float32, where another number of rows may be another kernel."""
NEAR_TIES = 0.95
"""Survivors that two modes must share below float32."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    passed: bool
    detail: str
    """What was measured, and what was allowed."""


@dataclass(frozen=True)
class ModeRun:
    """One mode on the sample clip, with the whole question set."""

    mode: str
    policy: str
    seconds: float
    """Wall seconds of the second of two runs, encoders included."""
    peak_bytes: int | None
    """Peak device memory (CUDA), None elsewhere."""
    kv_bytes: int
    flops: int
    retained_ratio: float | None
    answers: tuple[str, ...]


@dataclass(frozen=True)
class SelfcheckReport:
    """What was checked, on what."""

    model: str
    family: str
    weights_hash: str
    device: str
    dtype: str
    stored: str
    """Bytes and form of the weights in the checkpoint."""
    layers: int
    audio_tokens: int
    video_tokens: int
    checks: tuple[Check, ...]
    runs: tuple[ModeRun, ...]

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"passed": self.passed, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """The report for people."""
        yield (
            f"{self.model}: {self.family}, {self.layers} layers, {self.dtype} on {self.device}; sample clip of "
            f"{self.video_tokens} video and {self.audio_tokens} audio tokens, {len(QUESTIONS)} questions"
        )
        yield f"weights: {self.stored}"
        for check in self.checks:
            yield f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}"
        for run in self.runs:
            peak = "" if run.peak_bytes is None else f", peak {run.peak_bytes / 1e9:.2f} GB"
            kept = "" if run.retained_ratio is None else f", {run.retained_ratio:.1%} of tokens"
            yield (
                f"      {run.mode} ({run.policy}{kept}): {run.seconds:.3f} s, {run.flops / 1e12:.3f} TFLOP, KV "
                f"{run.kv_bytes / 1e6:.1f} MB{peak}"
            )
        yield "passed" if self.passed else "FAILED: " + ", ".join(c.name for c in self.checks if not c.passed)


def sample_clip(seconds: int = 6, height: int = 252, width: int = 448) -> tuple[Any, Any]:
    """Frames (T, H, W, 3) uint8 at 2 a second and audio (samples,) float32: a red square drifts while a tone rises."""
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 40, (round(seconds * FPS), height, width, 3), dtype=np.uint8)
    side = height // 4
    for number, frame in enumerate(frames):
        left = (width - side) * number // len(frames)
        frame[side : 2 * side, left : left + side] = (220, 30, 30)
    at = np.arange(seconds * 16_000) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (300 * at + 1100 * at**2 / seconds))
    return frames, tone.astype(np.float32)


Begins = Callable[[str, int, int], None]
"""Told which check begins, its number from 1, and how many there are."""


def selfcheck(
    model: str, device: str = "auto", dtype: str = "auto", *, begins: Begins = lambda *_: None
) -> SelfcheckReport:
    """Load `model` (as `OmniModel.load`) and check it on a sample clip. Raises CheckpointError where it does not load.

    With pruning off: logits of the stock model, packed questions as separate ones. With pruning: cache lengths as the
    schedule says, `staged` and a set of one question as `per_question`. Then all modes with time and memory.
    """
    return check_loaded(OmniModel.load(model, device=device, dtype=dtype), model, begins=begins)


def check_loaded(loaded: OmniModel, model: str, *, begins: Begins = lambda *_: None) -> SelfcheckReport:
    """The same checks of a model that is loaded, which the report calls `model`."""
    adapter = loaded.adapter
    assert isinstance(adapter, QwenOmniAdapter)
    frames, audio = sample_clip()
    bench = _Bench(loaded, adapter, frames, audio)
    runs: list[ModeRun] = []
    to_check: tuple[tuple[str, Callable[[], tuple[bool, str]]], ...] = (
        ("pruning off = stock model", bench.stock),
        ("packed set = separate questions", bench.packed),
        ("a part of the picture is encoded as in the whole", bench.some_cells),
        ("keys and values alone are the whole layer's", bench.keys_alone),
        ("cache lengths follow the schedule", bench.cache_lengths),
        ("staged = per_question", lambda: bench.same_logits("staged", "per_question", bench.asked)),
        ("set of one = per_question", lambda: bench.same_logits("set_guided", "per_question", bench.asked[:1])),
        ("all modes answer", lambda: bench.all_modes(runs)),
    )
    checks = []
    for number, (name, check) in enumerate(to_check, 1):
        begins(name, number, len(to_check))
        checks.append(_guarded(name, check))
    return SelfcheckReport(
        model=model,
        family=adapter.family,
        weights_hash=adapter.weights_hash,
        device=_device_name(adapter.device),
        dtype=str(adapter.dtype).removeprefix("torch."),
        stored=adapter.stored,
        layers=len(adapter.layers),
        audio_tokens=bench.clip.av.audio,
        video_tokens=bench.clip.av.video,
        checks=tuple(checks),
        runs=tuple(runs),
    )


def _guarded(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    """A check that breaks down is a check that failed, and the others still run."""
    try:
        with torch.inference_mode():
            passed, detail = check()
    except (ModelError, PolicyError, RuntimeError, ValueError, AssertionError) as error:
        passed, detail = False, f"{type(error).__name__}: {error}"
    return Check(name, passed, detail)


class _Bench:
    """The loaded model, the encoded sample clip, and the yardstick for differences."""

    def __init__(
        self,
        loaded: OmniModel,
        adapter: QwenOmniAdapter,
        frames: npt.NDArray[np.uint8],
        audio: npt.NDArray[np.float32],
    ) -> None:
        self.loaded, self.adapter, self.frames, self.audio = loaded, adapter, frames, audio
        with torch.inference_mode():
            prefix = adapter.prefix(frames, audio, PROMPT)
        self.clip = ClipTokens.of(prefix)
        self.asked = question_rows.ask(adapter, QUESTIONS)
        self.allowed = 0.0

    def stock(self) -> tuple[bool, str]:
        """The first answer token's logits of every question, alone, against the stock model; sets `allowed`."""
        nothing, everything = policies.named("none"), full(self.clip.av.count, len(self.adapter.layers))
        ours = self.first_tokens("dense", nothing, everything, self.asked)
        worst = 0.0
        for number, question in enumerate(QUESTIONS):
            theirs = self.stock_logits(question.text, "sdpa")
            noise = float((theirs - self.stock_logits(question.text, "eager")).abs().max())
            allowed = max(SELF_NOISE * noise, EXACT * float(theirs.abs().max()))
            self.allowed = max(self.allowed, allowed)
            worst = max(worst, float((ours[number] - theirs).abs().max()) / allowed)
        return worst <= 1.0, f"largest difference {worst * self.allowed:.2e}, allowed {self.allowed:.2e}"

    def stock_logits(self, question: str, attention: str) -> Tensor:
        return stock_logits(
            self.adapter,
            self.frames,
            self.audio,
            PROMPT,
            question,
            attention,
        )

    def packed(self) -> tuple[bool, str]:
        """Pruning off: one pass over the clip and all questions against each question alone, and in another order."""
        nothing, everything = policies.named("none"), full(self.clip.av.count, len(self.adapter.layers))
        alone = self.first_tokens("dense", nothing, everything, self.asked)
        together = self.first_tokens("dense_shared", nothing, everything, self.asked)
        turned = self.first_tokens("dense_shared", nothing, everything, self.asked[::-1])
        return self.verdict(zip([*alone, *alone], [*together, *turned[::-1]], strict=True))

    def same_logits(self, mode: str, other: str, asked: tuple[question_rows.Asked, ...]) -> tuple[bool, str]:
        """Two modes that must prune alike."""
        policy, schedule = self.pruned()
        one, kept = self.with_survivors(mode, policy, schedule, asked)
        two, also = self.with_survivors(other, policy, schedule, asked)
        alike = min(
            len(set(a) & set(b)) / max(len(a), 1)
            for mine, theirs in zip(kept, also, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )
        if alike < 1.0 and self.adapter.dtype != torch.float32:
            # Two kernels' rounding can swap neighbours in the ranking; then logits cannot be compared.
            return (
                alike >= NEAR_TIES,
                f"{alike:.1%} of the survivors are the same, allowed {NEAR_TIES:.0%} below float32",
            )
        return self.verdict(zip(one, two, strict=True))

    def some_cells(self) -> tuple[bool, str]:
        """Every second temporal patch encoded alone: as attention stays inside one, its features must be the whole
        picture's. The stock encoder swallows arguments whose names it does not know; this would show it."""
        sizes = self.clip.av.frame_sizes
        chosen = torch.arange(self.clip.av.video).view(len(sizes), -1)[::2].flatten()

        def choose(cells: Tensor, patches: int, keep: int, candidates: Tensor | None = None) -> Tensor:
            return chosen

        some_of = SomeOf(chosen.numel(), choose)
        some = self.adapter.prefix(self.frames, self.audio, PROMPT, some_of=some_of)
        seen = (some.modality == VIDEO).nonzero().flatten()[chosen.to(some.modality.device)]
        worst = largest = 0.0
        whole = self.clip.prefix
        for one, other in zip((some.embeddings, *some.deepstack), (whole.embeddings, *whole.deepstack), strict=True):
            worst = max(worst, float((one[seen] - other[seen]).abs().max()))
            largest = max(largest, float(other[seen].abs().max()))
        return self.nearly(worst, largest)

    def keys_alone(self) -> tuple[bool, str]:
        """What the setting `read_left_out` computes of a layer, for every row of the clip, against what the layer left
        in the cache."""
        nothing, everything = policies.named("none"), full(self.clip.av.count, len(self.adapter.layers))
        worst = largest = 0.0
        for done in self.run("dense_shared", nothing, everything, self.asked):
            state, cache, embeddings = done.state, done.state.caches[0], self.clip.prefix.embeddings
            cos, sin = (part[:, : embeddings.shape[0]] for part in state.rotary)
            alone = self.adapter.keys_and_values(0, embeddings[None], (cos, sin))
            for one, other in zip(alone, (cache.prefix_keys, cache.prefix_values), strict=True):
                worst = max(worst, float((one[0] - other).abs().max()))
                largest = max(largest, float(other.abs().max()))
        return self.nearly(worst, largest)

    def nearly(self, worst: float, largest: float) -> tuple[bool, str]:
        """Whether a difference is one that other numbers of rows in a product make."""
        allowed = (EXACT if self.adapter.dtype == torch.float32 else COARSE) * largest
        return worst <= allowed, f"largest difference {worst:.2e}, allowed {allowed:.2e}"

    def cache_lengths(self) -> tuple[bool, str]:
        """Every layer holds the text, the audio and video tokens the schedule lets in, and those that are read."""
        policy, schedule = self.pruned()
        read = read_of(schedule.total, policy, schedule)
        for done in self.run("set_guided", policy, schedule, self.asked):
            held = [cache.prefix_keys.shape[1] - self.clip.text for cache in done.state.caches]
            questions = {cache.suffix_keys.shape[1] for cache in done.state.caches}
            wrong = [
                f"layer {n} holds {h} instead of {e + read}"
                for n, (h, e) in enumerate(zip(held, schedule.entering, strict=True))
                if h != e + read
            ]
            if wrong or questions != {done.state.packed.rows}:
                return False, "; ".join(wrong) or f"question rows {sorted(questions)}, not {done.state.packed.rows}"
        return True, f"{schedule.entering[0]} to {schedule.entering[-1]} of {schedule.total} audio and video tokens"

    def all_modes(self, runs: list[ModeRun]) -> tuple[bool, str]:
        """Every mode twice, so that the second is not slowed by what happens once; typed answers from each."""
        unread = []
        for mode in MODES:
            pruning = Pruning.off(mode) if mode in DENSE_MODES else Pruning(mode=mode, retained_ratio=self.ratio())
            for _ in range(2):
                self.adapter.memory.clear()
                started = time.perf_counter()
                request = Request(QUESTIONS, FPS, pruning, instruction=INSTRUCTION)
                found = self.loaded.answer(self.frames, self.audio, request)
                seconds = time.perf_counter() - started
            runs.append(_run(mode, pruning, found, seconds))
            unread += [f"{mode}: {a.question_id} ({a.error_class})" for a in found.answers if a.error_class]
        return not unread, "; ".join(unread) or f"{len(runs)} modes, {len(QUESTIONS)} answers each"

    def ratio(self) -> float:
        """The lowest of RATIOS that this depth reaches."""
        for ratio in RATIOS:
            try:
                policies.named("omnidrop").plan(self.clip.av, len(self.adapter.layers), ratio)
            except PolicyError:
                continue
            return ratio
        return 1.0

    def pruned(self) -> tuple[Policy, Schedule]:
        policy = policies.named("omnidrop")
        return policy, policy.plan(self.clip.av, len(self.adapter.layers), self.ratio())

    def run(
        self, mode: str, policy: Policy, schedule: Schedule, asked: tuple[question_rows.Asked, ...]
    ) -> Iterator[modes.Prefilled]:
        with own_attention(self.adapter):
            for (one,) in modes.run(self.adapter, [self.clip], asked, mode, policy, schedule, "max"):
                yield one
                del one

    def first_tokens(
        self, mode: str, policy: Policy, schedule: Schedule, asked: tuple[question_rows.Asked, ...]
    ) -> list[Tensor]:
        """Per question, (vocabulary,) logits of its answer's first token."""
        return self.with_survivors(mode, policy, schedule, asked)[0]

    def with_survivors(
        self, mode: str, policy: Policy, schedule: Schedule, asked: tuple[question_rows.Asked, ...]
    ) -> tuple[list[Tensor], list[list[list[int]]]]:
        """And, per question and layer, which audio and video tokens entered."""
        found: dict[int, Tensor] = {}
        entered: dict[int, list[list[int]]] = {}
        for done in self.run(mode, policy, schedule, asked):
            for number, question in enumerate(done.questions):
                found[question] = done.logits[done.state.packed.reads[number]]
                entered[question] = [one.tolist() for one in done.state.entered]
        numbers = range(len(asked))
        return [found[number] for number in numbers], [entered[number] for number in numbers]

    def verdict(self, pairs: Any) -> tuple[bool, str]:
        """Whether logits agree as well as ours and stock's must."""
        worst, largest = 0.0, 0.0
        for one, other in pairs:
            worst = max(worst, float((one - other).abs().max()))
            largest = max(largest, float(other.abs().max()))
        allowed = max(self.allowed, EXACT * largest)
        return worst <= allowed, f"largest difference {worst:.2e}, allowed {allowed:.2e}"


def _run(mode: str, pruning: Pruning, found: ClipAnswers, seconds: float) -> ModeRun:
    return ModeRun(
        mode=mode,
        policy=pruning.policy,
        seconds=seconds,
        peak_bytes=found.cost.peak_bytes,
        kv_bytes=found.cost.as_run.kv_bytes,
        flops=found.cost.as_run.flops,
        retained_ratio=found.trace.retained_ratio(),
        answers=tuple(answer.text for answer in found.answers),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
