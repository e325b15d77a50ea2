"""What a pruning policy is, and what it may look at.

Promises: a policy is a frozen dataclass of parameters that says how many audio and video tokens stay (host integers,
known before the decoder runs) and which ones. Text is never its business: it only ever sees audio and video tokens.
Knows nothing about attention kernels, caches, modes or how the importance it is given was computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO, Prefix
from omnidrop.policies.joined import Joined
from omnidrop.policies.schedule import Schedule

Guide = Literal["nothing", "question", "words", "last", "audio", "states"]
"""Whose attention a policy looks at inside the decoder: nobody's; that of a question's words and of its last token, at
which the answer begins, half and half; of its words alone, as in the paper; of its last token alone; or of the audio
tokens. `words` and `audio` are there for ablations. `states`: nobody's, but it is given the layer's hidden states."""


@dataclass(frozen=True, eq=False)
class AudioVisual:
    """A clip's n audio and video tokens before any pruning, in prompt order: what a policy may look at at the input."""

    modality: Tensor
    """(n,) int8: AUDIO or VIDEO."""
    chunk: Tensor
    """(n,) int64: number of the time chunk."""
    grid: Tensor
    """(n, 3) int32, as `Prefix.grid`."""
    seconds: Tensor
    """(n,) float32, as `Prefix.seconds`."""
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
    whole_frame_sizes: tuple[int, ...] | None = None
    """Where the encoder left cells out, so that these tokens are what it encoded: `frame_sizes` of the whole clip, by
    which budgets are made. None where all were encoded."""

    versions: Tensor | None = None
    """(n,) int64: the number of the token whose features each has, an earlier one of its place, or itself: what stands
    still is encoded once. None where each has its own."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Video tokens by temporal patch of the whole clip, encoded or not."""
        return self.frame_sizes if self.whole_frame_sizes is None else self.whole_frame_sizes

    @property
    def is_own(self) -> Tensor:
        """(n,) bool: whose features are their own."""
        every = torch.arange(self.count, device=self.modality.device)
        return torch.ones_like(every, dtype=torch.bool) if self.versions is None else self.versions == every

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
    audio: int = 0
    """Audio tokens of the clip before any pruning, on the host."""
    video: int = 0
    hidden: Tensor | None = None
    """(alive, D) model dtype: what left the layer. As the next two, only where the policy's `guide` is `states`."""
    text: Tensor | None = None
    """(T, D): the same of the text, without the options' rows."""
    asked: Tensor | None = None
    """(Q, T) bool: which text each question sees, the prefix's and its own."""


class Policy(Protocol):
    """How tokens are chosen. Implementations are frozen dataclasses whose fields are their parameters.

    A policy whose `before` can do with a part of the clip's cells, in any temporal patch, is a `SomeCells` too.

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

    def joins(self, tokens: AudioVisual, index: Tensor) -> Joined | None:
        """Which tokens that `index`, from `before`, leaves out are averaged into those that enter; None: none."""
        ...

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """Which tokens go on to the next layer: exactly `keep` ascending indices into 0..alive-1, int64.

        Called only after layers whose output the schedule shortens.
        """
        ...


@runtime_checkable
class SomeCells(Protocol):
    """What a policy offers beside, for which not every cell of the picture needs to be encoded."""

    @property
    def does_with_some_cells(self) -> bool:
        """Whether it can with these parameters."""
        ...

    def most_video(self, tokens: AudioVisual, schedule: Schedule) -> int:
        """How many video tokens may enter the decoder at most: as many cells are encoded at least."""
        ...


@runtime_checkable
class ReadsLeftOut(Protocol):
    """What a policy offers beside, whose tokens that do not enter the decoder may be read by the questions."""

    @property
    def read_left_out(self) -> bool:
        """Whether they are."""
        ...

    def followed(self, tokens: AudioVisual, index: Tensor) -> Tensor:
        """Which entering token's hidden state each that `index`, from `before`, leaves out moves with: (left out,)
        int64 numbers among `tokens`, in their order; -1: none's."""
        ...


@runtime_checkable
class JoinsInside(Protocol):
    """What a policy offers beside, whose tokens join others where they leave inside the decoder."""

    def joins_at(self, tokens: LayerTokens, index: Tensor) -> Joined | None:
        """Which of `tokens` that `index`, from `at_layer`, lets go are averaged into those that stay; None: none."""
        ...


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
        seconds=prefix.seconds[at],
        features=prefix.embeddings[at],
        audio_importance=prefix.audio_importance,
        audio=int((of == AUDIO).sum()),
        video=int((of == VIDEO).sum()),
        frame_sizes=tuple(int(x) for x in sizes),
        chunks=int(chunk.max()) + 1 if chunk.numel() else 0,
        video_importance=prefix.video_importance,
    )
    return tokens, at


def encoded(tokens: AudioVisual, prefix: Prefix) -> tuple[AudioVisual, Tensor | None]:
    """Those of a prefix's `tokens` that the encoders encoded, which alone may enter the decoder, and (k,) their numbers
    among all; None for the numbers where these are all."""
    if prefix.encoded is None:
        return tokens, None
    modality = tokens.modality.cpu()
    there = torch.ones(tokens.count, dtype=torch.bool)
    there[modality == VIDEO] = prefix.encoded
    sizes = tuple(int(part.sum()) for part in torch.split_with_sizes(prefix.encoded, list(tokens.frame_sizes)))
    number = torch.nonzero(there).flatten().to(tokens.modality.device)
    importance = tokens.video_importance
    versions = None
    if prefix.versions is not None:
        first, among_some = torch.arange(tokens.count), torch.cumsum(there, 0) - 1
        of_video = torch.nonzero(modality == VIDEO).flatten()
        first[of_video] = of_video[prefix.versions]
        versions = among_some[first[there]].to(number.device)
    some = replace(
        tokens,
        modality=tokens.modality[number],
        chunk=tokens.chunk[number],
        grid=tokens.grid[number],
        seconds=tokens.seconds[number],
        features=tokens.features[number],
        video=sum(sizes),
        frame_sizes=sizes,
        whole_frame_sizes=tokens.frame_sizes,
        video_importance=None if importance is None else importance[prefix.encoded.to(importance.device)],
        versions=versions,
    )
    return some, number


def everything(tokens: AudioVisual) -> Tensor:
    """(n,) int64: all of them."""
    return torch.arange(tokens.count, device=tokens.modality.device)


def keep_highest(score: Tensor, keep: int) -> Tensor:
    """(keep,) ascending indices of the `keep` highest of `score` (alive,)."""
    return torch.sort(torch.topk(score, keep, sorted=False).indices).values
