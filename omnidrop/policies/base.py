"""What a pruning policy is, and what it may look at.

Promises: a policy is a frozen dataclass of parameters that says how many audio and video tokens stay (host integers,
known before the decoder runs) and which ones. Text is never its business: it only ever sees audio and video tokens.
Knows nothing about attention kernels, caches, modes or how the importance it is given was computed. Importing it loads
no torch: how many stay is planned before any model is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

    from omnidrop.policies.joined import Joined
    from omnidrop.policies.likeness import Compared

Guide = Literal["nothing", "question", "words", "last", "audio", "states"]
"""Whose attention a policy looks at inside the decoder: nobody's; that of a question's words and of its last token, at
which the answer begins, half and half; of its words alone, as in the paper; of its last token alone; or of the audio
tokens. `words` and `audio` are there for ablations. `states`: nobody's, but it is given the layer's hidden states."""


class Counted(Protocol):
    """A clip in counts, which are all that planning looks at: of its tokens (`AudioVisual`), or of what they will be
    (`omnidrop.models.base.Outline`)."""

    @property
    def audio(self) -> int:
        """Audio tokens."""
        ...

    @property
    def video(self) -> int:
        """Video tokens."""
        ...

    @property
    def count(self) -> int:
        """Both."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Video tokens by temporal patch of the whole clip, encoded or not."""
        ...


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
        every = self.modality.new_ones(self.count).bool()
        return every if self.versions is None else self.versions == every.cumsum(0) - 1

    @property
    def count(self) -> int:
        """n."""
        return self.audio + self.video

    @property
    def is_audio(self) -> Tensor:
        """(n,) bool."""
        return self.modality == AUDIO

    @cached_property
    def compared(self) -> dict[int, Compared]:
        """By modality, AUDIO and VIDEO, its tokens as they are compared: what choosing, joining and following share."""
        from omnidrop.policies.likeness import Compared

        return {kind: Compared.of(self.features, self.is_own, self.modality == kind) for kind in (AUDIO, VIDEO)}


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

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
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

    def most_video(self, tokens: Counted, schedule: Schedule) -> int:
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


def read_of(candidates: int, policy: Policy, schedule: Schedule) -> int:
    """How many of so many tokens that may enter the decoder do not, and are read by the questions all the same."""
    reads = isinstance(policy, ReadsLeftOut) and policy.read_left_out
    return candidates - schedule.entering[0] if reads else 0


@runtime_checkable
class JoinsInside(Protocol):
    """What a policy offers beside, whose tokens join others where they leave inside the decoder."""

    def joins_at(self, tokens: LayerTokens, index: Tensor) -> Joined | None:
        """Which of `tokens` that `index`, from `at_layer`, lets go are averaged into those that stay; None: none."""
        ...
