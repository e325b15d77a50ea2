"""The stock transformers model asked one question: what our own way through the decoder is checked against.

Promises: the stock forward on the stock inputs, with the stock model's own rotary positions and attention. Knows
nothing about our prefill or pruning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omnidrop.models.base import ClipPrompt
from omnidrop.models.patch_product import as_stock
from omnidrop.models.qwen_omni import QwenOmniAdapter


@torch.inference_mode()
def stock_logits(
    adapter: QwenOmniAdapter,
    frames: npt.NDArray[np.uint8] | None,
    audio: npt.NDArray[np.float32] | None,
    prompt: ClipPrompt,
    question: str,
    attention: str = "sdpa",
) -> Tensor:
    """(vocabulary,) float32: the stock model's logits for the first token of the answer to `question`.

    `attention` is one of transformers' own implementations (`sdpa`, `eager`), for decoder and encoders.
    """
    inputs = adapter.processor.inputs(frames, audio, prompt)
    ids = torch.cat([inputs.layout.input_ids, torch.tensor(adapter.question_ids(question))])[None].to(adapter.device)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if frames is not None:
        pixels, grid = adapter.processor.pixels(frames)
        given["pixel_values_videos"] = pixels.to(adapter.device, adapter.dtype)
        given["video_grid_thw"] = torch.tensor([grid], device=adapter.device)
        given["video_second_per_grid"] = torch.tensor(
            [adapter.geometry.temporal_patch / prompt.fps], device=adapter.device
        )
    if inputs.mel is not None:
        given["input_features"] = inputs.mel[None].to(adapter.device, adapter.dtype)
        given["feature_attention_mask"] = torch.ones(1, inputs.mel.shape[1], dtype=torch.int64, device=adapter.device)
    given["use_audio_in_video"] = frames is not None and inputs.mel is not None
    configs = (adapter.config, adapter.audio_attention.config, adapter.vision_attention.config)
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = attention
    try:
        # Without the LM head at every position, which alone would take 3 GB at 10,000 tokens.
        with as_stock(adapter.model.model.visual):
            hidden = adapter.model.model(**given, use_cache=False).last_hidden_state
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
    logits: Tensor = adapter.model.lm_head(hidden[0, -1])
    return logits.float()
