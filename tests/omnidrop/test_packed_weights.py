"""Packed weights of a decoder, against the stock modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from omnidrop.model import OmniModel
from omnidrop.models.packed_weights import NORMS, InBlocks, PackedLinear, pack
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni

__all__ = ["small_qwen2_5_omni", "small_qwen3_omni"]

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN does not multiply in bfloat16 here"
)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(256, 1376, bias=False), nn.Linear(256, 1376, bias=False)
        self.down_proj = nn.Linear(1376, 256, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


@needs_bfloat16
@pytest.mark.parametrize("rows", [1, 8, 331, 750])
@torch.inference_mode()
def test_products_are_the_stock_modules_bit_for_bit(rows: int) -> None:
    norms = {name: nn.RMSNorm(256) for name in NORMS}
    ours = nn.ModuleDict({"mlp": Mlp(), "q": nn.Linear(256, 64), **norms}).to(torch.bfloat16)
    stock = copy.deepcopy(ours)
    pack([ours])
    assert all(isinstance(ours[name], InBlocks) for name in ("mlp", *NORMS))
    # The plain weights are let go.
    assert [name for name, _ in ours.named_parameters()] == ["q.bias", *(f"{name}.stock.weight" for name in NORMS)]
    given = torch.randn(2, rows, 256, generator=torch.Generator().manual_seed(rows)).to(torch.bfloat16)
    for name in stock:
        assert torch.equal(ours[name](given), stock[name](given))


@pytest.mark.parametrize("family", ["small_qwen2_5_omni", "small_qwen3_omni"])
def test_a_loaded_decoder_is_packed_in_bfloat16_alone(family: str, request: pytest.FixtureRequest) -> None:
    for dtype in ("float32", "bfloat16"):
        adapter = OmniModel.load(str(request.getfixturevalue(family)), dtype=dtype).adapter
        is_packed = isinstance(adapter.layers[0].self_attn.q_proj, PackedLinear)
        assert is_packed == (dtype == "bfloat16" and torch.ops.mkldnn._is_mkldnn_bf16_supported())
