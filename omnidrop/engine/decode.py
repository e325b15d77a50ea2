"""From a finished prefill to answers: scored options read off its logits, text and JSON decoded greedily as one batch.

Promises: scored answers need no decode step; decoding leaves the shared pruned prefix where it is and grows only a
small cache per question; positions are explicit, never a cache's length. Knows nothing about modes or policies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnidrop.answer_types import Unreadable
from omnidrop.answers import Answer
from omnidrop.engine.constraint import Grammars
from omnidrop.engine.question_rows import END, Asked
from omnidrop.engine.state import LayerCache, State
from omnidrop.errors import NoNumbers
from omnidrop.models.base import Adapter
from omnidrop.questions import Question, Scored, Written


def _check_numbers(found: Sequence[float]) -> None:
    """An answer read off NaN is the first option, or the first token, whatever the clip shows."""
    if any(math.isnan(one) for one in found):
        raise NoNumbers("logits")


def score(asked: Asked, logits: Tensor, end_ids: Sequence[int]) -> Answer:
    """The answer of a question of scored values from `logits` (reads, vocabulary) float32. Raises NoNumbers.

    An option's score is the mean of its factors' log probabilities (its sum, length-normalised); `probability` is the
    softmax of the scores over the options. Single-token options reduce to the softmax over their logits.
    """
    kind, options = asked.question.answer, asked.options
    assert isinstance(kind, Scored)
    assert options is not None
    log = F.log_softmax(logits, dim=-1)
    ends = log[:, list(end_ids)].logsumexp(dim=-1, keepdim=True)
    with_end = torch.cat((log, ends), dim=1)  # END, which is -1, picks the last column
    rows, tokens, owner = [], [], []
    for option, factors in enumerate(options.factors):
        for factor in factors:
            rows.append(factor.row)
            tokens.append(with_end.shape[1] - 1 if factor.token == END else factor.token)
            owner.append(option)
    of = torch.as_tensor(owner, device=log.device)
    values = with_end[torch.as_tensor(rows, device=log.device), torch.as_tensor(tokens, device=log.device)]
    sums = torch.zeros(len(options.factors), device=log.device).index_add_(0, of, values)
    lengths = torch.bincount(of, minlength=len(options.factors))
    probability = (sums / lengths).softmax(dim=0).tolist()
    _check_numbers(probability)
    best = max(range(len(probability)), key=probability.__getitem__)
    second = max(p for i, p in enumerate(probability) if i != best)
    return Answer(
        question_id=asked.question.id,
        value=kind.value(best),
        text=kind.rendered()[best],
        probability=probability[best],
        margin=probability[best] - second,
        probabilities=tuple(probability),
    )


class SuffixCache:
    """One layer's keys and values of B questions' own rows, right-aligned so that every question grows at one column.

    The prefix stays outside: (Hkv, P, d) shared by all B.
    """

    def __init__(self, shared: LayerCache, rows: Sequence[tuple[int, int]], growth: int) -> None:
        self.shared = shared
        self.length = max(end - start for start, end in rows)
        heads, _, width = shared.suffix_keys.shape
        self.keys = shared.suffix_keys.new_zeros((len(rows), heads, self.length + growth, width))
        self.values = torch.zeros_like(self.keys)
        for number, (start, end) in enumerate(rows):
            at = slice(self.length - (end - start), self.length)
            self.keys[number, :, at] = shared.suffix_keys[:, start:end]
            self.values[number, :, at] = shared.suffix_values[:, start:end]

    def append(self, key: Tensor, value: Tensor) -> None:
        """(B, Hkv, 1, d) each."""
        self.keys[:, :, self.length] = key[:, :, 0]
        self.values[:, :, self.length] = value[:, :, 0]
        self.length += 1

    @property
    def nbytes(self) -> int:
        """Bytes of the questions' own rows."""
        return 2 * self.keys.numel() * self.keys.element_size()


class _Step:
    """Attention of one layer in one decode step: B questions over one shared prefix and their own rows."""

    def __init__(self, cache: SuffixCache, padded: Tensor) -> None:
        self.cache = cache
        self.padded = padded

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        batch, heads, _, width = query.shape
        kv = key.shape[1]
        groups = heads // kv
        self.cache.append(key, value)
        length, shared = self.cache.length, self.cache.shared
        keys, values = self.cache.keys[:, :, :length], self.cache.values[:, :, :length]
        query = query.view(batch, kv, groups, width)
        # All questions' heads of one KV group in one product with the shared keys: (Hkv, B g, d) x (Hkv, d, P).
        folded = query.transpose(0, 1).reshape(kv, batch * groups, width)
        far = (folded @ shared.prefix_keys.transpose(1, 2)).view(kv, batch, groups, -1).transpose(0, 1)
        near = query @ keys.transpose(2, 3)
        scores = torch.cat((far.float(), near.float()), dim=-1).mul_(scaling)
        prefix_rows = far.shape[-1]
        scores[..., prefix_rows:].masked_fill_(self.padded[:, None, None, :length], float("-inf"))
        weights = scores.softmax(dim=-1).to(query.dtype)
        of_prefix = weights[..., :prefix_rows].transpose(0, 1).reshape(kv, batch * groups, prefix_rows)
        out = (of_prefix @ shared.prefix_values).view(kv, batch, groups, width).transpose(0, 1)
        out = out + weights[..., prefix_rows:] @ values
        return out.reshape(batch, 1, heads, width)


class Decoder:
    """Batched decoding of some of a finished prefill's questions over its pruned prefix."""

    def __init__(self, adapter: Adapter, state: State, questions: Sequence[int], growth: int) -> None:
        packed = state.packed
        rows = [(packed.starts[q], packed.starts[q] + len(packed.asked[q].ids)) for q in questions]
        self.adapter = adapter
        self.caches = [SuffixCache(cache, rows, growth) for cache in state.caches]
        lengths = torch.tensor([end - start for start, end in rows], device=state.alive.device)
        columns = torch.arange(int(max(end - start for start, end in rows)) + growth, device=state.alive.device)
        self.padded = columns[None, :] < (columns.shape[0] - growth - lengths)[:, None]
        base = state.clip.prefix.positions.dtype
        self.positions = (state.clip.prefix.next_position + lengths).to(base).view(1, -1, 1).expand(3, -1, 1)

    def step(self, ids: Tensor) -> Tensor:
        """Append one token to each question, `ids` (B,) int64 -> (B, vocabulary) float32 logits of the next."""
        hidden = self.adapter.embed(ids)[:, None]
        rotary = self.adapter.rotary(hidden, self.positions)
        for layer, cache in zip(self.adapter.layers, self.caches, strict=True):
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, omnidrop=_Step(cache, self.padded))
        self.positions = self.positions + 1
        logits: Tensor = self.adapter.lm_head(self.adapter.norm(hidden[:, 0]))
        return logits.float()


@dataclass(frozen=True)
class Generated:
    """One question's greedy text."""

    ids: tuple[int, ...]
    """Without the end token."""
    steps: int
    """Rows decoded: one less than the tokens written, because the first comes from the prefill."""
    ended: bool
    """False where max_tokens cut it short."""


def generate(
    adapter: Adapter, state: State, questions: Sequence[int], first: Tensor, grammars: Grammars | None = None
) -> list[Generated]:
    """Greedy decoding of `questions` (numbered within the pack; their answers are written) from `first` logits.

    With `grammars`, answers that have a schema are held to it. Raises NoNumbers.
    """
    answers = (state.packed.asked[number].question.answer for number in questions)
    kinds = [kind for kind in answers if isinstance(kind, Written)]
    most = [kind.max_tokens for kind in kinds]
    constraints = {
        number: constraint
        for number, kind in enumerate(kinds)
        if grammars is not None and kind.schema is not None and (constraint := grammars.constraint(kind.schema))
    }
    ends = set(adapter.end_ids)
    written: list[list[int]] = [[] for _ in questions]
    ended = [False] * len(questions)
    steps = [0] * len(questions)
    decoder: Decoder | None = None
    logits = first.clone()
    while True:
        for number, constraint in constraints.items():
            if not ended[number]:
                logits[number].masked_fill_(constraint.forbidden().to(logits.device), float("-inf"))
        best, picked = logits.max(dim=-1)
        _check_numbers(best.tolist())
        for number, token in enumerate(picked.tolist()):
            if ended[number] or len(written[number]) >= most[number]:
                continue
            if token in ends:
                ended[number] = True
            else:
                written[number].append(token)
                if number in constraints:
                    constraints[number].accept(token)
        waiting = [n for n in range(len(questions)) if not ended[n] and len(written[n]) < most[n]]
        if not waiting:
            break
        if decoder is None:
            decoder = Decoder(adapter, state, questions, max(most))
        for number in waiting:
            steps[number] += 1
        logits = decoder.step(picked)
    return [Generated(tuple(w), s, e) for w, s, e in zip(written, steps, ended, strict=True)]


def read(question: Question, generated: Generated, adapter: Adapter) -> Answer:
    """The answer of a question of written answers from what the model wrote.

    Text that is not of the asked type (with a grammar: text that max_tokens cut short) keeps its `text`, has no value,
    and its `error_class` is what the type says.
    """
    text = adapter.text(generated.ids).strip()
    assert isinstance(question.answer, Written)
    try:
        return Answer(question.id, question.answer.read(text), text)
    except Unreadable as error:
        return Answer(question.id, None, text, error_class=error.error_class)
