"""What the audio and vision encoders are asked for beyond their features: attention received, reuse of repeated frames.

Promises: the encoders' own weights and layers, untouched outputs; the attention that audio columns receive comes out of
the last layer's own query and key. Knows nothing about prompts or the text decoder.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

AUDIO_ATTENTION = "omnidrop_audio"
"""Name under which the recording attention is known to transformers."""


class AttentionReceived:
    """Collects, while `recording`, how much attention each column of one attention module receives.

    Built on transformers' attention interface: the module's own (rotated) queries and keys reach the function for free,
    where asking the encoder for attention weights would return its outputs instead, and recomputing them would cost a
    layer's projections.
    """

    def __init__(self, attention: nn.Module) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(AUDIO_ATTENTION, _attend_and_record)
        module: Any = attention
        self._attention = module
        # The other layers share this configuration object; only this one may change its implementation.
        module.config = copy.copy(module.config)
        module.config._attn_implementation = AUDIO_ATTENTION
        module.received = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """A list that fills with one (columns,) float32 tensor per encoder chunk: column sums, averaged over heads.

        Sums and not means over a chunk's rows: a mean is 1 / length on average and would make every column of a short
        last chunk look important; sums average 1 in every chunk.
        """
        received: list[Tensor] = []
        self._attention.received = received
        try:
            yield received
        finally:
            self._attention.received = None


def _attend_and_record(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """An attention function of transformers: (1, heads, rows, head size) each -> (1, rows, heads, head size)."""
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    if module.received is not None:
        weights = torch.softmax((query @ key.transpose(2, 3)).float() * scaling, dim=-1)
        module.received.append(weights.mean(dim=(0, 1)).sum(dim=0))
    return attended.transpose(1, 2).contiguous(), None
