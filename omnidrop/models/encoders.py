"""What the encoders are spared, and what they are asked for beyond their features.

Promises: a temporal patch seen before is not encoded again, with exactly the features it would have had; blocks of
attention run together; the attention that columns receive comes out of a layer's own query and key; FLOPs count what
was really encoded. Knows nothing about prompts, questions or the text decoder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

IN_BLOCKS = "omnidrop_flash_blocks"
"""Name under which the encoders' attention is known to transformers. A name with "flash" in it gets all rows at once
and the blocks' bounds; others are called block by block."""
MOST_WEIGHTS = 1 << 25
"""Attention weights held at once while recording, 128 MB of float32: heads are taken in groups."""


@dataclass(frozen=True)
class EncoderSettings:
    """What encoding may save, with every feature as it would be."""

    memory_bytes: int = 256 << 20
    """Bytes of vision features remembered across clips, least recently used go first. At 7B shape and 448x252 pixels a
    temporal patch is 1 MB, so four minutes at 2 frames a second. 0 remembers nothing."""
    silence_dbfs: float = -60.0
    """A chunk of sound whose root mean square is below is silent."""

    def __post_init__(self) -> None:
        if self.memory_bytes < 0:
            raise ValueError(f"memory_bytes must be 0 or more, got {self.memory_bytes}")


@dataclass(eq=False)
class FeatureMemory:
    """Vision features by temporal patch, bounded by bytes.

    In both families attention stays inside one temporal patch, so its features depend on nothing but its own pixels:
    reuse is exact. Keys must name pixels, grid, dtype and weights.
    """

    limit_bytes: int
    held_bytes: int = 0
    is_suspended: bool = False
    _features: OrderedDict[bytes, tuple[Tensor, ...]] = field(default_factory=OrderedDict)

    def get(self, key: bytes) -> tuple[Tensor, ...] | None:
        """The features remembered under `key`, now the most recently used; None where there are none."""
        found = None if self.is_suspended else self._features.get(key)
        if found is not None:
            self._features.move_to_end(key)
        return found

    def put(self, key: bytes, features: tuple[Tensor, ...]) -> None:
        """Remember `features`, and forget the least recently used until all fit."""
        size = sum(part.numel() * part.element_size() for part in features)
        if self.is_suspended or size > self.limit_bytes or key in self._features:
            return
        # Cloned, because a slice would keep the whole clip's features alive.
        self._features[key] = tuple(part.clone() for part in features)
        self.held_bytes += size
        while self.held_bytes > self.limit_bytes:
            _, dropped = self._features.popitem(last=False)
            self.held_bytes -= sum(part.numel() * part.element_size() for part in dropped)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Reuse nothing while the block runs, neither of clips before nor within one: every frame is encoded, as it
        would be without this product. What is remembered stays remembered."""
        before, self.is_suspended = self.is_suspended, True
        try:
            yield
        finally:
            self.is_suspended = before

    def clear(self) -> None:
        """Forget everything: before a clip is timed a second time, whose features would all be known."""
        self._features.clear()
        self.held_bytes = 0


@dataclass(frozen=True)
class PatchPlan:
    """Which temporal patches of one clip need encoding."""

    keys: tuple[bytes, ...]
    """Per temporal patch, the key of the features it gets."""
    encode: tuple[int, ...]
    """Temporal patches whose features are not known yet, ascending, each key once."""
    cells: int | None = None
    """Cells that were chosen to be encoded, of `all_cells` (lossy); None where all were."""
    all_cells: int = 0
    still: int = 0
    """Cells that take the features of the version they belong to (lossy)."""
    still_levels: float = 0.0
    without: int = 0
    """Temporal patches of which no cell was chosen."""


def plan_patches(
    frames: npt.NDArray[np.uint8],
    step: int,
    name: bytes,
    memory: FeatureMemory,
    digests: Sequence[bytes] | None = None,
) -> PatchPlan:
    """Which temporal patches of (T, H, W, 3) `frames` are neither known nor repeated; the rest as for `patch_keys`."""
    keys = patch_keys(frames, step, name, memory, digests)
    return PatchPlan(keys, tuple(patch for patch in first_of_each(keys) if memory.get(keys[patch]) is None))


def patch_keys(
    frames: npt.NDArray[np.uint8],
    step: int,
    name: bytes,
    memory: FeatureMemory,
    digests: Sequence[bytes] | None = None,
) -> tuple[bytes, ...]:
    """Every temporal patch's key, equal ones for equal features.

    `name` stands for grid, dtype and weights. Keys are of the frames before resizing: equal frames resize equally, and
    hashing them costs 1 % of encoding them; `digests` are `patch_digests` where they were taken before.
    """
    if memory.is_suspended:
        return tuple(patch.to_bytes(8) for patch in range(-(-len(frames) // step)))
    return tuple(_key(digest, name) for digest in digests or patch_digests(frames, step))


def first_of_each(keys: Sequence[bytes]) -> list[int]:
    """Where each key stands first, ascending."""
    return sorted({key: number for number, key in reversed(list(enumerate(keys)))}.values())


def patch_digests(frames: npt.NDArray[np.uint8], step: int) -> tuple[bytes, ...]:
    """Per temporal patch of `step` of the (T, H, W, 3) `frames`, what its pixels hash to."""
    digests = []
    for start in range(0, len(frames), step):
        digest = hashlib.sha256()  # in hardware, twice as fast as blake2b: 20 ms for a minute of 420x238 pixels
        for number in range(start, start + step):
            digest.update(np.ascontiguousarray(frames[min(number, len(frames) - 1)]).data)
        digests.append(digest.digest())
    return tuple(digests)


def _key(digest: bytes, name: bytes) -> bytes:
    return hashlib.sha256(name + digest).digest()


class BlockAttention:
    """Attention of one encoder, all its blocks of equal length in one call, and what the columns of one layer receive.

    Encoders attend inside blocks (windows, temporal patches, chunks of sound). Without flash-attn the stock layers run
    them one by one: 20,000 calls for a minute of video in 32 layers. Built on transformers' attention interface, where
    a layer's own queries and keys arrive; asking an encoder for attention weights would return its outputs instead.
    """

    def __init__(self, encoder: nn.Module, recorded: nn.Module) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(IN_BLOCKS, _attend_in_blocks)
        module: Any = recorded
        self._recorded = module
        config: Any = encoder.config
        self.config = config
        config._attn_implementation = module.config._attn_implementation = IN_BLOCKS
        module.received = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """A list that gets one (columns,) float32 tensor from the recorded layer: column sums, averaged over heads.

        Sums and not means over a block's rows: a mean is 1 / length on average and would make every column of a short
        last chunk look important; sums average 1 in every block.
        """
        received: list[Tensor] = []
        self._recorded.received = received
        try:
            yield received
        finally:
            self._recorded.received = None


def _attend_in_blocks(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: object,
) -> tuple[Tensor, None]:
    """An attention function of transformers: (1, H, S, d) each, S rows in blocks -> (1, S, H, d)."""
    received: list[Tensor] | None = getattr(module, "received", None)
    heads, rows = query.shape[1:3]
    attended = query.new_empty(rows, heads, query.shape[3])
    columns = query.new_empty(rows, dtype=torch.float32)
    for length, places in _blocks(cu_seq_lens_q):
        picked = [part[0] if places is None else part[0].index_select(1, places) for part in (query, key, value)]
        # (blocks, H, length, d)
        q, k, v = (part.reshape(heads, -1, length, part.shape[2]).transpose(0, 1) for part in picked)
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)
        sums = None if received is None else _column_sums(q, k, scaling).flatten()
        if places is None:
            attended, columns = mixed, sums if sums is not None else columns
        else:
            attended[places] = mixed
            if sums is not None:
                columns[places] = sums
    if received is not None:
        received.append(columns)
    return attended[None], None


def _blocks(bounds: Tensor) -> list[tuple[int, Tensor | None]]:
    """Block lengths that occur, each with the rows of its blocks; None for all rows, where there is one length.

    Remembered on the tensor, which all layers of a pass share, so that the device is waited for once and not in each.
    """
    known: list[tuple[int, Tensor | None]] | None = getattr(bounds, "omnidrop_blocks", None)
    if known is None:
        ends = bounds.tolist()
        spans = [(a, b - a) for a, b in itertools.pairwise(ends) if b > a]
        known = []
        for length in sorted({size for _, size in spans}):
            starts = torch.tensor([start for start, size in spans if size == length])
            rows = (starts[:, None] + torch.arange(length)).flatten()
            known.append((length, None if len(rows) == ends[-1] else rows.to(bounds.device)))
        bounds.omnidrop_blocks = known  # type: ignore[attr-defined]
    return known


def _column_sums(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """(blocks, length) float32: attention each column receives, summed over rows, averaged over heads."""
    blocks, heads, length, _ = query.shape
    sums = query.new_zeros(blocks, length, dtype=torch.float32)
    at_once = max(1, MOST_WEIGHTS // length**2)
    step = max(1, at_once // blocks)
    for head in range(0, heads, step):
        for block in range(0, blocks, at_once):
            some = slice(block, block + at_once), slice(head, head + step)
            weights = torch.softmax((query[some] @ key[some].transpose(2, 3)).float() * scaling, dim=-1)
            sums[some[0]] += weights.sum(dim=(1, 2))
    return sums / heads


def silent_chunks(
    audio: npt.NDArray[np.float32], samples_per_chunk: int, floor_dbfs: float = -60.0
) -> npt.NDArray[np.bool_]:
    """Per chunk of the waveform, whether its root mean square is below `floor_dbfs` (0 dBFS is an amplitude of 1).

    On the waveform, not on the log-mel: that is normalised by the clip's own maximum, so silence looks like anything.
    """
    starts = np.arange(0, len(audio), samples_per_chunk)
    power = np.add.reduceat(np.square(audio, dtype=np.float64), starts) / np.diff([*starts, len(audio)])
    return np.asarray(power < 10.0 ** (floor_dbfs / 10.0), dtype=np.bool_)


def encoder_notes(plan: PatchPlan | None, silent: npt.NDArray[np.bool_] | None, settings: EncoderSettings) -> list[str]:
    """What a reader of the answers should know about how the clip was encoded."""
    notes = []
    if plan is not None:
        patches = len(plan.keys)
        if plan.cells is not None:
            notes.append(f"lossy: {plan.cells:,} of {plan.all_cells:,} cells of the picture were encoded")
        if plan.still:
            notes.append(
                f"lossy: {plan.still:,} cells took the features of earlier ones of their place within "
                f"{plan.still_levels:g} levels"
            )
        known = patches - plan.without - len(plan.encode)
        if known:
            notes.append(f"{known} of {patches} temporal patches repeat known frames and were not encoded again")
    if silent is not None and silent.any():
        where = "throughout" if silent.all() else f"in {int(silent.sum())} of {len(silent)} chunks"
        notes.append(f"the sound is silent {where} (below {settings.silence_dbfs:g} dBFS)")
    return notes
