"""Pruning policies: one method, one file, one export. `named("omnidrop", memory=0.5)` makes one; see `registry`.

Importing this package loads no torch.
"""

from omnidrop.policies.registry import (
    effective,
    encoder_share,
    named,
    names,
    policy_class,
    register,
    registered,
    settings_of,
    still_levels,
    takes,
)

__all__ = [
    "effective",
    "encoder_share",
    "named",
    "names",
    "policy_class",
    "register",
    "registered",
    "settings_of",
    "still_levels",
    "takes",
]
