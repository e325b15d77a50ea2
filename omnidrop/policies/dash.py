"""DASH: OmniZip's choice inside segments that begin where the sound changes.

Promises: looks at features and encoder attention, never at a question. Knows nothing about layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.errors import PolicyError
from omnidrop.policies.at_input import AtInput
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.feature_selection import audio_by_attention, frames_by_peaks_and_change
from omnidrop.policies.merging import Merging
from omnidrop.policies.omnizip import OmniZip, audio_first, frame_chunks
from omnidrop.policies.reading import Reading


@dataclass(frozen=True)
class Dash(AtInput, Reading, Merging):
    """DASH (arXiv 2603.15685, its method section): a segment begins where the cosine of neighbouring audio tokens falls
    below `boundary`; inside the segments, OmniZip's frame scheme.

    Differs: audio stays by encoder attention and the video's drop ratios follow its density, both as in our OmniZip;
    exactly the ratio asked stays; without sound the segments are the prompt's time chunks.
    """

    name: ClassVar[str] = "dash"
    boundary: float = 0.4
    audio_keep: float = 0.7
    """Share of the audio that stays where 45 % of all tokens do."""

    def __post_init__(self) -> None:
        if not -1.0 <= self.boundary <= 1.0:
            raise PolicyError(f"boundary is a cosine, -1 to 1, got {self.boundary!r}")
        if not 0.0 <= self.audio_keep <= 1.0:
            raise PolicyError(f"audio_keep must be 0 to 1, got {self.audio_keep!r}")

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """Audio by encoder attention, then video by the density of the sound in its segment."""
        audio, video = audio_first(tokens, keep, self.audio_keep)
        heard = audio_by_attention(tokens, audio)
        audio_segment, frame_segment, segments = self.segments(tokens)
        stays = torch.isin(torch.nonzero(tokens.is_audio).flatten(), heard).tolist()
        kept, there = [0] * segments, [0] * segments
        for segment, stay in zip(audio_segment, stays, strict=True):
            there[segment] += 1
            kept[segment] += stay
        budgets = OmniZip().video_budgets(tokens, frame_segment, kept, there, video)
        return torch.sort(torch.cat([heard, frames_by_peaks_and_change(tokens, frame_segment, budgets)])).values

    def segments(self, tokens: AudioVisual) -> tuple[list[int], list[int], int]:
        """Segment of each audio token and of each temporal patch, both ascending, and how many segments there are."""
        chunks = frame_chunks(tokens)
        if not tokens.audio:
            return [], chunks, tokens.chunks
        features = tokens.features[tokens.is_audio].float()
        likeness = functional.cosine_similarity(features[1:], features[:-1], dim=-1)
        begins = torch.cumsum((likeness < self.boundary).to(torch.int64), 0).tolist()
        of_audio = [0, *(int(b) for b in begins)]
        # A temporal patch lies where the audio token of its moment does: both share a chunk's time evenly.
        audio_chunk = tokens.chunk[tokens.is_audio].tolist()
        of_frame = []
        for number, chunk in enumerate(chunks):
            inside = [i for i, c in enumerate(audio_chunk) if c == chunk]
            peers = [i for i, c in enumerate(chunks) if c == chunk]
            if inside:
                moment = inside[len(inside) * peers.index(number) // len(peers)]
            else:
                moment = sum(c < chunk for c in audio_chunk) - 1
            of_frame.append(of_audio[max(moment, 0)])
        return of_audio, of_frame, of_audio[-1] + 1
