"""Optimiser and schedule shared by all stages: Muon for the matrices inside layers, AdamW for everything else.

Promises: one object with `step`, `state_dict` and `load_state_dict`; rates follow warm-up, plateau and a linear decay
over the last third. Knows nothing about stages or losses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, distributed, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's quintic iteration (Jordan et al. 2024), run five times."""


def mixed(device: torch.device) -> AbstractContextManager[Any]:
    """Automatic bfloat16 where it is faster: on GPUs, and on CPUs that multiply it (elsewhere it is 6 times slower)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether matrices are multiplied faster in bfloat16 than in float32."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` (Nesterov 0.95, rates matched to AdamW's), matrices of one shape as one batch.

    torch's own multiplies them one by one and always in bfloat16: on a CPU without it that takes longer than the
    gradients.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every group."""
        for group in self.param_groups:
            shapes = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes[weight.shape].append(weight)
            for (tall, wide), weights in shapes.items():
                gradient = torch.stack([weight.grad for weight in weights])
                buffers = [self.state[w].setdefault("momentum_buffer", torch.zeros_like(w)) for w in weights]
                torch._foreach_lerp_(buffers, list(gradient), 0.05)
                update = orthogonal(gradient.lerp(torch.stack(buffers), 0.95))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, list(update), alpha=-group["lr"] * 0.2 * max(tall, wide) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """(B, M, N) -> about the orthogonal factor of each, by five Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if multiplies_bfloat16(x.device):
        x = x.bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Optimiser:
    """Muon on two-dimensional weights of linear maps, AdamW (betas 0.9, 0.98) on the rest."""

    def __init__(self, modules: Iterable[nn.Module], rate: float, *, weight_decay: float = 0.01) -> None:
        matrices, rest = [], []
        for module in modules:
            for child in module.modules():
                for name, weight in child.named_parameters(recurse=False):
                    if weight.requires_grad:
                        linear = isinstance(child, nn.Linear) and name == "weight" and min(weight.shape) >= 64
                        (matrices if linear else rest).append(weight)
        self.rate = rate
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, rate, weight_decay))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0))
        self.weights = matrices + rest

    def step(self, share_of_rate: float) -> float:
        """Clip the gradients to norm 1, take a step at `share_of_rate` of the rate, clear; returns the norm."""
        average_gradients(self.weights)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.rate * share_of_rate
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> list[dict[str, Any]]:
        """State of both parts."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The inverse of `state_dict`."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def rank() -> int:
    """Number of this process among those that train together (0 where there is one)."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def wait() -> None:
    """Until all processes that train together are here."""
    if distributed.is_initialized():
        distributed.barrier()


def average_gradients(weights: list[nn.Parameter]) -> None:
    """One exchange a step: where the cores are shared with other work, threads wait for each other at every operation,
    processes only here."""
    if distributed.is_initialized():
        flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        start = 0
        for weight in weights:
            if weight.grad is not None:
                weight.grad.copy_(flat[start : start + weight.numel()].view_as(weight))
                start += weight.numel()


def schedule(step: int, steps: int, warm_up: int = 50, decay: float = 0.35) -> float:
    """Share of the peak rate at `step` of `steps`: warm-up, plateau, then linearly to 2 % over the last `decay`
    of the steps."""
    rise = min(1.0, (step + 1) / warm_up)
    left = (steps - step) / (decay * steps) if decay else 1.0
    return rise * max(0.02, min(1.0, left))
