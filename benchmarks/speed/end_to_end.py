"""Whole clips beside vLLM: files of video and sound, encoders in, the same checkpoint and the same eight questions.

Promises: files are decoded by our workers' own code and the arrays handed to vLLM, whose row counts that decoding too;
process CPU seconds of one thread; rounds interleaved; the first token of every answer compared. A checkpoint of the
true architecture: random weights of Qwen2.5-Omni-3B's width with fewer layers, or the embedded one, whose answers mean
something. Knows nothing about Ray, the driver or how vLLM is loaded: starts are counted in neither.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.speed import whole_model
from omnidrop.models.checkpoints import EMBEDDED, read_json
from omnidrop.models.encoders import EncoderSettings
from pipeline.toy_world import Format, questions_of, render_clip

SHAPE = "3b_short"
QUESTIONS = 8
FORMAT = Format("mp4", "libx264", "aac", 448, 252, 25)
SECONDS, QUICK_SECONDS = 10.0, 6.0
MOST_TOKENS = 4096


@dataclass(frozen=True)
class ClipAsked:
    """A file and what is asked of it."""

    path: Path
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    """Texts and their options."""


def write_checkpoint(folder: Path, dtype: torch.dtype) -> None:
    """A checkpoint of the true architecture with random weights, as transformers and vLLM load it."""
    folder.mkdir(parents=True, exist_ok=True)
    whole_model.write_configuration(folder, SHAPE)
    config = read_json(folder / "config.json") | {"architectures": ["Qwen2_5OmniForConditionalGeneration"]}
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    made = whole_model.RandomQwen2_5Omni(folder, device=torch.device("cpu"), dtype=dtype, encoders=EncoderSettings())
    published = {"model.language_model.": "model.", "model.audio_tower.": "audio_tower.", "model.visual.": "visual."}

    def named(name: str) -> str:
        part = next((part for part in published if name.startswith(part)), "")
        return f"thinker.{published.get(part, '')}{name.removeprefix(part)}"

    state = {named(name): value.contiguous() for name, value in made.model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def clips(folder: Path, count: int, length_s: float) -> list[ClipAsked]:
    """Files of the toy world, and eight questions about each."""
    made = [render_clip(folder / f"{n}.mp4", "v3", 100 + n, length_s=length_s, format=FORMAT) for n in range(count)]
    return [
        ClipAsked(
            one.path,
            tuple(
                (asked.question.text, tuple(asked.question.answer.rendered()))
                for asked in questions_of(one.truth, seed=0, most=QUESTIONS)
            ),
        )
        for one in made
    ]


@contextmanager
def prepared(quick: bool, dtype: str, count: int) -> Iterator[tuple[Path, list[ClipAsked]]]:
    """A checkpoint's folder and the clips, for as long as they are needed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = EMBEDDED["tiny-v3"] if quick else Path(scratch) / "checkpoint"
        if not quick:
            write_checkpoint(folder, getattr(torch, dtype))
        yield folder, clips(Path(scratch), count, QUICK_SECONDS if quick else SECONDS)


def commands(checkpoint: Path, asked: Sequence[ClipAsked], dtype: str, vllm: Path | None) -> dict[str, list[str]]:
    """How the engines are started; `vllm` is its Python, None where there is none."""
    ours = [sys.executable, "-m", "benchmarks.speed.clips_omnidrop", str(checkpoint), dtype]
    found = {"omnidrop": [*ours, *(str(one.path) for one in asked)]}
    if vllm is not None:
        found["vllm"] = [str(vllm), "-m", "benchmarks.speed.clips_vllm", str(checkpoint), str(MOST_TOKENS), dtype]
    return found


def request(engine: str, one: ClipAsked, size: dict[str, Any], fps: float) -> dict[str, Any]:
    """What an engine is asked about a clip: ours its file, vLLM what ours decoded of it."""
    decoded = str(one.path.with_suffix(".npz"))
    if engine == "omnidrop":
        return {"clip": str(one.path), "questions": one.questions, "keep": decoded}
    return {"clip": decoded, "questions": one.questions, "size": size, "fps": fps}


def picture_size(checkpoint: Path) -> dict[str, Any]:
    """Bounds of a frame's pixels, which a checkpoint of ours states where vLLM does not look."""
    size: dict[str, Any] = read_json(checkpoint / "processor_config.json")["videos_kwargs"]["size"]
    return size


def round_of(answers: Sequence[dict[str, Any]], decoding: Sequence[float]) -> dict[str, Any]:
    """One engine's round as one answer: sums over the clips, with `decoding` CPU seconds of each added to it."""
    return {
        "cpu_s": sum(one["cpu_s"] for one in answers) + sum(decoding),
        "peak_bytes": max(one["peak_bytes"] for one in answers),
        "retained_ratio": sum(one["retained_ratio"] for one in answers) / len(answers),
        "first_tokens": [token for one in answers for token in one["first_tokens"]],
        "prompt_tokens": [tokens for one in answers for tokens in one["prompt_tokens"]],
    }
