"""One packed, pruned prefill: a clip's prefix and its questions through the decoder's layers in a single pass.

Promises: our own loop over the model's layers; tokens leave between layers and survivors keep their rotary positions;
every count is known on the host, so nothing waits for the device. Clips of one shape advance together, as rows of one
batch: counts follow a schedule, so they are as long in every layer, though each keeps tokens of its own. With nothing
pruned the logits are the stock model's. Knows nothing about families beyond `Adapter`, about what attends to what
(`attention`), or about answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from omnidrop.cost import LayerWork
from omnidrop.engine.attention import Guiding, PrefillAttention
from omnidrop.engine.importance import aggregate
from omnidrop.engine.last_layer import run_last_layer
from omnidrop.engine.layout import Packed
from omnidrop.engine.left_out import LeftOut
from omnidrop.engine.state import ClipTokens, LayerCache, State, together
from omnidrop.models.base import Adapter
from omnidrop.policies.base import JoinsInside, LayerTokens, Policy, ReadsLeftOut
from omnidrop.policies.schedule import Schedule
from omnidrop.policies.tokens import left_out
from omnidrop.pruning import Guidance


def begin(
    adapter: Adapter,
    clip: ClipTokens,
    packed: Packed,
    policy: Policy,
    schedule: Schedule,
    guidance: Guidance,
    *,
    watch: bool = False,
) -> State:
    """Embed the packed prompt, of the prefix only what the policy lets into the decoder."""
    # Choosing, joining and following compare the same tokens: what is kept between them goes with `choosing`.
    choosing = replace(clip, candidates=replace(clip.candidates))
    of_candidates = choosing.entering(policy, schedule)
    index = clip.among_all(of_candidates)
    alive = clip.alive(index)
    embeddings, deepstack = clip.prefix.embeddings, clip.prefix.deepstack
    positions = clip.prefix.positions
    if index.shape[0] != clip.av.count:
        embeddings, deepstack = _joined(choosing, policy, of_candidates)
        embeddings, positions = embeddings.index_select(0, alive), positions.index_select(1, alive)
    hidden = torch.cat((embeddings, adapter.embed(packed.ids).to(embeddings.dtype)))[None]
    rotary = adapter.rotary(hidden, torch.cat((positions, packed.positions), dim=1)[:, None, :])
    return State(
        clip=clip,
        packed=packed,
        policy=policy,
        schedule=schedule,
        guidance=guidance,
        hidden=hidden,
        rotary=rotary,
        alive=alive,
        index=index,
        deepstack=deepstack,
        left_out=_left_out(adapter, choosing, policy, schedule, of_candidates),
        watched=[] if watch else None,
    )


def _joined(clip: ClipTokens, policy: Policy, of_candidates: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The prefix's embeddings and deepstack rows, (N, D) each, of those that enter with what joins them."""
    prefix = clip.prefix
    join = policy.joins(clip.candidates, of_candidates)
    if join is None:
        return prefix.embeddings, prefix.deepstack
    enter = clip.av_places[clip.among_all(of_candidates)]
    candidates = clip.av_places[clip.among_all(torch.arange(clip.candidates.count, device=enter.device))]

    def joined(rows: Tensor) -> Tensor:
        return rows.index_copy(0, enter, join(rows.index_select(0, candidates), of_candidates))

    return joined(prefix.embeddings), tuple(joined(rows) for rows in prefix.deepstack)


def _left_out(
    adapter: Adapter, clip: ClipTokens, policy: Policy, schedule: Schedule, of_candidates: Tensor
) -> LeftOut | None:
    """What of the candidates does not enter, where the policy's questions read it."""
    if not clip.read(policy, schedule):
        return None
    assert isinstance(policy, ReadsLeftOut)
    others = clip.av_places[clip.among_all(left_out(clip.candidates, of_candidates))]
    follows = policy.followed(clip.candidates, of_candidates)
    follows = torch.where(follows < 0, follows, clip.among_all(follows.clamp_min(0)))
    return LeftOut.of(adapter, clip.prefix, others, follows)


def advance(adapter: Adapter, states: Sequence[State], until: int) -> None:
    """Run layers to `until - 1`, pruning between them: all states in one pass, each with its own tokens.

    The states are before the same layer, have the same questions and a schedule of the same counts.
    """
    for layer in range(states[0].layer, until):
        if layer and states[0].schedule.drops_after(layer - 1):
            for state in states:
                drop(state)
        if layer == len(adapter.layers) - 1:
            run_last_layer(adapter, states)
        else:
            run_layer(adapter, states, layer)


def run_layer(adapter: Adapter, states: Sequence[State], layer: int) -> None:
    """Run all of one layer; `advance` does so with every one but the last."""
    columns = [state.places for state in states]
    prunes = states[0].schedule.drops_after(layer)
    guides = [Guiding.of(s, at) if prunes else None for s, at in zip(states, columns, strict=True)]
    attend = PrefillAttention(states, guides, columns, _read(adapter, states, layer))
    hidden, cos, sin = together([(state.hidden, *state.rotary) for state in states])
    hidden = adapter.layers[layer](hidden, attention_mask=None, position_embeddings=(cos, sin), omnidrop=attend)
    for number, (state, guide, left) in enumerate(zip(states, guides, attend.left, strict=True)):
        rows, packed, deepstack = state.alive.shape[0], state.packed, state.deepstack
        before, state.hidden = state.hidden, hidden[number : number + 1]
        if state.left_out is not None:
            moves = state.hidden[0].index_select(0, columns[number]) - before[0].index_select(0, columns[number])
            own = state.clip.prefix.deepstack[layer] if layer < len(deepstack) else None
            state.left_out = state.left_out.after(moves, state.index, own)
        if layer < len(deepstack):
            state.hidden[:, :rows] += deepstack[layer].index_select(0, state.alive)
        state.entered.append(state.index)
        state.caches.append(left.cache)
        state.importance = left.importance
        if state.watched is not None and left.watched is not None:
            state.watched.append(left.watched)
        guiding = guide.rows.shape[0] if guide else 0
        state.work.append(LayerWork(rows, packed.rows, packed.pairs, guiding, state.read))
        state.layer = layer + 1


def _read(adapter: Adapter, states: Sequence[State], layer: int) -> tuple[Tensor, Tensor] | None:
    """Keys and values (B, Hkv, L, d) in `layer` of what did not enter, where the questions read it."""
    left_out = [state.left_out for state in states if state.left_out is not None]
    if not left_out:
        return None
    hidden, cos, sin = together([(one.hidden, *one.rotary) for one in left_out])
    return adapter.keys_and_values(layer, hidden, (cos, sin))


def drop(state: State) -> None:
    """Let the tokens go that leave after the layer just run."""
    layer, av = state.layer - 1, state.clip.av
    count = state.schedule.entering[layer + 1]
    if state.importance is not None:
        score = aggregate(state.importance, state.guidance)
    else:
        score = torch.zeros(state.index.shape[0], device=state.index.device)
    tokens = LayerTokens(
        layer=layer,
        layers=len(state.schedule.entering),
        index=state.index,
        importance=score,
        modality=av.modality[state.index],
        chunk=av.chunk[state.index],
        chunks=av.chunks,
        earlier=state.earlier,
        audio=av.audio,
        video=av.video,
        **(_states(state) if state.policy.guide == "states" else {}),
    )
    keep = state.policy.at_layer(tokens, count)
    if keep.shape[0] != count:
        raise ValueError(f"policy {state.policy.name!r} kept {keep.shape[0]} tokens after layer {layer}, not {count}")
    if isinstance(state.policy, JoinsInside) and (join := state.policy.joins_at(tokens, keep)) is not None:
        places = state.places
        joined = join(state.hidden[0].index_select(0, places), keep)
        state.hidden = state.hidden.index_copy(1, places[keep], joined[None])
    state.index = state.index[keep]
    if state.importance is not None:
        state.earlier = tuple(of_layer[keep] for of_layer in (*state.earlier, score))
    alive = state.clip.alive(state.index)
    rows = torch.searchsorted(state.alive, alive)
    suffix = torch.arange(state.packed.rows, device=rows.device) + state.alive.shape[0]
    rows = torch.cat((rows, suffix))
    state.hidden = state.hidden.index_select(1, rows)
    state.rotary = (state.rotary[0].index_select(1, rows), state.rotary[1].index_select(1, rows))
    state.alive, state.importance = alive, None


def _states(state: State) -> dict[str, Tensor]:
    """What left the layer just run: audio's and video's, the text's, and which text each question sees."""
    packed, rows, hidden = state.packed, state.alive.shape[0], state.hidden[0]
    of_prefix = torch.searchsorted(state.alive, state.clip.text_places)
    # Rows are known on the host: a question's own, without its options'.
    own = [range(start, start + len(one.ids)) for start, one in zip(packed.starts, packed.asked, strict=False)]
    sees = torch.zeros(len(own), state.clip.text + sum(map(len, own)), dtype=torch.bool)
    sees[:, : state.clip.text], at = True, state.clip.text
    for question, of in enumerate(own):
        sees[question, at : at + len(of)] = True
        at += len(of)
    of_questions = torch.tensor([rows + row for of in own for row in of], dtype=torch.int64)
    text = torch.cat((of_prefix, of_questions.to(of_prefix.device)))
    return {
        "hidden": hidden.index_select(0, state.places),
        "text": hidden.index_select(0, text),
        "asked": sees.to(hidden.device),
    }


def split(state: State, question: int, alone: Packed) -> State:
    """Question `question`'s own state, from a state of the whole set in which nothing has been dropped between layers.

    `alone` is the question packed by itself. Caches are views of the shared ones.
    """
    start, end = state.packed.starts[question], state.packed.starts[question + 1]
    rows = state.alive.shape[0]
    pick = torch.cat(
        (
            torch.arange(rows, device=state.alive.device),
            torch.arange(rows + start, rows + end, device=state.alive.device),
        )
    )
    return State(
        clip=state.clip,
        packed=alone,
        policy=state.policy,
        schedule=state.schedule,
        guidance=state.guidance,
        hidden=state.hidden.index_select(1, pick),
        rotary=(state.rotary[0].index_select(1, pick), state.rotary[1].index_select(1, pick)),
        alive=state.alive,
        index=state.index,
        deepstack=state.deepstack,
        left_out=state.left_out,
        layer=state.layer,
        importance=None if state.importance is None else state.importance[question : question + 1],
        caches=[
            LayerCache(c.prefix_keys, c.prefix_values, c.suffix_keys[:, start:end], c.suffix_values[:, start:end])
            for c in state.caches
        ],
        entered=list(state.entered),
        watched=None if state.watched is None else [seen[question : question + 1] for seen in state.watched],
    )


def logits(adapter: Adapter, states: Sequence[State]) -> list[Tensor]:
    """Per state (R, vocabulary) float32 at the rows the answers are read from, and nowhere else."""
    (hidden,) = together([(state.hidden,) for state in states])
    scores: Tensor = adapter.lm_head(adapter.norm(hidden))
    return list(scores.float().unbind())
