"""Stage two: the decoder learns to answer packed question sets about clips, on features of any source.

Promises: every batch is a packed prefill as `omnidrop` runs it; accuracy is always reported beside guessing among the
answers present. Knows nothing about pixels, files or pruning.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from benchmarks.train_tiny.architecture import LAYERS
from benchmarks.train_tiny.clips import Batch, Curriculum, Packer, collate, draw_row
from benchmarks.train_tiny.optim import Optimiser, rank, schedule, wait
from benchmarks.train_tiny.perception import Words, named, rounded
from benchmarks.train_tiny.samples import IGNORED
from benchmarks.train_tiny.sources import Source
from pipeline.toy_world.questions import TASKS

log = logging.getLogger("train_tiny")
NAMING_LAYER = 5
"""After this many layers every media token must name its moment's shape, colour and sound."""
FIRST_LAYERS = tuple(range(0, LAYERS, 2))
"""Layers that work in the first, cheap half of the training; `grow` then lets in those between them, as identities."""
NAMING_WEIGHT = 0.3
SAVE_EVERY_S = 120.0


@dataclass(frozen=True)
class Phase:
    """One stretch of the curriculum: until `until` (share of all steps) clips look like `stage`."""

    until: float
    stage: Curriculum


PHASES = (
    Phase(0.40, Curriculum(most_events=2, longest_s=8, full_share=0.0, thin_share=1.0)),
    Phase(0.75, Curriculum(most_events=3, longest_s=12, full_share=0.0, thin_share=1.0)),
    Phase(1.00, Curriculum(most_events=4, longest_s=16, full_share=0.1, thin_share=1.0)),
)
LATER_PHASES = (Phase(1.00, Curriculum(most_events=4, longest_s=16, full_share=0.5, thin_share=0.8)),)
LAST_PHASES = (
    Phase(0.60, Curriculum(most_events=4, longest_s=16, full_share=0.6, thin_share=0.7)),
    Phase(1.00, Curriculum(most_events=6, longest_s=26, full_share=0.6, thin_share=0.85)),
)


def stage_at(step: int, steps: int, phases: tuple[Phase, ...] = PHASES) -> Curriculum:
    """The curriculum at `step`."""
    return next(phase.stage for phase in phases if step < phase.until * steps or phase is phases[-1])


def grow(model: Qwen2_5OmniThinkerForConditionalGeneration) -> None:
    """Make every layer outside FIRST_LAYERS a copy of the one before it that adds nothing yet.

    The function stays the same, and half of the depth has been trained at half of the cost.
    """
    layers = model.model.language_model.layers
    with torch.no_grad():
        for number in range(len(layers)):
            if number not in FIRST_LAYERS:
                layers[number].load_state_dict(layers[number - 1].state_dict())
                layers[number].self_attn.o_proj.weight.zero_()
                layers[number].mlp.down_proj.weight.zero_()


def forward(
    model: Qwen2_5OmniThinkerForConditionalGeneration, batch: Batch, active: tuple[int, ...] = tuple(range(LAYERS))
) -> tuple[Tensor, Tensor]:
    """Final hidden states and those after NAMING_LAYER layers, both (B, N, width); only `active` layers work."""
    decoder = model.model.language_model
    hidden = decoder.embed_tokens(batch.ids)
    hidden = hidden.masked_scatter((batch.media == 1)[..., None], batch.video.to(hidden.dtype))
    hidden = hidden.masked_scatter((batch.media == 2)[..., None], batch.audio.to(hidden.dtype))
    rotary = decoder.rotary_emb(hidden, batch.positions)
    middle = hidden
    for number, layer in enumerate(decoder.layers):
        if number in active:
            hidden = layer(hidden, attention_mask=batch.mask, position_embeddings=rotary)
        if number + 1 == NAMING_LAYER:
            middle = hidden
    return decoder.norm(hidden), middle


def losses(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    batch: Batch,
    words: Words,
    active: tuple[int, ...] = tuple(range(LAYERS)),
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer loss, naming loss, and the final hidden states."""
    final, middle = forward(model, batch, active)
    asked = batch.targets != IGNORED
    logits = model.lm_head(final[asked]).float()
    each = functional.cross_entropy(logits, batch.targets[asked], reduction="none")
    answer = (each * batch.weights[asked]).sum() / batch.weights[asked].sum()
    media = batch.media != 0
    states = functional.rms_norm(middle[media].float(), middle.shape[-1:])
    naming = final.new_zeros((), dtype=torch.float32)
    for labels, table in zip(batch.names, (words.shapes, words.colours, words.sounds), strict=True):
        naming = naming + functional.cross_entropy(named(states, table) / 2, labels[media], ignore_index=IGNORED)
    return answer, naming, final


@torch.no_grad()
def score(
    model: Qwen2_5OmniThinkerForConditionalGeneration, packer: Packer, batch: Batch, final: Tensor
) -> dict[str, list[float]]:
    """Per task: right answers, guessing's expectation, questions. Answers are the likeliest allowed option."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    logits = model.lm_head(final.float())
    for number, row in enumerate(batch.rows):
        for place, one in row.asked:
            options = one.question.answer.rendered()  # type: ignore[union-attr]
            ids = [packer.ids(option)[0] for option in options]
            said = options[int(logits[number, place, ids].argmax())]
            entry = found[one.task]
            entry[0] += said == one.right
            entry[1] += one.guess
            entry[2] += 1
    return found


def table(found: dict[str, list[float]]) -> str:
    """ "task 0.91 (guess 0.40, n)" for a log line."""
    parts = [
        f"{task} {found[task][0] / found[task][2]:.3f} (guess {found[task][1] / found[task][2]:.2f})"
        for task in TASKS
        if task in found
    ]
    right, count = sum(entry[0] for entry in found.values()), sum(entry[2] for entry in found.values())
    return f"overall {right / max(1, count):.3f} of {count:.0f}; " + "; ".join(parts)


class _Steps(Dataset[Batch]):
    """Batches numbered by step."""

    def __init__(
        self, packer: Packer, source: Source, seed: int, steps: int, rows: int, phases: tuple[Phase, ...]
    ) -> None:
        self.packer, self.source, self.seed, self.steps, self.rows = packer, source, seed, steps, rows
        self.phases = phases
        # Fixed here, in the training process: workers that make batches belong to no group.
        self.share = [rank()] if rank() else []

    def __getitem__(self, step: int) -> Batch:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, step, 2, *self.share])
        stage = stage_at(step, self.steps, self.phases)
        return collate([draw_row(self.packer, self.source, rng, stage) for _ in range(self.rows)])


@torch.no_grad()
def evaluate(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    packer: Packer,
    source: Source,
    stage: Curriculum,
    device: torch.device,
    clips: int = 64,
    seed: int = 20_000_003,
) -> dict[str, list[float]]:
    """Scores on clips of seeds that training never draws."""
    total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for number in range(clips // 8):
        rng = np.random.default_rng([seed, number, 2])
        batch = collate([draw_row(packer, source, rng, stage) for _ in range(8)]).to(device)
        final, _ = forward(model, batch)
        for task, entry in score(model, packer, batch, final).items():
            total[task] = [a + b for a, b in zip(total[task], entry, strict=True)]
    return total


def train(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    packer: Packer,
    source: Source,
    words: Words,
    *,
    steps: int,
    rows: int,
    rate: float,
    seed: int,
    checkpoint: Path,
    device: torch.device,
    phases: tuple[Phase, ...] = PHASES,
    workers: int = 1,
    decay: float = 0.35,
    active: tuple[int, ...] = tuple(range(LAYERS)),
) -> None:
    """Train the decoder in place; resume from `checkpoint`."""
    decoder = model.model.language_model
    module = torch.nn.ModuleList([decoder, model.lm_head])
    for number, layer in enumerate(decoder.layers):
        layer.requires_grad_(number in active)
    optimiser, begun = Optimiser([module], rate), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        module.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        begun = int(state["step"])
    words = Words(words.shapes.to(device), words.colours.to(device), words.sounds.to(device))
    loader = DataLoader(
        _Steps(packer, source, seed, steps, rows, phases),
        batch_size=None,
        sampler=range(begun, steps),
        num_workers=workers,
        prefetch_factor=3 if workers else None,
    )
    started = saved = time.monotonic()
    running: dict[str, float] = {}
    recent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for step, cpu_batch in enumerate(loader, begun):
        batch = cpu_batch.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            answer, naming, final = losses(model, batch, words, active)
        (answer + NAMING_WEIGHT * naming).backward()
        norm = optimiser.step(schedule(step, steps, decay=decay))
        for name, value in (("answer", answer.item()), ("naming", naming.item()), ("norm", norm)):
            running[name] = value * 0.05 + running.get(name, value) * 0.95
        if step % 10 == 0:
            for task, entry in score(model, packer, batch, final.detach()).items():
                recent[task] = [a + b for a, b in zip(recent[task], entry, strict=True)]
        if step % 50 == 49 and rank() == 0:
            log.info(
                "decoder step %d (%.0f s, %d tokens a row) %s; training %s",
                step,
                time.monotonic() - started,
                batch.ids.shape[1],
                rounded(running),
                table(recent),
            )
            recent.clear()
        done = step + 1 == steps
        if (time.monotonic() - saved > SAVE_EVERY_S or done) and rank() == 0:
            state = {"weights": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            part = checkpoint.with_suffix(".part")
            torch.save(state, part)
            part.replace(checkpoint)
            saved = time.monotonic()
    wait()
