"""Layer-wise pruning guided by the questions: the method this project is named after, with our own changes.

Promises: counts are solved for the retained ratio asked; inside the decoder nothing but the questions' attention and
time decide. Knows nothing about modes or how attention is computed. Counts are planned without torch, which is imported
where tokens are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from omnidrop.errors import PolicyError
from omnidrop.policies.base import AudioVisual, Counted, Guide, LayerTokens
from omnidrop.policies.entry import WAYS, Entry, Way, video_entering
from omnidrop.policies.merging import Merging
from omnidrop.policies.reading import Reading
from omnidrop.policies.schedule import Schedule, Sigmoid, calibrate

if TYPE_CHECKING:
    from torch import Tensor

Diversity = Literal["off", "printed", "normalised"]


@dataclass(frozen=True)
class OmniDrop(Reading, Merging):
    """Layer-wise pruning guided by the questions' attention: arXiv 2605.14458 with our changes (see docs/method.md).

    Rates default to the paper's settings for the 7B model. `p_init` and `p_final` left at None are solved, together
    with the share that enters the decoder, for the retained ratio asked (see `omnidrop.policies.schedule.calibrate`).
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
    """Share of the audio tokens that enters the decoder. With the entry `cover`, sound and picture are chosen together:
    there the two shares say at most how many tokens enter, not how many of them are sound."""
    video_keep: float = 0.4
    """Share of the video tokens that enters: the paper's (1 + 3 x 0.2) / 4, one anchor of four frames whole and 20 % of
    the others."""
    entry: Way = "cover"
    """Which ones: those that cover the clip (`cover`); the least like each other, rare ones first (`rare`) or not
    (`diverse`); or the paper's (`merged`): audio by attention received in the encoder, video by what differs from the
    anchor frame. See docs/evidence.md."""
    least_audio: float | None = None
    """With the entry `cover`: the share of the audio tokens that enters is at least so many times the video's. Left at
    None it is 1, and rises to 2 where few tokens enter (`entry.SCARCE`). More helps where people talk and costs
    where much is shown (docs/guide/choosing.md)."""
    merge: bool = True
    """See `Merging`."""
    read_left_out: bool = True
    """See `Reading`. Off where not everything is encoded (`Pruning.read_left_out`)."""
    at_input: bool = True
    """Off: every token enters the decoder and only layers prune."""
    memory: float = 0.7
    """How much of a token's score in the layers before counts in this one; 0 is the paper. Layers look at different
    things: what the first look of a question needs is not what the second needs."""
    diversity: Diversity = "normalised"
    diversity_weight: float = 0.2
    diversity_from: float = 0.5
    """Share of the depth from which the temporal diversity score is used: layer 14 of 28 (19 of 36 for 3B)."""

    def __post_init__(self) -> None:
        for field, low, high in (
            ("t_mid", 0.0, 1.0),
            ("audio_keep", 0.0, 1.0),
            ("video_keep", 0.25, 1.0),
            ("least_audio", 0.0, 10.0),
            ("memory", 0.0, 1.0),
            ("diversity_weight", 0.0, 1.0),
            ("diversity_from", 0.0, 1.0),
        ):
            given = getattr(self, field)
            if given is not None and not low <= given <= high:
                raise PolicyError(f"{field} must be {low:g} to {high:g}, got {given!r}")
        for field in ("p_init", "p_final"):
            given = getattr(self, field)
            if given is not None and not 0.0 <= given < 1.0:
                raise PolicyError(f"{field} must be at least 0 and below 1, got {given!r}")
        if (self.p_init is None) != (self.p_final is None):
            raise PolicyError("give both p_init and p_final, or neither to have them solved for the retained ratio")
        if self.entry not in WAYS:
            raise PolicyError(f"entry must be one of {', '.join(WAYS)}, got {self.entry!r}")
        if self.beta <= 0:
            raise PolicyError(f"beta must be positive, got {self.beta!r}")
        if self.diversity not in (kinds := get_args(Diversity)):
            raise PolicyError(f"diversity must be one of {', '.join(kinds)}, got {self.diversity!r}")

    def _entry(self, tokens: Counted) -> Entry:
        share = (self.audio_keep, self.video_keep) if self.at_input else (1.0, 1.0)
        return Entry(tokens.audio, tokens.sizes, *share)

    @property
    def does_with_some_cells(self) -> bool:
        """What enters the decoder can be chosen before the vision encoder, too. The paper's merging cannot: it compares
        temporal patches cell by cell."""
        return self.entry != "merged"

    @property
    def remark(self) -> str:
        """What one should know who has set the share of the sound; empty where it does what its name says."""
        if self.entry != "cover":
            if self.least_audio is None:
                return ""
            return f"least_audio {self.least_audio:g} does nothing with entry {self.entry}; to use it, set entry: cover"
        if self.audio_keep == type(self).audio_keep:
            return ""
        return (
            f"audio_keep {self.audio_keep:g} with entry cover limits how many tokens enter the decoder (at ratios up "
            "to 0.3), not how many of them are audio: cover chooses audio and video together; to set the share of the "
            "audio, add entry: rare, or raise least_audio"
        )

    def most_video(self, tokens: AudioVisual, schedule: Schedule) -> int:
        """As many as the entry's split gives the video. Where what covers the clip decides, with the most sound that
        may enter: where more of the picture would cover it better, sound takes the place of what was not encoded."""
        keep = schedule.entering[0]
        if keep == tokens.count:
            return tokens.video
        if self.entry == "cover":
            return video_entering(keep, tokens.audio, tokens.video, self.least_audio)
        return sum(self._entry(tokens).split(keep)[1])

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """The paper's sigmoid with the given rates, or the rates that meet `retained_ratio` at this depth."""
        entry = self._entry(tokens)
        shape = Sigmoid(self.p_init or 0.0, self.p_final or 0.0, self.beta, self.t_mid)
        if self.p_init is not None:
            if retained_ratio is not None:
                raise PolicyError("give either p_init and p_final or a retained_ratio, not both")
            return shape.schedule(tokens.count, entry.count(1.0), layers)
        if retained_ratio is None:
            raise PolicyError(f"policy {self.name!r} needs a retained_ratio (for example 0.3), or p_init and p_final")
        return calibrate(retained_ratio, tokens.count, layers, shape, entry.counts())

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """Tokens that cover the clip, or as `entry` says."""
        from omnidrop.policies import intra_modality

        keep = schedule.entering[0]
        return intra_modality.select(tokens, self._entry(tokens), keep, self.entry, self.least_audio)

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """One global ranking over audio and video; in deep layers far-away moments are kept in preference."""
        from omnidrop.policies import diversity
        from omnidrop.policies.tokens import keep_highest

        score = self._score(tokens)
        if self.diversity == "off" or tokens.layer < self.diverse_from(tokens.layers):
            return keep_highest(score, keep)
        return diversity.keep(
            score,
            tokens.chunk,
            keep,
            self.diversity_weight,
            tokens.chunks,
            normalised=self.diversity == "normalised",
        )

    def diverse_from(self, layers: int) -> float:
        """The first of `layers` layers with the temporal diversity score."""
        return self.diversity_from * layers

    def _score(self, tokens: LayerTokens) -> Tensor:
        """(alive,) float32: the layer's importance and, `memory` times fainter with every layer, that of those before.

        Layers differ in how much of their attention goes to audio and video at all, so each is brought to a sum of 1.
        """
        if not self.memory:
            return tokens.importance
        import torch

        score = torch.zeros_like(tokens.importance)
        for importance in (*tokens.earlier, tokens.importance):
            share = importance / importance.sum().clamp_min(torch.finfo(torch.float32).tiny)
            score = share + self.memory * score
        return score
