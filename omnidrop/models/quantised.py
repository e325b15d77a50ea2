"""Checkpoints whose weights are stored in few bits, as published: which are taken, and what transformers is told.

Promises: they are loaded by transformers' own integration, with our loop over the layers unchanged on top: of
compressed-tensors (FP8, packed INT4) the weights become plain ones of the model's dtype while they are loaded; of
AWQ and GPTQ they stay as they are, on a GPU. What cannot be loaded here is refused by its name, with what to do. Knows
the configuration and the files' sizes, no tensors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidrop.errors import CheckpointError
from omnidrop.models.checkpoints import loading, read_json, thinker_config_dict
from omnidrop.models.hub import WEIGHTS

METHODS: Mapping[str, tuple[str, ...]] = {
    "compressed-tensors": ("compressed_tensors",),
    "awq": ("gptqmodel", "accelerate"),
    "gptq": ("gptqmodel", "optimum"),
}
"""What is taken, by `quant_method` in config.json, and the packages that transformers needs for it."""

ON_GPU_ONLY = ("awq", "gptq")

OF_ACTIVATIONS = (".input_scale", ".input_zero_point", ".output_scale")
"""Tensors that tell how activations would be quantised, which they are not here."""

_PLAIN_PARTS = ["model.audio_tower", "model.visual", "lm_head"]
"""Published AWQ and GPTQ checkpoints leave the encoders and the head as they are. If one does not, tensors are missing
or left over, and loading it is refused."""


@dataclass(frozen=True)
class Quantisation:
    """How a checkpoint's weights are stored."""

    method: str
    bits: str
    """Such as `FP8` or `INT4`."""
    told: Mapping[str, Any]
    """The checkpoint's own words for transformers."""

    def __str__(self) -> str:
        return f"{self.bits} ({self.method})"


def quantisation_of(directory: Path) -> Quantisation | None:
    """How the weights of the checkpoint in `directory` are stored; None for plain ones. Raises CheckpointError for a
    method that is not taken, or that mixes several."""
    path = directory / "config.json"
    thinker = thinker_config_dict(directory)
    places = (read_json(path), thinker, thinker["text_config"])
    told = next((one["quantization_config"] for one in places if one.get("quantization_config")), None)
    if told is None:
        return None
    method = str(told.get("quant_method")) if isinstance(told, dict) else "?"
    if method not in METHODS:
        raise CheckpointError(
            f"the checkpoint {directory} is quantised by {method!r} (quantization_config in config.json); taken are "
            f"{', '.join(METHODS)}, and checkpoints that are not quantised"
        )
    if method != "compressed-tensors":
        return Quantisation(method, f"INT{told.get('bits', 4)}", told)
    groups = told.get("config_groups")
    weights = [one.get("weights") for one in groups.values()] if isinstance(groups, dict) else []
    if not weights or any(not isinstance(one, dict) or one != weights[0] for one in weights):
        raise CheckpointError(
            f"the checkpoint {directory} stores its weights in {len(weights)} ways (config_groups in config.json); "
            "taken are checkpoints with one way for all layers"
        )
    return Quantisation(method, f"{'FP' if weights[0].get('type') == 'float' else 'INT'}{weights[0]['num_bits']}", told)


def words_for(quantisation: Quantisation, device: str, directory: Path) -> dict[str, Any]:
    """What transformers is told about the weights. Raises CheckpointError where they cannot be loaded here."""
    method = quantisation.method
    missing = [name for name in METHODS[method] if importlib.util.find_spec(name) is None]
    if missing:
        packages = " ".join(name.replace("_", "-") for name in missing)
        raise CheckpointError(
            f"the checkpoint {directory} is quantised as {quantisation}, which transformers loads with {packages}: "
            f"install it with `pip install {packages}`, or take the checkpoint that is not quantised"
        )
    if method in ON_GPU_ONLY and device == "cpu":
        raise CheckpointError(
            f"the checkpoint {directory} is quantised as {quantisation}, which runs on a GPU only; use device cuda, or "
            "take the checkpoint that is not quantised, or one of compressed-tensors"
        )
    told = dict(quantisation.told)
    if method == "compressed-tensors":
        # Left compressed, they would be unpacked by a hook of the whole model, which our loop does not call.
        return told | {"dequantize": True}
    if method == "awq":
        return told | {"modules_to_not_convert": _PLAIN_PARTS}
    return told | {"block_name_to_quantize": "model.language_model.layers"}


def weight_bytes(directory: Path) -> int | None:
    """Of all weights as they are stored; None where only the hub knows."""
    index = directory / "model.safetensors.index.json"
    told = read_json(index) if index.is_file() else {}
    total = (told.get("metadata") or {}).get("total_size")
    of_all = int(total) if isinstance(total, int | float) else None
    sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.suffix == WEIGHTS}
    is_here = sizes and sizes.keys() >= set((told.get("weight_map") or {}).values())
    return sum(sizes.values()) if is_here else of_all


def stored(directory: Path) -> str:
    """One line for people: how many bytes, and in what form. Raises CheckpointError."""
    with loading(directory):
        size, quantisation = weight_bytes(directory), quantisation_of(directory)
    parts = [] if size is None else [f"{size / 1e9:.2f} GB"]
    if quantisation is not None:
        parts.append(f"quantised as {quantisation}")
        if quantisation.method not in ON_GPU_ONLY:
            parts.append("loaded as plain weights of the model's dtype")
    return ", ".join(parts) or "size not known before they are fetched"
