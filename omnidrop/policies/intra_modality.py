"""What enters the decoder: tokens that cover the clip; those least like each other in every window of time, rare ones
first; or, as the paper has it, audio by its encoder's attention and video by temporal token merging.

Promises: the selection has exactly as many tokens as `entry` reckons, also with an incomplete last group of frames or
frames of different sizes. Knows nothing about questions or layers. Sources: arXiv 2605.14458, intra-modality pruning;
the merging of frames is DyCoke's (arXiv 2411.15024), the max-min selection DivPrune's (arXiv 2503.02175).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, VIDEO
from omnidrop.policies.coverage import cover
from omnidrop.policies.entry import GROUP, Entry, Way
from omnidrop.policies.likeness import USUAL, rarity
from omnidrop.policies.max_min_selection import frames, max_min, split, windows

if TYPE_CHECKING:
    from omnidrop.policies.base import AudioVisual

FEWEST = 5
"""Tokens that a window of the video keeps at least: so many temporal patches make one. Two or three tokens for every
patch leave a choice of cells, and none of moments."""


def select(tokens: AudioVisual, entry: Entry, keep: int, way: Way = "rare", least_audio: float | None = None) -> Tensor:
    """(keep,) ascending indices of the tokens that enter the decoder, int64; `least_audio` as `cover`, which alone
    chooses sound and picture together."""
    if keep == tokens.count:
        return torch.arange(keep, device=tokens.modality.device)
    if way == "cover":
        return cover(tokens, keep, least_audio)
    audio, of_frames = entry.split(keep)
    if way != "merged":
        return _unlike(tokens, audio, sum(of_frames), rare=way == "rare")
    kept = []
    if tokens.audio:
        places = torch.nonzero(tokens.is_audio).flatten()
        kept.append(places[_audio(tokens, audio)])
    if tokens.video:
        places = torch.nonzero(~tokens.is_audio).flatten()
        kept.append(places[_video(tokens.features[places], tokens.grid[places], tokens.frame_sizes, of_frames)])
    return torch.sort(torch.cat(kept)).values


def _unlike(tokens: AudioVisual, audio: int, video: int, *, rare: bool) -> Tensor:
    """Ascending indices of `audio` and `video` tokens, each window giving the same share of its own: chunks, or where
    `rare` as few temporal patches of the video as keep FEWEST.

    Merging compares frames with their anchor alone: two of a kind within a frame both stay, and once fewer tokens enter
    than there are anchors, three frames of four have none left. Max-min alone has two faults of its own: what is shown
    throughout a chunk stays once, so that it cannot be found at its other moments; and a moving background is unlike
    itself everywhere, so that it takes the places of what is shown before it. Rarity is over the whole clip, because in
    one frame what is shown may cover more than the background does. What each is worth: docs/evidence.md.

    Of what stands still the first moments are chosen among, or, where these are fewer than asked for, all taken before
    any later one.
    """
    of_audio = windows(tokens, (AUDIO,))
    of_video = frames(tokens, _together(len(tokens.frame_sizes), video)) if rare else windows(tokens, (VIDEO,))
    weight = None
    if rare and tokens.video:
        places = torch.cat(of_video)
        weight = torch.ones(tokens.count, device=tokens.features.device)
        weight[places] = rarity(tokens.features[places], tokens.is_own[places]) + USUAL
    taken = []
    if tokens.versions is not None:
        firsts = [part[tokens.is_own[part]] for part in of_video]
        if (found := sum(part.numel() for part in firsts)) <= video:
            taken, video = firsts, video - found
            firsts = [part[~tokens.is_own[part]] for part in of_video]
        of_video = firsts
    of_video = [part for part in of_video if part.numel()]
    parts = [*of_audio, *of_video]
    keep = [*split(audio, [part.numel() for part in of_audio]), *split(video, [part.numel() for part in of_video])]
    return torch.sort(torch.cat([*taken, *max_min(tokens.features, parts, keep, weight)])).values


def _together(patches: int, video: int) -> int:
    """How many of a clip's temporal patches make a window, so that it keeps FEWEST of `video` tokens."""
    return max(1, math.ceil(FEWEST * patches / max(video, 1)))


def choose_cells(cells: Tensor, patches: int, keep: int, candidates: Tensor | None = None) -> Tensor:
    """(keep,) ascending numbers of the cells worth encoding, of (n, D) `cells` of `patches` temporal patches in order;
    among `candidates` (u,), ascending on the host, where others are versions of them.

    Least like each other, rare ones first, as `rare` chooses what enters the decoder; by what stands for a cell before
    the vision encoder, the uncentred embeddings of its raw pixels. Which depth they are taken from is nearly irrelevant
    (of the tokens still in the last decoder layer, 35 % chosen by embeddings hold 0.87 to 0.90, chosen by the encoder's
    final features 0.89).

    In windows of so many temporal patches that each has as many cells encoded as a picture has. Chosen patch by patch,
    the same cells of a picture that hardly changes would be encoded at every moment, and the others never: of a page of
    writing 46 % was ever seen. In such a window it is seen whole before anything is seen twice. Windows share `keep`
    out by time, and what one with few candidates does not take goes to the others.
    """
    size = cells.shape[0] // patches
    every = torch.arange(cells.shape[0]) if candidates is None else candidates
    together = max(_together(patches, keep), math.ceil(len(every) / keep)) * size
    whole = [min(together, cells.shape[0] - begin) for begin in range(0, cells.shape[0], together)]
    sizes = torch.bincount(torch.div(every, together, rounding_mode="floor"), minlength=len(whole)).tolist()
    parts = torch.split_with_sizes(every.to(cells.device), sizes)
    return torch.sort(torch.cat(max_min(cells, parts, split(keep, sizes, whole), rarity(cells) + USUAL))).values


def _audio(tokens: AudioVisual, keep: int) -> Tensor:
    """Indices among the audio tokens: the highest attention received in the encoder, or evenly spaced without it."""
    if tokens.audio_importance is None:
        return _spaced(tokens.audio, keep, tokens.modality.device)
    return torch.topk(tokens.audio_importance, keep).indices


def _video(features: Tensor, grid: Tensor, sizes: tuple[int, ...], keep: tuple[int, ...]) -> Tensor:
    """Indices among the video tokens: of each frame those least like the anchor's token at the same place.

    An anchor that must be thinned is compared with the anchor before it, the first one keeps evenly spaced tokens.
    """
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    kept = []
    for index, (size, count) in enumerate(zip(sizes, keep, strict=True)):
        here = torch.arange(starts[index], starts[index + 1], device=features.device)
        other = index - (index % GROUP or GROUP)
        if count == size:
            kept.append(here)
        elif other < 0:
            kept.append(here[_spaced(size, count, features.device)])
        else:
            if sizes[other] == size:
                there = unit[starts[other] : starts[other + 1]]
            else:  # another frame size: the anchor's token at the nearest place
                places = grid[starts[other] : starts[other + 1], 1:].float()
                there = unit[starts[other] + torch.cdist(grid[here, 1:].float(), places).argmin(dim=1)]
            likeness = (unit[here] * there).sum(dim=-1)
            kept.append(here[torch.topk(likeness, count, largest=False).indices])
    return torch.cat(kept)


def _spaced(size: int, count: int, device: torch.device) -> Tensor:
    """`count` of 0..size-1, evenly spaced."""
    return torch.div(torch.arange(count, device=device) * size, max(count, 1), rounding_mode="floor")
