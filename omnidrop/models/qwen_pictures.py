"""A clip's picture through the stock vision encoder, whole or in part, and what was encoded before left out.

Promises: features and attention received by video token, in the picture's order; temporal patches do not see each
other, so how many are encoded at once changes nothing. Knows nothing about sound, prompts or the text decoder; what
differs by family are the hooks of `QwenPictures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from omnidrop.models import still_cells
from omnidrop.models.base import SomeOf
from omnidrop.models.encoders import (
    BlockAttention,
    FeatureMemory,
    PatchPlan,
    first_of_each,
    patch_keys,
    plan_patches,
)
from omnidrop.models.geometry import Geometry
from omnidrop.models.processing import ClipProcessor
from omnidrop.models.some_cells import EncodedCells, SeenCells, cells_key, encoder_words

PATCHES_AT_ONCE = 64
"""Temporal patches encoded in one call. They do not see each other, so this bounds memory and changes nothing: 64 of
448x252 pixels are 170 MB of float32."""


@dataclass(frozen=True, eq=False)
class Picture:
    """(T, H, W, 3) uint8 frames, and what was worked out about them before."""

    frames: npt.NDArray[np.uint8]
    digests: tuple[bytes, ...] | None = None
    resized: Tensor | None = None


class QwenPictures:
    """The part of a loaded thinker that encodes pictures. Families say where attention is read and cells are placed."""

    device: torch.device
    dtype: torch.dtype
    weights_hash: str
    geometry: Geometry
    processor: ClipProcessor
    memory: FeatureMemory
    model: Any
    vision_attention: BlockAttention

    def last_full_attention(self) -> nn.Module:
        """The attention of the vision encoder's last block in which a temporal patch attends to all of itself."""
        raise NotImplementedError

    def token_order(self, received: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Attention received per group of merged patches, as the encoder orders them -> per video token."""
        raise NotImplementedError

    def encoder_words(self, grid: tuple[int, int, int], chosen: Tensor) -> dict[str, Any]:
        """What the stock vision encoder must be told to encode the `chosen` (temporal patches, cells) alone."""
        return encoder_words(grid, chosen, self.geometry.merge)

    def encoded(self, picture: Picture, rows: int, columns: int, some_of: SomeOf | None) -> EncodedCells:
        """All cells of a picture of so many rows and columns of tokens; or those that `some_of` chooses, and their
        versions."""
        if some_of is not None and some_of.is_part_of(rows * columns * self._patches(picture)):
            return self._encode_some(picture, rows, columns, some_of)
        plan, features = self._encode_video(picture, rows, columns)
        flops = self.geometry.vision_flops(len(plan.encode), rows, columns)
        return EncodedCells(plan, None, None, features, flops)

    def _patches(self, picture: Picture) -> int:
        return -(-len(picture.frames) // self.geometry.temporal_patch)

    def _encode_video(self, picture: Picture, rows: int, columns: int) -> tuple[PatchPlan, list[Tensor]]:
        """What was encoded, and by video token: features (tokens, D), those for deepstack (Qwen3), and last the
        attention received (tokens,)."""
        step, per_patch = self.geometry.temporal_patch, rows * columns
        frames = picture.frames
        name = repr((frames.shape[1:], rows, columns, str(self.dtype), self.weights_hash)).encode()
        plan = plan_patches(frames, step, name, self.memory, picture.digests)
        known: dict[bytes, tuple[Tensor, ...]] = {}
        # Fetched before anything is put in, which may push some of it out.
        for key in plan.keys:
            found = self.memory.get(key)
            if found is not None:
                known[key] = found
        for begin in range(0, len(plan.encode), PATCHES_AT_ONCE):
            patches = plan.encode[begin : begin + PATCHES_AT_ONCE]
            pixels, grid = self._pixels(picture, patches)
            *encoded, received = self._encode_pixels(pixels, grid)
            parts = [*encoded, self.token_order(received, grid)]
            for number, patch in enumerate(patches):
                features = tuple(part[number * per_patch : (number + 1) * per_patch] for part in parts)
                known[plan.keys[patch]] = features
                self.memory.put(plan.keys[patch], features)
        depths = len(next(iter(known.values())))
        return plan, [torch.cat([known[key][depth] for key in plan.keys]) for depth in range(depths)]

    def _encode_pixels(self, pixels: Tensor, grid: tuple[int, int, int], **words: Any) -> list[Tensor]:
        """The stock vision encoder's features, those for deepstack, and the attention received, by cell; the last in
        the encoder's own order."""
        with self.vision_attention.recording() as received:
            output = self.model.model.visual(
                pixels.to(self.dtype), grid_thw=torch.tensor([grid], device=self.device), **words
            )
        merged = torch.cat(received).view(-1, self.geometry.merge**2).mean(dim=1)
        deep = getattr(output, "deepstack_features", None) or []
        return [output.pooler_output, *deep, merged]

    def _encode_some(self, picture: Picture, rows: int, columns: int, some_of: SomeOf) -> EncodedCells:
        """Choose cells by what their pixels embed to, and encode these alone."""
        # Features of whole pictures are other ones, even where their cells were chosen.
        frames = picture.frames
        name = repr(("some", frames.shape[1:], rows, columns, str(self.dtype), self.weights_hash)).encode()
        pixel_keys = patch_keys(frames, self.geometry.temporal_patch, name, self.memory, picture.digests)
        different = first_of_each(pixel_keys)
        place = {pixel_keys[patch]: number for number, patch in enumerate(different)}
        at_place = [place[key] for key in pixel_keys]
        seen = self._embed_cells(picture, different, rows * columns, look=some_of.still_levels > 0)
        cells = torch.cat([seen.means[number] for number in at_place])
        versions = None
        if some_of.still_levels:
            of_patches = torch.stack([seen.looks[number] for number in at_place])
            versions = still_cells.versions(of_patches, some_of.still_levels).cpu()
        chosen = self._chosen(cells, len(pixel_keys), versions, some_of)
        of_patch = chosen.view(len(pixel_keys), rows * columns)
        keys = [cells_key(key, of) for key, of in zip(pixel_keys, of_patch, strict=True)]
        known = {key: found for key in keys if (found := self.memory.get(key)) is not None}
        encode = [patch for patch in first_of_each(keys) if keys[patch] not in known and of_patch[patch].any()]
        for begin in range(0, len(encode), PATCHES_AT_ONCE):
            patches = encode[begin : begin + PATCHES_AT_ONCE]
            at = [at_place[patch] for patch in patches]
            if seen.pixels is None:
                # Prepared a second time: those of a long clip would be more than all else that is held.
                given, at = self._cell_pixels(picture, patches), list(range(len(patches)))
            else:
                given = seen.pixels
            parts = self._encode_cells(given, at, of_patch[patches], rows, columns)
            counts = of_patch[patches].sum(dim=1).tolist()
            by_patch = zip(*(torch.split_with_sizes(part, counts) for part in parts), strict=True)
            for patch, of_cells in zip(patches, by_patch, strict=True):
                known[keys[patch]] = of_cells
                self.memory.put(keys[patch], of_cells)
        found_in = [known[key] for key, of in zip(keys, of_patch, strict=True) if of.any()]
        features = [torch.cat(parts) for parts in zip(*found_in, strict=True)]
        there = chosen
        if versions is not None:
            there = chosen[versions]
            number = (torch.cumsum(chosen, dim=0) - 1)[versions[there]].to(self.device)
            features = [part.index_select(0, number) for part in features]
        count = int(chosen.sum())
        plan = PatchPlan(
            keys=tuple(keys),
            encode=tuple(encode),
            cells=count,
            all_cells=len(chosen),
            still=int(there.sum()) - count,
            still_levels=some_of.still_levels,
            without=int((~of_patch.any(dim=1)).sum()),
        )
        run = int(of_patch[encode].sum())
        flops = self.geometry.vision_flops(len(encode), rows, columns, run, len(different) * rows * columns)
        return EncodedCells(plan, there, versions if plan.still else None, features, flops)

    def _chosen(self, cells: Tensor, patches: int, versions: Tensor | None, some_of: SomeOf) -> Tensor:
        """(cells,) bool on the host: which are encoded, of those that stand for themselves."""
        candidates = None
        if versions is not None:
            candidates = (versions == torch.arange(len(versions))).nonzero().squeeze(1)
        count = min(some_of.cells, len(cells) if candidates is None else len(candidates))
        chosen = torch.zeros(len(cells), dtype=torch.bool)
        if candidates is not None and count == len(candidates):
            chosen[candidates] = True
            return chosen
        # A wait for the device, as for the versions: what is encoded is known on the host from here on.
        chosen[some_of.choose(cells, patches, count, candidates).cpu()] = True
        if int(chosen.sum()) != count:
            raise ValueError(f"{count} cells were to be encoded, {int(chosen.sum())} were chosen")
        return chosen

    def _embed_cells(self, picture: Picture, patches: Sequence[int], per_patch: int, *, look: bool) -> SeenCells:
        """What is known of the cells of some temporal patches before they are encoded; their looks where asked for."""
        geometry, means, looked = self.geometry, list[Tensor](), list[Tensor]()
        held = None
        for begin in range(0, len(patches), PATCHES_AT_ONCE):
            normal, _ = self._pixels(picture, patches[begin : begin + PATCHES_AT_ONCE])
            cells = normal.shape[0] // geometry.merge**2
            if look:
                looks = still_cells.looks(normal, cells, geometry.temporal_patch, self.processor.deviation)
                looked += torch.split(looks, per_patch)
            pixels = normal.to(self.dtype)
            embedded = self.model.model.visual.patch_embed(pixels)
            means += torch.split(embedded.view(cells, geometry.merge**2, -1).mean(dim=1), per_patch)
            held = pixels.view(cells, -1) if len(patches) <= PATCHES_AT_ONCE else None
        return SeenCells(means, looked, held)

    def _encode_cells(self, pixels: Tensor, at: Sequence[int], some: Tensor, rows: int, columns: int) -> list[Tensor]:
        """As `_encode_pixels`, in the picture's order, of `some` (temporal patches, cells) alone; the temporal patches
        are `at` these places in `pixels`, as `_cell_pixels` gives them."""
        merge, per_patch = self.geometry.merge, rows * columns
        numbers = torch.cat([place * per_patch + of.nonzero().squeeze(1) for place, of in zip(at, some, strict=True)])
        picked = pixels.index_select(0, numbers.to(self.device)).view(len(numbers) * merge**2, -1)
        grid = (len(some), rows * merge, columns * merge)
        given = self.encoder_words(grid, some)
        words = {name: word.to(self.device) if isinstance(word, Tensor) else word for name, word in given.items()}
        *features, received = self._encode_pixels(picked, grid, **words)
        return [*features, received[torch.argsort(words["window_index"])] if "window_index" in words else received]

    def _cell_pixels(self, picture: Picture, patches: Sequence[int]) -> Tensor:
        """(temporal patches x cells, pixels of a cell), model dtype."""
        pixels, _ = self._pixels(picture, patches)
        return pixels.to(self.dtype).view(pixels.shape[0] // self.geometry.merge**2, -1)

    def _pixels(self, picture: Picture, patches: Sequence[int]) -> tuple[Tensor, tuple[int, int, int]]:
        """What the vision encoder takes of some temporal patches, and their grid; an odd last frame stands twice."""
        step = self.geometry.temporal_patch
        picked = [min(p * step + n, len(picture.frames) - 1) for p in patches for n in range(step)]
        if picture.resized is None:
            return self.processor.pixels(picture.frames[picked], self.device)
        return self.processor.patches(picture.resized[picked], self.device)
