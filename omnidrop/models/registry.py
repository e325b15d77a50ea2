"""From a model's name to a loaded adapter.

Promises: one function, one error type for everything a user can get wrong; what is read without weights is read without
torch. Knows nothing about any family's inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omnidrop.errors import CheckpointError
from omnidrop.models.checkpoints import (
    configuration_of,
    describe_checkpoint,
    family_of,
    loading,
    resolve_checkpoint,
)
from omnidrop.models.families import adapter_of
from omnidrop.models.families import geometry_of as geometry_class_of
from omnidrop.models.geometry import Geometry
from omnidrop.models.prompts import Prompts
from omnidrop.models.quantised import quantisation_of

if TYPE_CHECKING:
    import torch

    from omnidrop.models.base import Adapter, Processor
    from omnidrop.models.encoders import EncoderSettings

DTYPES = ("float32", "bfloat16", "float16")


def load(
    model: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "bfloat16",
    encoders: EncoderSettings | None = None,
) -> Adapter:
    """Load `model`: a checkpoint directory in the published layout, a hub id, or `tiny`.

    `encoders` says what encoding may save. `dtype` is one of float32, bfloat16, float16, as a name or as torch's.
    Raises CheckpointError for a checkpoint that is missing, incomplete, pickled, larger than the device's memory, or of
    a family that is not supported, and for an unknown device or dtype.
    """
    import torch

    from omnidrop.models.encoders import EncoderSettings
    from omnidrop.models.room import check_room

    taken = {name: getattr(torch, name) for name in DTYPES}
    wanted = taken.get(dtype) if isinstance(dtype, str) else dtype
    if wanted is None or wanted not in taken.values():
        raise CheckpointError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    directory = resolve_checkpoint(model)
    chosen, where = adapter_class(directory), _device(device)
    with loading(directory):
        check_room(directory, where, wanted)
        return chosen.load(directory, device=where, dtype=wanted, encoders=encoders or EncoderSettings())


def adapter_class(directory: Path) -> type[Adapter]:
    """The adapter of the family that the checkpoint in `directory` is of. Raises CheckpointError, also for weights that
    are quantised in a way that is not taken."""
    return adapter_of(_family(directory))


def _family(directory: Path) -> str:
    quantisation_of(directory)
    return family_of(directory)


def read_geometry(model: str) -> Geometry:
    """The geometry of `model` (as `resolve_checkpoint` takes it), from its configuration files alone."""
    return geometry_of(configuration_of(model))


def geometry_of(directory: Path) -> Geometry:
    """The geometry of the checkpoint in `directory`. Raises CheckpointError where the configuration is not usable."""
    kind: type[Geometry] = geometry_class_of(_family(directory))
    with loading(directory):
        return kind.read(directory)


def processor_of(directory: Path) -> Processor:
    """What prepares clips and words for the checkpoint in `directory`; loads no weights. Raises CheckpointError."""
    return Prompts(directory, geometry_of(directory))


def weights_hash(model: str) -> str:
    """What `load(model).weights_hash` would be, without loading or fetching any weights."""
    return describe_checkpoint(model).weights_hash


def _device(device: str | torch.device) -> torch.device:
    import torch

    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError(f"unknown device {device!r}; allowed: cpu, cuda, cuda:N") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {device!r} was asked for, but torch sees no CUDA device; use cpu")
    return found
