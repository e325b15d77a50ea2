"""Pruning policies: one method, one file, one export. `named("omnidrop", memory=0.5)` makes one; see `registry`.

Importing this package loads no torch.
"""

from omnidrop.policies.registry import effective, named, names, policy_class, register, registered, settings_of, takes

__all__ = ["effective", "named", "names", "policy_class", "register", "registered", "settings_of", "takes"]
