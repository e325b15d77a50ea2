"""VidCom2: before the decoder, frames unlike the rest of the clip keep more of their tokens.

Promises: looks at features alone, never at a question. Knows nothing about layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from omnidrop.errors import PolicyError
from omnidrop.models.base import AUDIO
from omnidrop.policies.at_input import AtInput
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.max_min_selection import frames, split, windows
from omnidrop.policies.merging import Merging
from omnidrop.policies.reading import Reading


@dataclass(frozen=True)
class VidCom2(AtInput, Reading, Merging):
    """Video Compression Commander (arXiv 2505.14454, its method section).

    A frame is as unique as its tokens are unlike the clip's mean. Its share is the ratio times (1 + softmax of its
    uniqueness - 1 / frames), at a low temperature. Inside a frame the tokens stay that are least like the clip's mean
    and their own frame's mean together.

    Differs: a frame is a temporal patch; audio keeps the same share as the video, its chunks taking the place of frames
    ("-om"). The counts are rescaled so that exactly the ratio asked stays.
    """

    name: ClassVar[str] = "vidcom2"
    temperature: float = 0.01

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise PolicyError(f"temperature must be positive, got {self.temperature!r}")

    def chosen(self, tokens: AudioVisual, keep: int) -> Tensor:
        """Frames by uniqueness, tokens by how unlike the means they are."""
        shares = split(keep, [tokens.audio, tokens.video])
        kept = []
        for parts, keep in ((windows(tokens, (AUDIO,)), shares[0]), (frames(tokens), shares[1])):
            if parts:
                kept += self._unique(tokens.features, parts, keep)
        return torch.sort(torch.cat(kept)).values

    def _unique(self, features: Tensor, parts: list[Tensor], keep: int) -> list[Tensor]:
        """Of `keep` tokens in all, those that each of `parts` keeps."""
        unit = [functional.normalize(features[part].float(), dim=-1) for part in parts]
        whole = functional.normalize(torch.cat(unit).mean(dim=0), dim=0)
        unlike = [1.0 - of @ whole for of in unit]
        unique = torch.stack([of.mean() for of in unlike])
        weight = 1.0 + torch.softmax(unique / self.temperature, dim=0) - 1.0 / len(parts)
        sizes = [part.numel() for part in parts]
        counts = split(keep, sizes, [share * size for share, size in zip(weight.tolist(), sizes, strict=True)])
        kept = []
        for part, of, far, count in zip(parts, unit, unlike, counts, strict=True):
            own = 1.0 - of @ functional.normalize(of.mean(dim=0), dim=0)
            kept.append(part[torch.topk(far + own, count).indices])
        return kept
