"""A question set in tokens: each question with its options as branches, and which rows see which.

Promises: a row sees its own question up to itself, and for an option's tokens their own branch; never another question.
Host arithmetic without torch: a clip is priced before any model is there. Knows nothing about prefixes, layers or
pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from omnidrop.cost import QuestionRows
from omnidrop.errors import QuestionError
from omnidrop.json_schema import check_schema
from omnidrop.questions import Question, Scored, Written

if TYPE_CHECKING:
    from omnidrop.models.base import Words

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
class Rows:
    """Q questions' M rows, to follow some prefix: on the host, before anything is computed."""

    ids: tuple[int, ...]
    """M token ids."""
    depth: tuple[int, ...]
    """Per row, its position after the prefix, from 0."""
    visible: npt.NDArray[np.bool_]
    """(M, M): which of these rows a row sees; all see the whole prefix."""
    starts: tuple[int, ...]
    """Q + 1 row numbers: question i has the rows starts[i] to starts[i + 1]."""
    read: tuple[int, ...]
    """The rows whose logits are needed, question by question."""
    reads: tuple[int, ...]
    """Q + 1 numbers: question i's reads are reads[i] to reads[i + 1], its last question row first."""
    guiding: tuple[int, ...]
    """The G rows of the questions' own words."""
    guiding_owner: npt.NDArray[np.float32]
    """(Q, G): row i averages over question i's guiding rows."""
    last: tuple[int, ...]
    """Each question's last row, before its options."""

    @property
    def count(self) -> int:
        """M."""
        return len(self.ids)

    @property
    def pairs(self) -> float:
        """Query-key pairs among these rows, a row's own key counted half: the causal convention of `cost.py`."""
        return float(self.visible.sum()) - len(self.ids) / 2

    @property
    def read_pairs(self) -> float:
        """Of these pairs, those of the rows whose logits are needed."""
        return float(self.visible[list(self.read)].sum()) - len(self.read) / 2

    @property
    def unread(self) -> tuple[int, ...]:
        """The rows whose logits are not needed."""
        return tuple(sorted(set(range(self.count)) - set(self.read)))


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


def arrange(asked: Sequence[Asked]) -> Rows:
    """Lay out `asked`, one question behind the other."""
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
    return Rows(
        ids=tuple(ids),
        depth=tuple(depth),
        visible=visible,
        starts=tuple(starts),
        read=tuple(read),
        reads=tuple(reads),
        guiding=tuple(guiding),
        guiding_owner=owner,
        last=tuple(last),
    )


def priced(asked: Asked, steps: int) -> QuestionRows:
    """What `asked` takes of a pass, where `steps` rows are decoded."""
    rows = arrange([asked])
    return QuestionRows(rows.count, rows.pairs, rows.reads[-1], rows.read_pairs, len(asked.ids), steps)
