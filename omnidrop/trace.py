"""Which tokens survived each layer: counts for every clip; positions, and what the questions looked at, on request.

Promises: plain NumPy on the host, collected after the pass. Knows nothing about why a token was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omnidrop.answers import LayerCount, TraceCounts
from omnidrop.models.base import VIDEO
from omnidrop.policies import AudioVisual


@dataclass(frozen=True, eq=False)
class Trace:
    """A clip's n audio and video tokens, and which of them entered each layer."""

    modality: npt.NDArray[np.int8]
    """(n,) AUDIO or VIDEO, see `omnidrop.models.base`."""
    chunk: npt.NDArray[np.int64]
    """(n,)"""
    grid: npt.NDArray[np.int32]
    """(n, 3), see `Prefix.grid`."""
    question_ids: tuple[tuple[str, ...], ...]
    """The questions of each pass: one pass for a whole set, or one pass per question."""
    kept: tuple[tuple[npt.NDArray[np.int64], ...], ...]
    """kept[pass][layer]: ascending indices into the n tokens. What is dropped stays dropped."""
    attention: tuple[tuple[npt.NDArray[np.float32], ...], ...]
    """attention[pass][layer]: (questions of the pass, kept tokens), what `importance.attention_received` gives for each
    question's own words, whatever the policy looked at."""

    def layers_entered(self, number: int = 0) -> npt.NDArray[np.int64]:
        """(n,) how many layers each token entered in pass `number`."""
        entered = np.zeros(self.modality.shape[0], dtype=np.int64)
        for kept in self.kept[number]:
            entered[kept] += 1
        return entered


def counts(av: AudioVisual, entered: Sequence[Sequence[Tensor]]) -> TraceCounts:
    """Counts by layer of `entered[pass][layer]`, as the mean over passes."""
    layers = len(entered[0])
    video = torch.stack([(av.modality[index] == VIDEO).sum() for one in entered for index in one])
    mean = video.view(len(entered), layers).double().mean(dim=0).round().long().tolist()
    totals = [round(sum(one[layer].shape[0] for one in entered) / len(entered)) for layer in range(layers)]
    return TraceCounts(
        audio_in=av.audio,
        video_in=av.video,
        layers=tuple(
            LayerCount(n, total - seen, seen) for n, (total, seen) in enumerate(zip(totals, mean, strict=True))
        ),
    )


def positions(
    av: AudioVisual,
    question_ids: Sequence[Sequence[str]],
    entered: Sequence[Sequence[Tensor]],
    watched: Sequence[Sequence[Tensor]],
) -> Trace:
    """Everything, on the host. `watched[pass][layer]` (questions of the pass, tokens that entered)."""
    return Trace(
        modality=av.modality.cpu().numpy(),
        chunk=av.chunk.cpu().numpy(),
        grid=av.grid.cpu().numpy(),
        question_ids=tuple(tuple(ids) for ids in question_ids),
        kept=tuple(tuple(index.cpu().numpy() for index in one) for one in entered),
        attention=tuple(tuple(seen.cpu().numpy() for seen in one) for one in watched),
    )
