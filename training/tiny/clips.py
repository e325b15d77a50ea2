"""Clips for the decoder's training: features, questions and the timeline packed into one prompt.

Promises: a packed row is what `omnidrop` runs for a question set (tested): one prefix, questions blind to each other,
each question's positions starting right after the prefix; the timeline is one more suffix. Knows nothing about where
features come from, or about optimisers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from pipeline.toy_world.questions import TASKS, AskedQuestion, questions_of, timeline_of
from pipeline.toy_world.truth import COLOURS, LINES, SHAPES, VOICES, WORDS, Truth
from pipeline.toy_world.world import events_of
from training.tiny.architecture import CHUNK_S, POSITIONS_PER_S
from training.tiny.encoders import CELL, frame_size
from training.tiny.facts import FOUND, NUMBER, facts_of, facts_of_word
from training.tiny.packed import Layout, layout_of
from training.tiny.samples import (
    ASPECT_SHARES,
    ASPECTS,
    IGNORED,
    NOTHING_SHAPE,
)
from training.tiny.sources import Clip, Shape, Source
from training.tiny.tokenizer import token_ids

TOKENS_A_CHUNK = CHUNK_S * POSITIONS_PER_S
END_WEIGHT, TIMELINE_WEIGHT, WHOLE_WEIGHT = 0.1, 0.5, 3.0
"""Share of the loss: the end of a turn is no news, and a timeline has many easy tokens. Questions of world v3 that no
word keys (first, last, how many) are three in a row at most, and only the whole clip answers them."""
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@dataclass(frozen=True, eq=False)
class Row:
    """One packed prompt before padding."""

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    """(3, N)."""
    group: npt.NDArray[np.int64]
    """0 for the prefix, 1.. for the suffixes."""
    media: npt.NDArray[np.int64]
    """0 text, 1 video, 2 audio."""
    targets: npt.NDArray[np.int64]
    """The token each position must say next, IGNORED elsewhere."""
    facts: npt.NDArray[np.int64]
    """(facts, N): what each media token, and in world v3 a question's key, should know (see `facts`), else IGNORED."""
    weights: npt.NDArray[np.float32]
    """How much each target counts."""
    video_rows: npt.NDArray[np.int64]
    """Rows of the clip's flattened video features, in the order of the row's video tokens."""
    audio_rows: npt.NDArray[np.int64]
    asked: tuple[tuple[int, AskedQuestion], ...]
    """Position where each answer is read, and the question."""
    clip: Clip


class Packer:
    """Makes rows from clips with one tokenizer."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.video, self.audio = (tokenizer.convert_tokens_to_ids(name) for name in ("<|VIDEO|>", "<|AUDIO|>"))
        self.cache: dict[str, list[int]] = {}
        # What questions of world v3 are keyed by; a word is looked for before a shape, a shape before a voice, and
        # the number of a line last.
        self.words = dict(zip(token_ids(tokenizer, WORDS), WORDS, strict=True))
        self.keys = [set(self.words), *map(self._forms, (SHAPES + COLOURS, VOICES, LINES))]

    def _forms(self, names: Sequence[str]) -> set[int]:
        return {self.tokenizer.encode(" " + name, add_special_tokens=False)[-1] for name in names}

    def ids(self, text: str) -> list[int]:
        """Token ids, remembered."""
        if text not in self.cache:
            self.cache[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self.cache[text]

    def row(
        self,
        clip: Clip,
        asked: Sequence[AskedQuestion],
        timeline: str | None,
        system: bool = True,
        thin: np.random.Generator | None = None,
    ) -> Row:
        """Pack one clip with its questions and, if given, the timeline text that must be said of it.

        `thin` leaves out most of the background cells and audio tokens at random (survivors keep their positions):
        three to four times cheaper rows for the early stages, as with patch dropout in image-text training.
        """
        head = self.ids((SYSTEM if system else "") + "<|im_start|>user\n")
        opening, closing = self.ids("<|vision_bos|><|audio_bos|>"), self.ids("<|audio_eos|><|vision_eos|>")
        media, places, facts, sources = self._media(clip, thin)
        begin = len(head)
        start = begin + 1
        reach = self._reach(clip) + start
        first = reach + 2
        ids = [*head, *opening, *np.where(media == 1, self.video, self.audio).tolist(), *closing]
        flat = [*range(begin), begin, begin]
        after = [reach + 1, reach + 1]
        positions = np.concatenate(
            [np.tile(flat, (3, 1)), places + start, np.tile(after, (3, 1))], axis=1, dtype=np.int64
        )
        group = [0] * len(ids)
        targets, weights = [IGNORED] * len(ids), [0.0] * len(ids)
        suffixes, read, found = [], [], []
        turn = "<|im_end|>\n<|im_start|>assistant\n"
        for one in asked:
            question = self.ids(one.question.text + turn)
            answer = self.ids(one.right)
            read.append((len(ids) + len(question) - 1, one))
            key = self._key(question)
            if clip.world == "v3" and key is not None:
                if (word := self.words.get(question[key])) is not None:
                    known = facts_of_word(word, clip.events)
                else:
                    known = {"found": FOUND.index(one.right)} if one.right in FOUND else {}
                found += [(NUMBER[name], len(ids) + key, right) for name, right in known.items()]
            suffixes.append(question + answer)
            self._extend(ids, targets, question, answer + self.ids("<|im_end|>"))
            whole = WHOLE_WEIGHT if clip.world == "v3" and key is None else 1.0
            weights += [0.0] * (len(question) - 1) + [whole] * len(answer) + [END_WEIGHT]
            group += [len(suffixes)] * (len(question) + len(answer))
        if timeline is not None:
            question, answer = self.ids("List all events in order." + turn), self.ids(timeline)
            suffixes.append(question + answer)
            self._extend(ids, targets, question, answer + self.ids("<|im_end|>"))
            weights += [0.0] * (len(question) - 1) + [TIMELINE_WEIGHT] * (len(answer) + 1)
            group += [len(suffixes)] * (len(question) + len(answer))
        behind = [np.tile(np.arange(len(suffix)) + first, (3, 1)) for suffix in suffixes]
        pad = len(ids) - len(head) - len(opening) - media.size
        facts = np.pad(facts, ((0, 0), (len(head) + 2, pad)), constant_values=IGNORED)
        for number, place, right in found:
            facts[number, place] = right
        return Row(
            ids=np.asarray(ids, np.int64),
            positions=np.concatenate([positions, *behind], axis=1),
            group=np.asarray(group, np.int64),
            media=np.concatenate([np.zeros(len(head) + 2, np.int64), media, np.zeros(pad, np.int64)]),
            targets=np.asarray(targets, np.int64),
            weights=np.asarray(weights, np.float32),
            video_rows=sources[media == 1],
            audio_rows=sources[media == 2],
            facts=facts,
            asked=tuple(read),
            clip=clip,
        )

    def _key(self, question: Sequence[int]) -> int | None:
        """The token by which a question is looked up; None for "first", "last" and numbers."""
        for keys in self.keys:
            if places := [place for place, number in enumerate(question) if number in keys]:
                return places[-1]
        return None

    @staticmethod
    def _extend(ids: list[int], targets: list[int], question: list[int], answer: list[int]) -> None:
        """Append a suffix whose last token (the end of the turn) is only a target."""
        ids += question + answer[:-1]
        targets += [IGNORED] * (len(question) - 1) + answer

    @staticmethod
    def _reach(clip: Clip) -> int:
        """The last position of the clip, counted from its first, whether or not a token stands there."""
        seen = int((len(clip.video) - 1) * clip.seconds_per_patch * POSITIONS_PER_S)
        return max(seen, clip.rows - 1, clip.columns - 1, len(clip.audio) - 1)

    @staticmethod
    def _media(clip: Clip, thin: np.random.Generator | None) -> tuple[npt.NDArray[np.int64], ...]:
        """Kind, places (3, n) from the clip's start, facts and feature rows of the tokens, chunk by chunk."""
        patches, cells = clip.video.shape[:2]
        step = clip.seconds_per_patch * POSITIONS_PER_S
        seen_at = (np.arange(patches) * step).astype(np.int64).repeat(cells)
        row, column = np.divmod(np.tile(np.arange(cells), patches), clip.columns)
        heard_at = np.arange(len(clip.audio))
        places = np.concatenate([np.stack([seen_at, row, column]), np.tile(heard_at, (3, 1))], axis=1)
        kind = np.r_[np.full(len(seen_at), 1), np.full(len(heard_at), 2)]
        rows = np.r_[np.arange(len(seen_at)), heard_at]
        # What a picture shows is taken in the middle of its patch.
        times = np.r_[(seen_at + step / 2) / POSITIONS_PER_S, (heard_at + 0.5) / POSITIONS_PER_S]
        own = np.full((3, len(kind)), IGNORED, np.int64)
        if clip.cells is not None:
            own[:, : len(seen_at)] = clip.cells.reshape(3, -1)
        facts = facts_of(clip.events, clip.world == "v2", kind, times, own)
        order = np.lexsort((np.arange(len(kind)), kind, places[0] // TOKENS_A_CHUNK))
        if thin is not None:
            chance = np.where(kind == 2, 0.3, 0.15)
            # A word is four or five tokens: thinned like a tone it would often be gone, and the answer a guess.
            chance[facts[NUMBER["voice"]] != IGNORED] = 0.85
            chance[(own[0] >= 0) & (own[0] != NOTHING_SHAPE)] = 0.9
            order = order[(thin.random(len(kind)) < chance)[order]]
        return kind[order], places[:, order], facts[:, order], rows[order]


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded rows as tensors; fields as in `Row` with a leading batch axis, and features flattened over the batch."""

    ids: Tensor
    positions: Tensor
    """(3, B, N)."""
    mask: Tensor
    """(B, 1, N, N) bool: True where row i may look at column j."""
    media: Tensor
    video: Tensor
    audio: Tensor
    targets: Tensor
    weights: Tensor
    facts: Tensor
    """(facts, B, N)."""
    layout: Layout
    rows: tuple[Row, ...]

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        fields = ("ids", "positions", "mask", "media", "video", "audio", "targets", "weights", "facts")
        moved = (getattr(self, field).to(device, non_blocking=True) for field in fields)
        return Batch(*moved, self.layout.to(device), self.rows)


def collate(rows: Sequence[Row]) -> Batch:
    """Pad rows at their end."""
    longest = max(len(row.ids) for row in rows)

    def padded(field: str, fill: int) -> Tensor:
        parts = [torch.from_numpy(getattr(row, field)) for row in rows]
        wide = [torch.nn.functional.pad(part, (0, longest - part.shape[-1]), value=fill) for part in parts]
        return torch.stack(wide, dim=-2)

    group = padded("group", -1)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    same = group[:, :, None] == group[:, None, :]
    mask = causal & (same | (group[:, None, :] == 0))
    return Batch(
        ids=padded("ids", 0),
        positions=padded("positions", 0),
        mask=mask[:, None],
        media=padded("media", 0),
        video=torch.cat([row.clip.video.flatten(0, 1)[row.video_rows] for row in rows]),
        audio=torch.cat([row.clip.audio[row.audio_rows] for row in rows]),
        targets=padded("targets", IGNORED),
        weights=padded("weights", 0),
        facts=padded("facts", IGNORED),
        layout=layout_of(group),
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class Curriculum:
    """What clips look like at one stage of the training."""

    most_events: int
    longest_s: float
    full_share: float
    """Share of v1 clips at 1 s a temporal patch and the processor's own grids; the rest are cheap ones."""
    thin_share: float
    """Share of rows with most background left out."""
    questions: int = 12
    fewest_events: int = 1
    busy_share: float = 0.0
    """Share of clips of world v2."""
    spoken_share: float = 0.0
    """Share of clips of world v3."""
    seconds_an_event: float = 4.5
    """A clip lasts at most about so long for each of its events."""
    order_weight: float = 1.0
    """How much larger than in TASK_SHARES the share of questions of order is."""
    joined_weight: float = 1.0
    """The same of questions that join what is read to what is heard."""
    counted_weight: float = 1.0
    """The same of questions of how many and how often."""
    shortest_s: float = 4.0
    """Least length of a clip of world v3: only long ones have many words."""


def draw_shape(rng: np.random.Generator, stage: Curriculum) -> Shape:
    """Number of events, length and grid of one training clip."""
    if rng.random() < stage.busy_share:
        return Shape(0, float(rng.integers(8, 17)), *_grid(rng), 1.0, "v2")
    if stage.spoken_share and rng.random() < stage.spoken_share:
        length_s = float(rng.integers(int(stage.shortest_s), int(stage.longest_s) + 1))
        # Shapes change with the second: a picture of two seconds would leave open what is shown when a word is said.
        return Shape(0, length_s, *(_grid(rng) if rng.random() < stage.full_share else (4, 4)), 1.0, "v3")
    count = int(rng.integers(stage.fewest_events, stage.most_events + 1))
    least = count * 2.3
    # As wide as the world's own lengths: with events of 2 to 5 s alone, counts were guessed from the time.
    drawn = round(count * rng.uniform(2.3, stage.seconds_an_event) + rng.uniform(0, 3))
    length = float(np.clip(drawn, max(4, least), stage.longest_s))
    if rng.random() < stage.full_share:
        return Shape(count, length, *_grid(rng), 1.0)
    # Whole chunks, one temporal patch each, 4 x 4 cells: a small square video at one frame a second.
    length = float(-int(-length // CHUNK_S) * CHUNK_S)
    return Shape(count, length, 4, 4, 2.0)


def _grid(rng: np.random.Generator) -> tuple[int, int]:
    """Rows and columns of a picture as the processor cuts it."""
    across, down = ASPECTS[int(rng.choice(len(ASPECTS), p=ASPECT_SHARES))]
    height, width = frame_size(down * 120, across * 120)
    return height // CELL, width // CELL


TASK_SHARES = {
    "v1": dict(zip(TASKS, (1, 1, 2, 5, 1, 2), strict=False)),
    "v2": dict(zip(TASKS, (1, 0.5, 6, 1.5, 2, 2), strict=False)),
    "v3": dict(zip(TASKS, (0.7, 2.5, 5, 3, 2, 2.5, 4, 3), strict=True)),
}
"""In which proportions training questions belong to tasks: most to those that take longest to learn."""


def draw_questions(
    asked: Sequence[AskedQuestion], rng: np.random.Generator, stage: Curriculum, world: str
) -> list[AskedQuestion]:
    """About `stage.questions` of `asked`, in random order, tasks in the proportions of TASK_SHARES."""
    chosen: list[AskedQuestion] = []
    weights = {
        "temporal order": stage.order_weight,
        "reading and hearing": stage.joined_weight,
        "counting": stage.counted_weight,
    }
    shares = {task: share * weights.get(task, 1.0) for task, share in TASK_SHARES[world].items()}
    for task, share in shares.items():
        those = [one for one in asked if one.task == task]
        wanted = max(1, round(share * stage.questions / sum(shares.values())))
        chosen += [those[i] for i in rng.permutation(len(those))[:wanted]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def draw_clip(source: Source, rng: np.random.Generator, stage: Curriculum) -> Clip:
    """One training clip."""
    shape = draw_shape(rng, stage)
    seed = int(rng.integers(1 << 40))
    _, events = events_of(shape.world, seed, length_s=shape.length_s, count=shape.count or None)
    return source.clip(events, shape, rng)


def ask(packer: Packer, clip: Clip, rng: np.random.Generator, stage: Curriculum) -> Row:
    """One training row about `clip`."""
    every = questions_of(Truth(clip.events, clip.world), seed=int(rng.integers(1 << 30)))
    asked = draw_questions(every, rng, stage, clip.world)
    thin = rng if rng.random() < stage.thin_share else None
    # A busy clip's forty events overlap: there is no order to list them in.
    timeline = timeline_of(clip.events) if clip.world == "v1" and rng.random() < 0.5 else None
    return packer.row(clip, asked, timeline, bool(rng.random() < 0.9), thin)


def draw_row(packer: Packer, source: Source, rng: np.random.Generator, stage: Curriculum) -> Row:
    """One training row about a clip of its own."""
    return ask(packer, draw_clip(source, rng, stage), rng, stage)
