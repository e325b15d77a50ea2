"""OmniZip: before the decoder, the sound decides how much of the picture stays.

Promises: looks at features and encoder attention, never at a question. Knows nothing about layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.errors import PolicyError
from omnidrop.policies.at_input import AtInput
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.feature_selection import audio_by_attention, frames_by_peaks_and_change
from omnidrop.policies.joined import Joined
from omnidrop.policies.max_min_selection import split
from omnidrop.policies.tokens import left_out

PAPER_RATIO = 0.45
"""The share of all tokens that its lighter setting is named by."""


def frame_chunks(tokens: AudioVisual) -> list[int]:
    """Time chunk of each temporal patch: that of its first token."""
    chunk = tokens.chunk[~tokens.is_audio].tolist()
    found, at = [], 0
    for size in tokens.frame_sizes:
        found.append(int(chunk[at]))
        at += size
    return found


def audio_first(tokens: AudioVisual, keep: int, audio_share: float) -> tuple[int, int]:
    """Of `keep` tokens, how many are audio and video.

    `audio_share` of the audio where 45 % of all stay, in proportion elsewhere, as far as either modality reaches.
    """
    audio = round(min(1.0, audio_share * keep / tokens.count / PAPER_RATIO) * tokens.audio)
    audio = min(max(audio, keep - tokens.video), keep)
    return audio, keep - audio


def joined_audio(tokens: AudioVisual, index: Tensor) -> Joined | None:
    """Every audio token that `index` leaves out, into the most alike one of its time chunk that enters."""
    left = left_out(tokens, index)
    left = left[tokens.is_audio[left]]
    stays = torch.nonzero(tokens.is_audio[index]).flatten()
    if not left.numel() or not stays.numel():
        return None
    unit = functional.normalize(tokens.features.float(), dim=-1)
    alike = unit[left] @ unit[index[stays]].T
    elsewhere = tokens.chunk[left][:, None] != tokens.chunk[index[stays]][None]
    best, nearest = alike.masked_fill(elsewhere, -1.0).max(dim=1)
    found = best > 0.0
    return Joined(left[found], stays[nearest[found]], best[found])


@dataclass(frozen=True)
class OmniZip(AtInput):
    """OmniZip (arXiv 2511.14582, its method section).

    Audio stays by attention in its encoder. A time group's density s, the share of its audio that stays relative to the
    densest group, sets the drop ratio of its video, `most_drop - slope * s` within `least_drop` and `most_drop`. Inside
    a group even temporal patches keep density peaks, odd ones what differs most from the patch before.

    Differs: groups are the prompt's time chunks; the drop ratios are rescaled so that exactly the ratio asked stays
    (the paper's settings of 45 and 35 % really keep 48-49 and 39-40 %); dropped audio is averaged into the most alike
    audio that stays in its group, where the paper weights by likeness to the video as well.
    """

    name: ClassVar[str] = "omnizip"
    audio_keep: float = 0.7
    """Share of the audio that stays where 45 % of all tokens do."""
    most_drop: float = 0.75
    slope: float = 0.4
    least_drop: float = 0.35
    merge: bool = True
    """The paper merges; off, dropped audio is gone."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.audio_keep <= 1.0:
            raise PolicyError(f"audio_keep must be 0 to 1, got {self.audio_keep!r}")
        if not 0.0 <= self.least_drop <= self.most_drop < 1.0:
            raise PolicyError(
                f"drop ratios need 0 <= least_drop <= most_drop < 1, got {self.least_drop!r} and {self.most_drop!r}"
            )

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """Audio by encoder attention, then video by what the audio left dense."""
        audio, video = audio_first(tokens, keep, self.audio_keep)
        heard = audio_by_attention(tokens, audio)
        groups = frame_chunks(tokens)
        kept = torch.bincount(tokens.chunk[heard], minlength=tokens.chunks).tolist()
        there = torch.bincount(tokens.chunk[tokens.is_audio], minlength=tokens.chunks).tolist()
        budgets = self.video_budgets(tokens, groups, kept, there, video)
        return torch.sort(torch.cat([heard, frames_by_peaks_and_change(tokens, groups, budgets)])).values

    def video_budgets(
        self, tokens: AudioVisual, frame_group: Sequence[int], kept: Sequence[int], there: Sequence[int], video: int
    ) -> list[int]:
        """Video tokens each group keeps, summing to `video`: `kept` of `there` audio tokens stay in each group."""
        density = [k / t if t else 0.0 for k, t in zip(kept, there, strict=True)]
        highest = max(density, default=0.0)
        sizes = [0] * len(density)
        for number, group in enumerate(frame_group):
            sizes[group] += tokens.frame_sizes[number]
        stays = []
        for size, dense in zip(sizes, density, strict=True):
            drop = self.most_drop - self.slope * (dense / highest if highest else 0.0)
            stays.append(size * (1.0 - min(max(drop, self.least_drop), self.most_drop)))
        return split(video, sizes, stays)

    def joins(self, tokens: AudioVisual, index: Tensor) -> Joined | None:
        """Dropped audio, into the most alike audio of its group that stays."""
        return joined_audio(tokens, index) if self.merge else None
