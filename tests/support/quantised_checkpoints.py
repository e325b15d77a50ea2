"""Small checkpoints whose decoder is quantised as published ones are, by the compressed-tensors library.

Promises: what `save_pretrained` of that library writes (names, types, configuration), made from a checkpoint of
`small_checkpoints`; and beside it what each weight is once it is unpacked, by arithmetic of its own. Knows nothing
about how they are loaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from safetensors.torch import load_file, save_file
from torch import Tensor

FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
FORMATS = {"FP8": "float-quantized", "INT4": "pack-quantized"}


def quantise(source: Path, target: Path, bits: str) -> dict[str, Tensor]:
    """Write `source` with the decoder's projections in `bits`; returns their values after it, by published name."""
    shutil.copytree(source, target)
    args = FP8 if bits == "FP8" else INT4
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=FORMATS[bits])
    written, values = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not (name.startswith("thinker.model.layers") and name.endswith("proj.weight")):
            written[name] = tensor
            continue
        rows, columns = tensor.shape
        groups = tensor.view(rows, -1, args.get("group_size", columns))
        largest = groups.abs().amax(-1, keepdim=True)
        scale = largest / (448 if bits == "FP8" else 7)
        steps = groups / scale
        steps = steps.to(torch.float8_e4m3fn).float() if bits == "FP8" else steps.round()
        values[name] = (steps * scale).view(rows, columns)
        whole = {"weight": tensor, "weight_scale": scale[..., 0]}
        packed = BaseCompressor.get_value_from_registry(FORMATS[bits]).compress(whole, scheme)
        written |= {
            f"{name.removesuffix('weight')}{part}": value for part, value in packed.items() if value is not None
        }
    # As of checkpoints whose activations are quantised by fixed scales.
    written |= {
        name.replace("weight_scale", "input_scale"): torch.ones(1) for name in written if "weight_scale" in name
    }
    save_file({name: value.contiguous() for name, value in written.items()}, target / "model.safetensors")
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=["re:.*audio_tower.*", "re:.*visual.*", "re:.*mlp.gate$", "thinker.lm_head"],
        format=FORMATS[bits],
        quantization_status="compressed",
    )
    told = json.loads((source / "config.json").read_text())
    told["quantization_config"] = config.model_dump(mode="json")
    (target / "config.json").write_text(json.dumps(told))
    return values
