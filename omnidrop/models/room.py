"""Whether a checkpoint's weights have room where they are to be loaded.

Promises: what can never be held is refused by its name before anything is loaded; without that the system kills the
process without a word. Knows the weights alone, not what a clip takes besides, and nothing of what other programs hold.
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

from omnidrop.errors import CheckpointError
from omnidrop.models.checkpoints import read_json
from omnidrop.models.quantised import quantisation_of
from omnidrop.models.thinker_weights import NOT_READ

MOST_TENSORS = 200_000
"""Names in a checkpoint's files: the largest published have some 20,000, and transformers takes 0.1 ms and 5 kB for
each."""


def check_room(directory: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Raise CheckpointError for weights that take more than all of the device's memory. Quantised ones are not looked
    at: how large they are depends on how they are loaded."""
    if quantisation_of(directory) is not None:
        return
    weights, room = weights_in(directory), memory_of(device)
    needed, in_half = weights * dtype.itemsize, weights * torch.bfloat16.itemsize
    if needed <= room:
        return
    advice = f"Take dtype bfloat16 ({in_half / 1e9:.1f} GB), or use" if in_half <= room else "Use"
    raise CheckpointError(
        f"the weights of {directory} as {str(dtype).removeprefix('torch.')} take {needed / 1e9:.1f} GB; "
        f"{'this process' if device.type == 'cpu' else device} has {room / 1e9:.1f} GB at most. "
        f"{advice} a smaller model, or a machine with more memory"
    )


def weights_in(directory: Path) -> int:
    """How many weights there are in what is loaded of a checkpoint, by the heads of its files. Raises CheckpointError
    for more tensors than any model has."""
    count = seen = 0
    for path in _loaded_files(directory):
        with safe_open(path, "pt") as file:
            named = file.keys()
            if (seen := seen + len(named)) > MOST_TENSORS:
                raise CheckpointError(f"the weights of {directory} are more than {MOST_TENSORS} tensors")
            names = [name for name in named if not name.startswith(NOT_READ)]
            count += sum(prod(file.get_slice(name).get_shape()) for name in names)
    return count


def _loaded_files(directory: Path) -> list[Path]:
    """Those that transformers loads: one, or all that the index names."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    return [directory / name for name in sorted(set(read_json(index)["weight_map"].values()))]


def memory_of(device: torch.device) -> int:
    """Bytes: all of a GPU's, or all that this process may have."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *group_limits()])


def group_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes that this process's control groups allow, of either version; none where the system has no such groups."""
    limits = []
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = top / path.lstrip("/")
        for place in (group, *group.parents):
            said = place / name
            if said.is_file() and (text := said.read_text().strip()) != "max":
                limits.append(int(text))
            if place == top:
                break
    return limits
