"""Where every token of a packed prompt belongs: one clip's prefix, then each question with its options as branches.

Promises: a row sees the prefix, its own question up to itself, and for an option's tokens their own branch; never
another question. Positions restart after the prefix for each question, so a packed question reads exactly as it would
alone. Knows nothing about layers, pruning or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omnidrop.errors import QuestionError
from omnidrop.json_schema import check_schema
from omnidrop.models.base import Prefix, Words
from omnidrop.questions import Question, Scored, Written

END = -1
"""In a `Factor`: the probability that the answer ends here (any of the model's end tokens)."""


@dataclass(frozen=True)
class Factor:
    """One conditional probability of an option: that `token` (or END) follows row `row` of the question's reads."""

    row: int
    token: int


@dataclass(frozen=True)
class Options:
    """Answer options as a tree of tokens, so that options with the same beginning share rows.

    `tokens[i]` is a row whose parent is row `parents[i]`, counted like `Factor.row`: 0 is the question's last row,
    i + 1 is `tokens[i]`.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    factors: tuple[tuple[Factor, ...], ...]
    """One tuple per option; the option's log probability is the sum of its factors'."""


@dataclass(frozen=True)
class Asked:
    """One question in tokens."""

    question: Question
    ids: tuple[int, ...]
    """Up to and including the start of the assistant's turn."""
    guiding: tuple[int, int]
    """Rows [start, end) of the question's own words: the chat template's fixed words do not guide pruning."""
    options: Options | None
    """None for text and json."""

    @property
    def rows(self) -> int:
        """Token rows in the packed prompt, options included."""
        return len(self.ids) + (len(self.options.tokens) if self.options else 0)

    @property
    def most_rows(self) -> int:
        """The longest it can become: with its longest option's tokens, or with all that may be written."""
        kind = self.question.answer
        if isinstance(kind, Written):
            return len(self.ids) + kind.max_tokens
        assert self.options is not None
        return len(self.ids) + max(len(factors) for factors in self.options.factors)


@dataclass(frozen=True, eq=False)
class Packed:
    """Q questions' M rows, to follow one prefix."""

    asked: tuple[Asked, ...]
    ids: Tensor
    """(M,) int64."""
    positions: Tensor
    """(3, M), dtype of the prefix's positions."""
    visible: Tensor
    """(M, M) bool: which of these rows a row sees; all see the whole prefix."""
    starts: tuple[int, ...]
    """Q + 1 row numbers: question i has the rows starts[i] to starts[i + 1]."""
    read: Tensor
    """(R,) int64: the rows whose logits are needed, question by question."""
    reads: tuple[int, ...]
    """Q + 1 numbers: question i's reads are reads[i] to reads[i + 1], its last question row first."""
    guiding: Tensor
    """(G,) int64: the rows of the questions' own words."""
    guiding_owner: Tensor
    """(Q, G) float32: row i averages over question i's guiding rows."""
    last: Tensor
    """(Q,) int64: each question's last row, before its options."""
    pairs: float
    """Query-key pairs among these rows, a row's own key counted half: the causal convention of `cost.py`."""

    @property
    def rows(self) -> int:
        """M."""
        return self.starts[-1]


def fixed_words(words: Words) -> tuple[int, int]:
    """How many tokens of every question's ids are the chat template's: (at the beginning, at the end)."""
    one, other = words.question_ids("What"), words.question_ids("Is")
    shorter = min(len(one), len(other))
    head = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    tail = next((i for i in range(shorter - head) if one[-1 - i] != other[-1 - i]), shorter - head)
    return head, tail


def ask(words: Words, questions: Sequence[Question]) -> tuple[Asked, ...]:
    """Tokenise a question set. Raises QuestionError where two options of a question read as the same tokens, and for a
    JSON schema that is none."""
    head, tail = fixed_words(words)
    asked = []
    for question in questions:
        ids = tuple(words.question_ids(question.text))
        start, end = head, len(ids) - tail
        if start >= end:
            start, end = 0, len(ids)
        options = None
        if isinstance(question.answer, Written) and (schema := question.answer.schema) is not None:
            try:
                check_schema(schema)
            except ValueError as error:
                raise QuestionError(f"question {question.id!r}: {error}") from error
        if isinstance(question.answer, Scored):
            texts = question.answer.rendered()
            options = option_tree(question, texts, [tuple(words.answer_ids(text)) for text in texts])
        asked.append(Asked(question, ids, (start, end), options))
    return tuple(asked)


def option_tree(question: Question, texts: Sequence[str], ids: Sequence[tuple[int, ...]]) -> Options:
    """The options' tokens as a tree, and each option's factors.

    Where one option continues another ("1" and "10") the shorter one carries the probability of ending there, so that
    the options are disjoint events.
    """
    seen: dict[tuple[int, ...], str] = {}
    for text, option in zip(texts, ids, strict=True):
        if not option:
            raise QuestionError(f"question {question.id!r}: option {text!r} has no tokens")
        if option in seen:
            raise QuestionError(
                f"question {question.id!r}: options {seen[option]!r} and {text!r} read as the same tokens; reword one"
            )
        seen[option] = text
    inner = {option[:length] for option in ids for length in range(1, len(option))}
    rows: dict[tuple[int, ...], int] = {(): 0}
    tokens, parents = [], []
    for node in sorted(inner, key=lambda n: (len(n), n)):
        parents.append(rows[node[:-1]])
        tokens.append(node[-1])
        rows[node] = len(rows)
    factors = []
    for option in ids:
        steps = [Factor(rows[option[:i]], token) for i, token in enumerate(option)]
        if option in inner:
            steps.append(Factor(rows[option], END))
        factors.append(tuple(steps))
    return Options(tuple(tokens), tuple(parents), tuple(factors))


def pack(prefix: Prefix, asked: Sequence[Asked]) -> Packed:
    """Lay out `asked` behind `prefix`, on the prefix's device."""
    device = prefix.positions.device
    starts, reads = [0], [0]
    ids: list[int] = []
    depth: list[int] = []
    read: list[int] = []
    last: list[int] = []
    guiding: list[int] = []
    visible = np.zeros((sum(a.rows for a in asked),) * 2, dtype=bool)
    owner = np.zeros((len(asked), sum(a.guiding[1] - a.guiding[0] for a in asked)), dtype=np.float32)
    for number, one in enumerate(asked):
        start, length = len(ids), len(one.ids)
        ids.extend(one.ids)
        depth.extend(range(length))
        visible[start : start + length, start : start + length] = np.tri(length, dtype=bool)
        last.append(start + length - 1)
        read.append(last[-1])
        first, end = one.guiding
        owner[number, len(guiding) : len(guiding) + end - first] = 1.0 / (end - first)
        guiding.extend(range(start + first, start + end))
        if one.options:
            nodes = [last[-1]]
            for token, parent in zip(one.options.tokens, one.options.parents, strict=True):
                row, above = len(ids), nodes[parent]
                ids.append(token)
                depth.append(depth[above] + 1)
                visible[row] = visible[above]
                visible[row, row] = True
                nodes.append(row)
            read.extend(nodes[1:])
        starts.append(len(ids))
        reads.append(len(read))
    positions = torch.as_tensor(depth).to(prefix.positions.dtype) + prefix.next_position
    return Packed(
        asked=tuple(asked),
        ids=torch.as_tensor(ids, dtype=torch.int64).to(device),
        positions=positions.expand(3, -1).to(device),
        visible=torch.from_numpy(visible).to(device),
        starts=tuple(starts),
        read=torch.as_tensor(read, dtype=torch.int64).to(device),
        reads=tuple(reads),
        guiding=torch.as_tensor(guiding, dtype=torch.int64).to(device),
        guiding_owner=torch.from_numpy(owner).to(device),
        last=torch.as_tensor(last, dtype=torch.int64).to(device),
        pairs=float(visible.sum()) - len(ids) / 2,
    )
