"""Batched forms of the stock encoders: equal inputs side by side instead of one attention call per frame and window.

Promises: the same numbers as `visual(...)` and `audio_tower(...)` of the stock model for pictures of one size and
sounds of whole chunks (tested), several times faster in training. Knows nothing about words, clips or losses.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb_vision

from training.tiny.architecture import CHUNK_S, FRAME_PIXELS, HOP, MELS, MIN_FRAME_PIXELS, preprocessor

CELL = 28
FRAMES_A_CHUNK = CHUNK_S * 16_000 // HOP


def frame_size(height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels that the processor resizes to: multiples of 28 within the pixel limits."""
    rows, columns = max(1, round(height / CELL)), max(1, round(width / CELL))
    area = height * width
    if rows * columns * CELL**2 > FRAME_PIXELS:
        scale = (area / FRAME_PIXELS) ** 0.5
        rows, columns = max(1, int(height / scale / CELL)), max(1, int(width / scale / CELL))
    elif rows * columns * CELL**2 < MIN_FRAME_PIXELS:
        scale = (MIN_FRAME_PIXELS / area) ** 0.5
        rows, columns = -int(-height * scale // CELL), -int(-width * scale // CELL)
    return rows * CELL, columns * CELL


def patches_of(frames: Tensor) -> Tensor:
    """(B, 2, H, W, 3) uint8 pairs of frames -> (B, H / 14 * W / 14, 1176) float32 in the processor's order."""
    settings = preprocessor()
    mean = torch.tensor(settings["image_mean"], device=frames.device) * 255
    std = torch.tensor(settings["image_std"], device=frames.device) * 255
    pixels = (frames.float() - mean) / std
    batch, _, height, width, _ = frames.shape
    rows, columns = height // CELL, width // CELL
    cut = pixels.view(batch, 2, rows, 2, 14, columns, 2, 14, 3)
    return cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(batch, rows * columns * 4, -1)


@lru_cache(maxsize=64)
def _windows(rows: int, columns: int, side: int) -> tuple[tuple[int, ...], ...]:
    """Patch numbers of every attention window of `side` x `side` cells, cells in reading order, four patches each."""
    windows = []
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            cells = [
                row * columns + column
                for row in range(top, min(rows, top + side))
                for column in range(left, min(columns, left + side))
            ]
            windows.append(tuple(cell * 4 + part for cell in cells for part in range(4)))
    return tuple(windows)


def see(visual: nn.Module, patches: Tensor, rows: int, columns: int) -> Tensor:
    """(B, rows * columns * 4, 1176) patches -> (B, rows * columns, width) features, cells in reading order."""
    batch, count, _ = patches.shape
    device = patches.device
    across = torch.arange(columns * 2, device=device).expand(rows * 2, -1)
    down = torch.arange(rows * 2, device=device)[:, None].expand(-1, columns * 2)
    places = torch.stack(
        [grid.reshape(rows, 2, columns, 2).permute(0, 2, 1, 3).reshape(-1) for grid in (down, across)], dim=-1
    )
    rotary = visual.rotary_pos_emb(patches, places)
    weight = visual.patch_embed.proj.weight
    hidden = functional.linear(patches, weight.view(weight.shape[0], -1))
    side = visual.window_size // visual.patch_size // visual.spatial_merge_size
    windows = [torch.tensor(window, device=device) for window in _windows(rows, columns, side)]
    whole = [torch.arange(count, device=device)]
    for number, block in enumerate(visual.blocks):
        attention, heads = block.attn, block.attn.num_heads
        normed = block.norm1(hidden)
        query, key, value = (
            part(normed).view(batch, count, heads, -1) for part in (attention.q, attention.k, attention.v)
        )
        query, key = apply_rotary_pos_emb_vision(query, key, *rotary)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed = torch.empty_like(query)
        for window in whole if number in visual.fullatt_block_indexes else windows:
            inside = (part[:, :, window] for part in (query, key, value))
            mixed[:, :, window] = functional.scaled_dot_product_attention(*inside).to(mixed.dtype)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged = visual.merger.ln_q(hidden).view(batch, rows * columns, -1)
    return visual.merger.mlp(merged)


@lru_cache(maxsize=1)
def extractor() -> WhisperFeatureExtractor:
    """The checkpoint's feature extractor."""
    return WhisperFeatureExtractor(feature_size=MELS, sampling_rate=16_000, hop_length=HOP, n_fft=400, chunk_length=300)


def mels_of(waves: Tensor) -> Tensor:
    """(B, samples) float32 -> (B, 64, samples / 400) log-mel, each clip normalised by its own maximum as in Whisper."""
    filters = torch.as_tensor(np.asarray(extractor().mel_filters), dtype=torch.float32, device=waves.device)
    window = torch.hann_window(400, device=waves.device)
    power = torch.stft(waves, 400, HOP, window=window, return_complex=True)[..., :-1].abs() ** 2
    logs = torch.clamp(filters.T @ power, min=1e-10).log10()
    loudest = logs.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(logs, loudest - 8.0) + 4.0) / 4.0


def hear(tower: nn.Module, mels: Tensor) -> Tensor:
    """(B, 64, F) log-mels, F a multiple of 80 -> (B, F / 4, width) features."""
    batch, _, frames = mels.shape
    chunks = frames // FRAMES_A_CHUNK
    cut = mels.view(batch, MELS, chunks, FRAMES_A_CHUNK).transpose(1, 2).reshape(batch * chunks, MELS, -1)
    hidden = functional.gelu(tower.conv1(cut))
    hidden = functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    hidden = hidden + tower.positional_embedding.positional_embedding[: hidden.shape[1]].to(hidden)
    for layer in tower.layers:
        attention = layer.self_attn
        normed = layer.self_attn_layer_norm(hidden)
        query, key, value = (
            part(normed).view(*normed.shape[:2], attention.num_heads, -1).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        hidden = hidden + attention.out_proj(mixed.reshape(normed.shape))
        hidden = hidden + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(hidden))))
    pooled = (hidden[:, 0::2] + hidden[:, 1::2]) / 2
    return tower.proj(tower.ln_post(pooled)).view(batch, frames // 4, -1)
