"""Tokens that cover a clip: every token is near one that is chosen, in likeness and in time; rare ones count for more.

Promises: exactly as many tokens as asked, the same for the same features. What stands still is one thing: its first
moment enters before any later one, and covers most of them. The choice is greedy on
`sum_i w_i max_{j chosen} K_ij` with `K_ij = exp(10 (z_ij - 1)) exp(-|t_i - t_j| / 1 s)` within a modality and 0 across:
a monotone submodular sum, of which the greedy reaches at least 1 - 1/e (Nemhauser 1978). Knows nothing about questions,
layers or where the budget comes from.

Saliency times coverage was found to beat max-min on published models (SCOPE, arXiv 2510.24214); time in the kernel, two
modalities and rarity are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies import likeness
from omnidrop.policies.base import AudioVisual
from omnidrop.policies.covering import REACH, STILL, Band
from omnidrop.policies.covering_on_device import greedy_on_device
from omnidrop.policies.covering_on_host import greedy_on_host
from omnidrop.policies.entry import audio_at, audio_bounds

WINDOW_S = 1.0
"""Time is cut into windows; of windows far enough apart one token each is chosen at once."""


def cover(tokens: AudioVisual, keep: int, least_audio: float | None = None) -> Tensor:
    """(keep,) ascending indices of the tokens that cover the clip best, int64; of the audio tokens at least
    `least_audio` times as large a share as of the video's, None: as few as enter decide (`entry.SCARCE`)."""
    bands = {kind: _band(tokens, of, rare=kind == VIDEO) for kind, of in tokens.compared.items() if of.places.numel()}
    if not bands:
        return torch.zeros(0, dtype=torch.int64, device=tokens.modality.device)
    # What stands still takes no budget from sound: the two share it as if all moments could be chosen at once.
    is_split = len(bands) == 2
    chosen = _chosen(list(bands.values()), keep, first=not is_split)
    if is_split:
        heard = int((tokens.modality[chosen] == AUDIO).sum())
        bounded = _guarded(heard, keep, tokens, least_audio)
        if bounded != heard or tokens.versions is not None:
            chosen = torch.cat((_chosen([bands[AUDIO]], bounded), _chosen([bands[VIDEO]], keep - bounded)))
    return torch.sort(chosen).values


def _chosen(bands: list[Band], keep: int, *, first: bool = True) -> Tensor:
    """(keep,) indices; where `first`, no later moment before every first one."""
    on_host = bands[0].members.device.type == "cpu"
    return (greedy_on_host if on_host else greedy_on_device)(bands, keep, first=first)


def _guarded(heard: int, keep: int, tokens: AudioVisual, least_audio: float | None) -> int:
    """How many of `keep` tokens are audio when audio's share is held within its bounds; only the video tokens that were
    encoded can enter."""
    audio, video = tokens.audio, sum(tokens.sizes)
    least, most = (audio_at(times, keep, audio, video) for times in audio_bounds(keep, audio + video, least_audio))
    return max(min(max(heard, least), most), keep - tokens.video)


def _band(tokens: AudioVisual, compared: likeness.Compared, *, rare: bool) -> Band:
    places, unit, of = compared.places, compared.unit, compared.scale
    weight = torch.ones(places.shape[0], device=unit.device)
    if rare:
        weight = likeness.surprisal(unit, of) + likeness.USUAL
    weight = weight / weight.mean()
    seconds = tokens.seconds[places]
    window = torch.div(seconds, WINDOW_S, rounding_mode="floor").long()
    count = int(window.max()) + 1
    sizes = torch.bincount(window, minlength=count)
    widest = int(sizes.max())
    starts = torch.cumsum(sizes, 0) - sizes
    order = torch.argsort(window, stable=True)
    slot = torch.arange(places.shape[0], device=places.device) - starts[window[order]]

    def laid(values: Tensor, empty: float) -> Tensor:
        out = torch.full((count, widest, *values.shape[1:]), empty, dtype=values.dtype, device=values.device)
        out[window[order], slot] = values[order]
        return out

    real = laid(torch.ones_like(window, dtype=torch.bool), False)

    kernel = _kernel(laid(unit, 0.0), laid(seconds, 0.0), of)
    version = None
    if rare and tokens.versions is not None:
        of_place = laid(tokens.versions[places], -1)
        is_same = of_place[:, :, None] == _around(of_place, -1)[:, None, :]
        kernel = torch.where(is_same, STILL + (1.0 - STILL) * kernel, kernel)
        version = _padded(of_place, -1)
    kernel.mul_(_around(real, False)[:, None, :])
    weights = laid(weight, 0.0)
    return Band(
        members=laid(places, 0),
        real=real,
        kernel=kernel,
        weight=_padded(weights, 0.0),
        alone=(kernel @ _around(weights, 0.0)[:, :, None]).squeeze(2),
        version=version,
        tokens=tokens.count,
        count=places.shape[0],
    )


def _kernel(unit: Tensor, when: Tensor, scale: Tensor) -> Tensor:
    """K (W, M, (2 REACH + 1) M) of a window's tokens and those of the windows around it; `unit` (W, M, D), `when`
    (W, M) in seconds."""
    count, widest = when.shape
    table = when.new_zeros(count, widest, 2 * REACH + 1, widest)
    for lag in range(min(REACH, count - 1) + 1):
        here, there = slice(count - lag), slice(lag, count)
        # In place: one such table is tens of megabytes, and on a CPU a new one costs more than what is done with it.
        alike = (unit[here] @ unit[there].transpose(1, 2)).float().div_(scale).clamp_max_(1.0)
        apart = (when[here, :, None] - when[there, None, :]).abs_()
        onwards = likeness.log_kernel_(alike, apart).exp_()
        table[here, :, REACH + lag] = onwards
        if lag:  # K is the same both ways
            table[there, :, REACH - lag] = onwards.transpose(1, 2)
    return table.flatten(2)


def _padded(of_window: Tensor, empty: float) -> Tensor:
    """(W, M) -> (W + 2 REACH, M)."""
    return torch.nn.functional.pad(of_window, [0, 0, REACH, REACH], value=empty)


def _around(of_window: Tensor, empty: float) -> Tensor:
    """(W, M) -> (W, (2 REACH + 1) M): each window between those around it."""
    return _padded(of_window, empty).unfold(0, 2 * REACH + 1, 1).transpose(1, 2).flatten(1)
