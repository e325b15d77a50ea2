"""An oracle for the pruned prefill: the stock layers with eager attention over all tokens, masking instead of dropping.

Promises: nothing of the engine's `prefill`, `importance` or `decode` is used; every token is computed in every layer
and a dropped one is only hidden from the others. Slow and plain. Knows nothing about caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO, Prefix

Choose = Callable[[int, Tensor, list[int]], list[int]]
"""(layer, attention weights (heads, S, S), alive places in the prefix) -> the places that stay."""


@dataclass
class Seen:
    """What the oracle computed."""

    logits: Tensor
    """(S, vocabulary) float32."""
    alive: list[list[int]] = field(default_factory=list)
    """Per layer, the audio-video places in the prefix that entered it."""


@contextmanager
def eager(adapter: Any) -> Iterator[list[Tensor]]:
    """Stock eager attention, with every layer's weights (heads, S, S) appended to the list."""
    config, weights = adapter.layers[0].self_attn.config, []
    before, config._attn_implementation = config._attn_implementation, "eager"
    hooks = [
        layer.self_attn.register_forward_hook(lambda _m, _i, output: weights.append(output[1][0]))
        for layer in adapter.layers
    ]
    try:
        yield weights
    finally:
        config._attn_implementation = before
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def masked_run(
    adapter: Any,
    prefix: Prefix,
    questions: Sequence[Sequence[int]],
    entering: Sequence[int],
    choose: Choose,
    follows: Mapping[int, int | None] | None = None,
) -> Seen:
    """Run prefix and questions in one sequence with a mask for everything: causality, blindness, dropped tokens.

    With `follows` questions see the tokens that do not enter, its keys, too: each moves as the token it names does.
    """
    rows = prefix.input_ids.shape[0]
    ids = [token for question in questions for token in question]
    total = rows + len(ids)
    owner = [-1] * rows + [n for n, question in enumerate(questions) for _ in question]
    visible = torch.zeros(total, total, dtype=torch.bool)
    for row in range(total):
        for column in range(row + 1):
            visible[row, column] = owner[column] in (-1, owner[row])
    offsets = [i for question in questions for i in range(len(question))]
    own = (torch.tensor(offsets) + prefix.next_position).to(prefix.positions.dtype).expand(3, -1)
    hidden = torch.cat((prefix.embeddings, adapter.embed(torch.tensor(ids))))[None]
    rotary = adapter.rotary(hidden, torch.cat((prefix.positions, own), dim=1)[:, None])
    av = [place for place in range(rows) if prefix.modality[place] != 0]
    alive = list(entering)
    seen = Seen(hidden)
    with eager(adapter) as weights:
        for number, layer in enumerate(adapter.layers):
            seen.alive.append(alive)
            mask = visible.clone()
            for place in set(av) - set(alive):
                mask[:, place] = False
                mask[place, place] = True  # a row needs something to look at; nobody looks at this row
            for place in follows or ():
                mask[rows:, place] = True
            additive = torch.zeros(total, total).masked_fill(~mask, float("-inf"))[None, None]
            before, hidden = hidden, layer(hidden, attention_mask=additive, position_embeddings=rotary)
            moved = {place: other if other in alive else None for place, other in (follows or {}).items()}
            for place, other in moved.items():
                hidden[0, place] = before[0, place] + (0 if other is None else hidden[0, other] - before[0, other])
            if number < len(prefix.deepstack):
                hidden[:, :rows] += prefix.deepstack[number]
            alive = choose(number, weights[-1], alive)
        seen.logits = adapter.lm_head(adapter.norm(hidden[0])).float()
    return seen


def merged(prefix: Prefix, entering: Sequence[int]) -> Prefix:
    """The prefix with every picture token that does not enter averaged into the most alike one that does, at most a
    second away and at least 0.8 alike on the features' own scale; token by token, as the formulas are written."""
    seen = [place for place in range(prefix.input_ids.shape[0]) if prefix.modality[place] == VIDEO]
    unit = {place: prefix.embeddings[place].float() / prefix.embeddings[place].float().norm() for place in seen}
    scale = own_scale(unit)
    joins: dict[int, list[tuple[int, float]]] = {place: [] for place in entering if prefix.modality[place] == VIDEO}
    for place in set(seen) - set(entering):
        near = [other for other in joins if abs(prefix.seconds[place] - prefix.seconds[other]) <= 1.0]
        alike = {other: min(1.0, float(unit[place] @ unit[other]) / scale) for other in near}
        best = max(near, key=lambda other: alike[other], default=None)
        if best is not None and alike[best] > 0.8:
            joins[best].append((place, alike[best]))

    def rows(features: Tensor) -> Tensor:
        changed = features.clone()
        for place, those in joins.items():
            mean = (features[place] + sum(z * features[other] for other, z in those)) / (1 + sum(z for _, z in those))
            if those:
                changed[place] = mean * features[place].norm() / mean.norm()
        return changed

    return replace(prefix, embeddings=rows(prefix.embeddings), deepstack=tuple(map(rows, prefix.deepstack)))


def followed(prefix: Prefix, entering: Sequence[int]) -> dict[int, int | None]:
    """For each audio and video token that does not enter, the entering one of its modality with the highest
    `exp(10 (z - 1)) exp(-|t|)`, z the likeness on the features' own scale; token by token."""
    found: dict[int, int | None] = {}
    for kind in (AUDIO, VIDEO):
        places = [place for place in range(prefix.input_ids.shape[0]) if prefix.modality[place] == kind]
        unit = {place: prefix.embeddings[place].float() / prefix.embeddings[place].float().norm() for place in places}
        scale = own_scale(unit)

        def log_k(place: int, other: int, unit: dict[int, Tensor] = unit, scale: float = scale) -> float:
            alike = min(1.0, float(unit[place] @ unit[other]) / scale)
            return 10 * (alike - 1) - abs(float(prefix.seconds[place] - prefix.seconds[other]))

        targets = [place for place in entering if prefix.modality[place] == kind]
        for place in set(places) - set(targets):
            found[place] = max(targets, key=lambda other, place=place: log_k(place, other), default=None)  # type: ignore[misc]
    return found


def own_scale(unit: Mapping[int, Tensor]) -> float:
    """The cosine of tokens of one kind: the median over tokens of the mean cosine to their nearest twentieth."""
    kinds = []
    for place in unit:
        others = sorted((float(unit[place] @ unit[other]) for other in unit if other != place), reverse=True)
        kinds.append(others[: max(1, round(0.05 * len(others)))])
    means = sorted(sum(kind) / len(kind) for kind in kinds)
    return min(1.0, max(0.3, means[(len(means) - 1) // 2]))


def fixed(alive: Sequence[Sequence[int]]) -> Choose:
    """Choose what is already known to have entered the next layer."""

    def choose(layer: int, _weights: Tensor, _alive: list[int]) -> list[int]:
        return list(alive[min(layer + 1, len(alive) - 1)])

    return choose
