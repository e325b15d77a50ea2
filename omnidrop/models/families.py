"""The model families by name.

Promises: names are known without loading torch; a family's module is imported when one of its checkpoints is read.
Adding a family is two files beside this one, its geometry (see `geometry.Geometry`) and its adapter (see
`base.Adapter`), and their line in `_FAMILIES`. Knows nothing about what is in a family.
"""

from __future__ import annotations

import pkgutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

from omnidrop.registries import registered_in


@dataclass(frozen=True)
class Family:
    """One supported `model_type`. A thinker saved alone has the suffix `_thinker`."""

    title: str
    """What people call it."""
    geometry: str | type[Any]
    """The class of its geometry, or where that is: `module:class`. Planning imports it, so it loads no torch."""
    adapter: str | type[Any]
    """The class of its adapter, or where that is."""


_FAMILIES: dict[str, Family] = {
    "qwen2_5_omni": Family(
        "Qwen2.5-Omni",
        "omnidrop.models.qwen2_5_omni_geometry:Qwen2_5OmniGeometry",
        "omnidrop.models.qwen2_5_omni:Qwen2_5Omni",
    ),
    "qwen3_omni_moe": Family(
        "Qwen3-Omni", "omnidrop.models.qwen3_omni_geometry:Qwen3OmniGeometry", "omnidrop.models.qwen3_omni:Qwen3Omni"
    ),
}


def registered(name: str, family: Family) -> AbstractContextManager[None]:
    """Make a family available while the block runs: for experiments."""
    return registered_in(_FAMILIES, name, family)


def titles() -> dict[str, str]:
    """Supported `model_type`s and what people call them."""
    return {name: family.title for name, family in _FAMILIES.items()}


def geometry_of(name: str) -> type[Any]:
    """The geometry's class of a family, as `checkpoints.family_of` names it."""
    return _loaded(_FAMILIES[name].geometry)


def adapter_of(name: str) -> type[Any]:
    """The adapter's class of a family."""
    return _loaded(_FAMILIES[name].adapter)


def _loaded(found: str | type[Any]) -> type[Any]:
    return cast("type[Any]", pkgutil.resolve_name(found)) if isinstance(found, str) else found
