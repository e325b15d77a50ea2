"""VisionZip: before the decoder, dominant tokens by encoder attention, and means of what they leave.

Promises: looks at features and encoder attention, never at a question. Knows nothing about layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.errors import PolicyError
from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies.at_input import AtInput
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.joined import Joined
from omnidrop.policies.max_min_selection import frames, split, windows
from omnidrop.policies.tokens import enters


@dataclass(frozen=True)
class VisionZip(AtInput):
    """VisionZip (arXiv 2412.04467, its method section), for both modalities as in the tables of SEATS ("-om").

    In every frame the tokens stay that receive most attention in the encoder, `dominant` of the budget. Of the others
    every k-th is a contextual token, and each of the rest is averaged into the contextual token most like it.

    Differs: Qwen's vision encoder has no class token, so attention is what a token receives in the last full-attention
    layer; likeness is of features, not of keys, which the encoders do not hand out; a frame is a temporal patch, and of
    audio a time chunk.
    """

    name: ClassVar[str] = "visionzip"
    dominant: float = 54 / 64
    """Share of the budget by attention: 54 of 64 tokens in the paper."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.dominant <= 1.0:
            raise PolicyError(f"dominant must be 0 to 1, got {self.dominant!r}")

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """Dominant and contextual tokens of every frame."""
        parts = _parts(tokens)
        score = _attention(tokens)
        kept = []
        for part, count in zip(parts, split(keep, [part.numel() for part in parts]), strict=True):
            by_attention = torch.argsort(score[part], descending=True, stable=True)
            first = round(self.dominant * count)
            rest = torch.sort(by_attention[first:]).values
            every = torch.arange(count - first, device=part.device) * rest.numel()
            spaced = rest[torch.div(every, max(count - first, 1), rounding_mode="floor")]
            kept += [part[by_attention[:first]], part[spaced]]
        return torch.sort(torch.cat(kept)).values

    def joins(self, tokens: AudioVisual, index: Tensor) -> Joined | None:
        """What was left out, into the contextual token of its frame that is most like it."""
        stays, score = enters(tokens, index), _attention(tokens)
        rank = torch.cumsum(stays, 0) - 1
        unit = functional.normalize(tokens.features.float(), dim=-1)
        sources, targets = [], []
        for part in _parts(tokens):
            inside = part[stays[part]]
            context = inside.numel() - round(self.dominant * inside.numel())
            left = part[~stays[part]]
            if not context or not left.numel():
                continue
            contextual = inside[torch.topk(score[inside], context, largest=False).indices]
            sources.append(left)
            targets.append(rank[contextual[(unit[left] @ unit[contextual].T).argmax(dim=1)]])
        if not sources:
            return None
        source = torch.cat(sources)
        return Joined(source, torch.cat(targets), torch.ones(source.shape[0], device=source.device))


def _parts(tokens: AudioVisual) -> list[Tensor]:
    return [*windows(tokens, (AUDIO,)), *(frames(tokens) if tokens.video else [])]


def _attention(tokens: AudioVisual) -> Tensor:
    """(n,) float32: attention received in the encoders; 1 where it is not known."""
    score = torch.ones(tokens.count, device=tokens.features.device)
    for kind, importance in ((AUDIO, tokens.audio_importance), (VIDEO, tokens.video_importance)):
        if importance is not None:
            score[tokens.modality == kind] = importance
    return score
