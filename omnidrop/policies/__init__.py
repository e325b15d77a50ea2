"""Pruning policies: one method, one file, one export. `named("omnidrop", memory=0.5)` makes one; see `registry`.

Importing this package loads no torch.
"""

from omnidrop.policies.registry import (
    does_with_some_cells,
    effective,
    gives_rates,
    named,
    names,
    policy_class,
    reads_left_out,
    register,
    registered,
    remark,
    settings_of,
    still_levels,
    takes,
)

__all__ = [
    "does_with_some_cells",
    "effective",
    "gives_rates",
    "named",
    "names",
    "policy_class",
    "reads_left_out",
    "register",
    "registered",
    "remark",
    "settings_of",
    "still_levels",
    "takes",
]
