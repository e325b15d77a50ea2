"""Which tokens survived each layer: counts for every clip; positions, and what the questions looked at, on request.

Promises: plain NumPy on the host, collected after the pass. Knows nothing about why a token was kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from omnidrop.answers import LayerCount, Trace, TraceCounts
from omnidrop.models.base import VIDEO, Prefix
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
    prefix: Prefix,
) -> Trace:
    """Everything, on the host. `watched[pass][layer]` (questions of the pass, tokens that entered)."""
    modality = av.modality.cpu().numpy()
    encoded = is_still = None
    if prefix.encoded is not None:
        encoded = np.ones(av.count, dtype=np.bool_)
        encoded[modality == VIDEO] = prefix.encoded.numpy()
    if encoded is not None and prefix.versions is not None:
        is_still = np.zeros(av.count, dtype=np.bool_)
        is_still[modality == VIDEO] = prefix.versions.numpy() != np.arange(len(prefix.versions))
        is_still &= encoded
    return Trace(
        modality=modality,
        chunk=av.chunk.cpu().numpy(),
        grid=av.grid.cpu().numpy(),
        question_ids=tuple(tuple(ids) for ids in question_ids),
        kept=tuple(tuple(index.cpu().numpy() for index in one) for one in entered),
        attention=tuple(tuple(seen.cpu().numpy() for seen in one) for one in watched),
        encoded=encoded,
        is_still=is_still,
    )
