"""A prefix's audio and video tokens as policies see them, and the choices that many policies share.

Promises: counts come to the host once a clip, here. Knows nothing about any particular policy.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO, Prefix
from omnidrop.policies.base import AudioVisual


def audio_visual(prefix: Prefix) -> tuple[AudioVisual, Tensor]:
    """The prefix's audio and video tokens and (n,) their places in it, int64, on the prefix's device.

    This is where counts come to the host, once a clip.
    """
    modality = prefix.modality.cpu()
    places = torch.nonzero((modality == AUDIO) | (modality == VIDEO)).flatten()
    of = modality[places]
    time = prefix.grid.cpu()[places[of == VIDEO], 0]
    sizes = torch.unique_consecutive(time, return_counts=True)[1] if time.numel() else time
    chunk = prefix.chunk.cpu()[places]
    device = prefix.embeddings.device
    at = places.to(device)
    tokens = AudioVisual(
        modality=of.to(device),
        chunk=chunk.to(device=device, dtype=torch.int64),
        grid=prefix.grid[at],
        seconds=prefix.seconds[at],
        features=prefix.embeddings[at],
        audio_importance=prefix.audio_importance,
        audio=int((of == AUDIO).sum()),
        video=int((of == VIDEO).sum()),
        frame_sizes=tuple(int(x) for x in sizes),
        chunks=int(chunk.max()) + 1 if chunk.numel() else 0,
        video_importance=prefix.video_importance,
    )
    return tokens, at


def encoded(tokens: AudioVisual, prefix: Prefix) -> tuple[AudioVisual, Tensor | None]:
    """Those of a prefix's `tokens` that the encoders encoded, which alone may enter the decoder, and (k,) their numbers
    among all; None for the numbers where these are all."""
    if prefix.encoded is None:
        return tokens, None
    modality = tokens.modality.cpu()
    there = torch.ones(tokens.count, dtype=torch.bool)
    there[modality == VIDEO] = prefix.encoded
    sizes = tuple(int(part.sum()) for part in torch.split_with_sizes(prefix.encoded, list(tokens.frame_sizes)))
    number = torch.nonzero(there).flatten().to(tokens.modality.device)
    importance = tokens.video_importance
    versions = None
    if prefix.versions is not None:
        first, among_some = torch.arange(tokens.count), torch.cumsum(there, 0) - 1
        of_video = torch.nonzero(modality == VIDEO).flatten()
        first[of_video] = of_video[prefix.versions]
        versions = among_some[first[there]].to(number.device)
    some = replace(
        tokens,
        modality=tokens.modality[number],
        chunk=tokens.chunk[number],
        grid=tokens.grid[number],
        seconds=tokens.seconds[number],
        features=tokens.features[number],
        video=sum(sizes),
        frame_sizes=sizes,
        whole_frame_sizes=tokens.frame_sizes,
        video_importance=None if importance is None else importance[prefix.encoded.to(importance.device)],
        versions=versions,
    )
    return some, number


def everything(tokens: AudioVisual) -> Tensor:
    """(n,) int64: all of them."""
    return torch.arange(tokens.count, device=tokens.modality.device)


def enters(tokens: AudioVisual, index: Tensor) -> Tensor:
    """(n,) bool: which tokens are at `index` (entering,)."""
    return torch.zeros(tokens.count, dtype=torch.bool, device=index.device).index_fill_(0, index, True)


def left_out(tokens: AudioVisual, index: Tensor) -> Tensor:
    """(n - entering,) int64, ascending: the tokens that are not at `index` (entering,)."""
    return torch.nonzero(~enters(tokens, index)).flatten()


def keep_highest(score: Tensor, keep: int) -> Tensor:
    """(keep,) ascending indices of the `keep` highest of `score` (alive,)."""
    return torch.sort(torch.topk(score, keep, sorted=False).indices).values
