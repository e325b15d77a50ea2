"""A whole model of the published shape with random weights on one clip: seconds and memory of every mode, encoders in.

Promises: the shipped code path (`OmniModel.answer`: resizing, encoders, packed prefill, answers) at the true size of
Qwen2.5-Omni 3B or 7B, interleaved, the minimum of several rounds, frames known from an earlier round forgotten; beside
it the paper's figures and what logits at every position would cost. Knows nothing about media files or accuracy.

    python -m benchmarks.speed.whole_model --json FILE               # 7B on a CUDA device: 60 s of video, 10,140 tokens
    python -m benchmarks.speed.whole_model --shape test --seconds 8  # a moment on a CPU
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnidrop.model import OmniModel, Request
from omnidrop.models.base import ClipPrompt
from omnidrop.models.checkpoints import EMBEDDED, read_json
from omnidrop.models.encoders import EncoderSettings
from omnidrop.models.qwen2_5_omni import Qwen2_5Omni
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question
from omnidrop.selfcheck import sample_clip

SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "7b": {
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        "vision_config": {"out_hidden_size": 3584},
        "audio_config": {"output_dim": 3584},
    },
    "3b": {
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        "vision_config": {"out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
    },
    "3b_short": {
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 12,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 8192,
        },
        "vision_config": {"depth": 8, "out_hidden_size": 2048, "fullatt_block_indexes": [3, 7]},
        "audio_config": {"encoder_layers": 8, "output_dim": 2048},
    },
    "test": {
        "text_config": {
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_hidden_layers": 12,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 4096,
        },
        "vision_config": {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2,
                          "out_hidden_size": 256, "fullatt_block_indexes": [1]},
        "audio_config": {"encoder_layers": 2, "d_model": 64, "encoder_ffn_dim": 96, "encoder_attention_heads": 2,
                         "output_dim": 256},
    },
    "tower": {
        "text_config": {
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_hidden_layers": 12,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 4096,
        },
        "vision_config": {"depth": 4, "out_hidden_size": 256, "fullatt_block_indexes": [3]},
        "audio_config": {"encoder_layers": 2, "d_model": 64, "encoder_ffn_dim": 96, "encoder_attention_heads": 2,
                         "output_dim": 256},
    },
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "audio_config": {
        "num_mel_bins": 128,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "d_model": 1280,
        "max_source_positions": 1500,
        "n_window": 100,
    },
}
"""Both published sizes have the same encoders."""
HEIGHT, WIDTH, FPS = 252, 448, 2.0
"""9 x 16 tokens of 28 x 28 pixels a temporal patch: 288 video and 50 audio tokens every 2 s, as in the paper."""
PAPER = {
    "7b": {"prefill_saved": 0.399, "memory_saved": 0.113, "dense_seconds": 1.73, "dense_gb": 28.92},
    "3b": {"prefill_saved": 0.281, "memory_saved": 0.147},
}
"""arXiv 2605.14458 at 30 % kept, one question, one H100."""


class RandomQwen2_5Omni(Qwen2_5Omni):
    """The adapter with random weights: everything but the answers is the published model's."""

    def weights(self, directory: Path) -> tuple[str, Any]:
        """Noise on the device, without a file."""
        config = self.read_config(directory)
        config._attn_implementation = "sdpa"
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                model: Any = self.thinker_class()(config)
        finally:
            torch.set_default_dtype(before)
        return "random", model.eval()


def write_configuration(folder: Path, shape: str) -> None:
    """The configuration files of a checkpoint of `shape`, without weights, with the embedded checkpoint's tokenizer and
    template, which count as many tokens as any."""
    tiny = EMBEDDED["tiny"]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, folder)
    known = read_json(tiny / "config.json")["thinker_config"]
    thinker = {name: value for name, value in known.items() if name.endswith(("_index", "_token_id"))}
    sizes = {part: ENCODERS.get(part, {}) | of for part, of in SHAPES[shape].items()}
    head = sizes["text_config"]["hidden_size"] // sizes["text_config"]["num_attention_heads"]
    sections = [head // 8, head * 3 // 16, head * 3 // 16]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    sizes["text_config"] = sizes["text_config"] | {"rope_parameters": rope, "tie_word_embeddings": False}
    thinker |= {
        **sizes,
        "model_type": "qwen2_5_omni_thinker",
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": thinker}))
    published = {
        "hop_length": 160,
        "feature_size": sizes["audio_config"].get("num_mel_bins", 128),
        "seconds_per_chunk": 2.0,
        "position_id_per_seconds": 25,
        "nb_max_frames": 30_000,
    }
    preprocessor = read_json(tiny / "preprocessor_config.json") | published
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    bounds = {"shortest_edge": HEIGHT * WIDTH, "longest_edge": HEIGHT * WIDTH}
    (folder / "processor_config.json").write_text(json.dumps({"videos_kwargs": {"size": bounds}}))


def random_model(shape: str, device: torch.device, dtype: torch.dtype) -> OmniModel:
    """A model of `shape` with random weights."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_configuration(folder, shape)
        return OmniModel(RandomQwen2_5Omni(folder, device=device, dtype=dtype, encoders=EncoderSettings()))


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    mode: str
    policy: str
    retained: float | None
    questions: int
    read: bool | None = None
    """Whether questions read what is left out; None: as by default."""

    @property
    def once(self) -> bool:
        """Whether one question is measured and counted `questions` times."""
        return self.mode in ("dense", "per_question")

    @property
    def pruning(self) -> Pruning:
        """For `OmniModel.answer`."""
        return Pruning(self.mode, self.policy, self.retained, read_left_out=self.read)


def cases(questions: int) -> list[Case]:
    """Every mode, a question-blind policy, and the single question that the paper measures."""
    several = [
        Case("dense", "none", None, questions),
        Case("dense_shared", "none", None, questions),
        Case("per_question", "omnidrop", 0.3, questions),
        Case("staged", "omnidrop", 0.3, questions),
        Case("set_guided", "omnidrop", 0.3, questions),
        Case("set_guided", "omnidrop", 0.2, questions),
        Case("set_guided", "omnidrop", 0.2, questions, read=False),
        Case("set_guided", "random", 0.3, questions),
    ]
    return [Case("dense", "none", None, 1), Case("per_question", "omnidrop", 0.3, 1), *several]


class Bench:
    """The model and the clip, timed on its device: wall seconds on CUDA, process seconds on one CPU thread."""

    def __init__(self, shape: str, seconds: int, device: str) -> None:
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.model = random_model(shape, self.device, torch.bfloat16 if self.cuda else torch.float32)
        self.frames, self.audio = sample_clip(seconds, HEIGHT, WIDTH)
        # No two frames alike: nothing may be remembered within a run.
        self.frames = self.frames ^ np.arange(len(self.frames), dtype=np.uint8)[:, None, None, None]

    def timed(self, work: Callable[[], Any]) -> tuple[float, int | None, Any]:
        """Seconds, peak bytes allocated on a CUDA device (the model included), and what `work` gave."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        clock = time.perf_counter if self.cuda else time.process_time
        started = clock()
        found = work()
        if self.cuda:
            torch.cuda.synchronize(self.device)
        seconds = clock() - started
        return seconds, torch.cuda.max_memory_allocated(self.device) if self.cuda else None, found

    def run(self, case: Case) -> dict[str, Any]:
        """One clip, all questions, encoders included."""
        asked = [Question(f"q{n}", f"Is a red square seen in moment {n}?", Boolean()) for n in range(case.questions)]
        asked = asked[:1] if case.once else asked
        self.model.adapter.memory.clear()
        seconds, peak, found = self.timed(
            lambda: self.model.answer(self.frames, self.audio, Request(asked, fps=FPS, pruning=case.pruning))
        )
        times = case.questions if case.once else 1
        cost = found.cost.as_run
        return {
            "mode": case.mode,
            "policy": case.policy,
            "read_left_out": bool(case.pruning.read_left_out),
            "questions": case.questions,
            "seconds": seconds * times,
            "flops": cost.flops * times,
            "encoder_flops": cost.encoder_flops * times,
            "kv_bytes": cost.kv_bytes,
            "peak_bytes": peak,
            "retained_ratio": found.trace.retained_ratio() or 1.0,
            "asked_ratio": case.retained,
            "measured_runs": f"1, counted {times} times" if times > 1 else "1",
        }

    def encoders(self) -> float:
        """Seconds of resizing, both encoders and laying out the prefix."""
        adapter = self.model.adapter
        adapter.memory.clear()
        return self.timed(lambda: adapter.prefix(self.frames, self.audio, ClipPrompt(FPS)))[0]

    @torch.inference_mode()
    def head(self, tokens: int) -> dict[str, Any]:
        """The LM head at every one of `tokens` positions, in float32 as the stock thinker returns it, and at one."""
        width = self.model.widths.hidden
        states = torch.zeros(tokens, width, dtype=self.model.adapter.dtype, device=self.device)
        head = self.model.adapter.lm_head
        every, peak, _ = self.timed(lambda: head(states).float())
        one, few, _ = self.timed(lambda: head(states[-1:]).float())
        added = None if peak is None or few is None else peak - few
        return {"tokens": tokens, "every_position_s": every, "one_position_s": one, "added_peak_bytes": added}


def main() -> None:
    """Run the table, print it, write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.whole_model", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--seconds", type=int, default=60, help="length of the clip")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
        if given.shape != "test":
            print("on a CPU this takes hours and all memory; --shape test takes a moment")
    bench = Bench(given.shape, given.seconds, given.device)
    table = cases(given.questions)
    bench.run(table[-1])  # first use of every kernel
    best: dict[Case, dict[str, Any]] = {}
    encoders = float("inf")
    for _ in range(given.rounds):
        encoders = min(encoders, bench.encoders())
        for case in table:
            row = bench.run(case)
            best[case] = min(row, best.get(case, row), key=lambda one: one["seconds"])
    rows = [best[case] for case in table]
    prefix = sum(bench.model.adapter.geometry.count_tokens(len(bench.frames), HEIGHT, WIDTH, len(bench.audio)))  # type: ignore[attr-defined]
    head = bench.head(prefix)
    print(f"{given.shape}, {given.seconds} s of video and sound, {prefix} tokens, on {given.device}; encoders in")
    for row in rows:
        peak = "" if row["peak_bytes"] is None else f", peak {row['peak_bytes'] / 1e9:.2f} GB"
        print(
            f"{row['mode']:13} {row['policy']:9} {row['retained_ratio']:6.1%} Q={row['questions']:<2} "
            f"{'left out read' if row['read_left_out'] else '':13} "
            f"{row['seconds']:8.3f} s {row['flops'] / 1e12:8.2f} TFLOP, KV {row['kv_bytes'] / 1e6:8.1f} MB{peak}"
        )
    alone, pruned = rows[0], rows[1]
    saved = {"prefill_saved": 1 - pruned["seconds"] / alone["seconds"]}
    saved["prefill_saved_without_encoders"] = 1 - (pruned["seconds"] - encoders) / (alone["seconds"] - encoders)
    if alone["peak_bytes"]:
        saved["memory_saved"] = 1 - pruned["peak_bytes"] / alone["peak_bytes"]
    print(f"encoders alone {encoders:.3f} s; one question, 30 % kept against dense: {saved}")
    print(f"the paper's: {PAPER.get(given.shape, 'none for this shape')}")
    print(f"LM head at every position: {head}")
    if given.json:
        report = {"rows": rows, "encoders_s": encoders, "one_question": saved, "paper": PAPER.get(given.shape),
                  "lm_head": head, "tokens": prefix, "shape": given.shape, "device": given.device,
                  "torch": torch.__version__}  # fmt: skip
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
