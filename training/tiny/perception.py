"""Stage one: the encoders alone learn to say every token's shape, colour, sound or word in the model's own embeddings.

Promises: after it a video token over a red circle is close to embedding("red") + embedding("circle"), an audio token to
the embedding of its sound's name. Knows nothing about clips, questions or the decoder's layers.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen2Tokenizer

from pipeline.toy_world.speech import Takes, bank
from pipeline.toy_world.truth import COLOURS, LINES, PLACES, SHAPES, SOUNDS, VOICES, WORDS
from pipeline.toy_world.writing import Faces, shipped_faces
from training.tiny.encoders import CELL, hear, mels_of, patches_of, see
from training.tiny.optim import Optimiser, mixed, rank, schedule, wait
from training.tiny.samples import (
    FIRST_WORD,
    FIRST_WRITTEN,
    IGNORED,
    NOTHING_COLOUR,
    NOTHING_SHAPE,
    Pictures,
    Sounds,
    busy_picture_batch,
    page_batch,
    picture_batch,
    sound_batch,
    word_batch,
)
from training.tiny.tables import table_batch
from training.tiny.tokenizer import token_ids

log = logging.getLogger("train_tiny")
VISION_BATCH, CUT_BATCH, BUSY_BATCH, PAGE_BATCH, TABLE_BATCH, AUDIO_BATCH, WORD_BATCH = 48, 96, 32, 32, 24, 24, 16
SPOKEN_SHARE = 0.85
"""Share of the batches that are words, where words are learned: the sounds of the other worlds stay known."""
WRITTEN_SHARE = 0.75
"""Share of the batches that are pages, where writing is learned."""
VOICE_WEIGHT, COLUMN_WEIGHT = 0.3, 0.3
"""Of the kind of voice that says a word, and of the column that it is written in, beside the word."""
PAGES_FROM = 0.58
"""Share of the steps that see one written word at a time; whole pages follow."""
FACES_AT = ((0.1, 3), (0.25, 8))
"""Until so much of the steps only the first so many faces are seen: all at once make a long plateau."""
WHOLE_FROM = 0.8
"""Share of the vision steps that see 3 x 3 cells only; the last fifth sees whole frames."""
SAVE_EVERY_S = 120.0


@dataclass(frozen=True, eq=False)
class Words:
    """Embeddings (classes, width) that features are compared with; the last class is background or silence."""

    shapes: Tensor
    colours: Tensor
    sounds: Tensor
    places: Tensor
    """Of world v2, then the numbers of the lines of a page in world v3; no class for background."""
    spoken: Tensor
    """Of world v3; silence is the last of `sounds`."""
    voices: Tensor

    @property
    def heard(self) -> Tensor:
        """Sounds, silence, then words: what an audio token can be."""
        return torch.cat([self.sounds, self.spoken])

    @property
    def seen(self) -> Tensor:
        """Shapes, background, then words: what a cell of a picture can be."""
        return torch.cat([self.shapes, self.spoken])

    def to(self, device: torch.device | str) -> Words:
        """The same on `device`."""
        return Words(*(table.to(device) for table in vars(self).values()))


def words_of(model: Qwen2_5OmniThinkerForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> Words:
    """The embedding of every name as it stands in running text (with its leading space) and as an answer, averaged."""
    embedding = model.get_input_embeddings().weight.detach()

    def rows(names: tuple[str, ...]) -> Tensor:
        bare = embedding[token_ids(tokenizer, names)]
        spaced = [tokenizer.encode(" " + name, add_special_tokens=False)[-1] for name in names]
        return (bare + embedding[spaced]) / 2

    background, silence = ("background",), ("silence",)
    return Words(
        shapes=rows(SHAPES + background),
        colours=rows(COLOURS + background),
        sounds=rows(SOUNDS + silence),
        places=torch.cat([rows(PLACES), embedding[token_ids(tokenizer, LINES)]]),
        spoken=embedding[token_ids(tokenizer, WORDS)],
        voices=rows(VOICES),
    )


def named(features: Tensor, words: Tensor) -> Tensor:
    """(..., width) features against (classes, width) words -> (..., classes) logits."""
    return features @ words.T / words.shape[-1] ** 0.5


def picture_loss(features: Tensor, batch: Pictures, words: Words) -> Tensor:
    """Cross entropy of both names in both frames, and a pull towards the sum of their embeddings."""
    seen = words.seen
    loss = features.new_zeros(())
    pull = features.new_zeros(())
    for frame in (0, 1):
        shapes, colours, places = batch.shapes[:, frame], batch.colours[:, frame], batch.places[:, frame]
        for labels, table, nothing in ((shapes, seen, NOTHING_SHAPE), (colours, words.colours, NOTHING_COLOUR)):
            # Most cells are background: weigh it down, or naming nothing is the first and longest plateau.
            weight = features.new_ones(len(table))
            weight[nothing] = 0.2
            logits = named(features, table).flatten(0, 1)
            loss = loss + 0.5 * functional.cross_entropy(logits, labels.flatten(), weight, ignore_index=IGNORED)
        target = seen[shapes.clamp(min=0)] + words.colours[colours.clamp(min=0)] * (colours != IGNORED)[..., None]
        if (known := places != IGNORED).any():
            # The decoder's slow rotary pairs cannot tell where a cell is: the picture's encoder has to say it.
            loss = loss + 0.5 * functional.cross_entropy(named(features[known], words.places), places[known])
            target = target + words.places[places.clamp(min=0)] * known[..., None]
        target = torch.where((shapes == NOTHING_SHAPE)[..., None], words.shapes[-1].expand_as(target), target)
        known = (shapes != IGNORED)[..., None]
        pull = pull + 0.5 * ((features - target) ** 2 * known).sum() / known.sum() / features.shape[-1]
    if batch.columns is not None and (known := batch.columns != IGNORED).any():
        # The first two places are left and right: a column is named as they are.
        column = functional.cross_entropy(named(features[known], words.places[:2]), batch.columns[known])
        loss = loss + COLUMN_WEIGHT * column
    return loss + 0.05 * pull


def sound_loss(features: Tensor, batch: Sounds, words: Words) -> Tensor:
    """Cross entropy of the name, for words of the voice too, and a pull towards the sum of their embeddings."""
    logits = named(features, words.heard).flatten(0, 1)
    loss = functional.cross_entropy(logits, batch.sounds.flatten(), ignore_index=IGNORED)
    known = (batch.sounds != IGNORED)[..., None]
    target = words.heard[batch.sounds.clamp(min=0)]
    if (said := batch.voices != IGNORED).any():
        loss = loss + VOICE_WEIGHT * functional.cross_entropy(named(features[said], words.voices), batch.voices[said])
        target = target + words.voices[batch.voices.clamp(min=0)] * said[..., None]
    return loss + 0.05 * ((features - target) ** 2 * known).sum() / known.sum() / features.shape[-1]


def view(model: Qwen2_5OmniThinkerForConditionalGeneration, frames: Tensor) -> Tensor:
    """(B, 2, H, W, 3) uint8 -> (B, cells, width)."""
    return see(model.model.visual, patches_of(frames), frames.shape[2] // CELL, frames.shape[3] // CELL)


SEEN_AND_HEARD = (*("shape", "colour", "place", "background", "sound", "word", "voice", "silence", "written", "line"),)


@torch.no_grad()
def measure(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    words: Words,
    seed: int = 10_000_019,
    batches: int = 12,
    world: str = "v1",
) -> dict[str, float]:
    """Accuracy on unseen samples, per token: cells that show the same shape in both frames, background, sounds."""
    device = words.shapes.device
    right = {name: [0, 0] for name in SEEN_AND_HEARD}

    def note(name: str, good: Tensor, of: Tensor) -> None:
        right[name][0] += int(good[of].sum())
        right[name][1] += int(of.sum())

    for number in range(batches if world == "v3" else 0):
        pages = page_batch(np.random.default_rng([seed, number]), 16, shipped_faces()).to(device)
        features, steady = view(model, pages.frames), pages.shapes[:, 0] == pages.shapes[:, 1]
        of = steady & (pages.shapes[:, 0] >= FIRST_WRITTEN)
        note("written", named(features, words.seen).argmax(-1) == pages.shapes[:, 0], of)
        note("line", named(features, words.places).argmax(-1) == pages.places[:, 0], of)
        said = word_batch(np.random.default_rng([seed, number]), 8, bank()).to(device)
        features = hear(model.model.audio_tower, mels_of(said.waves))
        found, are_words = named(features, words.heard).argmax(-1), said.sounds >= FIRST_WORD
        note("word", found == said.sounds, are_words)
        note("silence", found == said.sounds, said.sounds == len(SOUNDS))
        note("voice", named(features, words.voices).argmax(-1) == said.voices, are_words)
    for number in range(0 if world == "v3" else batches):
        rng = np.random.default_rng([seed, number])
        pictures = (picture_batch(rng, 48) if world == "v1" else busy_picture_batch(rng, 24)).to(device)
        features = view(model, pictures.frames)
        for name, table, labels in (
            ("shape", words.shapes, pictures.shapes),
            ("colour", words.colours, pictures.colours),
        ):
            steady, said = (labels[:, 0] == labels[:, 1]) & (labels[:, 0] >= 0), named(features, table).argmax(-1)
            nothing = labels[:, 0] == len(table) - 1
            note(name, said == labels[:, 0], steady & ~nothing)
            if name == "shape":
                placed = named(features, words.places).argmax(-1)
                note("place", placed == pictures.places[:, 0], steady & (pictures.places[:, 0] >= 0))
                note("background", said == labels[:, 0], steady & nothing)
        if number < 4:
            sounds = sound_batch(np.random.default_rng([seed, number]), 24, world=world).to(device)
            found = named(hear(model.model.audio_tower, mels_of(sounds.waves)), words.heard).argmax(-1)
            note("sound", found == sounds.sounds, sounds.sounds != IGNORED)
    return {name: good / all_ for name, (good, all_) in right.items() if all_}


class _Steps(Dataset[Pictures | Sounds]):
    """Batches numbered by step, so that a resumed run continues the same sequence."""

    def __init__(
        self,
        kind: str,
        seed: int,
        steps: int,
        busy: float,
        takes: Takes | None,
        faces: Faces | None,
        begins_at: float,
        tables: float,
    ) -> None:
        self.kind, self.seed, self.steps, self.busy = kind, seed, steps, busy
        self.takes, self.faces, self.begins_at, self.tables = takes, faces, begins_at, tables
        self.share = [rank()] if rank() else []

    def __getitem__(self, step: int) -> Pictures | Sounds:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, step, *self.share])
        busy = bool(rng.random() < self.busy)
        if self.takes is not None and rng.random() < SPOKEN_SHARE:
            return word_batch(rng, WORD_BATCH, self.takes)
        if self.faces is not None and self.tables and rng.random() < self.tables:
            return table_batch(rng, TABLE_BATCH, self.faces)
        if self.faces is not None and rng.random() < WRITTEN_SHARE:
            share = self.begins_at + (1 - self.begins_at) * step / self.steps
            most = next((count for until, count in FACES_AT if share < until), len(self.faces.spans))
            faces = Faces(self.faces.sheet, self.faces.spans[:most])
            cut = share < PAGES_FROM
            return page_batch(rng, CUT_BATCH if cut else PAGE_BATCH, faces, cut)
        if self.kind == "audio":
            return sound_batch(rng, AUDIO_BATCH, world="v2" if busy else "v1")
        if busy:
            return busy_picture_batch(rng, BUSY_BATCH)
        cut = step < WHOLE_FROM * self.steps and step % 8 != 7
        return picture_batch(rng, CUT_BATCH if cut else VISION_BATCH, cut)


def train(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    words: Words,
    kind: str,
    *,
    steps: int,
    rate: float,
    seed: int,
    checkpoint: Path,
    device: torch.device,
    workers: int = 1,
    busy: float = 0.0,
    takes: Takes | None = None,
    faces: Faces | None = None,
    begins_at: float = 0.0,
    tables: float = 0.0,
) -> None:
    """Train the "vision" or "audio" encoder in place for `steps` batches, a share `busy` of them of world v2; with
    `takes` or `faces`, most batches are words of world v3, said or written; a share `tables` is pages with rules and
    columns.

    Resumes from `checkpoint` if it exists.
    """
    module: nn.Module = model.model.visual if kind == "vision" else model.model.audio_tower
    optimiser, begun = Optimiser([module], rate), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        module.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        begun = int(state["step"])
    words = words.to(device)
    loader = DataLoader(
        _Steps(kind, seed, steps, busy, takes, faces, begins_at, tables),
        batch_size=None,
        sampler=range(begun, steps),
        num_workers=workers,
        prefetch_factor=3 if workers else None,
    )
    started = saved = time.monotonic()
    running = None
    for step, batch in enumerate(loader, begun):
        if isinstance(batch, Pictures):
            pictures = batch.to(device)
            with mixed(device):
                features = view(model, pictures.frames)
            loss = picture_loss(features.float(), pictures, words)
        else:
            sounds = batch.to(device)
            mels = mels_of(sounds.waves)
            with mixed(device):
                features = hear(module, mels)
            loss = sound_loss(features.float(), sounds, words)
        loss.backward()
        optimiser.step(schedule(step, steps))
        value = float(loss.detach())
        running = value if running is None else 0.95 * running + 0.05 * value
        if rank() == 0 and (step % 50 == 0 or step + 1 == steps):
            log.info("%s step %d loss %.4f (%.0f s)", kind, step, running, time.monotonic() - started)
        if step % 300 == 299 and rank() == 0:
            log.info("%s step %d measured %s", kind, step, rounded(measure(model, words, batches=3)))
            if takes is not None or faces is not None:
                log.info(
                    "words of held-out voices and faces: %s", rounded(measure(model, words, batches=3, world="v3"))
                )
        if rank() == 0 and (time.monotonic() - saved > SAVE_EVERY_S or step + 1 == steps):
            state = {"weights": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            part = checkpoint.with_suffix(".part")
            torch.save(state, part)
            part.replace(checkpoint)
            saved = time.monotonic()
    wait()


def rounded(values: dict[str, float]) -> dict[str, float]:
    """For logs."""
    return {name: round(value, 4) for name, value in values.items()}
