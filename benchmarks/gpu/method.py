"""Steps of the method: correctness at the true shape, the device's own peak, decoding, clips in one pass.

Promises: random weights of the published shape on the device, nothing fetched; wall seconds with the device waited for,
the least of several rounds. Knows nothing about jobs.

    python -m benchmarks.gpu.method peak 7b --device cuda --json FILE
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed import prefill as bench
from benchmarks.speed import whole_model
from benchmarks.speed.random_text_model import ClipShape
from omnidrop.engine import decode
from omnidrop.engine.attention import own_attention
from omnidrop.model import Media, Request
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question
from omnidrop.selfcheck import check_loaded, sample_clip

SIZES = {"7b": ("qwen2_5_omni_7b", 28), "3b": ("qwen2_5_omni_3b", 36), "test": ("test", 8)}
"""Decoder and layers by the shape's name."""
TOGETHER = (1, 2, 4)
STEPS, TEXT = 16, 64
"""Timed decode steps, and tokens of the answers that they are part of."""


def least(work: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Wall seconds of `work`, the device waited for; the first run is not counted."""
    best = float("inf")
    for number in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            best = min(best, time.perf_counter() - started)
    return best


def dtype_of(device: torch.device) -> torch.dtype:
    """What is loaded there by default."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def selfcheck(shape: str, device: torch.device) -> dict[str, Any]:
    """`omnidrop selfcheck` of random weights."""
    model = whole_model.random_model(shape, device, dtype_of(device))
    return check_loaded(model, f"random weights, shape {shape}").to_dict()


def peak(shape: str, device: torch.device) -> dict[str, Any]:
    """FLOPs a second of one product of large square matrices."""
    size = 512 if shape == "test" else 8192
    one, two = (torch.randn(size, size, device=device).to(dtype_of(device)) for _ in range(2))
    seconds = least(lambda: one @ two, device)
    return {"size": size, "dtype": str(one.dtype).removeprefix("torch."), "flops_per_s": 2 * size**3 / seconds}


def decoding(shape: str, device: torch.device) -> dict[str, Any]:
    """Milliseconds of one decode step of 8 text answers over a clip's shared cache: pruned to 30 %, what is left out
    read and not, and dense."""
    size, layers = SIZES[shape]
    clip = ClipShape(chunks=4, rows=2, columns=5, audio=5) if shape == "test" else ClipShape(chunks=25)
    found: dict[str, Any] = {"tokens": clip.tokens, "answers": 8}
    made = bench.Bench(clip, layers, size, dtype_of(device), device)
    ids = torch.arange(8, device=device)
    for name, case in (
        ("pruned", bench.Case("set_guided", "omnidrop", 8, 0.3)),
        ("pruned_unread", bench.Case("set_guided", "omnidrop", 8, 0.3, read=False)),
        ("dense", bench.Case("dense_shared", "none", 8, None)),
    ):
        with torch.inference_mode(), own_attention(made.model):
            state = made.prefilled(case, text=TEXT)
            decoder = decode.Decoder(made.model, state, range(8), TEXT)
            found[f"{name}_step_ms"] = least(lambda step=decoder.step: step(ids), device, STEPS) * 1e3  # type: ignore[misc]
    return found


def together(shape: str, device: torch.device) -> dict[str, Any]:
    """Seconds a clip by clips in one pass, set-guided to 30 %, and the memory that takes."""
    model = whole_model.random_model(shape, device, dtype_of(device))
    frames, audio = sample_clip(2 if shape == "test" else 30, whole_model.HEIGHT, whole_model.WIDTH)
    frames = frames ^ np.arange(len(frames), dtype=np.uint8)[:, None, None, None]
    asked = [Question(f"q{n}", f"Is a red square seen in moment {n}?", Boolean()) for n in range(8)]
    request = Request(asked, fps=whole_model.FPS, pruning=Pruning(retained_ratio=0.3))
    rows = []
    for count in TOGETHER:
        clips: list[Media] = [(np.roll(frames, 7 * n, axis=2), audio) for n in range(count)]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

        def answer(clips: list[Media] = clips) -> None:
            model.adapter.memory.clear()
            model.answer_batch(clips, request)

        try:
            seconds = least(answer, device, 2) / count
        except torch.OutOfMemoryError:
            rows.append({"clips": count, "seconds_per_clip": None, "peak_bytes": None})
            break
        most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        rows.append({"clips": count, "seconds_per_clip": seconds, "peak_bytes": most})
    return {"rows": rows}


WORK: dict[str, Callable[[str, torch.device], dict[str, Any]]] = {
    "selfcheck": selfcheck,
    "peak": peak,
    "decode": decoding,
    "together": together,
}


def main() -> None:
    """Do one step. Exits 1 where it says that something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=WORK)
    parser.add_argument("shape", choices=SIZES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    found = WORK[given.step](given.shape, torch.device(given.device))
    given.json.write_text(json.dumps(found, indent=1))
    print(json.dumps(found)[:1500])
    if found.get("passed") is False:
        sys.exit("the method does not compute what the stock model does on this device")


if __name__ == "__main__":
    main()
