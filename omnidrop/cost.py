"""What a prefill and its decoding cost in FLOPs and bytes: as run, and the two ways of asking without pruning.

Promises: exact integer arithmetic from row counts, by one stated convention. Knows nothing about tensors or seconds.

The convention: 2 FLOPs per multiply-add. A decoder layer with S rows costs
`4 S D Dq + 4 S D Dkv + 4 S^2 Dq / 2 + 6 S D I` for model width D, query width Dq (heads x head size; it may differ from
D), key-value width Dkv and MLP width I; the attention term is halved because it is causal. A token that is only
read costs `4 D Dkv` and its pairs with the rows that read it. In the last layer, pruned or not, that is every row but
those that answers are read from. In a mixture I is the active experts' width and the router is added. The LM head
counts only at the positions where it is computed. Norms, rotary embedding, softmax,
sorting and the distances between tokens before the decoder are not counted (with those of video tokens to up to 1,024
others about 0.6 % of a pruned prefill at 3B shape, several percent in the embedded model).
Encoders, selection and decoding are counted apart. The dense ways encode every clip once and whole: what a run spares
by encoding fewer cells, or by remembering frames, is a saving of its own and none of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omnidrop.answers import PassCost


@dataclass(frozen=True)
class LayerWork:
    """What one layer was given, in rows."""

    prefix_rows: int
    suffix_rows: int
    suffix_pairs: float
    """Query-key pairs among suffix rows, a row's own key counted half."""
    guiding_rows: int = 0
    """Rows whose attention weights were computed once more for selection."""
    read_rows: int = 0
    """Of the clip, those that suffix rows read and that are not computed: keys and values alone."""
    suffix_read_rows: int = 0
    """Of the suffix, the same."""

    def as_last(self, reads: int, pairs: float) -> LayerWork:
        """The same rows in the last layer, which is computed for the `reads` suffix rows that answers are read from;
        `pairs` of these among the suffix's rows."""
        return LayerWork(0, reads, pairs, 0, self.seen_rows, self.suffix_rows - reads)

    @property
    def rows(self) -> int:
        """All rows that are computed."""
        return self.prefix_rows + self.suffix_rows

    @property
    def seen_rows(self) -> int:
        """Of the clip, those whose keys and values suffix rows see."""
        return self.prefix_rows + self.read_rows

    @property
    def cached_rows(self) -> int:
        """Rows with keys and values."""
        return self.seen_rows + self.suffix_rows + self.suffix_read_rows

    @property
    def pairs(self) -> float:
        """Query-key pairs: S^2 / 2 for the causal prefix, every suffix row with all it sees of the clip, and among
        suffix rows."""
        return self.prefix_rows**2 / 2 + self.suffix_rows * self.seen_rows + self.suffix_pairs


@dataclass(frozen=True)
class Widths:
    """The text decoder's widths."""

    hidden: int
    query: int
    """Attention heads x head size."""
    key_value: int
    """Key-value heads x head size."""
    mlp_flops: tuple[int, ...]
    """Per layer, of one row's MLP: `6 D I`, for a mixture with the active experts and the router."""
    vocabulary: int
    value_bytes: int
    """Bytes of one cached value."""

    @property
    def layers(self) -> int:
        """Depth."""
        return len(self.mlp_flops)

    @classmethod
    def of(cls, config: Any, value_bytes: int) -> Widths:
        """From a text decoder's configuration, as we read it or as transformers does."""
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        experts = getattr(config, "num_experts", 0) or 0
        dense_only = getattr(config, "mlp_only_layers", None) or ()
        every = getattr(config, "decoder_sparse_step", 1)
        mlp = []
        for layer in range(config.num_hidden_layers):
            if experts and layer not in dense_only and (layer + 1) % every == 0:
                active = 6 * config.moe_intermediate_size * config.num_experts_per_tok
                mlp.append(config.hidden_size * (active + 2 * experts))
            else:
                mlp.append(6 * config.hidden_size * config.intermediate_size)
        return cls(
            hidden=config.hidden_size,
            query=heads * head,
            key_value=config.num_key_value_heads * head,
            mlp_flops=tuple(mlp),
            vocabulary=config.vocab_size,
            value_bytes=value_bytes,
        )

    def linear_flops(self, layer: int, rows: int) -> int:
        """Projections and MLP of one layer."""
        return rows * (4 * self.hidden * (self.query + self.key_value) + self.mlp_flops[layer])

    def read_flops(self, rows: int) -> int:
        """Keys and values of rows that are only read, in one layer."""
        return 4 * rows * self.hidden * self.key_value

    def attention_flops(self, pairs: float) -> int:
        """Scores and weighted sum over query-key pairs."""
        return round(4 * pairs * self.query)

    def head_flops(self, positions: int) -> int:
        """LM head."""
        return 2 * positions * self.hidden * self.vocabulary

    def cache_bytes(self, rows: int) -> int:
        """Keys and values of `rows` rows in one layer."""
        return 2 * rows * self.key_value * self.value_bytes


def prefill_flops(widths: Widths, work: Sequence[LayerWork], reads: int, first_layer: int = 0) -> int:
    """Decoder layers from `first_layer` on, and the LM head at `reads` positions."""
    layers = sum(
        widths.linear_flops(layer, w.rows)
        + widths.read_flops(w.read_rows + w.suffix_read_rows)
        + widths.attention_flops(w.pairs)
        for layer, w in enumerate(work, start=first_layer)
    )
    return layers + widths.head_flops(reads)


def selection_flops(widths: Widths, work: Sequence[LayerWork]) -> int:
    """Attention scores of the guiding rows, computed again over all keys; a CPU in bfloat16 has them from attention."""
    return sum(2 * w.guiding_rows * w.cached_rows * widths.query for w in work)


def cache_bytes(widths: Widths, work: Sequence[LayerWork]) -> int:
    """KV cache at the end of a prefill."""
    return sum(widths.cache_bytes(w.cached_rows) for w in work)


def decode_flops(widths: Widths, seen_rows: Sequence[int], question_rows: int, steps: int) -> int:
    """`steps` decoded rows of one question; each sees what is left of the clip in a layer, its question and the rows
    before."""
    own = steps * question_rows + steps * steps / 2
    return sum(
        widths.linear_flops(layer, steps) + widths.attention_flops(steps * rows + own)
        for layer, rows in enumerate(seen_rows)
    ) + widths.head_flops(steps)


@dataclass(frozen=True)
class QuestionRows:
    """One question's share of a pass."""

    rows: int
    """In the packed prompt, options included."""
    pairs: float
    """Query-key pairs among them."""
    reads: int
    """Positions where the LM head is computed, and with it all of the last layer."""
    read_pairs: float
    """Query-key pairs of these with rows of the question."""
    question_rows: int
    """Without options: what decoding continues."""
    steps: int
    """Rows decoded after the prefill."""


def dense(widths: Widths, prefix_rows: int, questions: Sequence[QuestionRows], encoder_flops: int) -> PassCost:
    """Every question prefilled alone over the whole clip; one cache at a time, the largest is stated."""
    works = [_unpruned(widths, prefix_rows, [question]) for question in questions]
    return PassCost(
        tokens=sum(prefix_rows + q.rows for q in questions),
        prefill_flops=sum(prefill_flops(widths, w, q.reads) for w, q in zip(works, questions, strict=True)),
        selection_flops=0,
        encoder_flops=encoder_flops,
        decode_flops=_decoding(widths, prefix_rows, questions),
        kv_bytes=max(cache_bytes(widths, w) for w in works),
    )


def after_each_other(passes: Sequence[PassCost]) -> PassCost:
    """Passes over one clip that is encoded once: work adds up, one cache is held at a time."""
    return PassCost(
        tokens=sum(one.tokens for one in passes),
        prefill_flops=sum(one.prefill_flops for one in passes),
        selection_flops=sum(one.selection_flops for one in passes),
        encoder_flops=passes[0].encoder_flops,
        decode_flops=sum(one.decode_flops for one in passes),
        kv_bytes=max(one.kv_bytes for one in passes),
    )


def dense_shared(widths: Widths, prefix_rows: int, questions: Sequence[QuestionRows], encoder_flops: int) -> PassCost:
    """The clip prefilled once, its cache reused by every question."""
    work = _unpruned(widths, prefix_rows, questions)
    return PassCost(
        tokens=prefix_rows + sum(q.rows for q in questions),
        prefill_flops=prefill_flops(widths, work, sum(q.reads for q in questions)),
        selection_flops=0,
        encoder_flops=encoder_flops,
        decode_flops=_decoding(widths, prefix_rows, questions),
        kv_bytes=cache_bytes(widths, work),
    )


def _unpruned(widths: Widths, prefix_rows: int, questions: Sequence[QuestionRows]) -> list[LayerWork]:
    every = LayerWork(prefix_rows, sum(q.rows for q in questions), sum(q.pairs for q in questions))
    last = every.as_last(sum(q.reads for q in questions), sum(q.read_pairs for q in questions))
    return [every] * (widths.layers - 1) + [last]


def _decoding(widths: Widths, prefix_rows: int, questions: Sequence[QuestionRows]) -> int:
    return sum(decode_flops(widths, [prefix_rows] * widths.layers, q.question_rows, q.steps) for q in questions)
