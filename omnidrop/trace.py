"""Which tokens survived each layer: counts for every clip; positions, and what the questions looked at, on request.

Promises: plain NumPy on the host, collected after the pass. Knows nothing about why a token was kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from omnidrop.answers import LayerCount, Trace, TraceCounts
from omnidrop.models.base import VIDEO
from omnidrop.policies.base import AudioVisual


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
    encoded: Tensor | None = None,
) -> Trace:
    """Everything, on the host. `watched[pass][layer]` (questions of the pass, tokens that entered); `encoded` are the
    numbers of the tokens that were."""
    there = None
    if encoded is not None:
        there = np.zeros(av.count, dtype=np.bool_)
        there[encoded.cpu().numpy()] = True
    return Trace(
        modality=av.modality.cpu().numpy(),
        chunk=av.chunk.cpu().numpy(),
        grid=av.grid.cpu().numpy(),
        question_ids=tuple(tuple(ids) for ids in question_ids),
        kept=tuple(tuple(index.cpu().numpy() for index in one) for one in entered),
        attention=tuple(tuple(seen.cpu().numpy() for seen in one) for one in watched),
        encoded=there,
    )
