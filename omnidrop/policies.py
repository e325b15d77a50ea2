"""What a pruning policy is, what it may look at, and the policies by name.

Promises: a policy is a frozen dataclass of parameters that says how many audio and video tokens stay (host integers,
known before the decoder runs) and which ones. Text is never its business: it only ever sees audio and video tokens.
Knows nothing about attention kernels, caches, modes or how the importance it is given was computed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from omnidrop import diversity, intra_modality
from omnidrop.errors import PolicyError
from omnidrop.models.base import AUDIO, VIDEO, Prefix
from omnidrop.schedule import Schedule, Sigmoid, calibrate, full

Guide = Literal["nothing", "question", "words", "last", "audio"]
"""Whose attention a policy looks at inside the decoder: nobody's; that of a question's words and of its last token, at
which the answer begins, half and half; of its words alone, as in the paper; of its last token alone; or of the audio
tokens. `words` and `audio` are there for ablations."""


@dataclass(frozen=True, eq=False)
class AudioVisual:
    """A clip's n audio and video tokens before any pruning, in prompt order: what a policy may look at at the input."""

    modality: Tensor
    """(n,) int8: AUDIO or VIDEO."""
    chunk: Tensor
    """(n,) int64: number of the time chunk."""
    grid: Tensor
    """(n, 3) int32, as `Prefix.grid`."""
    features: Tensor
    """(n, D) model dtype: the encoders' projected features."""
    audio_importance: Tensor | None
    """(audio,) float32: attention received in the audio encoder's last layer, in token order; None where unknown."""
    audio: int
    video: int
    frame_sizes: tuple[int, ...]
    """Video tokens by temporal patch, in time order; they sum to `video`."""
    chunks: int
    """How many chunks there are: the highest chunk number + 1."""
    video_importance: Tensor | None = None
    """(video,) float32: attention received in the vision encoder, in token order; None where unknown."""

    @property
    def count(self) -> int:
        """n."""
        return self.audio + self.video

    @property
    def is_audio(self) -> Tensor:
        """(n,) bool."""
        return self.modality == AUDIO


@dataclass(frozen=True, eq=False)
class LayerTokens:
    """The audio and video tokens that entered one decoder layer, in prompt order: what a policy may look at there."""

    layer: int
    layers: int
    """Depth of the decoder."""
    index: Tensor
    """(alive,) int64: each token's place among the n tokens of `AudioVisual`."""
    importance: Tensor
    """(alive,) float32: attention received in this layer from the rows the policy's `guide` names, aggregated over the
    questions. Higher matters more."""
    modality: Tensor
    """(alive,) int8."""
    chunk: Tensor
    """(alive,) int64."""
    chunks: int
    earlier: tuple[Tensor, ...] = ()
    """`importance` in the layers before after which tokens left, (alive,) each, the latest last."""


class Policy(Protocol):
    """How tokens are chosen. Implementations are frozen dataclasses whose fields are their parameters.

    Every count is a host integer from `plan`, so running a policy never waits for the device; `before` runs once a clip
    and may, `at_layer` must not (no `.item()`, `nonzero()` or boolean indexing there: topk and sort instead).
    """

    name: ClassVar[str]
    guide: ClassVar[Guide]

    def plan(self, tokens: AudioVisual, layers: int, retained_ratio: float | None) -> Schedule:
        """How many tokens enter each layer so that the mean over layers is `retained_ratio` (None: the policy's own).

        Raises PolicyError, naming the floor, where the ratio cannot be reached.
        """
        ...

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """Which tokens enter the decoder: exactly `schedule.entering[0]` ascending indices into 0..n-1, int64."""
        ...

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """Which tokens go on to the next layer: exactly `keep` ascending indices into 0..alive-1, int64.

        Called only after layers whose output the schedule shortens.
        """
        ...


PolicyT = TypeVar("PolicyT", bound="type[Policy]")
_REGISTRY: dict[str, type[Policy]] = {}


def register(policy: PolicyT) -> PolicyT:
    """Class decorator: make a policy available by its `name`."""
    _REGISTRY[policy.name] = policy
    return policy


@contextmanager
def registered(policy: type[Policy]) -> Iterator[None]:
    """Make a policy available while the block runs: for experiments."""
    register(policy)
    try:
        yield
    finally:
        del _REGISTRY[policy.name]


def names() -> tuple[str, ...]:
    """Every policy's name, sorted."""
    importlib.import_module("omnidrop.baselines")
    return tuple(sorted(_REGISTRY))


def named(name: str, **settings: object) -> Policy:
    """The policy `name` with `settings` for its fields. Raises PolicyError naming what is allowed."""
    if name not in names():
        raise PolicyError(f"unknown policy {name!r}; allowed: {', '.join(names())}")
    policy = _REGISTRY[name]
    allowed = [f.name for f in fields(policy) if f.init]  # type: ignore[arg-type]
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise PolicyError(
            f"policy {name!r} has no setting {', '.join(map(repr, unknown))}; allowed: {', '.join(allowed) or 'none'}"
        )
    return policy(**settings)


def takes(name: str, setting: str) -> bool:
    """Whether policy `name` has a parameter called `setting`."""
    return name in names() and any(f.name == setting for f in fields(_REGISTRY[name]))  # type: ignore[arg-type]


def audio_visual(prefix: Prefix) -> tuple[AudioVisual, Tensor]:
    """The prefix's audio and video tokens and (n,) their places in it, int64, on the prefix's device.

    This is where counts come to the host, once a clip.
    """
    modality = prefix.modality.cpu()
    places = torch.nonzero((modality == AUDIO) | (modality == VIDEO)).flatten()
    of = modality[places]
    time = prefix.grid.cpu()[places[of == VIDEO], 0]
    sizes = torch.unique_consecutive(time, return_counts=True)[1] if time.numel() else time
    chunk = prefix.chunk.cpu()[places]
    device = prefix.embeddings.device
    at = places.to(device)
    tokens = AudioVisual(
        modality=of.to(device),
        chunk=chunk.to(device=device, dtype=torch.int64),
        grid=prefix.grid[at],
        features=prefix.embeddings[at],
        audio_importance=prefix.audio_importance,
        audio=int((of == AUDIO).sum()),
        video=int((of == VIDEO).sum()),
        frame_sizes=tuple(int(x) for x in sizes),
        chunks=int(chunk.max()) + 1 if chunk.numel() else 0,
        video_importance=prefix.video_importance,
    )
    return tokens, at


def everything(tokens: AudioVisual) -> Tensor:
    """(n,) int64: all of them."""
    return torch.arange(tokens.count, device=tokens.modality.device)


def keep_highest(score: Tensor, keep: int) -> Tensor:
    """(keep,) ascending indices of the `keep` highest of `score` (alive,)."""
    return torch.sort(torch.topk(score, keep, sorted=False).indices).values


@register
@dataclass(frozen=True)
class Nothing:
    """No pruning: what the dense modes run with."""

    name: ClassVar[str] = "none"
    guide: ClassVar[Guide] = "nothing"

    def plan(self, tokens: AudioVisual, layers: int, retained_ratio: float | None) -> Schedule:
        """All tokens enter all layers."""
        if retained_ratio not in (None, 1.0):
            raise PolicyError(
                f"policy 'none' keeps everything, got retained_ratio {retained_ratio}; use None or another policy"
            )
        return full(tokens.count, layers)

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """Every token."""
        return everything(tokens)

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """Never called: the schedule drops nothing."""
        return torch.arange(keep, device=tokens.importance.device)


@register
@dataclass(frozen=True)
class OmniDrop:
    """Layer-wise pruning guided by the question's attention (arXiv 2605.14458).

    Numbers default to the paper's settings for the 7B model. `p_init` and `p_final` left at None are solved, together
    with the share that enters the decoder, for the retained ratio asked (see `omnidrop.schedule.calibrate`).
    """

    name: ClassVar[str] = "omnidrop"
    guide: ClassVar[Guide] = "question"

    beta: float = 20.0
    """Steepness of the layer schedule."""
    t_mid: float = 0.5
    """Share of the depth at which half of `p_final` is reached (the paper's 3B at 20 %: 0.55)."""
    p_init: float | None = None
    p_final: float | None = None
    audio_keep: float = 0.7
    """Share of the audio tokens that enters the decoder."""
    video_keep: float = 0.4
    """Share of the video tokens that enters: the paper's (1 + 3 x 0.2) / 4, one anchor of four frames whole and 20 % of
    the others."""
    entry: intra_modality.Way = "rare"
    """Which ones: the least like each other, rare ones first (`rare`) or not (`diverse`), or the paper's (`merged`):
    audio by attention received in the encoder, video by what differs from the anchor frame. See docs/evidence.md."""
    at_input: bool = True
    """Off: every token enters the decoder and only layers prune."""
    memory: float = 0.7
    """How much of a token's score in the layers before counts in this one; 0 is the paper. Layers look at different
    things: what the first look of a question needs is not what the second needs."""
    diversity: diversity.Kind = "normalised"
    diversity_weight: float = 0.2
    diversity_from: float = 0.5
    """Share of the depth from which the temporal diversity score is used: layer 14 of 28 (19 of 36 for 3B)."""

    def __post_init__(self) -> None:
        for field, low, high in (
            ("t_mid", 0.0, 1.0),
            ("audio_keep", 0.0, 1.0),
            ("video_keep", 0.25, 1.0),
            ("memory", 0.0, 1.0),
            ("diversity_weight", 0.0, 1.0),
            ("diversity_from", 0.0, 1.0),
        ):
            if not low <= getattr(self, field) <= high:
                raise PolicyError(f"{field} must be {low:g} to {high:g}, got {getattr(self, field)!r}")
        for field in ("p_init", "p_final"):
            given = getattr(self, field)
            if given is not None and not 0.0 <= given < 1.0:
                raise PolicyError(f"{field} must be at least 0 and below 1, got {given!r}")
        if (self.p_init is None) != (self.p_final is None):
            raise PolicyError("give both p_init and p_final, or neither to have them solved for the retained ratio")
        if self.entry not in intra_modality.WAYS:
            raise PolicyError(f"entry must be one of {', '.join(intra_modality.WAYS)}, got {self.entry!r}")
        if self.beta <= 0:
            raise PolicyError(f"beta must be positive, got {self.beta!r}")
        if self.diversity not in diversity.KINDS:
            raise PolicyError(f"diversity must be one of {', '.join(diversity.KINDS)}, got {self.diversity!r}")

    def _entry(self, tokens: AudioVisual) -> intra_modality.Entry:
        share = (self.audio_keep, self.video_keep) if self.at_input else (1.0, 1.0)
        return intra_modality.Entry(tokens.audio, tokens.frame_sizes, *share)

    def plan(self, tokens: AudioVisual, layers: int, retained_ratio: float | None) -> Schedule:
        """The paper's sigmoid with the given rates, or the rates that meet `retained_ratio` at this depth."""
        entry = self._entry(tokens)
        shape = Sigmoid(self.p_init or 0.0, self.p_final or 0.0, self.beta, self.t_mid)
        if self.p_init is not None:
            if retained_ratio is not None:
                raise PolicyError("give either p_init and p_final or a retained_ratio, not both")
            return shape.schedule(tokens.count, entry.count(1.0), layers)
        if retained_ratio is None:
            raise PolicyError("policy 'omnidrop' needs a retained_ratio (for example 0.3), or p_init and p_final")
        return calibrate(retained_ratio, tokens.count, layers, shape, entry.counts())

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """The least alike and rarest, or the paper's temporal token merging."""
        return intra_modality.select(tokens, self._entry(tokens), schedule.entering[0], self.entry)

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """One global ranking over audio and video; in deep layers far-away moments are kept in preference."""
        score = self._score(tokens)
        if self.diversity == "off" or tokens.layer < self.diversity_from * tokens.layers:
            return keep_highest(score, keep)
        return diversity.keep(
            score,
            tokens.chunk,
            keep,
            self.diversity_weight,
            tokens.chunks,
            normalised=self.diversity == "normalised",
        )

    def _score(self, tokens: LayerTokens) -> Tensor:
        """(alive,) float32: the layer's importance and, `memory` times fainter with every layer, that of those before.

        Layers differ in how much of their attention goes to audio and video at all, so each is brought to a sum of 1.
        """
        if not self.memory:
            return tokens.importance
        score = torch.zeros_like(tokens.importance)
        for importance in (*tokens.earlier, tokens.importance):
            share = importance / importance.sum().clamp_min(torch.finfo(torch.float32).tiny)
            score = share + self.memory * score
        return score
