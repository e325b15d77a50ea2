"""Our own loop as a process that is asked as `engine_vllm.py` is: the same weights, the same token ids.

Promises: what an engine without pruning is asked, token for token (plain positions, the prefix's tokens embedded), in
every mode of ours; process CPU seconds of one thread and peak resident memory. Knows nothing about other engines.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.speed.engine_vllm import status_bytes
from benchmarks.speed.prefill import VIDEO_KEEP
from benchmarks.speed.random_text_model import ClipShape, RandomTextModel, clip
from omnidrop import policies
from omnidrop.engine import modes
from omnidrop.engine.attention import own_attention
from omnidrop.engine.question_rows import Asked, Factor, Options
from omnidrop.engine.state import ClipTokens
from omnidrop.models.packed_weights import pack
from omnidrop.questions import Boolean, Question

QUESTION_TOKENS = 40
WORDS = 35
"""Of a question's tokens those that are its own; the others are the template's."""


def write_checkpoint(model: RandomTextModel, directory: Path) -> None:
    """The model's weights as a text-only Qwen2, which is the same decoder with one position a token."""
    given: Any = model.config
    directory.mkdir(parents=True, exist_ok=True)
    named = {f"model.{name}": value.contiguous() for name, value in model.model.state_dict().items()}
    save_file({**named, "lm_head.weight": model.lm_head.weight.data.contiguous()}, directory / "model.safetensors")
    copied = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **{name: getattr(given, name) for name in (*copied, "vocab_size", "rms_norm_eps", "hidden_act")},
        "max_position_embeddings": 32768,
        "rope_theta": given.rope_parameters["rope_theta"],
        "tie_word_embeddings": False,
        "dtype": str(model.dtype).removeprefix("torch."),
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (directory / "config.json").write_text(json.dumps(config))


class Engine:
    """Our loop over a model with random weights."""

    def __init__(self, model: RandomTextModel, layers: int, shape: ClipShape) -> None:
        self._model, self._layers = model, layers
        pack(model.layers)
        self._shape = clip(model, shape)

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`prefix` and `questions` as token ids, `mode`, and `ratio` where it prunes."""
        ratio = asked.get("ratio")
        settings: dict[str, object] = {} if ratio is None else {"video_keep": VIDEO_KEEP}
        policy = policies.named("none" if ratio is None else "omnidrop", **settings)
        questions = [_question(number, ids) for number, ids in enumerate(asked["questions"])]
        first_tokens = [-1] * len(questions)
        with torch.inference_mode(), own_attention(self._model):
            started = time.process_time()
            tokens = ClipTokens.of(self._prefix(asked["prefix"]))
            schedule = policy.plan(tokens.av, self._layers, ratio)
            for (one,) in modes.run(self._model, [tokens], questions, asked["mode"], policy, schedule, "max"):
                for number, row in zip(one.questions, one.state.packed.reads[:-1], strict=True):
                    first_tokens[number] = int(one.logits[row].argmax())
                del one
            spent = time.process_time() - started
        return {"cpu_s": spent, "retained_ratio": schedule.retained_ratio, "first_tokens": first_tokens}

    def _prefix(self, ids: Sequence[int]) -> Any:
        """The clip's marks of sound and picture over tokens that a text model takes, too."""
        input_ids = torch.tensor(ids)
        if len(ids) != len(self._shape.input_ids):
            raise ValueError(f"{len(ids)} tokens were given for a clip of {len(self._shape.input_ids)}")
        return replace(
            self._shape,
            input_ids=input_ids,
            embeddings=self._model.embed(input_ids),
            positions=torch.arange(len(ids)).expand(3, -1).contiguous(),
            next_position=len(ids),
        )


def _question(number: int, ids: Sequence[int]) -> Asked:
    options = Options((), (), ((Factor(0, 5),), (Factor(0, 6),)))
    return Asked(Question(f"q{number}", "noise", Boolean()), tuple(ids), (0, min(WORDS, len(ids))), options)


def serve(ask: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Say that all is loaded, then answer lines of the standard input until it ends."""
    print(json.dumps({"version": torch.__version__, "loaded_bytes": status_bytes("VmRSS")}), flush=True)
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")
        answered = ask(json.loads(line))
        print(json.dumps(answered | {"peak_bytes": status_bytes("VmHWM")}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    size, count, kind, clip_shape = sys.argv[1:]
    of_type: torch.dtype = getattr(torch, kind)
    random_model = RandomTextModel(size, int(count), dtype=of_type)
    serve(Engine(random_model, int(count), ClipShape(**json.loads(clip_shape))).ask)
