"""Stage two: the decoder learns to answer packed question sets about clips, on features of any source.

Promises: every batch is a packed prefill as `omnidrop` runs it; accuracy is always reported beside guessing among the
answers present. Knows nothing about pixels, files or pruning.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from pipeline.toy_world.questions import TASKS
from pipeline.toy_world.world import PLACES, WORLDS
from training.tiny.architecture import LAYERS, LOOKUP_AT, WIDTH
from training.tiny.clips import Batch, Curriculum, Packer, ask, collate, draw_clip, draw_row
from training.tiny.facts import FACTS
from training.tiny.optim import Optimiser, mixed, rank, schedule, wait
from training.tiny.packed import layer_forward, rotary_of
from training.tiny.perception import Words, named, rounded
from training.tiny.samples import IGNORED
from training.tiny.sources import Clip, Source

log = logging.getLogger("train_tiny")
FIRST_LAYERS = tuple(range(0, LAYERS, 2))
"""Layers that work in the first, cheap half of the training; `grow` then lets in those between them, as identities."""
SAVE_EVERY_S = 120.0
LOG_EVERY = 25
NEW_SHARE, WINDOW = 0.4, 96


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


class Knowing(nn.Module):
    """What media tokens should know, read off middle layers: names now in the words' own embeddings, everything
    else through maps that are thrown away after the training."""

    def __init__(self, words: Words, looks_up: bool = False) -> None:
        """In a model that has them, lookup layers move the depths behind them."""
        super().__init__()
        self.depths = [fact.after + (sum(fact.after > at for at in LOOKUP_AT) if looks_up else 0) for fact in FACTS]
        self.tables = {
            "shape": words.shapes,
            "colour": words.colours,
            "sound": words.sounds,
            "place": words.places[: len(PLACES)],
            "written": words.spoken,
            "line": words.places[len(PLACES) :],
            "word": torch.cat([words.spoken, words.sounds[-1:]]),
            "voice": words.voices,
        }
        self.maps = nn.ModuleList(nn.Linear(WIDTH, fact.classes) for fact in FACTS)
        self.recent: dict[str, float] = {}

    def forward(self, after: list[Tensor], facts: Tensor) -> Tensor:
        """Weighted loss of the tokens that `facts` (facts, B, N) say anything of; `after` holds the hidden states
        (B, N, width) after 0, 1, .. layers."""
        loss = after[-1].new_zeros((), dtype=torch.float32)
        told = (facts != IGNORED).any(0)
        states: dict[int, Tensor] = {}
        for fact, depth, read, all_labels in zip(FACTS, self.depths, self.maps, facts, strict=True):
            labels = all_labels[told]
            known = labels != IGNORED
            if not known.any() or (torch.is_grad_enabled() and not after[depth].requires_grad):
                continue
            if depth not in states:
                states[depth] = functional.rms_norm(after[depth][told].float(), (WIDTH,))
            here = states[depth][known]
            logits = named(here, self.tables[fact.name]) / 2 if fact.name in self.tables else read(here).float()
            each = functional.cross_entropy(logits, labels[known])
            value = float(each.detach())
            self.recent[fact.name] = 0.95 * self.recent.get(fact.name, value) + 0.05 * value
            loss = loss + fact.weight * each
        return loss


def forward(
    model: Qwen2_5OmniThinkerForConditionalGeneration, batch: Batch, active: tuple[int, ...] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Hidden states (B, N, width): the normed last ones, and those after 0, 1, .. layers; only `active` ones work."""
    decoder = model.model.language_model
    hidden = decoder.embed_tokens(batch.ids)
    hidden = hidden.masked_scatter((batch.media == 1)[..., None], batch.video.to(hidden.dtype))
    hidden = hidden.masked_scatter((batch.media == 2)[..., None], batch.audio.to(hidden.dtype))
    rotary = rotary_of(decoder, hidden, batch.positions)
    after = [hidden]
    for number, layer in enumerate(decoder.layers):
        if active is None or number in active:
            hidden = layer_forward(layer, hidden, rotary, batch.layout)
        after.append(hidden)
    return decoder.norm(hidden), after


def losses(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    batch: Batch,
    knowing: Knowing,
    active: tuple[int, ...] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer loss, weighted loss of the facts, and the final hidden states."""
    final, after = forward(model, batch, active)
    asked = batch.targets != IGNORED
    logits = model.lm_head(final[asked]).float()
    each = functional.cross_entropy(logits, batch.targets[asked], reduction="none")
    answer = (each * batch.weights[asked]).sum() / batch.weights[asked].sum()
    return answer, knowing(after, batch.facts), final


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
            entry = found[one.task if row.clip.world == "v1" else f"{row.clip.world} {one.task}"]
            entry[0] += said == one.right
            entry[1] += one.guess
            entry[2] += 1
    return found


def table(found: dict[str, list[float]]) -> str:
    """ "task 0.91 (guess 0.40, n)" for a log line, world by world."""
    lines = []
    for world in WORLDS:
        prefix = "" if world == "v1" else f"{world} "
        those = [(task, found[prefix + task]) for task in TASKS if prefix + task in found]
        parts = [f"{task} {right / count:.3f} (guess {guess / count:.2f})" for task, (right, guess, count) in those]
        right, count = sum(entry[0] for _, entry in those), sum(entry[2] for _, entry in those)
        if those:
            lines.append(f"{world} {right / count:.3f} of {count:.0f}: {', '.join(parts)}")
    return "; ".join(lines)


class _Steps(Dataset[Batch]):
    """Batches numbered by step. Encoding a clip takes longer than learning from it, so clips are asked about more than
    once, minutes apart and with other questions: a row takes one of the last WINDOW clips, of which a new one comes
    every second or third row. Which one depends on the step alone; remembering clips only saves time."""

    def __init__(
        self, packer: Packer, source: Source, seed: int, steps: int, rows: int, phases: tuple[Phase, ...]
    ) -> None:
        self.packer, self.source, self.seed, self.steps, self.rows = packer, source, seed, steps, rows
        self.phases = phases
        # Fixed here, in the training process: workers that make batches belong to no group.
        self.share = [rank()] if rank() else []
        self.clips: dict[int, Clip] = {}

    def __getitem__(self, step: int) -> Batch:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, step, 2, *self.share])
        stage = stage_at(step, self.steps, self.phases)
        newest = int(step * self.rows * NEW_SHARE)
        numbers = newest + rng.integers(WINDOW, size=self.rows)
        self.clips = {number: clip for number, clip in self.clips.items() if number >= newest}
        # All rows of a step are thinned or none is: a batch is as long as its longest row.
        stage = replace(stage, thin_share=float(rng.random() < stage.thin_share))
        return collate([ask(self.packer, self._clip(int(number)), rng, stage) for number in numbers])

    def _clip(self, number: int) -> Clip:
        if number not in self.clips:
            rng = np.random.default_rng([self.seed, number, 3, *self.share])
            stage = stage_at(int(number / self.rows / NEW_SHARE), self.steps, self.phases)
            self.clips[number] = draw_clip(self.source, rng, stage)
        return self.clips[number]


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
    active: tuple[int, ...] | None = None,
    frozen: int = 0,
    known: Path | None = None,
) -> None:
    """Train the decoder in place, all but its embeddings and first `frozen` layers; resume from `checkpoint`.

    `known` is the state of the stage before: its maps of facts are the first ones here, for fresh ones shake what the
    decoder has learned.
    """
    decoder = model.model.language_model
    module = torch.nn.ModuleList([decoder, model.lm_head])
    for number, layer in enumerate(decoder.layers):
        layer.requires_grad_((active is None or number in active) and number >= frozen)
    decoder.embed_tokens.requires_grad_(not frozen)
    knowing = Knowing(words.to(device), len(decoder.layers) > LAYERS).to(device)
    if known:
        knowing.load_state_dict(torch.load(known, weights_only=True, map_location=device)["knowing"])
    optimiser, begun = Optimiser([module, knowing], rate), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        module.load_state_dict(state["weights"])
        knowing.load_state_dict(state["knowing"])
        optimiser.load_state_dict(state["optimiser"])
        begun = int(state["step"])
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
        with mixed(device):
            answer, facts, final = losses(model, batch, knowing, active)
        (answer + facts).backward()
        norm = optimiser.step(schedule(step, steps, decay=decay))
        for name, value in (("answer", answer.item()), ("facts", facts.item()), ("norm", norm)):
            running[name] = value * 0.05 + running.get(name, value) * 0.95
        if step % 5 == 0:
            for task, entry in score(model, packer, batch, final.detach()).items():
                recent[task] = [a + b for a, b in zip(recent[task], entry, strict=True)]
        if step % LOG_EVERY == LOG_EVERY - 1 and rank() == 0:
            log.info(
                "decoder step %d (%.0f s, %d tokens a row) %s; facts %s; training %s",
                step,
                time.monotonic() - started,
                batch.ids.shape[1],
                rounded(running),
                rounded(knowing.recent),
                table(recent),
            )
            recent.clear()
        done = step + 1 == steps
        if (time.monotonic() - saved > SAVE_EVERY_S or done) and rank() == 0:
            state = {
                "weights": module.state_dict(),
                "knowing": knowing.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            part = checkpoint.with_suffix(".part")
            torch.save(state, part)
            part.replace(checkpoint)
            saved = time.monotonic()
    wait()
