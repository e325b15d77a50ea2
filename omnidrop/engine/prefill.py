"""One packed, pruned prefill: a clip's prefix and its questions through the decoder's layers in a single pass.

Promises: our own loop over the model's layers; the prefix is causal, questions see the prefix and themselves, and what
did not enter where the policy has it read; tokens leave between layers and survivors keep their rotary positions; every
count is known on the host, so nothing waits for the device. Clips of one shape advance together, as rows of one batch:
counts follow a schedule, so they are as long in every layer, though each keeps tokens of its own. With nothing pruned
the logits are the stock model's. Knows nothing about families beyond `Adapter`, or about answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from omnidrop.cost import LayerWork
from omnidrop.engine import cpu_attention
from omnidrop.engine.importance import aggregate, attention_received
from omnidrop.engine.layout import Packed
from omnidrop.engine.left_out import LeftOut
from omnidrop.models.base import AUDIO, Adapter, Prefix
from omnidrop.policies.base import AudioVisual, JoinsInside, LayerTokens, Policy, ReadsLeftOut, read_of
from omnidrop.policies.schedule import Schedule
from omnidrop.policies.tokens import audio_visual, encoded
from omnidrop.pruning import Guidance

ATTENTION = "omnidrop"
"""Name under which our attention is registered. It has no mask function, so transformers builds no mask."""


class Attend(Protocol):
    """What a layer call brings along: attention over (B, H, S, d) queries, (B, Hkv, S, d) keys -> (B, S, H, d)."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor: ...


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    omnidrop: Attend,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    return omnidrop(query, key, value, scaling), None


@contextmanager
def own_attention(adapter: Adapter) -> Iterator[None]:
    """Route the decoder's attention through the object each layer call brings, and put the model back afterwards."""
    # Here, because it takes three seconds, and planning, which prices what this module would do, needs no model.
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    config = adapter.layers[0].self_attn.config  # type: ignore[union-attr]
    before = config._attn_implementation  # type: ignore[union-attr]
    config._attn_implementation = ATTENTION  # type: ignore[union-attr]
    try:
        yield
    finally:
        config._attn_implementation = before  # type: ignore[union-attr]


@dataclass(frozen=True, eq=False)
class ClipTokens:
    """A clip ready to be prefilled: its prefix, and its audio and video tokens as a policy sees them."""

    prefix: Prefix
    av: AudioVisual
    av_places: Tensor
    """(n,) int64: where the audio and video tokens are in the prefix."""
    text_places: Tensor
    """(N - n,) int64: where the text is."""
    candidates: AudioVisual
    """The tokens that may enter the decoder: all, or those that were encoded."""
    candidate_index: Tensor | None
    """(k,) int64: their numbers among the n; None where they are all."""

    @classmethod
    def of(cls, prefix: Prefix) -> ClipTokens:
        """Sort a prefix's tokens; the only place where counts come from the device."""
        av, places = audio_visual(prefix)
        is_av = torch.zeros(prefix.input_ids.shape[0], dtype=torch.bool)
        is_av[places.cpu()] = True
        text = torch.nonzero(~is_av).flatten().to(places.device)
        return cls(prefix, av, places, text, *encoded(av, prefix))

    @property
    def text(self) -> int:
        """Text tokens in the prefix."""
        return self.text_places.shape[0]

    def entering(self, policy: Policy, schedule: Schedule) -> Tensor:
        """(entering,) int64: numbers among the candidates of the tokens that `policy` lets into the decoder."""
        index = policy.before(self.candidates, schedule)
        if index.shape[0] != schedule.entering[0]:
            raise ValueError(
                f"policy {policy.name!r} let {index.shape[0]} tokens into the decoder, not {schedule.entering[0]}, of "
                f"{self.candidates.count} that were encoded"
            )
        return index

    def read(self, policy: Policy, schedule: Schedule) -> int:
        """How many tokens do not enter and are read by the questions all the same."""
        return read_of(self.candidates.count, policy, schedule)

    def among_all(self, index: Tensor) -> Tensor:
        """Numbers among the n of the candidates at `index`."""
        return index if self.candidate_index is None else self.candidate_index[index]


@dataclass(frozen=True, eq=False)
class LayerCache:
    """One layer's keys and values after rotary embedding, as they entered the layer."""

    prefix_keys: Tensor
    """(Hkv, L + P, d), shared by all questions: of what was left out and is read, then of what entered."""
    prefix_values: Tensor
    suffix_keys: Tensor
    """(Hkv, M, d), all questions' rows."""
    suffix_values: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all four."""
        return 2 * (self.prefix_keys.numel() + self.suffix_keys.numel()) * self.prefix_keys.element_size()


@dataclass(frozen=True, eq=False)
class Guiding:
    """The rows whose attention says what matters."""

    rows: Tensor
    """(G,) int64 of all rows."""
    visible: Tensor
    """(G, T) bool: which of the last T keys each sees; all see those before."""
    owner: Tensor
    """(Q, G) float32: averages rows into questions."""

    @classmethod
    def words(cls, packed: Packed, prefix_rows: int) -> Guiding:
        """Every question's own words."""
        return cls(packed.guiding + prefix_rows, packed.visible.index_select(0, packed.guiding), packed.guiding_owner)

    @classmethod
    def questions(cls, packed: Packed, prefix_rows: int) -> Guiding:
        """Every question's own words, and for as much its last row: deep layers read there what is answered."""
        rows = torch.cat((packed.guiding, packed.last))
        answers = torch.eye(len(packed.asked), device=rows.device)
        owner = torch.cat((packed.guiding_owner, answers), dim=1) / 2
        return cls(rows + prefix_rows, packed.visible.index_select(0, rows), owner)

    @classmethod
    def of(cls, state: State, columns: Tensor) -> Guiding | None:
        """What the state's policy looks at; `columns` are the rows of the audio and video tokens still there."""
        packed, prefix_rows = state.packed, state.alive.shape[0]
        if state.policy.guide in ("nothing", "states"):
            return None
        if state.policy.guide == "question":
            return cls.questions(packed, prefix_rows)
        if state.policy.guide == "words":
            return cls.words(packed, prefix_rows)
        if state.policy.guide == "last":
            last = packed.last
            owner = torch.eye(len(packed.asked), device=last.device)
            return cls(last + prefix_rows, packed.visible.index_select(0, last), owner)
        # The audio tokens themselves: an ablation, whose count waits for the device.
        heard = columns[state.clip.av.modality[state.index] == AUDIO]
        everything = torch.arange(prefix_rows + packed.rows, device=heard.device)
        owner = torch.full((1, heard.shape[0]), 1.0 / max(heard.shape[0], 1), device=heard.device)
        before = F.pad(everything[None] <= heard[:, None], (state.read, 0))  # media do not read what was left out
        return cls(heard, before, owner)


@dataclass(frozen=True, eq=False)
class _Left:
    """What one layer's attention leaves behind of one clip."""

    cache: LayerCache
    importance: Tensor | None
    """(Q, n), where the layer's output is to be pruned."""
    watched: Tensor | None
    """(Q, n), where the state records it."""


class _Prefill:
    """Attention of one layer in a packed prefill of B clips that have the same questions and as many rows."""

    def __init__(
        self,
        states: Sequence[State],
        guides: Sequence[Guiding | None],
        columns: Sequence[Tensor],
        read: tuple[Tensor, Tensor] | None,
    ) -> None:
        """`read`: keys and values (B, Hkv, L, d) of what was left out."""
        self.states = states
        self.guides = guides
        self.columns = columns
        self.read = read
        self.left: list[_Left] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        packed, rows = self.states[0].packed, self.states[0].alive.shape[0]
        suffix = packed.rows
        clips, heads, _, width = query.shape
        kv = key.shape[1]
        parts = (query[:, :, :rows], key[:, :, :rows], value[:, :, :rows])
        if self.read is not None:
            key, value = (torch.cat(both, dim=2) for both in zip(self.read, (key, value), strict=True))
        seen_rows = key.shape[2] - suffix
        if cpu_attention.is_faster(query):
            prefix = cpu_attention.causal(*parts, scaling)
            answer = cpu_attention.branches(query[:, :, rows:], key, value, ~packed.visible, scaling)
        else:
            prefix = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scaling, enable_gqa=heads != kv)
            # Lower-right alignment written out: every suffix row sees the whole prefix, what else is read, and its own
            # branch. With `is_causal` and more keys than queries, SDPA aligns upper-left. The heads of a group stand as
            # rows of one query, because SDPA with a mask and grouped heads falls back to its slowest kernel on CUDA.
            seen = F.pad(packed.visible, (seen_rows, 0), value=True).repeat(heads // kv, 1)
            folded = query[:, :, rows:].reshape(clips, kv, heads // kv * suffix, width)
            answer = F.scaled_dot_product_attention(folded, key, value, attn_mask=seen, scale=scaling)
            answer = answer.reshape(clips, heads, suffix, width)
        # One clip after another: few rows guide, and their weights over all keys are what would take memory.
        self.left = [self._leave(number, query[number], key[number], value[number], scaling) for number in range(clips)]
        return torch.cat((prefix, answer), dim=2).transpose(1, 2)

    def _leave(self, number: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> _Left:
        state = self.states[number]
        rows, seen_rows = state.alive.shape[0], key.shape[1] - state.packed.rows
        columns = self.columns[number] + state.read

        def received(by: Guiding | None) -> Tensor | None:
            if by is None:
                return None
            guiding = query.index_select(1, by.rows)
            return attention_received(guiding, key, by.visible, by.owner, columns, scaling)

        return _Left(
            cache=LayerCache(key[:, :seen_rows], value[:, :seen_rows], key[:, seen_rows:], value[:, seen_rows:]),
            importance=received(self.guides[number]),
            watched=None if state.watched is None else received(Guiding.words(state.packed, rows)),
        )


@dataclass(eq=False)
class State:
    """One clip's prefill between two layers. Changed in place by `advance`; `split` gives each question its own."""

    clip: ClipTokens
    packed: Packed
    policy: Policy
    schedule: Schedule
    guidance: Guidance
    hidden: Tensor
    """(1, P + M, D)."""
    rotary: tuple[Tensor, Tensor]
    """cos and sin, (1, P + M, d) each."""
    alive: Tensor
    """(P,) int64: the prefix tokens still there, ascending."""
    index: Tensor
    """(n,) int64: the audio and video tokens still there, numbered among those before any pruning."""
    deepstack: tuple[Tensor, ...] = ()
    """As `Prefix.deepstack`, with what joined the tokens that entered."""
    left_out: LeftOut | None = None
    """What did not enter, where the questions read it."""
    layer: int = 0
    importance: Tensor | None = None
    """(Q, n) of the layer just run, where its output is to be pruned."""
    earlier: tuple[Tensor, ...] = ()
    """(n,) each: one score for the whole set, of every layer after which tokens left."""
    caches: list[LayerCache] = field(default_factory=list)
    work: list[LayerWork] = field(default_factory=list)
    entered: list[Tensor] = field(default_factory=list)
    """Per layer, `index` on entering it."""
    watched: list[Tensor] | None = None
    """Per layer, (Q, n) attention from each question's own words to the tokens in `entered`, whatever the policy looks
    at; None if it was not requested."""

    @property
    def read(self) -> int:
        """L, how many tokens are read and did not enter."""
        return self.left_out.count if self.left_out else 0


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
    prefix = clip.prefix
    of_candidates = clip.entering(policy, schedule)
    index = clip.among_all(of_candidates)
    alive = torch.sort(torch.cat((clip.text_places, clip.av_places[index]))).values
    whole = index.shape[0] == clip.av.count
    embeddings = prefix.embeddings if whole else prefix.embeddings.index_select(0, alive)
    deepstack = prefix.deepstack
    join = None if whole else policy.joins(clip.candidates, of_candidates)
    if join is not None:
        places = clip.av_places[index]
        candidates = clip.among_all(torch.arange(clip.candidates.count, device=index.device))

        def merged(rows: Tensor) -> Tensor:
            """(N, D), those that enter changed."""
            of_all = rows.index_select(0, clip.av_places[candidates])
            return rows.index_copy(0, places, join(of_all, of_candidates))

        embeddings = merged(prefix.embeddings).index_select(0, alive)
        deepstack = tuple(merged(rows) for rows in deepstack)
    positions = prefix.positions if whole else prefix.positions.index_select(1, alive)
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
        left_out=_left_out(adapter, clip, policy, schedule, of_candidates),
        watched=[] if watch else None,
    )


def _left_out(
    adapter: Adapter, clip: ClipTokens, policy: Policy, schedule: Schedule, of_candidates: Tensor
) -> LeftOut | None:
    """What of the candidates does not enter, where the policy's questions read it."""
    if not clip.read(policy, schedule):
        return None
    assert isinstance(policy, ReadsLeftOut)
    enters = torch.zeros(clip.candidates.count, dtype=torch.bool, device=of_candidates.device)
    others = torch.nonzero(~enters.index_fill_(0, of_candidates, True)).flatten()
    follows = policy.followed(clip.candidates, of_candidates)
    follows = torch.where(follows < 0, follows, clip.among_all(follows.clamp_min(0)))
    return LeftOut.of(adapter, clip.prefix, clip.av_places[clip.among_all(others)], follows)


def advance(adapter: Adapter, states: Sequence[State], until: int) -> None:
    """Run layers to `until - 1`, pruning between them: all states in one pass, each with its own tokens.

    The states are before the same layer, have the same questions and a schedule of the same counts.
    """
    for layer in range(states[0].layer, until):
        if layer and states[0].schedule.drops_after(layer - 1):
            for state in states:
                drop(state)
        _run_layer(adapter, states, layer)


def _run_layer(adapter: Adapter, states: Sequence[State], layer: int) -> None:
    columns = [torch.searchsorted(state.alive, state.clip.av_places[state.index]) for state in states]
    prunes = states[0].schedule.drops_after(layer)
    guides = [Guiding.of(s, at) if prunes else None for s, at in zip(states, columns, strict=True)]
    attend = _Prefill(states, guides, columns, _read(adapter, states, layer))
    cos, sin = zip(*(state.rotary for state in states), strict=True)
    hidden = adapter.layers[layer](
        _together([state.hidden for state in states]),
        attention_mask=None,
        position_embeddings=(_together(cos), _together(sin)),
        omnidrop=attend,
    )
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
    cos, sin = zip(*(one.rotary for one in left_out), strict=True)
    return adapter.keys_and_values(layer, _together([one.hidden for one in left_out]), (_together(cos), _together(sin)))


def _together(of_states: Sequence[Tensor]) -> Tensor:
    """(1, ...) each -> (B, ...). A layer's work is thousands of times that of copying its rows."""
    return of_states[0] if len(of_states) == 1 else torch.cat(tuple(of_states))


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
        places = torch.searchsorted(state.alive, state.clip.av_places[state.index])
        joined = join(state.hidden[0].index_select(0, places), keep)
        state.hidden = state.hidden.index_copy(1, places[keep], joined[None])
    state.index = state.index[keep]
    if state.importance is not None:
        state.earlier = tuple(of_layer[keep] for of_layer in (*state.earlier, score))
    alive = torch.sort(torch.cat((state.clip.text_places, state.clip.av_places[state.index]))).values
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
    places = torch.searchsorted(state.alive, state.clip.av_places[state.index])
    return {
        "hidden": hidden.index_select(0, places),
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
    rows = [state.hidden[0].index_select(0, state.packed.read + state.alive.shape[0]) for state in states]
    scores: Tensor = adapter.lm_head(adapter.norm(_together(rows)))
    return list(scores.float().chunk(len(states)))
