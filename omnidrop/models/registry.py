"""From a model's name to a loaded adapter.

Promises: one function, one error type for everything a user can get wrong. Knows nothing about any family's inside.
"""

from __future__ import annotations

from pathlib import Path

import torch

from omnidrop.errors import CheckpointError
from omnidrop.models.base import Adapter, Processor
from omnidrop.models.checkpoints import (
    configuration_of,
    describe_checkpoint,
    family_of,
    loading,
    resolve_checkpoint,
)
from omnidrop.models.encoders import EncoderSettings
from omnidrop.models.families import adapter_of
from omnidrop.models.geometry import Geometry
from omnidrop.models.quantised import quantisation_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "bfloat16",
    encoders: EncoderSettings | None = None,
) -> Adapter:
    """Load `model`: a checkpoint directory in the published layout, a hub id, or `tiny`.

    `encoders` says what encoding may save. `dtype` is one of float32, bfloat16, float16, as a name or as torch's.
    Raises CheckpointError for a checkpoint that is missing, incomplete, pickled, or of a family that is not supported,
    and for an unknown device or dtype.
    """
    wanted = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if wanted is None or wanted not in DTYPES.values():
        raise CheckpointError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    directory = resolve_checkpoint(model)
    chosen, where = adapter_class(directory), _device(device)
    with loading(directory):
        return chosen.load(directory, device=where, dtype=wanted, encoders=encoders or EncoderSettings())


def adapter_class(directory: Path) -> type[Adapter]:
    """The adapter of the family that the checkpoint in `directory` is of. Raises CheckpointError, also for weights that
    are quantised in a way that is not taken."""
    quantisation_of(directory)
    return adapter_of(family_of(directory))


def read_geometry(model: str) -> Geometry:
    """The geometry of `model` (as `resolve_checkpoint` takes it), from its configuration files alone."""
    return geometry_of(configuration_of(model))


def geometry_of(directory: Path) -> Geometry:
    """The geometry of the checkpoint in `directory`. Raises CheckpointError where the configuration is not usable."""
    adapter = adapter_class(directory)
    with loading(directory):
        return adapter.read_geometry(directory)


def processor_of(directory: Path) -> Processor:
    """What prepares clips and words for the checkpoint in `directory`; loads no weights. Raises CheckpointError."""
    adapter = adapter_class(directory)
    with loading(directory):
        return adapter.read_processor(directory)


def weights_hash(model: str) -> str:
    """What `load(model).weights_hash` would be, without loading or fetching any weights."""
    return describe_checkpoint(model).weights_hash


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError(f"unknown device {device!r}; allowed: cpu, cuda, cuda:N") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {device!r} was asked for, but torch sees no CUDA device; use cpu")
    return found
