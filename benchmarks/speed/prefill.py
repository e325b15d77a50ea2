"""Speed and memory of the prefill: every mode beside the two honest baselines, on one CPU thread with random weights.

Promises: the decoder alone (no media, no encoders), process time, variants interleaved and the minimum taken, one fresh
process per mode for peak memory, `dense` and `per_question` as Q times one measured run and labelled so. Knows nothing
about accuracy.

    python -m benchmarks.speed.prefill --json FILE [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.copied_cache import GROWTH, CopiedDecoder, StockDecoder
from benchmarks.speed.random_text_model import ClipShape, RandomTextModel, clip, questions
from omnidrop import cost, policies
from omnidrop.engine import attention, decode, modes, prefill
from omnidrop.engine.attention import own_attention
from omnidrop.engine.layout import pack
from omnidrop.engine.state import ClipTokens, LayerCache, State
from omnidrop.policies.base import Policy
from omnidrop.pruning import Guidance

LAYERS, QUICK_LAYERS = 12, 8
VIDEO_KEEP = 0.4143
"""With 70 % of the audio this lets 45 % of the benchmark's clip enter the decoder."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    mode: str
    policy: str
    questions: int
    ratio: float | None
    guidance: Guidance = "max"
    read: bool = True
    """Whether questions read what is left out, where the policy has it so by default."""

    @property
    def once(self) -> bool:
        """Whether one question is measured and counted `questions` times."""
        return self.mode in ("dense", "per_question")

    @property
    def label(self) -> str:
        """For people."""
        ratio = "" if self.ratio is None else f" {self.ratio:.0%}"
        return f"{self.mode} {self.policy}{ratio} Q={self.questions}" + ("" if self.read else ", left out not read")


def cases(quick: bool) -> list[Case]:
    """All rows, those that the targets compare first; `--quick` keeps these and one question-blind policy."""
    blind = [name for name in ("random", "divprune") if name in policies.names()][: 1 if quick else 2]
    table = [
        Case("dense", "none", 8, None),
        Case("dense_shared", "none", 8, None),
        Case("per_question", "omnidrop", 8, 0.3),
        Case("set_guided", "omnidrop", 8, 0.3),
        Case("set_guided", "omnidrop", 8, 0.2),
        Case("set_guided", "omnidrop", 8, 0.3, read=False),
        *(Case("set_guided", name, 8, 0.3) for name in blind),
        Case("set_guided", "omnidrop", 16, 0.3),
    ]
    if not quick:
        table += [
            Case("staged", "omnidrop", 8, 0.3),
            *(Case("set_guided", "omnidrop", count, 0.3) for count in (1, 2, 4)),
            Case("set_guided", "omnidrop", 8, 0.2, read=False),
        ]
    return table


@dataclass(frozen=True)
class Measured:
    """One run of a case; for `once` cases of one question alone."""

    seconds: float
    flops: int
    """Decoder layers, LM head and selection, by the convention of `omnidrop/cost.py`."""
    kv_bytes: int
    retained_ratio: float
    choosing: dict[str, float]
    """Seconds of choosing tokens: before the decoder, importance (where attention does not sum it as it goes, which it
    does in bfloat16 on a CPU), selection and gathering."""

    @property
    def choosing_share(self) -> float:
        """Of the whole prefill."""
        return sum(self.choosing.values()) / self.seconds


class Bench:
    """The model, the clip, and ways to run and time them."""

    def __init__(
        self,
        shape: ClipShape,
        layers: int,
        size: str = "qwen2_5_omni_3b",
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layers = layers
        self.model = RandomTextModel(size, layers, dtype=dtype, device=device)
        self.clip = ClipTokens.of(clip(self.model, shape))
        self.widths = cost.Widths.of(self.model.config, self.model.dtype.itemsize)

    def policy(self, case: Case) -> Policy:
        """The case's policy with the benchmark's settings."""
        settings: dict[str, object] = {"video_keep": VIDEO_KEEP} if case.policy == "omnidrop" else {}
        settings |= {} if case.read else {"read_left_out": False}
        return policies.named(case.policy, **settings)

    def run(self, case: Case) -> Measured:
        """Run once, in process seconds, the operations that choose tokens timed where they happen."""
        policy, asked = self.policy(case), questions(1 if case.once else case.questions)
        flops = held = 0
        spent = {"before": 0.0, "importance": 0.0, "selection_and_gather": 0.0}
        with (
            torch.inference_mode(),
            own_attention(self.model),
            _timed(type(policy), "before", spent, "before"),
            _timed(attention, "attention_received", spent, "importance"),
            _timed(prefill, "drop", spent, "selection_and_gather"),
        ):
            started = time.process_time()
            schedule = policy.plan(self.clip.av, self.layers, case.ratio)
            for (one,) in modes.run(self.model, [self.clip], asked, case.mode, policy, schedule, case.guidance):
                flops += cost.prefill_flops(self.widths, one.work, one.state.packed.reads[-1], one.first_layer)
                flops += cost.selection_flops(self.widths, one.work)
                held = max(held, sum(self.widths.cache_bytes(rows) for rows in one.cached_rows))
                del one
            seconds = time.process_time() - started
        return Measured(seconds, flops, held, schedule.retained_ratio, spent)

    def prefilled(self, case: Case, text: int) -> State:
        """A finished prefill of the case's text questions by its shapes alone: its keys and values are noise."""
        policy, asked = self.policy(case), questions(case.questions, text=text)
        schedule = policy.plan(self.clip.av, self.layers, case.ratio)
        state = prefill.begin(self.model, self.clip, pack(self.clip.prefix, asked), policy, schedule, case.guidance)
        heads = self.model.config.num_key_value_heads
        width = self.widths.key_value // heads
        generator = torch.Generator().manual_seed(0)
        for entering in schedule.entering:
            rows = (state.read + entering + self.clip.text, state.packed.rows)
            state.caches.append(
                # As a prefill leaves them: (rows, heads x width) seen by heads.
                LayerCache(
                    *(
                        torch.randn(count, heads, width, generator=generator)
                        .to(self.model.device, self.model.dtype)
                        .transpose(0, 1)
                        for count in (rows[0], rows[0], rows[1], rows[1])
                    )
                )
            )
        return state

    def decoding(self, steps: int) -> dict[str, float]:
        """Seconds of one decode step of 8 text questions, LM head included (its vocabulary is small here): over the
        shared pruned prefix, what is left out read or not, over a shared dense one, and batched dense with each
        question's own copy of the cache: written by hand, by transformers with prompts of one length, and by
        transformers with one row of padding."""
        with torch.inference_mode():
            pruned = self.prefilled(Case("set_guided", "omnidrop", 8, 0.3), text=GROWTH)
            unread = self.prefilled(Case("set_guided", "omnidrop", 8, 0.3, read=False), text=GROWTH)
            dense = self.prefilled(Case("dense_shared", "none", 8, None), text=GROWTH)
            arms: dict[str, Callable[[Tensor], Tensor]] = {
                "pruned_shared": self._own(decode.Decoder(self.model, pruned, range(8), GROWTH).step),
                "pruned_shared_unread": self._own(decode.Decoder(self.model, unread, range(8), GROWTH).step),
                "dense_shared": self._own(decode.Decoder(self.model, dense, range(8), GROWTH).step),
                "dense_copied": self._own(CopiedDecoder(self.model, dense).step),
                "dense_copied_transformers": StockDecoder(self.model, dense).step,
                "dense_copied_transformers_padded": StockDecoder(self.model, dense, padding=1).step,
            }
            ids = torch.arange(8)
            best = dict.fromkeys(arms, float("inf"))
            for _ in range(steps):
                for name, step in arms.items():
                    started = time.process_time()
                    step(ids)
                    best[name] = min(best[name], time.process_time() - started)
        return best

    def _own(self, step: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`step` with the decoder's attention routed to what it brings."""

        def routed(ids: Tensor) -> Tensor:
            with own_attention(self.model):
                return step(ids)

        return routed


@contextmanager
def _timed(owner: Any, name: str, spent: dict[str, float], key: str) -> Iterator[None]:
    """Add the process time of every call of `owner.name` to `spent[key]`."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return original(*args, **kwargs)
        finally:
            spent[key] += time.process_time() - started

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _status_bytes(field: str) -> int:
    """A size from /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def alone(case: Case, shape: ClipShape, layers: int, dtype: torch.dtype) -> dict[str, Any]:
    """One run in this process: `Measured`, with peak resident memory above the loaded model, and the model's own."""
    bench = Bench(shape, layers, dtype=dtype)
    loaded = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    got = bench.run(case)
    return {**asdict(got), "peak_bytes": _status_bytes("VmHWM") - loaded, "loaded_bytes": loaded}


def peak_bytes(case: Case, quick: bool, dtype: torch.dtype) -> int:
    """Peak memory of `case` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.speed.prefill", "--row", json.dumps(asdict(case))]
    command += ["--dtype", str(dtype).removeprefix("torch."), *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: int = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    return found


def default_dtype() -> str:
    """bfloat16 where this CPU multiplies it, else float32: without AVX-512, products of bfloat16 take seven times as
    long as those of float32, and times would say nothing about the method."""
    return "bfloat16" if "AVX512" in torch.backends.cpu.get_cpu_capability() else "float32"


def targets(rows: Sequence[dict[str, Any]], decoding: dict[str, float]) -> list[dict[str, Any]]:
    """The ratios the project promises, each with what was measured."""

    def row(mode: str, ratio: float | None, count: int = 8, *, read: bool = True) -> dict[str, Any]:
        return next(
            r
            for r in rows
            if (r["mode"], r["asked_ratio"], r["questions"], r["read_left_out"]) == (mode, ratio, count, read)
            and r["policy"] in ("omnidrop", "none")
            and r["guidance"] == "max"
        )

    guided, stronger, shared = row("set_guided", 0.3), row("set_guided", 0.2), row("dense_shared", None)
    unread = row("set_guided", 0.3, read=False)
    seconds = guided["seconds"]
    time_ratio, flops_ratio = seconds / shared["seconds"], guided["flops"] / shared["flops"]
    checks = [
        ("set_guided 30 % / dense_shared, seconds", time_ratio, 0.36),
        ("set_guided 30 % / dense, seconds", seconds / row("dense", None)["seconds"], 0.05),
        ("set_guided 30 % / per_question, seconds", seconds / row("per_question", 0.3)["seconds"], 0.17),
        ("set_guided 20 % / dense_shared, seconds", stronger["seconds"] / shared["seconds"], 0.29),
        ("time ratio / FLOPs ratio, 30 % against dense_shared", time_ratio / flops_ratio, 1.10),
        ("KV bytes, set_guided 30 % / dense_shared", guided["kv_bytes"] / shared["kv_bytes"], 1.0),
        ("the same, left out not read", unread["kv_bytes"] / shared["kv_bytes"], 0.36),
        ("choosing tokens, share of the prefill, Q = 8", guided["choosing_share"], 0.03),
        ("choosing tokens, share of the prefill, Q = 16", row("set_guided", 0.3, 16)["choosing_share"], 0.05),
        *(
            (f"decode step, pruned shared / {arm}", decoding["pruned_shared"] / decoding[key], most)
            for arm, key, most in (
                ("dense copied, transformers", "dense_copied_transformers", 0.55),
                ("dense copied, transformers, padded", "dense_copied_transformers_padded", 0.55),
                ("dense copied, strongest form", "dense_copied", 0.55),
                ("dense shared", "dense_shared", 1.0),
            )
        ),
        (
            "decode step, pruned shared, left out not read / dense shared",
            decoding["pruned_shared_unread"] / decoding["dense_shared"],
            1.0,
        ),
    ]
    return [{"what": what, "measured": got, "target": most, "met": got <= most} for what, got, most in checks]


def main() -> None:
    """Run the table, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="under two minutes: a tenth of the tokens (far from the targets' setting), 8 layers, one round",
    )
    parser.add_argument(
        "--rounds", type=int, help="interleaved rounds of which the minimum counts (default 3, quick 1)"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the processes that measure peak memory")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: what this CPU multiplies fastest")
    parser.add_argument(
        "--row",
        metavar="CASE",
        help="one row alone, time and memory, given as JSON: "
        '{"mode": "set_guided", "policy": "omnidrop", "questions": 8, "ratio": 0.3}',
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape, layers = (ClipShape(rows=3, columns=5, audio=10), QUICK_LAYERS) if given.quick else (ClipShape(), LAYERS)
    dtype: torch.dtype = getattr(torch, given.dtype or default_dtype())
    if given.row:
        print(json.dumps(alone(Case(**json.loads(given.row)), shape, layers, dtype)))
        return
    table, rounds = cases(given.quick), given.rounds or (1 if given.quick else 3)
    asked_for_memory = table[1:4:2] if given.quick else [case for case in table if case.questions == 8]
    peaks = {} if given.no_memory else {case: peak_bytes(case, given.quick, dtype) for case in asked_for_memory}
    bench = Bench(shape, layers, dtype=dtype)
    bench.run(Case("set_guided", "omnidrop", 2, 0.3))  # first use of every kernel
    measured: dict[Case, Measured] = {}
    for number in range(rounds):
        for case in table:
            got = bench.run(case)
            measured[case] = min(got, measured.get(case, got), key=lambda m: m.seconds)
            print(f"round {number + 1}: {case.label}, {got.seconds:.2f} s", file=sys.stderr, flush=True)
    decoding = bench.decoding(3 if given.quick else 10)
    rows = []
    for case in table:
        got, times = measured[case], case.questions if case.once else 1
        rows.append(
            {
                "mode": case.mode,
                "policy": case.policy,
                "read_left_out": case.read,
                "questions": case.questions,
                "seconds": got.seconds * times,
                "flops": got.flops * times,
                "kv_bytes": got.kv_bytes,
                "peak_bytes": peaks.get(case),
                "retained_ratio": got.retained_ratio,
                "choosing_seconds": got.choosing,
                "choosing_share": got.choosing_share,
                "asked_ratio": case.ratio,
                "guidance": case.guidance,
                "measured_runs": f"1, counted {times} times" if case.once else "1",
            }
        )
        peak = f"{peaks[case] / 1e6:7.0f} MB" if case in peaks else "      -   "
        print(
            f"{case.label:38} {got.seconds * times:8.2f} s {got.flops * times / 1e12:7.2f} TFLOP "
            f"{got.kv_bytes / 1e6:7.1f} MB KV {peak} retained {got.retained_ratio:.3f}{'  (x Q)' if case.once else ''}"
        )
    checks = targets(rows, decoding)
    for check in checks:
        verdict = "not judged: --quick" if given.quick else "met" if check["met"] else "MISSED"
        print(f"{check['what']:55} {check['measured']:.3f} (target {check['target']}) {verdict}")
    if given.json:
        report = {
            "rows": rows,
            "targets": checks,
            "decode_step_seconds": decoding,
            "setting": {
                "shape": "Qwen2.5-Omni-3B layers, random weights",
                "dtype": str(dtype).removeprefix("torch."),
                "layers": layers,
                "audio_video_tokens": shape.tokens,
                "threads": 1,
                "time": "process seconds, minimum of interleaved rounds",
                "rounds": rounds,
                "peak_bytes": "resident memory above the loaded model, one process per row",
                "machine": platform.processor() or platform.machine(),
                "torch": torch.__version__,
            },
        }
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
