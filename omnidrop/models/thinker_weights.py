"""A thinker's weights from a checkpoint's safetensors files.

Promises: the talker's and vocoder's weights are left unread; a tensor that is missing, or that a quantised checkpoint
has no place for, is an error by name and never random. Knows nothing about families.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from omnidrop.errors import CheckpointError
from omnidrop.models.quantised import OF_ACTIVATIONS, quantisation_of, words_for

NOT_READ = ("talker.", "token2wav.", "code2wav.")
"""Parts of a published checkpoint that speak."""


def load_thinker(thinker: Any, directory: Path, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The thinker's weights alone, from safetensors, in evaluation mode on `device`."""
    from safetensors import SafetensorError
    from transformers.utils import is_accelerate_available, logging

    config = copy.deepcopy(config)
    quantisation = quantisation_of(directory)
    if quantisation is not None:
        config.quantization_config = words_for(quantisation, device.type, directory)
    # With accelerate the weights go straight to the device; without it through main memory.
    straight = {"device_map": {"": device}} if device.type != "cpu" and is_accelerate_available() else {}
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = thinker.from_pretrained(
            str(directory),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            **straight,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(f"the weights in {directory} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"the weights in {directory} lack {len(missing)} tensors of the thinker, such as {', '.join(missing[:3])}; "
            "they would be random"
        )
    if report["mismatched_keys"]:
        name, stored, wanted = min(report["mismatched_keys"])
        raise CheckpointError(
            f"the weights in {directory} do not fit config.json: tensors of another shape are "
            f"{len(report['mismatched_keys'])}, such as {name} with {tuple(stored)}, not {tuple(wanted)}"
        )
    left_over = sorted(
        name for name in report["unexpected_keys"] if not (name.startswith(NOT_READ) or name.endswith(OF_ACTIVATIONS))
    )
    if quantisation is not None and left_over:
        raise CheckpointError(
            f"the weights in {directory} hold {len(left_over)} tensors that transformers has no place for, such as "
            f"{', '.join(left_over[:3])}; they are not quantised as config.json says ({quantisation})"
        )
    return model.to(device).eval()
