"""Where every token before the first question stands: order of video and audio, rotary positions, chunks, grid places.

Promises: token for token the order of the stock processors and position for position the stock models'
`get_rope_index`, in a few array operations instead of a Python loop over tensors. Where the two
disagree with each other (the processor counts in float64, the model in float32; at 1.3 or 3.5 frames a second they
part), the order follows the model's positions, so that a token never sits at another token's place. Knows nothing about
pixels, sound or weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnidrop.models.base import AUDIO, TEXT, VIDEO
from omnidrop.models.geometry import Geometry


@dataclass(frozen=True)
class MediaTokens:
    """Token ids of the placeholders and of the marks around them."""

    video: int
    audio: int
    vision_start: int
    vision_end: int
    audio_start: int
    audio_end: int


@dataclass(frozen=True, eq=False)
class ClipLayout:
    """The prefix's tokens. Shapes, dtypes and meanings as in `omnidrop.models.base.Prefix`; tensors on the CPU."""

    input_ids: Tensor
    positions: Tensor
    modality: Tensor
    chunk: Tensor
    grid: Tensor
    seconds: Tensor
    next_position: float


@dataclass(frozen=True, eq=False)
class _Media:
    """Audio and video tokens in prompt order: `positions` (3, n), and how far the last block of them reaches."""

    modality: Tensor
    positions: Tensor
    grid: Tensor
    reach: Tensor


def lay_out(
    geometry: Geometry,
    tokens: MediaTokens,
    *,
    head: Sequence[int],
    tail: Sequence[int],
    grid: tuple[int, int, int] | None,
    seconds_per_patch: float,
    audio_tokens: int,
) -> ClipLayout:
    """Lay out `head` (text before the clip), the clip between its marks, and `tail` (text after it).

    `grid` is (temporal patches, rows, columns) of video tokens, None without a picture; `audio_tokens` is 0 without
    sound; at least one must be there. With both, the audio's marks lie inside the video's, as in the stock prompt.
    """
    if grid is None and not audio_tokens:
        raise ValueError("a clip needs a picture or sound")
    dtype: torch.dtype = getattr(torch, geometry.position_dtype)
    opening = [tokens.vision_start] * (grid is not None) + [tokens.audio_start] * (audio_tokens > 0)
    closing = [tokens.audio_end] * (audio_tokens > 0) + [tokens.vision_end] * (grid is not None)

    marks = torch.arange(len(opening)).to(dtype) * geometry.marks_apart
    begin = torch.tensor(len(head), dtype=dtype)
    start = begin + marks[-1] + 1
    media = _media(geometry, grid, seconds_per_patch, audio_tokens, start, dtype)
    end = media.reach + 1
    after = end + marks[-1] + 1
    text = [
        torch.arange(len(head)).to(dtype),
        begin + marks,
        end + marks,
        after + torch.arange(len(tail)).to(dtype),
    ]
    flat = [part.expand(3, -1) for part in text]
    positions = torch.cat([flat[0], flat[1], media.positions, flat[2], flat[3]], dim=1)

    placeholder = torch.where(media.modality == VIDEO, tokens.video, tokens.audio)
    before, behind = len(head) + len(opening), len(closing) + len(tail)
    input_ids = torch.cat(
        [torch.tensor([*head, *opening]), placeholder, torch.tensor([*closing, *tail], dtype=torch.int64)]
    )
    modality = torch.full((input_ids.numel(),), TEXT, dtype=torch.int8)
    modality[before : modality.numel() - behind] = media.modality
    chunk = torch.full_like(modality, -1, dtype=torch.int32)
    per_chunk = geometry.positions_per_second * geometry.seconds_per_chunk
    chunk[modality != TEXT] = ((media.positions[0] - start) // per_chunk).to(torch.int32)
    seconds = torch.full_like(modality, -1, dtype=torch.float32)
    seconds[modality != TEXT] = ((media.positions[0] - start) / geometry.positions_per_second).to(torch.float32)
    places = torch.full((input_ids.numel(), 3), -1, dtype=torch.int32)
    places[modality != TEXT] = media.grid
    last = after + len(tail)
    return ClipLayout(
        input_ids=input_ids,
        positions=positions.contiguous(),
        modality=modality,
        chunk=chunk,
        grid=places,
        seconds=seconds,
        next_position=last.item(),
    )


def _media(
    geometry: Geometry,
    grid: tuple[int, int, int] | None,
    seconds_per_patch: float,
    audio_tokens: int,
    start: Tensor,
    dtype: torch.dtype,
) -> _Media:
    sound = torch.arange(audio_tokens)
    sound_positions = (sound.to(dtype) + start).expand(3, -1)
    sound_grid = torch.stack([sound, torch.zeros_like(sound), torch.zeros_like(sound)], dim=1).to(torch.int32)
    if grid is None:
        modality = torch.full((audio_tokens,), AUDIO, dtype=torch.int8)
        return _Media(modality, sound_positions, sound_grid, sound_positions.max())

    patches, rows, columns = grid
    # float32 on purpose, in this order: it is the stock model's arithmetic, and it decides ties with the audio.
    times = torch.arange(patches) * torch.tensor(seconds_per_patch, dtype=torch.float32) * geometry.positions_per_second
    place = torch.cartesian_prod(torch.arange(patches), torch.arange(rows), torch.arange(columns)).view(-1, 3)
    seen_positions = torch.stack([times.to(dtype)[place[:, 0]], place[:, 1].to(dtype), place[:, 2].to(dtype)]) + start
    seen_grid = place.to(torch.int32)
    if not audio_tokens:
        modality = torch.full((len(place),), VIDEO, dtype=torch.int8)
        return _Media(modality, seen_positions, seen_grid, seen_positions.max())

    rank, tail = geometry.interleave(seen_positions, sound_positions, start)
    order = torch.argsort(rank, stable=True)
    modality = torch.tensor([VIDEO] * len(place) + [AUDIO] * audio_tokens, dtype=torch.int8)
    positions = torch.cat([seen_positions, sound_positions], dim=1)
    places = torch.cat([seen_grid, sound_grid])
    return _Media(modality[order], positions[:, order], places[order], tail.max())
