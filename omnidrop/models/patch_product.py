"""The vision encoder's first step as the matrix product that it is.

Promises: the stock module's weights and, but for rounding, its numbers. A convolution whose kernel is its stride reads
each pixel once; as a convolution PyTorch takes 5 times the product's time for it in float32 on a CPU, and 50 to 150
times in bfloat16, which is a fifth to a third of the encoder's. Knows nothing about what is embedded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class PatchProduct(nn.Module):
    """In place of a `Conv3d` over patches: (n, channels, time, height, width) -> (n, width of the encoder)."""

    def __init__(self, stock: nn.Conv3d) -> None:
        """`stock` keeps its parameters, which both share."""
        super().__init__()
        self.weight, self.bias = stock.weight, stock.bias
        self.stock = (stock,)  # in a tuple: no part of this module

    def forward(self, patches: Tensor) -> Tensor:
        """See the class."""
        return functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def with_products(visual: Any) -> None:
    """Let a stock vision encoder embed its patches by a product, where that is what it does."""
    stock = visual.patch_embed.proj
    if not isinstance(stock, nn.Conv3d):
        return
    if stock.stride == stock.kernel_size and not any(stock.padding) and stock.groups == 1:
        visual.patch_embed.proj = PatchProduct(stock)


@contextmanager
def as_stock(visual: Any) -> Iterator[None]:
    """While the block lasts, it does so as the stock encoder does: to compare with."""
    ours = visual.patch_embed.proj
    if isinstance(ours, PatchProduct):
        (visual.patch_embed.proj,) = ours.stock
    try:
        yield
    finally:
        visual.patch_embed.proj = ours
