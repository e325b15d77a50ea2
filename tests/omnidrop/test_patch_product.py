"""The vision encoder's first step as a product, against the stock module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omnidrop.model import OmniModel
from omnidrop.models.patch_product import PatchProduct, as_stock, with_products
from tests.support.small_checkpoints import small_qwen2_5_omni, small_qwen3_omni

__all__ = ["small_qwen2_5_omni", "small_qwen3_omni"]


@pytest.mark.parametrize("family", ["small_qwen2_5_omni", "small_qwen3_omni"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.inference_mode()
def test_patches_are_embedded_as_the_stock_module_does(family: str, dtype: str, request: pytest.FixtureRequest) -> None:
    visual = OmniModel.load(str(request.getfixturevalue(family)), dtype=dtype).adapter.model.model.visual
    ours = visual.patch_embed.proj
    assert isinstance(ours, PatchProduct)
    pixels = torch.randn(24, ours.weight[0].numel(), generator=torch.Generator().manual_seed(0)).to(ours.weight.dtype)
    found = visual.patch_embed(pixels)
    with as_stock(visual):
        assert isinstance(visual.patch_embed.proj, nn.Conv3d)
        assert visual.patch_embed.proj.weight is ours.weight
        expected = visual.patch_embed(pixels)
    assert visual.patch_embed.proj is ours
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == "float32" else 2e-2, rtol=2e-2)


def test_a_convolution_whose_kernel_is_not_its_stride_stays_one() -> None:
    visual = nn.Module()
    visual.patch_embed = nn.Module()
    visual.patch_embed.proj = overlapping = nn.Conv3d(3, 8, (2, 4, 4), (2, 2, 2))
    with_products(visual)
    assert visual.patch_embed.proj is overlapping
