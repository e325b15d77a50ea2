"""SEATS: diverse tokens at the input, three cuts in the middle of the decoder, and none of them in its last layers.

Promises: exact counts without waiting for the device inside the decoder. Knows nothing about features there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnidrop.errors import PolicyError
from omnidrop.models.base import AUDIO
from omnidrop.policies.base import AudioVisual, Counted, Guide, LayerTokens
from omnidrop.policies.budget import apportion, checked, solve
from omnidrop.policies.max_min_selection import max_min, split, windows
from omnidrop.policies.merging import Merging
from omnidrop.policies.reading import Reading
from omnidrop.policies.schedule import Schedule, full
from omnidrop.policies.tokens import everything

DEPTH = 28
"""Layers of the model whose cuts the paper states."""
CUTS = (16, 18, 20)
LATE = 24


@dataclass(frozen=True)
class Seats(Reading, Merging):
    """SEATS (arXiv 2605.20035, its method section), the strongest published training-free result.

    Before the decoder max-min selection weighted by encoder attention, window by window. After layers 16, 18 and 20 of
    28 tokens leave by the last text token's attention: a layer's budget goes to time windows by the softmax
    (`temperature`) of their mean scores, and inside a window to audio and video by their scores' sums. Before layer 24
    all go.

    Differs: Qwen's vision encoder has no class token, so a video token's encoder attention is what it receives in the
    last full-attention layer; the cuts keep the same share `step` each, by default the one at which 1.4 times the mean
    ratio enters 28 layers, as the paper has it, and the entering share is solved; scores are scaled to their highest
    before the softmax, without which a temperature of 0.1 would not tell attention values of 1 / n apart. The last
    tokens of a question set are aggregated by the set's guidance.

    Unsafe for text answers: from layer 24 on only text is left in the caches, so what is generated after the first
    token sees audio and video in earlier layers alone.
    """

    name: ClassVar[str] = "seats"
    guide: ClassVar[Guide] = "last"
    step: float = 0.655
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.step <= 1.0:
            raise PolicyError(f"step must be above 0 and at most 1, got {self.step!r}")
        if self.temperature <= 0:
            raise PolicyError(f"temperature must be positive, got {self.temperature!r}")

    def plan(self, tokens: Counted, layers: int, retained_ratio: float | None) -> Schedule:
        """The paper's staircase at this depth, as high as the ratio asks; above what it reaches, the steps flatten."""
        ratio = checked(retained_ratio, self.name)
        if ratio == 1.0 or not tokens.count:
            return full(tokens.count, layers)
        late = max(1, round(LATE * layers / DEPTH))
        cuts = [min(round((cut + 1) * layers / DEPTH), late) for cut in CUTS]

        def staircase(level: float) -> Schedule:
            """Up to level 1 the share entering grows, from there to 2 the steps and the late cut vanish."""
            flat = max(level - 1.0, 0.0)
            step, last = self.step + (1.0 - self.step) * flat, flat
            alive = min(level, 1.0) * tokens.count
            counts = []
            for layer in range(layers):
                alive *= step ** cuts.count(layer)
                counts.append(round(alive * last) if layer >= late else round(alive))
            return Schedule(tokens.count, tuple(counts))

        return solve(staircase, 0.0, 2.0, tokens, ratio, self.name)

    def before(self, tokens: AudioVisual, schedule: Schedule) -> Tensor:
        """Max-min in every window, weighted by the attention received in the encoders."""
        if schedule.entering[0] == tokens.count:
            return everything(tokens)
        parts = windows(tokens)
        keep = split(schedule.entering[0], [part.numel() for part in parts])
        weight = torch.ones(tokens.count, device=tokens.features.device)
        for importance, of in ((tokens.audio_importance, tokens.is_audio), (tokens.video_importance, ~tokens.is_audio)):
            if importance is not None:
                weight[of] = importance
        return torch.sort(torch.cat(max_min(tokens.features, parts, keep, weight))).values

    def at_layer(self, tokens: LayerTokens, keep: int) -> Tensor:
        """Budgets of windows and modalities, then the last token's favourites in each."""
        score = tokens.importance / tokens.importance.amax().clamp_min(torch.finfo(torch.float32).tiny)
        zeros = torch.zeros(tokens.chunks, device=score.device)
        mass = zeros.scatter_add(0, tokens.chunk, score)
        size = zeros.scatter_add(0, tokens.chunk, torch.ones_like(score))
        mean = (mass / size.clamp_min(1)).masked_fill(size == 0, float("-inf"))
        window = torch.softmax(mean / self.temperature, dim=0)
        group = 2 * tokens.chunk + (tokens.modality == AUDIO)
        demand = torch.zeros(2 * tokens.chunks, device=score.device).scatter_add(0, group, score)
        quota = window.repeat_interleave(2) * demand / mass.repeat_interleave(2).clamp_min(1e-9)
        return apportion(score, group, quota, keep)
