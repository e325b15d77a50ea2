"""A clip on its way through the decoder: its tokens as a policy sees them, and where its prefill stands.

Promises: every count is known on the host once a clip is sorted, so nothing after it waits for the device. Knows
nothing about how layers are run or what attends to what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnidrop.cost import LayerWork
from omnidrop.engine.layout import Packed
from omnidrop.engine.left_out import LeftOut
from omnidrop.errors import NoNumbers
from omnidrop.models.base import Prefix
from omnidrop.policies.base import AudioVisual, Policy, read_of
from omnidrop.policies.schedule import Schedule
from omnidrop.policies.tokens import audio_visual, encoded
from omnidrop.pruning import Guidance


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
        """Sort a prefix's tokens; the only place where counts come from the device. Raises NoNumbers for features of
        which no policy could choose."""
        # Where one is none the sum is none: 0.01 s of a core for 43 million, 0.29 where each is looked at.
        if not torch.isfinite(prefix.embeddings.sum(dtype=torch.float32)):
            raise NoNumbers("features of the clip")
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

    def alive(self, index: Tensor) -> Tensor:
        """(P,) int64, ascending: places in the prefix of the text, and of the audio and video tokens at `index`."""
        return torch.sort(torch.cat((self.text_places, self.av_places[index]))).values

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


@dataclass(eq=False)
class State:
    """One clip's prefill between two layers. Changed in place by `advance`; `split` gives each question its own."""

    clip: ClipTokens
    packed: Packed
    policy: Policy
    schedule: Schedule
    guidance: Guidance
    hidden: Tensor
    """(1, P + M, D); behind the last layer (1, R, D), the rows that answers are read from."""
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
    def places(self) -> Tensor:
        """(n,) int64: rows of the audio and video tokens still there, among the P."""
        return torch.searchsorted(self.alive, self.clip.av_places[self.index])

    @property
    def read(self) -> int:
        """L, how many tokens are read and did not enter."""
        return self.left_out.count if self.left_out else 0


def together(of_states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """(1, ...) each -> (B, ...). A layer's work is thousands of times that of copying its rows."""
    return of_states[0] if len(of_states) == 1 else tuple(torch.cat(parts) for parts in zip(*of_states, strict=True))
