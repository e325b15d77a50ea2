"""The five ways to run a question set, behind one function.

Promises: every mode yields finished prefills that are read and decoded alike, one pass at a time, so that its cache can
go before the next one starts; a pass takes several clips of one shape. Knows nothing about answers, costs or how tokens
are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from omnidrop.cost import LayerWork
from omnidrop.engine import prefill
from omnidrop.engine.layout import pack
from omnidrop.engine.question_rows import Asked
from omnidrop.engine.state import ClipTokens, State
from omnidrop.models.base import Adapter
from omnidrop.policies.base import Policy
from omnidrop.policies.schedule import Schedule
from omnidrop.pruning import Guidance


@dataclass(frozen=True, eq=False)
class Prefilled:
    """A finished prefill of some of the set's questions about one clip."""

    questions: tuple[int, ...]
    """Which questions, numbered within the set, in the order packed."""
    state: State
    logits: Tensor
    """(R, vocabulary) float32, at `state.packed.read`."""
    first_layer: int
    """Where `work` starts: above 0 for a question whose early layers another one already ran."""
    work: tuple[LayerWork, ...]
    cached_rows: tuple[int, ...]
    """Rows whose keys and values are held, per layer."""
    seen_rows: tuple[int, ...]
    """Of these the clip's, per layer: what decoding attends to."""


def run(
    adapter: Adapter,
    clips: Sequence[ClipTokens],
    asked: Sequence[Asked],
    mode: str,
    policy: Policy,
    schedule: Schedule,
    guidance: Guidance,
    *,
    watch: bool = False,
) -> Iterator[list[Prefilled]]:
    """Prefill `asked` in `mode`, one of MODES: per pass a Prefilled of every clip, in the clips' order.

    Clips are of one shape: their prefixes have the same tokens, the embeddings apart, and `schedule` is that of each.
    `watch` records `State.watched`. Runs inside `own_attention`.
    """

    def begin(group: Sequence[int]) -> list[State]:
        packed = pack(clips[0].prefix, [asked[number] for number in group])
        return [prefill.begin(adapter, clip, packed, policy, schedule, guidance, watch=watch) for clip in clips]

    everyone = tuple(range(len(asked)))
    if mode == "staged" and schedule.first_drop is not None and len(asked) > 1:
        # Until the first drop nothing depends on the question: attention is causal and the prefix comes first.
        shared = begin(everyone)
        prefill.advance(adapter, shared, schedule.first_drop + 1)
        for number, one in enumerate(asked):
            alone = pack(clips[0].prefix, [one])
            yield _finish(
                adapter, (number,), [prefill.split(state, number, alone) for state in shared], tuple(shared[0].work)
            )
        return
    for group in [(number,) for number in everyone] if mode in ("dense", "per_question") else [everyone]:
        # Nothing here keeps the states: their caches must be able to go before the next pass starts.
        yield _finish(adapter, group, begin(group), ())


def _finish(
    adapter: Adapter, questions: tuple[int, ...], states: Sequence[State], shared: tuple[LayerWork, ...]
) -> list[Prefilled]:
    prefill.advance(adapter, states, len(adapter.layers))
    carries = shared if questions[0] == 0 else ()  # the first question of the set answers for the shared layers
    return [
        Prefilled(
            questions=questions,
            state=state,
            logits=logits,
            first_layer=0 if carries or not shared else len(shared),
            work=(*carries, *state.work),
            cached_rows=tuple(w.cached_rows for w in (*shared, *state.work)),
            seen_rows=tuple(w.seen_rows for w in (*shared, *state.work)),
        )
        for state, logits in zip(states, prefill.logits(adapter, states), strict=True)
    ]
