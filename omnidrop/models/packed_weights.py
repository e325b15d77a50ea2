"""A decoder's weights in bfloat16 on a CPU, laid out once as its matrix products read them.

Promises: the stock modules' numbers bit for bit, in the memory that their weights took, and less for what lies between
an MLP's products or within a norm. Knows nothing about families.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ROWS = 512
"""Of an MLP or a norm at a time, for which weights are laid out. What lies between an MLP's products, three times 11 MB
at 3B's width, then stays in caches, and is not taken from the kernel again, page by page. Norms, which work in float32,
take half the time or less; with plain weights an MLP in blocks of so many rows takes twice."""
NORMS = ("input_layernorm", "post_attention_layernorm")


class PackedLinear(nn.Module):
    """In place of an `nn.Linear`, whose weight is let go: (..., D) -> (..., D')."""

    def __init__(self, stock: nn.Linear) -> None:
        super().__init__()
        self.bias = stock.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(stock.weight.detach(), ROWS)

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return product


class InBlocks(nn.Module):
    """In place of an MLP whose weights are packed, or of a norm: (B, S, D) -> (B, S, D)."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self.stock = stock

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        blocks: tuple[Tensor, ...] = torch.split(hidden.flatten(0, 1), ROWS)
        return torch.cat([self.stock(rows) for rows in blocks]).view_as(hidden)


def pack(layers: Iterable[nn.Module]) -> None:
    """Let every plain product of decoder layers read a packed weight, where those are in bfloat16 on a CPU."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for layer in layers:
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear and _is_bfloat16_on_cpu(child.weight):
                    setattr(module, name, PackedLinear(child))
        # A mixture of experts has weights of another kind.
        mlp = layer.get_submodule("mlp")
        if isinstance(getattr(mlp, "down_proj", None), PackedLinear):
            layer.mlp = InBlocks(mlp)
            for name in NORMS:
                setattr(layer, name, InBlocks(layer.get_submodule(name)))


def _is_bfloat16_on_cpu(weight: Tensor) -> bool:
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
