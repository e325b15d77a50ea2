"""One encoded clip on a small random model of either family, for the tests of the method.

Promises: the real adapters and encoders; everything in fp32 on one thread. Knows nothing about what is tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnidrop.engine import modes, question_rows
from omnidrop.engine.attention import own_attention
from omnidrop.engine.state import ClipTokens
from omnidrop.model import OmniModel, Request
from omnidrop.models.base import ClipPrompt
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Choice, Number, Question, Text

QUESTIONS = (
    Question("colour", "What colour is the circle?", Choice(("red", "green", "blue"))),
    Question("tone", "Is a low tone heard while the red square is shown?", Boolean()),
    Question("count", "How many events are there?", Number(0, 12)),
    Question("text", "What is seen first?", Text(6)),
    Question("more", "Which shape is shown while the low tone is heard, the square or the triangle?", Text(9)),
)
RNG = np.random.default_rng(3)
FRAMES = RNG.integers(0, 256, (10, 112, 112, 3), dtype=np.uint8)
SOUND = (RNG.standard_normal(16000 * 5) * 0.1).astype(np.float32)


class Loaded:
    """A model with one encoded clip."""

    def __init__(self, directory: Path) -> None:
        torch.set_num_threads(1)
        self.model = OmniModel.load(str(directory), device="cpu", dtype="float32")
        self.adapter: Any = self.model.adapter
        self.prefix = self.adapter.prefix(FRAMES, SOUND, ClipPrompt(2.0, instruction="Answer briefly."))
        self.clip = ClipTokens.of(self.prefix)
        self.asked = question_rows.ask(self.adapter, QUESTIONS)

    def run(self, mode: str, pruning: Pruning | None = None, asked: Any = None) -> list[modes.Prefilled]:
        pruning = pruning or Pruning.off(mode)
        policy = pruning.build()
        asked = self.asked if asked is None else asked
        with torch.inference_mode(), own_attention(self.adapter):
            schedule = policy.plan(self.clip.av, len(self.adapter.layers), pruning.retained_ratio)
            done = modes.run(self.adapter, [self.clip], asked, mode, policy, schedule, pruning.guidance)
            return [one for (one,) in done]

    def answer(self, pruning: Pruning, questions: Any = QUESTIONS) -> Any:
        return self.model.answer(
            FRAMES, SOUND, Request(questions, fps=2.0, pruning=pruning, instruction="Answer briefly.")
        )


def by_question(done: list[modes.Prefilled]) -> dict[int, Tensor]:
    """Each question's logits at its reads."""
    return {
        question: one.logits[one.state.packed.reads[place] : one.state.packed.reads[place + 1]]
        for one in done
        for place, question in enumerate(one.questions)
    }


def same(got: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the logits' scale."""
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def stock_logits(loaded: Loaded, ids: list[int]) -> Tensor:
    """The stock text model's logits at the last row of prefix + `ids`."""
    adapter, prefix = loaded.adapter, loaded.prefix
    text = torch.tensor(ids)
    hidden = torch.cat((prefix.embeddings, adapter.embed(text)))[None]
    own = (torch.arange(len(ids)) + prefix.next_position).to(prefix.positions.dtype).expand(3, -1)
    extra: dict[str, Any] = {}
    if prefix.deepstack:
        video = torch.cat((prefix.modality == 2, torch.zeros(len(ids), dtype=torch.bool)))
        rows = prefix.modality == 2
        extra = {"visual_pos_masks": video[None], "deepstack_visual_embeds": [d[rows] for d in prefix.deepstack]}
    with torch.inference_mode():
        out = adapter.model.model.language_model(
            inputs_embeds=hidden,
            position_ids=torch.cat((prefix.positions, own), dim=1)[:, None],
            use_cache=False,
            **extra,
        )
        return adapter.lm_head(out.last_hidden_state[0, -1]).float()
